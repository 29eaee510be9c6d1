"""The shard worker: from cached tokens to a delta in storage. A plain class; Ray is put around it at the rim."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taft_ray.data import Stripe, epoch_order, slice_of
from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.fitting import FitConfig, FittedDelta, certified_distance, fit, fit_many
from taft_ray.run.environment import fit_environment, settle
from taft_ray.run.model import build_tangent
from taft_ray.run.snapshots import load_snapshot
from taft_ray.run.spec import run_spec
from taft_ray.storage import (
    DeltaRef,
    PartRef,
    Store,
    digest_json,
    read_delta,
    read_several,
    write_delta,
)
from taft_ray.storage import rundir as names
from taft_ray.sums import Sums, shard_terms, statistics_for, terms_to_delta
from taft_ray.tangent import Delta, Pictures, Prepared, Recomputed, TangentModel, batches, prepare_pictures
from taft_ray.workers.probe import minus_log_loss, picture_values
from taft_ray.workers.slice_checkpoints import SliceCheckpoints
from taft_ray.workers.warm import Warm, in_use

RESOLVE_TOLERANCE = 1e-5  # relative residual of a resolve: about what float32 can reach
RESOLVE_ITERATIONS = 2000  # at most

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Loaded:
    """A task's pictures in the order they are fitted in, and how long reading (and preparing) them took."""

    task: dict[str, Any]
    keys: list[bytes]
    labels: Tensor
    slices: np.ndarray
    pictures: Pictures
    started: float
    read_s: float
    prepare_s: float


class ShardWorker(Warm):
    """Fits shards of one run. Keeps the model; reads tokens, writes deltas, and says what it did."""

    def __init__(self, run: str, classes: int, idle_s: float | None = None, into: Store | None = None) -> None:
        self.store = Store(run)
        self.into = into  # where what it fits goes; the run's own folder by default
        self.spec = run_spec(self.store)
        settle(self.spec)
        self.tm, self.fingerprint = build_tangent(self.spec, classes)
        self._prepared_eval: tuple[str, Pictures, Tensor] | None = None
        super().__init__(idle_s)

    def read(self, parts: Sequence[dict[str, Any]]) -> tuple[list[bytes], Tensor, list[np.ndarray]]:
        """Keys, labels (n,) and token arrays of the parts, in ascending order of the sample keys."""
        read = read_several(self.store, [PartRef.from_json(part) for part in parts], fingerprint=self.fingerprint)
        keys = [key for part in read for key in part.keys]
        labels = torch.from_numpy(np.concatenate([part.labels for part in read]) if read else np.zeros(0, np.int64))
        return keys, labels, [_as_torch_readable(part.tokens) for part in read]

    def _tokens(self, arrays: Sequence[np.ndarray]) -> Tensor:
        tokens = torch.from_numpy(np.concatenate(arrays) if len(arrays) > 1 else np.array(arrays[0]))
        return tokens.view(torch.bfloat16) if self.spec.cache_dtype == "bfloat16" else tokens

    @in_use
    def fit(self, task: dict[str, Any], progress: Progress | None = None, lane: str = "") -> dict[str, Any]:
        """Fit one shard (or everything, for the monolith) and write its delta.

        task: {"shard": number or "monolith", "generation": n, "parts": [PartRef JSON]}; with "resolve": {"start": DeltaRef JSON
        or None} the fit starts from that delta instead of zero and goes on to RESOLVE_TOLERANCE; with "resume": CheckpointRef
        JSON it goes on from that checkpoint, and from zero, for the same bits, where that cannot be used.
        Returns what the composer commits: {"shard", "generation", "samples", "delta": DeltaRef JSON, "facts": {…}}, and of a
        shard in slices "checkpoints": [CheckpointRef JSON], those of the stages that this fit made.
        """
        self.release()
        config = self._config(task)
        loaded = self._load(task, config)
        keys, pictures = loaded.keys, loaded.pictures

        def by_key(count: int, seed: int, epoch: int) -> Tensor:
            return torch.from_numpy(epoch_order(keys, seed=seed, epoch=epoch))

        start, resolve = None, task.get("resolve")
        if resolve is not None:
            tolerance = min(config.tolerance, RESOLVE_TOLERANCE)
            config = replace(config, tolerance=tolerance, max_iterations=max(config.max_iterations, RESOLVE_ITERATIONS))
            start = self._start(resolve["start"])
        checkpoints = None
        if config.slices > 1:
            # what is recomputed differs in its last bits from what is kept, and of a shard that shrinks more may be kept
            constants = f"around {pictures.kept} layers" if isinstance(pictures, Recomputed) else "kept"
            made_of = {"fingerprint": self.fingerprint, "slices": str(config.slices), "constants": constants}
            checkpoints = SliceCheckpoints(
                self.into or self.store, int(task["shard"]), int(task["generation"]), made_of
            )
            start = checkpoints.begin(task.get("resume"))
        delta = fit(
            self.tm, pictures, loaded.labels, config, order=by_key, slice_of=torch.from_numpy(loaded.slices),
            start=start, done=checkpoints.resumed if checkpoints else 0,
            checkpoint=checkpoints.keep if checkpoints else None, progress=progress,
        )  # fmt: skip
        result = self._write(loaded, delta, lane)
        if resolve is not None:
            result["facts"].update(resolved=True, warm=start is not None)
        if checkpoints is not None:
            result["checkpoints"] = [written.to_json() for written in checkpoints.written]
            sizes = np.bincount(loaded.slices, minlength=config.slices).tolist()
            result["facts"].update(stages=config.slices, slice_samples=sizes, **checkpoints.facts())
        return result

    @in_use
    def fit_several(self, tasks: Sequence[dict[str, Any]], lane: str = "") -> list[dict[str, Any]]:
        """`fit` of several small shards' first tasks (ridge: nothing to resolve or to resume), in less time and to the same bits."""
        self.release()
        config = self._config(tasks[0])
        loaded = [self._load(task, config) for task in tasks]
        deltas = fit_many(self.tm, [(one.pictures, one.labels) for one in loaded], config)
        return [self._write(one, delta, lane) for one, delta in zip(loaded, deltas, strict=True)]

    def _config(self, task: dict[str, Any]) -> FitConfig:
        config = self.spec.fit_config()
        # the comparison model is the paper's recipe: it keeps no checkpoints, so slices would only cost it accuracy
        return replace(config, slices=1) if task["shard"] == "monolith" else config

    def _load(self, task: dict[str, Any], config: FitConfig) -> _Loaded:
        started = time.time()
        keys, labels, arrays = self.read(task["parts"])
        slices = slice_of(keys, slices=config.slices, seed=config.seed)
        # by slice, then by key (a monolith's parts come shard by shard)
        order = sorted(range(len(keys)), key=lambda i: (slices[i], keys[i]))
        labels, slices = labels[order], slices[order]
        tokens = self._tokens(arrays)[order] if arrays else torch.zeros(0)
        read_s = time.time() - started
        sizes = np.bincount(slices, minlength=config.slices).tolist()
        pictures: Pictures = self._prepare(tokens, sizes) if len(labels) else _nothing(self.tm)
        prepare_s = time.time() - started - read_s
        return _Loaded(task, [keys[i] for i in order], labels, slices, pictures, started, read_s, prepare_s)

    def _prepare(self, tokens: Tensor, sizes: Sequence[int] = ()) -> Pictures:
        return prepare_pictures(self.tm, tokens, sizes=sizes, budget=self.spec.constants_bytes)

    def _write(self, loaded: _Loaded, delta: FittedDelta, lane: str) -> dict[str, Any]:
        """Statistics and the delta into storage; what `fit` returns."""
        task, report = loaded.task, delta.report
        monolith = task["shard"] == "monolith"
        began = time.time()
        statistics = None if monolith else statistics_for(self.spec.compose, self.tm, loaded.pictures, delta)
        terms = shard_terms({name: value.cpu() for name, value in delta.items()}, statistics)
        statistics_s = time.time() - began
        ref = write_delta(
            self.into or self.store,
            names.MONOLITH_FOLDER if monolith else names.delta_folder(int(task["shard"])),
            int(task["generation"]),
            {name: term.numpy() for name, term in terms.items()},
            {"shard": str(task["shard"]), "samples": str(len(loaded.labels)), "fingerprint": self.fingerprint},
        )
        ended = time.time()
        return {
            "shard": task["shard"],
            "generation": int(task["generation"]),
            "samples": len(loaded.labels),
            "parts": [part["digest"] for part in task["parts"]],
            "delta": ref.to_json(),
            "facts": {
                "seconds": loaded.read_s + loaded.prepare_s + report.seconds + ended - began,
                "fit_seconds": report.seconds,
                "read_seconds": loaded.read_s,
                "prepare_seconds": loaded.prepare_s,
                "statistics_seconds": statistics_s,
                "started": loaded.started,
                "ended": ended,
                "samples": len(loaded.labels),
                "lane": lane,
                "solver": report.solver,
                "iterations": report.iterations,
                "residual": report.residual,
                "distance_bound": report.distance_bound,
                "objective": report.objective,
                "converged": report.converged,
                "norm": float(delta.norm()),
                "environment": fit_environment(self.spec),
            },
        }

    def _start(self, ref: dict[str, Any] | None) -> Delta | None:
        """The warm start of a resolve; None when another request has purged it, or it is damaged: then zero does, with more iterations."""
        if ref is None:
            return None
        try:
            tensors, _ = read_delta(self.store, DeltaRef.from_json(ref))
        except (ObjectMissing, IntegrityError):
            return None
        return terms_to_delta({name: torch.from_numpy(value) for name, value in tensors.items()}, torch.float32)

    def release(self) -> None:
        """Drop the pictures that are kept between calls: some of them may have to be forgotten."""
        self._prepared_eval = None

    @in_use
    def certified_distance(self, parts: Sequence[dict[str, Any]], ref: dict[str, Any]) -> tuple[float, float]:
        """‖∇L‖/(2λ) of a stored delta on these parts, and of no delta at all (ridge only)."""
        _, labels, arrays = self.read(parts)
        terms, _ = read_delta(self.store, DeltaRef.from_json(ref))
        delta = terms_to_delta({name: torch.from_numpy(value) for name, value in terms.items()}, torch.float32)
        config = self.spec.fit_config()
        return certified_distance(
            self.tm, self._prepare(self._tokens(arrays)), labels.to(self.tm.device), config.as_loss(),
            penalty=config.penalty, delta=delta.to(self.tm.device),
        )  # fmt: skip

    # --- evaluation: the same model, cached tokens of other pictures

    @in_use
    def evaluate(self, delta_key: str | None, parts: Sequence[dict[str, Any]], delta_ref: dict | None = None) -> dict:
        """Accuracy on the parts of the composed snapshot at ``delta_key``, or of one shard's (or the monolith's) delta."""
        began = time.perf_counter()
        pictures, labels = self._eval_set(parts)
        delta = self._model(delta_ref if delta_ref is not None else str(delta_key))
        correct = self._correct(pictures, labels, delta)
        return {"accuracy": correct / max(1, len(labels)), "n": len(labels), "seconds": time.perf_counter() - began}

    @in_use
    def accuracy_by_shards(
        self,
        refs: Sequence[dict[str, Any]],
        weights: Sequence[int],
        parts: Sequence[dict[str, Any]],
        counts: Sequence[int],
    ) -> list[dict[str, Any]]:
        """Accuracy of the first m shards composed, for each m in ``counts``, by every composition the deltas allow."""
        pictures, labels = self._eval_set(parts)
        sums, rows = Sums(), []
        for position, (ref, weight) in enumerate(zip(refs, weights, strict=True), start=1):
            tensors, _ = read_delta(self.store, DeltaRef.from_json(ref))
            sums.add({name: torch.from_numpy(value) for name, value in tensors.items()}, weight)
            if position not in counts or not sums.weight:
                continue
            row: dict[str, Any] = {"shards": position}
            for mode in self.spec.modes:
                composed = self.spec.composed(sums, mode).to(torch.float32)
                row[mode] = self._correct(pictures, labels, composed) / max(1, len(labels))
            rows.append(row)
        return rows

    @in_use
    def sample_values(
        self,
        models: Sequence[dict[str, Any] | str],
        stripes: Sequence[Stripe] = (),
        parts: Sequence[dict[str, Any]] = (),
    ) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """Keys, labels (n,) and −log loss (n, models) of the cached parts, or of the stripes' pictures.

        models: a DeltaRef as JSON, or the key of a composed snapshot. Nothing of the pictures is kept or written.
        """
        deltas = [self._model(model).to(self.tm.device) for model in models]
        if not parts:
            return picture_values(self.tm, self.spec, stripes, deltas)
        keys, labels, arrays = self.read(parts)
        pictures = Recomputed(self.tm, self._tokens(arrays))  # they are read once
        return keys, labels.numpy(), minus_log_loss(self.tm, pictures, labels, self.spec, deltas)

    def _model(self, model: dict[str, Any] | str) -> Delta:
        if isinstance(model, str):
            return load_snapshot(self.store, model)
        tensors, _ = read_delta(self.store, DeltaRef.from_json(model))
        return terms_to_delta({name: torch.from_numpy(value) for name, value in tensors.items()}, torch.float32)

    def _eval_set(self, parts: Sequence[dict[str, Any]]) -> tuple[Pictures, Tensor]:
        name = digest_json([part["digest"] for part in parts])
        if self._prepared_eval is None or self._prepared_eval[0] != name:
            _, labels, arrays = self.read(parts)
            self._prepared_eval = (name, self._prepare(self._tokens(arrays)), labels)
        return self._prepared_eval[1:]

    @torch.no_grad()
    def _correct(self, pictures: Pictures, labels: Tensor, delta: Delta) -> int:
        delta = delta.to(self.tm.device)
        self.tm.zero_delta().check_like(delta, what="composed delta")
        correct = 0
        for part, batch in batches(pictures, 256):
            logits = batch.primal + self.tm.tangent(batch, delta)
            correct += int((logits.argmax(1).cpu() == labels[part]).sum())
        return correct


def _as_torch_readable(tokens: np.ndarray) -> np.ndarray:
    return tokens if tokens.dtype != np.uint16 else tokens.view(np.int16)


def _nothing(tm: TangentModel) -> Prepared:
    return Prepared(torch.zeros(0, tm.num_classes), {}, 0)

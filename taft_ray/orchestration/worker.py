"""The shard worker: from cached tokens to a delta in storage. A plain class; Ray is put around it at the rim."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from taft_ray.data import Stripe, epoch_order, slice_of
from taft_ray.errors import ObjectMissing
from taft_ray.orchestration.checkpoints import SliceCheckpoints
from taft_ray.orchestration.linearised import build_tangent, run_spec
from taft_ray.orchestration.probe import minus_log_loss, picture_values
from taft_ray.orchestration.snapshots import load_snapshot
from taft_ray.storage import (
    DeltaRef,
    PartRef,
    Store,
    digest_json,
    read_delta,
    read_part,
    write_delta,
)
from taft_ray.storage import rundir as names
from taft_ray.tangent import (
    Delta,
    Pictures,
    Prepared,
    Recomputed,
    Sums,
    TangentModel,
    batches,
    certified_distance,
    concatenate,
    fit,
    shard_terms,
    terms_to_delta,
)

PREPARE_CHUNK = 128  # pictures a prepare call: part of what fixes the last bits of a delta
PREPARED_BUDGET = 4 << 30  # bytes of constants kept in memory; beyond it they are recomputed batch by batch
RESOLVE_TOLERANCE = 1e-5  # relative residual of a resolve: about what float32 can reach
RESOLVE_ITERATIONS = 2000  # at most

Progress = Callable[[int, int], None]
P = ParamSpec("P")
T = TypeVar("T")


def _in_use(method: Callable[P, T]) -> Callable[P, T]:
    """A method of `ShardWorker` during which the worker is not idle."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        worker: Any = args[0]
        worker.calls += 1
        try:
            return method(*args, **kwargs)
        finally:
            worker.calls -= 1
            worker.last_use = time.monotonic()

    return call


class ShardWorker:
    """Fits shards of one run. Keeps the model; reads tokens, writes deltas, and says what it did."""

    def __init__(self, run: str, classes: int, idle_s: float | None = None, into: Store | None = None) -> None:
        self.store = Store(run)
        self.into = into  # where what it fits goes; the run's own folder by default
        self.spec = run_spec(self.store)
        torch.set_num_threads(self.spec.threads)
        torch.use_deterministic_algorithms(True, warn_only=self.spec.device == "cuda")
        self.tm, self.fingerprint = build_tangent(self.spec, classes)
        self._prepared_eval: tuple[str, Pictures, Tensor] | None = None
        self.calls, self.last_use, self._idle_s = 0, time.monotonic(), idle_s
        if idle_s is not None:
            threading.Thread(target=self._leave_when_idle, daemon=True).start()

    def _leave_when_idle(self) -> None:
        while self.calls or time.monotonic() - self.last_use < (self._idle_s or 0):
            time.sleep(0.5)
        os._exit(0)  # a detached actor ends itself: nothing is lost, its deltas are in storage

    def leave_sooner(self, idle_s: float) -> None:
        """Stay idle no longer than this: somebody waits for what this worker holds."""
        if self._idle_s is not None:
            self._idle_s = min(self._idle_s, idle_s)

    def ready(self) -> bool:
        return True

    def read(self, parts: Sequence[dict[str, Any]]) -> tuple[list[bytes], Tensor, list[np.ndarray]]:
        """Keys, labels (n,) and token arrays of the parts, in ascending order of the sample keys."""
        read = [
            read_part(self.store, PartRef.from_json(part), fingerprint=self.fingerprint, into=self._copies())
            for part in parts
        ]
        keys = [key for part in read for key in part.keys]
        labels = torch.from_numpy(np.concatenate([part.labels for part in read]) if read else np.zeros(0, np.int64))
        return keys, labels, [_as_torch_readable(part.tokens) for part in read]

    def _copies(self) -> Path | None:
        return None

    def _tokens(self, arrays: Sequence[np.ndarray]) -> Tensor:
        tokens = torch.from_numpy(np.concatenate(arrays) if len(arrays) > 1 else np.array(arrays[0]))
        return tokens.view(torch.bfloat16) if self.spec.cache_dtype == "bfloat16" else tokens

    def prepare(self, tokens: Tensor, sizes: Sequence[int] = ()) -> Pictures:
        """Constants of all pictures in memory while they fit the budget, else recomputed batch by batch.

        sizes: of consecutive groups (slices); no pass has pictures of two, so that the last bits of a group's constants
            do not depend on the others. One group by default.
        """
        passes = []
        for size in sizes or (len(tokens),):
            at = passes[-1].stop if passes else 0
            passes += [slice(i, min(i + PREPARE_CHUNK, at + size)) for i in range(at, at + size, PREPARE_CHUNK)]
        first = self.tm.prepare(tokens[passes[0]])
        if first.nbytes() / len(first) * len(tokens) > PREPARED_BUDGET:
            return Recomputed(self.tm.prepare, tokens)
        return concatenate([first, *(self.tm.prepare(tokens[part]) for part in passes[1:])])

    @_in_use
    def fit(self, task: dict[str, Any], progress: Progress | None = None, lane: str = "") -> dict[str, Any]:
        """Fit one shard (or everything, for the monolith) and write its delta.

        task: {"shard": number or "monolith", "generation": n, "parts": [PartRef JSON]}; with "resolve": {"start": DeltaRef JSON
        or None} the fit starts from that delta instead of zero and goes on to RESOLVE_TOLERANCE; with "resume": CheckpointRef
        JSON it goes on from that checkpoint, and from zero, for the same bits, where that cannot be used.
        Returns what the composer commits: {"shard", "generation", "samples", "delta": DeltaRef JSON, "facts": {…}}, and of a
        shard in slices "checkpoints": [CheckpointRef JSON], those of the stages that this fit made.
        """
        self.release()
        monolith = task["shard"] == "monolith"
        # the comparison model is the paper's recipe: it keeps no checkpoints, so slices would only cost it accuracy
        config = replace(self.spec.fit_config(), slices=1) if monolith else self.spec.fit_config()
        started = time.time()
        keys, labels, arrays = self.read(task["parts"])
        slices = slice_of(keys, slices=config.slices, seed=config.seed)
        # by slice, then by key (a monolith's parts come shard by shard)
        order = sorted(range(len(keys)), key=lambda i: (slices[i], keys[i]))
        keys = [keys[i] for i in order]
        labels, slices = labels[order], slices[order]
        tokens = self._tokens(arrays)[order] if arrays else torch.zeros(0)
        read_s = time.time() - started
        sizes = np.bincount(slices, minlength=config.slices).tolist()
        pictures: Pictures = self.prepare(tokens, sizes) if len(labels) else _nothing(self.tm)
        prepare_s = time.time() - started - read_s

        def by_key(count: int, seed: int, epoch: int) -> Tensor:
            return torch.from_numpy(epoch_order(keys, seed=seed, epoch=epoch))

        start, resolve = None, task.get("resolve")
        if resolve is not None:
            tolerance = min(config.tolerance, RESOLVE_TOLERANCE)
            config = replace(config, tolerance=tolerance, max_iterations=max(config.max_iterations, RESOLVE_ITERATIONS))
            start = self._start(resolve["start"])
        checkpoints = None
        if config.slices > 1:
            # recomputed constants differ in their last bits from kept ones, and a shard that shrinks may change between them
            constants = "kept" if isinstance(pictures, Prepared) else "recomputed"
            made_of = {"fingerprint": self.fingerprint, "slices": str(config.slices), "constants": constants}
            checkpoints = SliceCheckpoints(
                self.into or self.store, int(task["shard"]), int(task["generation"]), made_of
            )
            start = checkpoints.begin(task.get("resume"))
        delta = fit(
            self.tm, pictures, labels, config, order=by_key, slice_of=torch.from_numpy(slices),
            start=start, done=checkpoints.resumed if checkpoints else 0,
            checkpoint=checkpoints.keep if checkpoints else None, progress=progress,
        )  # fmt: skip
        gram = None
        gram_started = time.time()
        if self.spec.compose == "gram" and not monolith:
            gram = self._gram(pictures)
        terms = shard_terms({name: value.cpu() for name, value in delta.items()}, gram)
        gram_s = time.time() - gram_started
        folder = names.MONOLITH_FOLDER if monolith else names.delta_folder(int(task["shard"]))
        meta = {"shard": str(task["shard"]), "samples": str(len(labels)), "fingerprint": self.fingerprint}
        ref = write_delta(
            self.into or self.store,
            folder,
            int(task["generation"]),
            {name: term.numpy() for name, term in terms.items()},
            meta,
        )
        ended = time.time()
        report = delta.report
        return {
            "shard": task["shard"],
            "generation": int(task["generation"]),
            "samples": len(labels),
            "parts": [part["digest"] for part in task["parts"]],
            "delta": ref.to_json(),
            **({"checkpoints": [written.to_json() for written in checkpoints.written]} if checkpoints else {}),
            "facts": {
                "seconds": ended - started,
                "fit_seconds": report.seconds,
                "read_seconds": read_s,
                "prepare_seconds": prepare_s,
                "statistics_seconds": gram_s,
                "started": started,
                "ended": ended,
                "samples": len(labels),
                "lane": lane,
                "solver": report.solver,
                "iterations": report.iterations,
                "residual": report.residual,
                "distance_bound": report.distance_bound,
                "objective": report.objective,
                "converged": report.converged,
                "norm": float(delta.norm()),
                "environment": self.environment(),
                **({} if resolve is None else {"resolved": True, "warm": start is not None}),
                **({"stages": config.slices, "slice_samples": sizes, **checkpoints.facts()} if checkpoints else {}),
            },
        }

    def _start(self, ref: dict[str, Any] | None) -> Delta | None:
        """The warm start of a resolve; None when another request has purged it: then zero does, with more iterations."""
        if ref is None:
            return None
        try:
            tensors, _ = read_delta(self.store, DeltaRef.from_json(ref))
        except ObjectMissing:
            return None
        return terms_to_delta({name: torch.from_numpy(value) for name, value in tensors.items()}, torch.float32)

    def release(self) -> None:
        """Drop the pictures that are kept between calls: some of them may have to be forgotten."""
        self._prepared_eval = None

    def environment(self) -> dict[str, Any]:
        """What the last bits of a fit depend on beside the spec."""
        return {
            "machine": platform.machine(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "device": torch.cuda.get_device_name() if self.spec.device == "cuda" else "cpu",
            "threads": self.spec.threads,
            "python": platform.python_version(),
            "torch": torch.__version__,
        }

    @_in_use
    def certified_distance(self, parts: Sequence[dict[str, Any]], ref: dict[str, Any]) -> tuple[float, float]:
        """‖∇L‖/(2λ) of a stored delta on these parts, and of no delta at all (ridge only)."""
        _, labels, arrays = self.read(parts)
        terms, _ = read_delta(self.store, DeltaRef.from_json(ref))
        delta = terms_to_delta({name: torch.from_numpy(value) for name, value in terms.items()}, torch.float32)
        config = self.spec.fit_config()
        return certified_distance(
            self.tm, self.prepare(self._tokens(arrays)), labels.to(self.tm.device), config.as_loss(),
            penalty=config.penalty, delta=delta.to(self.tm.device),
        )  # fmt: skip

    def _gram(self, pictures: Pictures) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for _, batch in batches(pictures, 1 << 30 if isinstance(pictures, Prepared) else PREPARE_CHUNK):
            for name, matrix in self.tm.gram(batch).items():
                total[name] = total[name] + matrix if name in total else matrix
        return {name: matrix.cpu() for name, matrix in total.items()}

    # --- evaluation: the same model, cached tokens of other pictures

    @_in_use
    def evaluate(self, delta_key: str | None, parts: Sequence[dict[str, Any]], delta_ref: dict | None = None) -> dict:
        """Accuracy on the parts of the composed snapshot at ``delta_key``, or of one shard's (or the monolith's) delta."""
        began = time.perf_counter()
        pictures, labels = self._eval_set(parts)
        delta = self._model(delta_ref if delta_ref is not None else str(delta_key))
        correct = self._correct(pictures, labels, delta)
        return {"accuracy": correct / max(1, len(labels)), "n": len(labels), "seconds": time.perf_counter() - began}

    @_in_use
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
            for mode in ("mean", "gram") if self.spec.compose == "gram" else ("mean",):
                composed = sums.compose(mode, self.spec.epsilon).to(torch.float32)
                row[mode] = self._correct(pictures, labels, composed) / max(1, len(labels))
            rows.append(row)
        return rows

    @_in_use
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
        pictures = self.prepare(self._tokens(arrays))
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
            self._prepared_eval = (name, self.prepare(self._tokens(arrays)), labels)
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

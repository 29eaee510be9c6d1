"""The shard worker: from cached tokens to a delta in storage. A plain class; Ray is put around it at the rim."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.fitting import FittedDelta, fit, fit_many
from taft_ray.log import context, logger_of
from taft_ray.run.environment import fit_environment
from taft_ray.storage import (
    Store,
    write_delta,
)
from taft_ray.storage import rundir as names
from taft_ray.sums import shard_terms, statistics_for
from taft_ray.systems.order import order_by_key
from taft_ray.tangent import Delta, Recomputed
from taft_ray.workers.measuring import Measuring
from taft_ray.workers.private_fit import private_fit
from taft_ray.workers.run_model import Loaded, RunModel
from taft_ray.workers.slice_checkpoints import SliceCheckpoints
from taft_ray.workers.warm import Warm, in_use

_log = logger_of(__name__)

Progress = Callable[[int, int], None]


class ShardWorker(Measuring):
    """Fits shards of one run. Keeps the model; reads tokens, writes deltas, and says what it did."""

    def __init__(self, run: str, classes: int, idle_s: float | None = None, into: Store | None = None) -> None:
        RunModel.__init__(self, run, classes)
        self.into = into  # where what it fits goes; the run's own folder by default
        Warm.__init__(self, idle_s)

    @in_use
    def fit(self, task: dict[str, Any], progress: Progress | None = None, lane: str = "") -> dict[str, Any]:
        """Fit one shard (or everything, for the monolith) and write its delta.

        ``task``: {"shard": number or "monolith", "generation": n, "parts": [PartRef JSON]}. With "resolve": {"start": DeltaRef JSON
        or None} the fit starts from that delta instead of zero and goes on as `FitConfig.to_resolve` says. With "resume":
        CheckpointRef JSON it goes on from that checkpoint. Where that cannot be used it begins at zero, for the same bits.

        Returns what the composer commits: {"shard", "generation", "samples", "delta": DeltaRef JSON, "facts": {…}}. A shard in
        slices adds "checkpoints": [CheckpointRef JSON], those of the stages that this fit made.
        """
        self.release()
        with self._context(task):
            _log.info("fit begins")
        config = self._config(task)
        loaded = self._load(task, config)
        if self.spec.privacy is not None:
            return self._privately(loaded, progress, lane)
        pictures = loaded.pictures

        start, resolve = None, task.get("resolve")
        if resolve is not None:
            config = config.to_resolve()
            start = self._start(resolve["start"])
        checkpoints = None
        if config.slices > 1:
            # recomputed constants differ from kept ones in their last bits, and a shard that shrinks may keep more of them
            constants = f"around {pictures.kept} layers" if isinstance(pictures, Recomputed) else "kept"
            made_of = {"fingerprint": self.fingerprint, "slices": str(config.slices), "constants": constants}
            checkpoints = SliceCheckpoints(
                self.into or self.store, int(task["shard"]), int(task["generation"]), made_of
            )
            start = checkpoints.begin(task.get("resume"))
        delta = fit(
            self.tm, pictures, loaded.labels, config, order=order_by_key(loaded.keys), slice_of=torch.from_numpy(loaded.slices),
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

    def _privately(self, loaded: Loaded, progress: Progress | None, lane: str) -> dict[str, Any]:
        delta, reserved = private_fit(self, loaded, progress)
        result = self._write(loaded, delta, lane)
        result["facts"].update(reserved=reserved.digest, nonfinite=delta.report.nonfinite)
        return result

    @in_use
    def fit_several(self, tasks: Sequence[dict[str, Any]], lane: str = "") -> list[dict[str, Any]]:
        """`fit` of several small shards' first tasks (ridge: nothing to resolve or to resume), in less time and to the same bits."""
        self.release()
        config = self._config(tasks[0])
        loaded = [self._load(task, config) for task in tasks]
        deltas = fit_many(self.tm, [(one.pictures, one.labels) for one in loaded], config)
        return [self._write(one, delta, lane) for one, delta in zip(loaded, deltas, strict=True)]

    def _context(self, task: dict[str, Any]) -> AbstractContextManager[None]:
        return context(run=self.store.uri, shard=task["shard"], generation=int(task["generation"]))

    def _write(self, loaded: Loaded, delta: FittedDelta, lane: str) -> dict[str, Any]:
        """Statistics and the delta into storage; what `fit` returns."""
        task, report = loaded.task, delta.report
        monolith = task["shard"] == "monolith"
        began = time.time()
        statistics = None if monolith else statistics_for(self.spec.of_deltas, self.tm, loaded.pictures, delta)
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
        with self._context(task):
            _log.info("fitted %d samples in %.2f s", len(loaded.labels), report.seconds)
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
            return self.delta(ref)
        except (ObjectMissing, IntegrityError):
            return None

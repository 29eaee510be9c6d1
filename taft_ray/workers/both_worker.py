"""The worker of a run of two tiers: it fits deltas on tokens, writes records of rows beside them, and measures both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from taft_ray.plans.facts import Tuned
from taft_ray.run.rows import class_count, read_terms, write_record
from taft_ray.run.snapshots import load_arrays
from taft_ray.storage import Store
from taft_ray.storage import rundir as names
from taft_ray.workers.row_measuring import RowMeasuring, Sums
from taft_ray.workers.shard_worker import Progress, ShardWorker
from taft_ray.workers.warm import in_use


class BothWorker(RowMeasuring, ShardWorker):
    """Fits shards of one run, writes their records, and measures the models of both."""

    def __init__(self, run: str, classes: int, idle_s: float | None = None, into: Store | None = None) -> None:
        ShardWorker.__init__(self, run, classes, idle_s, into)
        self.classes = classes
        self._known: tuple[str, bool] | None = None  # a snapshot's key, and whether it is of rows

    def release(self) -> None:
        super().release()
        self.release_rows()

    @in_use
    def fit(self, task: dict[str, Any], progress: Progress | None = None, lane: str = "") -> dict[str, Any]:
        """`ShardWorker.fit`; of a shard also its "record", and the sums over its rows as "terms"."""
        return self._with_record(task, super().fit(task, progress, lane))

    @in_use
    def fit_several(self, tasks: Sequence[dict[str, Any]], lane: str = "") -> list[dict[str, Any]]:
        """`fit` of several small shards' first tasks."""
        fitted = super().fit_several(tasks, lane)
        return [self._with_record(task, one) for task, one in zip(tasks, fitted, strict=True)]

    def _with_record(self, task: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        if task["shard"] == "monolith":
            return result
        ref = write_record(
            self.into or self.store, names.delta_folder(int(task["shard"])), int(task["shard"]),
            int(task["generation"]), task["parts"], self.fingerprint, self.tm.num_classes,
        )  # fmt: skip
        return {**result, "record": ref.to_json(), "terms": read_terms(self.store, ref) if self.into is None else None}

    @in_use
    def evaluate(  # type: ignore[override]  # it takes sums too
        self,
        model: str | Sums | None,
        parts: Sequence[dict[str, Any]],
        delta_ref: dict | None = None,
        tuned: Tuned | None = None,
    ) -> dict[str, Any]:
        """Accuracy on the parts of a composed snapshot, of sums over rows (with settings chosen from them), or of a delta."""
        if delta_ref is None and self._is_of_rows(model):
            return self.evaluate_rows(model, parts, tuned)
        return super().evaluate(str(model), parts, delta_ref)

    @in_use
    def outputs(  # type: ignore[override]  # it takes sums too
        self, model: str | Sums, parts: Sequence[dict[str, Any]], tuned: Tuned | None = None
    ) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """Sample keys, labels (n,) and logits (n, K) of the parts, by a composed snapshot or by sums over rows."""
        if self._is_of_rows(model):
            return self.outputs_of_rows(model, parts, tuned)
        return super().outputs(str(model), parts)

    def _is_of_rows(self, model: str | Sums | None) -> bool:
        """Whether a model is of rows: sums are, and snapshots tell."""
        if not isinstance(model, str):
            return model is not None
        if self._known is None or self._known[0] != model:
            self._known = (model, class_count(load_arrays(self.store, model)) > 0)
        return self._known[1]

"""The worker of an additive run: from cached rows to a shard's record and its sums, and measurements of the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from taft_ray.log import context, logger_of
from taft_ray.plans.facts import Tuned
from taft_ray.run.environment import fit_environment, settle
from taft_ray.run.rows import fingerprint_of, read_terms, write_record
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store
from taft_ray.storage import rundir as names
from taft_ray.workers.row_measuring import RowMeasuring, Sums
from taft_ray.workers.warm import Warm, in_use

_log = logger_of(__name__)


class RowWorker(RowMeasuring, Warm):
    """Sums shards of one additive run, and measures its model. It needs the network for the fingerprint alone."""

    def __init__(self, run: str, classes: int, idle_s: float | None = None, into: Store | None = None) -> None:
        self.store = Store(run)
        self.into = into  # where records go; the run's own folder by default
        self.spec = run_spec(self.store)
        self.classes = classes
        settle(self.spec)
        self.fingerprint = fingerprint_of(self.spec)
        super().__init__(idle_s)

    def release(self) -> None:
        """Drop the rows that are kept between calls: some of them may have to be forgotten."""
        self.release_rows()

    @in_use
    def fit(self, task: dict[str, Any], progress: Any = None, lane: str = "") -> dict[str, Any]:
        """Write a shard's record and sum its rows: what the composer commits, as of `ShardWorker.fit`, with "terms".

        terms: the shard's sums, so that the composer need not read the rows again. They are checked by `verify` alone.
        """
        self.release()
        started = time.time()
        with context(run=self.store.uri, shard=task["shard"], generation=int(task["generation"])):
            ref = write_record(
                self.into or self.store, names.delta_folder(int(task["shard"])), int(task["shard"]),
                int(task["generation"]), task["parts"], self.fingerprint, self.classes,
            )  # fmt: skip
            terms = read_terms(self.store, ref) if self.into is None else None
            ended = time.time()
            samples = sum(int(part["rows"]) for part in task["parts"])
            _log.info("summed %d rows in %.2f s", samples, ended - started)
        return {
            "shard": task["shard"],
            "generation": int(task["generation"]),
            "samples": samples,
            "parts": [part["digest"] for part in task["parts"]],
            "delta": ref.to_json(),
            "terms": terms,
            "facts": {
                "seconds": ended - started,
                "started": started,
                "ended": ended,
                "samples": samples,
                "lane": lane,
                "solver": self.spec.solver,
                "environment": fit_environment(self.spec),
            },
        }

    @in_use
    def fit_several(self, tasks: Sequence[dict[str, Any]], lane: str = "") -> list[dict[str, Any]]:
        """`fit` of each."""
        return [self.fit(task, None, lane) for task in tasks]

    @in_use
    def evaluate(
        self,
        model: str | Sums | None,
        parts: Sequence[dict[str, Any]],
        delta_ref: dict | None = None,
        tuned: Tuned | None = None,
    ) -> dict[str, Any]:
        """See `evaluate_rows`."""
        return self.evaluate_rows(model, parts, tuned)

    @in_use
    def outputs(
        self, model: str | Sums, parts: Sequence[dict[str, Any]], tuned: Tuned | None = None
    ) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """See `outputs_of_rows`."""
        return self.outputs_of_rows(model, parts, tuned)

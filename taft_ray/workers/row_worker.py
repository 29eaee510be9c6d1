"""The worker of an additive run: from cached rows to a shard's record and its sums, and measurements of the model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from taft_ray.additive import AdditiveModel, Policy, Tuner
from taft_ray.log import context, logger_of
from taft_ray.plans.facts import Tuned
from taft_ray.run.environment import fit_environment, settle
from taft_ray.run.rows import class_count, fingerprint_of, grow, joined, model_of, read_terms, sums_from, write_record
from taft_ray.run.snapshots import load_arrays
from taft_ray.run.spec import run_spec
from taft_ray.storage import DeltaRef, PartRef, Store, digest_json, read_several
from taft_ray.storage import rundir as names
from taft_ray.sums import Totals
from taft_ray.workers.warm import Warm, in_use

_log = logger_of(__name__)

Sums = Mapping[str, np.ndarray]  # by name: see `run.rows.terms_of`


class RowWorker(Warm):
    """Sums shards of one additive run, and measures its model. It needs the network for the fingerprint alone."""

    def __init__(self, run: str, classes: int, idle_s: float | None = None, into: Store | None = None) -> None:
        self.store = Store(run)
        self.into = into  # where records go; the run's own folder by default
        self.spec = run_spec(self.store)
        self.classes = classes
        settle(self.spec)
        self.fingerprint = fingerprint_of(self.spec)
        self._model: tuple[tuple[str, Tuned | None], AdditiveModel] | None = None
        self._rows: tuple[str, list[bytes], np.ndarray, np.ndarray] | None = None
        super().__init__(idle_s)

    def release(self) -> None:
        """Drop the rows that are kept between calls: some of them may have to be forgotten."""
        self._rows = None

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
        """Accuracy on the parts of a model: a composed snapshot's key, or sums by name; with settings chosen from these sums."""
        began = time.perf_counter()
        _, labels, rows = self._read(parts)
        correct = int((self._at(model, tuned).logits(rows).argmax(1) == labels).sum())
        return {"accuracy": correct / max(1, len(labels)), "n": len(labels), "seconds": time.perf_counter() - began}

    @in_use
    def outputs(
        self, model: str | Sums, parts: Sequence[dict[str, Any]], tuned: Tuned | None = None
    ) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """Sample keys, labels (n,) and logits (n, K) of the parts, by a model as `evaluate` takes it."""
        keys, labels, rows = self._read(parts)
        return keys, labels, self._at(model, tuned).logits(rows)

    @in_use
    def accuracy_by_shards(
        self,
        refs: Sequence[dict[str, Any]],
        weights: Sequence[int],
        parts: Sequence[dict[str, Any]],
        counts: Sequence[int],
        policy: Policy | None = None,
    ) -> list[dict[str, Any]]:
        """Accuracy of the model of the first m shards, for each m in ``counts``.

        policy: chooses the settings of each from its sums. κ changes no class, so no row is read for it.
        """
        _, labels, rows = self._read(parts)
        totals, found, classes = Totals(), [], self.classes
        for position, (ref, weight) in enumerate(zip(refs, weights, strict=True), start=1):
            terms = read_terms(self.store, DeltaRef.from_json(ref), classes)
            classes = max(classes, class_count(terms))
            grow(totals, classes)
            totals.add(terms, weight)
            if position in counts and totals.weight:
                logits = self._by(policy, totals.totals).logits(rows)
                accuracy = int((logits.argmax(1) == labels).sum()) / max(1, len(labels))
                found.append({"shards": position, self.spec.compose: accuracy})
        return found

    def _read(self, parts: Sequence[dict[str, Any]]) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """Keys, labels (n,) and rows (n, S) of the parts; those of the last call are kept."""
        name = digest_json([part["digest"] for part in parts])
        if self._rows is None or self._rows[0] != name:
            read = read_several(self.store, [PartRef.from_json(part) for part in parts], fingerprint=self.fingerprint)
            rows, labels = joined(read)
            self._rows = (name, [key for part in read for key in part.keys], labels, rows)
        return self._rows[1:]

    def _at(self, model: str | Sums | None, tuned: Tuned | None) -> AdditiveModel:
        """The model at a snapshot's key, which is kept, or of these sums."""
        if not isinstance(model, str):
            return model_of(self.spec, model or {}, tuned)
        if self._model is None or self._model[0] != (model, tuned):
            self._model = ((model, tuned), model_of(self.spec, load_arrays(self.store, model), tuned))
        return self._model[1]

    def _by(self, policy: Policy | None, arrays: Sums) -> AdditiveModel:
        """The model of these sums, its settings chosen by a policy from them alone."""
        if policy is None:
            return model_of(self.spec, arrays)
        sums = sums_from(arrays)
        return AdditiveModel.chosen(sums, policy.groups, Tuner(sums, policy).settings())

"""Measurements of an additive model on cached rows: its own, or those that a run of two tiers has beside its tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from taft_ray.additive import AdditiveModel, Policy, Tuner
from taft_ray.additive.options import ADDITIVE
from taft_ray.data import Stripe
from taft_ray.plans.facts import Tuned
from taft_ray.plans.spec import RunSpec
from taft_ray.run.rows import build_rows, class_count, grow, joined, model_of, read_terms, sums_from
from taft_ray.run.snapshots import load_arrays
from taft_ray.storage import DeltaRef, PartRef, Store, digest_json, read_several
from taft_ray.sums import Totals
from taft_ray.workers.probe import minus_log_square_loss, picture_values
from taft_ray.workers.warm import in_use

Sums = Mapping[str, np.ndarray]  # by name: see `run.rows.terms_of`


class RowMeasuring:
    """Measurements on rows; those of the last call stay in memory until `release_rows`."""

    store: Store
    spec: RunSpec
    fingerprint: str
    classes: int  # that the run has by now
    _row_model: tuple[tuple[str, Tuned | None], AdditiveModel] | None = None
    _rows: tuple[str, list[bytes], np.ndarray, np.ndarray] | None = None

    def release_rows(self) -> None:
        """Drop the rows that are kept between calls: some of them may have to be forgotten."""
        self._rows = None

    def evaluate_rows(
        self, model: str | Sums | None, parts: Sequence[dict[str, Any]], tuned: Tuned | None = None
    ) -> dict[str, Any]:
        """Accuracy on the parts of a model: a composed snapshot's key, or sums by name; with settings chosen from these sums."""
        began = time.perf_counter()
        _, labels, rows = self._read_rows(parts)
        correct = int((self._additive(model, tuned).logits(rows).argmax(1) == labels).sum())
        return {"accuracy": correct / max(1, len(labels)), "n": len(labels), "seconds": time.perf_counter() - began}

    def outputs_of_rows(
        self, model: str | Sums, parts: Sequence[dict[str, Any]], tuned: Tuned | None = None
    ) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """Sample keys, labels (n,) and logits (n, K) of the parts, by a model as `evaluate_rows` takes it."""
        keys, labels, rows = self._read_rows(parts)
        return keys, labels, self._additive(model, tuned).logits(rows)

    @in_use
    def records_by_shards(
        self,
        refs: Sequence[dict[str, Any]],
        weights: Sequence[int],
        parts: Sequence[dict[str, Any]],
        counts: Sequence[int],
        policy: Policy | None = None,
    ) -> list[dict[str, Any]]:
        """Accuracy of the model of the first m shards' records, for each m in ``counts``.

        policy: chooses the settings of each from its sums. κ changes no class, so no row is read for it.
        """
        _, labels, rows = self._read_rows(parts)
        totals, found, classes = Totals(), [], 0
        for position, (ref, weight) in enumerate(zip(refs, weights, strict=True), start=1):
            terms = read_terms(self.store, DeltaRef.from_json(ref), classes)
            classes = max(classes, class_count(terms))
            grow(totals, classes)
            totals.add(terms, weight)
            if position in counts and totals.weight:
                logits = self._by(policy, totals.totals).logits(rows)
                accuracy = int((logits.argmax(1) == labels).sum()) / max(1, len(labels))
                found.append({"shards": position, ADDITIVE: accuracy})
        return found

    @in_use
    def sample_values(
        self,
        models: Sequence[dict[str, Any] | str],
        stripes: Sequence[Stripe] = (),
        parts: Sequence[dict[str, Any]] = (),
        tuned: Tuned | None = None,
    ) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """Keys, labels (n,) and −log square loss (n, models) of the rows of cached parts, or of the stripes' pictures.

        models: the DeltaRef of a shard's record as JSON: the model of its rows alone. Or the key of a composed snapshot, with
        ``tuned``, the settings that were chosen from its sums. Nothing of the pictures is kept or written.
        """
        made = [self._of_one_hot(model, tuned) for model in models]
        if not parts:
            maker, preprocess, _ = build_rows(self.spec)

            def values(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
                return minus_log_square_loss(rows[:, 0], labels, made)

            return picture_values(maker, preprocess, self.spec, stripes, len(made), values)
        keys, labels, rows = self._read_rows(parts)
        self.release_rows()
        return keys, labels, minus_log_square_loss(rows, labels, made)

    def _of_one_hot(self, model: dict[str, Any] | str, tuned: Tuned | None) -> AdditiveModel:
        """The model whose logits are not scaled by κ: of a shard's record alone, or of a composed snapshot."""
        if not isinstance(model, str):
            return AdditiveModel.of(sums_from(read_terms(self.store, DeltaRef.from_json(model), self.classes)))
        kappa = self.spec.kappa if tuned is None or tuned.settings is None else tuned.settings.kappa
        return model_of(self.spec, load_arrays(self.store, model), tuned).scaled(1 / kappa)

    def _read_rows(self, parts: Sequence[dict[str, Any]]) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """Keys, labels (n,) and rows (n, S) of the parts; those of the last call are kept."""
        name = digest_json([part["digest"] for part in parts])
        if self._rows is None or self._rows[0] != name:
            read = read_several(self.store, [PartRef.from_json(part) for part in parts], fingerprint=self.fingerprint)
            rows, labels = joined(read)
            self._rows = (name, [key for part in read for key in part.keys], labels, rows)
        return self._rows[1:]

    def _additive(self, model: str | Sums | None, tuned: Tuned | None) -> AdditiveModel:
        """The model at a snapshot's key, which is kept, or of these sums."""
        if not isinstance(model, str):
            return model_of(self.spec, model or {}, tuned)
        if self._row_model is None or self._row_model[0] != (model, tuned):
            self._row_model = ((model, tuned), model_of(self.spec, load_arrays(self.store, model), tuned))
        return self._row_model[1]

    def _by(self, policy: Policy | None, arrays: Sums) -> AdditiveModel:
        """The model of these sums, its settings chosen by a policy from them alone."""
        if policy is None:
            return model_of(self.spec, arrays)
        sums = sums_from(arrays)
        return AdditiveModel.chosen(sums, policy.groups, Tuner(sums, policy).settings())

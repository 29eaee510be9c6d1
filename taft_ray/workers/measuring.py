"""Measurements with a run's model: accuracies, certified distances, and losses of single samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taft_ray.data import Stripe
from taft_ray.fitting import certified_distance
from taft_ray.models import Preprocess
from taft_ray.run.snapshots import load_snapshot
from taft_ray.storage import DeltaRef, digest_json, read_delta
from taft_ray.sums import Sums
from taft_ray.tangent import Delta, Pictures, Recomputed
from taft_ray.tangent.accuracy import count_correct, logits_of
from taft_ray.workers.probe import minus_log_loss, picture_values
from taft_ray.workers.run_model import RunModel
from taft_ray.workers.warm import Warm, in_use


class Measuring(RunModel, Warm):
    """Measurements; the pictures of the last evaluation stay in memory until `release`."""

    _prepared_eval: tuple[str, Pictures, Tensor, list[bytes]] | None = None

    def release(self) -> None:
        """Drop the pictures that are kept between calls: some of them may have to be forgotten."""
        self._prepared_eval = None

    @in_use
    def certified_distance(self, parts: Sequence[dict[str, Any]], ref: dict[str, Any]) -> tuple[float, float]:
        """‖∇L‖/(2λ) of a stored delta on these parts, and of no delta at all (ridge only)."""
        _, labels, arrays = self.read(parts)
        delta = self.delta(ref)
        config = self.spec.fit_config()
        return certified_distance(
            self.tm, self._prepare(self._tokens(arrays)), labels.to(self.tm.device), config.as_loss(),
            penalty=config.penalty, delta=delta.to(self.tm.device),
        )  # fmt: skip

    @in_use
    def evaluate(self, delta_key: str | None, parts: Sequence[dict[str, Any]], delta_ref: dict | None = None) -> dict:
        """Accuracy on the parts of the composed snapshot at ``delta_key``, or of one shard's (or the monolith's) delta."""
        began = time.perf_counter()
        pictures, labels, _ = self._eval_set(parts)
        delta = self._model(delta_ref if delta_ref is not None else str(delta_key))
        correct = self._correct(pictures, labels, delta)
        return {"accuracy": correct / max(1, len(labels)), "n": len(labels), "seconds": time.perf_counter() - began}

    @in_use
    def outputs(self, delta_key: str, parts: Sequence[dict[str, Any]]) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """Sample keys, labels (n,) and logits (n, K) float32 of the parts, by the composed snapshot at ``delta_key``."""
        pictures, labels, keys = self._eval_set(parts)
        delta = self._model(delta_key)
        self.tm.zero_delta().check_like(delta, what="composed delta")
        return keys, labels.numpy(), logits_of(self.tm, pictures, delta).numpy()

    @in_use
    def accuracy_by_shards(
        self,
        refs: Sequence[dict[str, Any]],
        weights: Sequence[int],
        parts: Sequence[dict[str, Any]],
        counts: Sequence[int],
    ) -> list[dict[str, Any]]:
        """Accuracy of the first m shards composed, for each m in ``counts``, by every composition the deltas allow."""
        pictures, labels, _ = self._eval_set(parts)
        sums, rows = Sums(), []
        for position, (ref, weight) in enumerate(zip(refs, weights, strict=True), start=1):
            tensors, _ = read_delta(self.store, DeltaRef.from_json(ref))
            sums.add({name: torch.from_numpy(value) for name, value in tensors.items()}, weight)
            if position not in counts or not sums.weight:
                continue
            row: dict[str, Any] = {"shards": position}
            for mode in self.spec.modes_of_deltas:
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

            def values(tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
                batch = self.tm.prepare(self._tokens([tokens.view(np.int16) if tokens.dtype == np.uint16 else tokens]))
                return minus_log_loss(self.tm, batch, torch.from_numpy(labels), self.spec, deltas)

            return picture_values(self.tm, Preprocess.of(self.tm.network), self.spec, stripes, len(deltas), values)
        keys, labels, arrays = self.read(parts)
        pictures = Recomputed(self.tm, self._tokens(arrays))  # they are read once
        return keys, labels.numpy(), minus_log_loss(self.tm, pictures, labels, self.spec, deltas)

    def _model(self, model: dict[str, Any] | str) -> Delta:
        if isinstance(model, str):
            return load_snapshot(self.store, model)
        return self.delta(model)

    def _eval_set(self, parts: Sequence[dict[str, Any]]) -> tuple[Pictures, Tensor, list[bytes]]:
        name = digest_json([part["digest"] for part in parts])
        if self._prepared_eval is None or self._prepared_eval[0] != name:
            keys, labels, arrays = self.read(parts)
            self._prepared_eval = (name, self._prepare(self._tokens(arrays)), labels, keys)
        return self._prepared_eval[1:]

    def _correct(self, pictures: Pictures, labels: Tensor, delta: Delta) -> int:
        self.tm.zero_delta().check_like(delta, what="composed delta")
        return count_correct(self.tm, pictures, labels, delta)

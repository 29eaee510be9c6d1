"""Fits of a shard without some of its samples, in memory: nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taft_ray.fitting import fit
from taft_ray.fitting.ridge import NormalEquations
from taft_ray.models import Preprocess
from taft_ray.prefix.tokens import prefix_tokens
from taft_ray.tangent import Delta, Pictures
from taft_ray.tangent.model import pullback
from taft_ray.workers.run_model import Loaded, RunModel, _as_torch_readable


class Refitting(RunModel):
    """A run's ridge problem on any of its pictures. Legend: n pictures, K classes."""

    def shard(self, parts: Sequence[dict[str, Any]]) -> Loaded:
        """The pictures of a shard, prepared."""
        return self._load({"shard": 0, "parts": parts}, self.spec.fit_config())

    def pictures(self, pixels: Sequence[np.ndarray]) -> Pictures:
        """Decoded pictures, prepared as the run's own."""
        made = prefix_tokens(self.tm, Preprocess.of(self.tm.network), pixels, self.spec)
        return self._prepare(self._tokens([_as_torch_readable(made)]))

    def fitted(self, pictures: Pictures, labels: Tensor) -> Delta:
        """Δw of these pictures."""
        return Delta(dict(fit(self.tm, pictures, labels, self.spec.fit_config())))

    def curved(self, pictures: Pictures, labels: Tensor, delta: Delta) -> Delta:
        """(JᵀDJ/(nK) + λI)·delta of these pictures."""
        loss = self.spec.fit_config().as_loss()
        return NormalEquations(self.tm, pictures, labels, loss, self.spec.penalty).apply(delta)

    @torch.no_grad()
    def errors(self, pictures: Pictures, labels: Tensor, delta: Delta) -> Tensor:
        """D (T − f_w − JΔw), (n, K)."""
        batch, loss = pictures[slice(0, len(labels))], self.spec.fit_config().as_loss()
        fit = batch.primal + self.tm.tangent(batch, delta)
        weights = loss.weights(labels, self.tm.num_classes, fit.dtype)
        return weights * (loss.targets(labels, self.tm.num_classes, fit.dtype) - fit)

    @torch.no_grad()
    def along(self, pictures: Pictures, direction: Delta) -> Tensor:
        """J·direction of each picture, (n, K)."""
        return self.tm.tangent(pictures[slice(0, len(pictures))], direction)

    def lengths(self, pictures: Pictures, errors: Tensor) -> np.ndarray:
        """|Jᵀe| of each picture, (n,)."""
        zero = self.tm.zero_delta().map(lambda value: value.float())
        found = []
        for at in range(len(errors)):
            with torch.enable_grad():
                leaves = {name: value.detach().requires_grad_() for name, value in zero.items()}
                tangent = self.tm.tangent(pictures[slice(at, at + 1)], leaves)
                found.append(float(pullback(tangent, leaves, errors[at : at + 1]).norm()))
        return np.array(found)

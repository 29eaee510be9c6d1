"""Non-linear fine-tuning (NLFT) of the same parameters: the network itself at w + Δ, on the same tokens and through the same `fit`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from taft_ray.tangent import Delta, Prepared, TangentModel

_TOKENS = "tokens"


class NonLinear:
    """f_{w+Δ}(x) as a function of Δ that Adam can train: what a `TangentModel` is the linearisation of.

    Guarantees: at Δ = 0 its logits are the tangent model's, and so is their derivative.
    """

    def __init__(self, tm: TangentModel) -> None:
        self.tm = tm

    @property
    def num_classes(self) -> int:
        return self.tm.num_classes

    @property
    def device(self) -> torch.device:
        return self.tm.device

    def zero_delta(self) -> Delta:
        return self.tm.zero_delta()

    @torch.no_grad()
    def prepare(self, tokens: Tensor, known: Mapping[str, Tensor] | None = None) -> Prepared:
        """Pictures as `fit` reads them. Beyond the tokens nothing is constant here."""
        tokens = tokens.to(self.device, self.tm.dtype)
        return Prepared(self.tm.nonlinear(tokens, {}), {_TOKENS: tokens}, token_count=tokens.shape[1])

    def layer_outputs(self, tokens: Tensor) -> dict[str, Tensor]:
        """None: behind a trained layer nothing is constant."""
        return {}

    def logits(self, prepared: Prepared, delta: Mapping[str, Tensor]) -> Tensor:
        """(B, K); differentiable in ``delta``."""
        return self.tm.nonlinear(prepared.saved[_TOKENS], delta)

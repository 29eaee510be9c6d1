"""Private fine-tuning of the network itself: Opacus's ghost clipping of the last blocks, on cached tokens, in full batch.

Opacus gives each picture's norm and the sum of clipped gradients. Noise and steps are ours: its engine draws batches by Poisson, and its
divisor at small n is not the public one (opacus#571).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from taft_ray.errors import UnsupportedModel
from taft_ray.fitting import Loss, PrivateRecipe
from taft_ray.fitting.private import Noise
from taft_ray.tangent import TangentModel
from taft_ray.tangent.network import between

GRID = 2.0**-20
"""The noise's grid, as a part of C. The sum is not on it: bits here are a study's, and no run is made so."""
_CHUNK = 32  # pictures at a time


class Suffix(nn.Module):
    """timm's own last blocks, final norm and head. UnsupportedModel for a network that is not made of them."""

    def __init__(self, network: nn.Module, last_blocks: int | str) -> None:
        super().__init__()
        if not (hasattr(network, "blocks") and hasattr(network, "forward_head") and hasattr(network, "norm")):
            raise UnsupportedModel(f"{type(network).__name__}: ghost clipping is measured on vision transformers alone")
        self.network, self._blocks = network, between(network, last_blocks, 0)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.network.norm(self._blocks(tokens))  # type: ignore[operator]  # checked when it was made
        return self.network.forward_head(x)  # type: ignore[operator]


def ghost_descent(
    tm: TangentModel, last_blocks: int | str, tokens: Tensor, labels: Tensor, recipe: PrivateRecipe, noise: Noise
) -> Callable[[Tensor], Tensor]:
    """The network after ``recipe.steps`` private steps from its own weights: a function of tokens (B, T, D) -> logits (B, K)."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    suffix = Suffix(copy.deepcopy(tm.network), last_blocks).train()
    trained = set(tm.zero_delta())
    for name, parameter in suffix.named_parameters():
        parameter.requires_grad_(name.removeprefix("network.") in trained)
    loss = Loss(kind="ce")
    module = GradSampleModuleFastGradientClipping(
        suffix,
        max_grad_norm=recipe.clip,  # type: ignore[arg-type]  # it takes any number
        use_ghost_clipping=True,
        loss_reduction="sum",
    )
    parameters = [parameter for parameter in suffix.parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in parameters)
    unit = GRID * recipe.clip
    with warnings.catch_warnings():
        # torch says so where the first trained layer's inputs need no gradient; Opacus needs none there
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        for step in range(recipe.steps):
            total = [torch.zeros_like(parameter) for parameter in parameters]
            for part, of_part in zip(tokens.split(_CHUNK), labels.split(_CHUNK), strict=True):
                _add_clipped(module, total, parameters, loss, part, of_part)
            drawn = noise(step, count, recipe.noise_multiplier * recipe.clip / unit)
            added = (
                torch.from_numpy(drawn.astype(np.float64) * unit).to(total[0].dtype).split([p.numel() for p in total])
            )
            with torch.no_grad():
                for parameter, gradient, more in zip(parameters, total, added, strict=True):
                    gradient += more.view(gradient.shape)
                    parameter -= gradient * (recipe.learning_rate / recipe.divisor)
    module.disable_hooks()
    suffix.eval()
    return torch.no_grad()(lambda some: suffix(some))


def _add_clipped(module, total, parameters, loss: Loss, tokens: Tensor, labels: Tensor) -> None:
    """Adds the clipped gradients of some pictures: a pass for the norms, and one of the weighted losses."""
    module.enable_hooks()
    module.zero_grad(set_to_none=True)
    losses = loss.per_sample(module(tokens.float()), labels)
    losses.sum().backward(retain_graph=True)
    coefficients = module.get_clipping_coef()
    module.disable_hooks()
    module.zero_grad(set_to_none=True)
    (losses * coefficients).sum().backward()
    for gradient, parameter in zip(total, parameters, strict=True):
        gradient += parameter.grad

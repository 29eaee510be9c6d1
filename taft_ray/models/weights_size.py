"""The picture size that weights were made for, where a network's shapes depend on it and cannot be brought to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from taft_ray.errors import TaftError
from taft_ray.models.architecture import build
from taft_ray.models.preprocess import Preprocess

# sizes that people train at, likely ones first; then every multiple of 16 that is left
_COMMON = (224, 256, 384, 288, 240, 336, 448, 512, 192, 160, 128, 320, 518, 32, 64)
SIZES = _COMMON + tuple(size for size in range(48, 1041, 16) if size not in _COMMON)

Shapes = Mapping[str, tuple[int, ...]]
AtSize = Callable[[int | None], tuple[Shapes, int] | None]


def shapes_at(name: str, image_size: int | None, weights: str | None) -> tuple[Shapes, int] | None:
    """The shapes of the network's tensors at a picture size, and that size; None where it cannot have it."""
    try:
        with torch.device("meta"):  # no number is computed
            network = build(name, image_size, weights=weights, strict=False)
    except TaftError:
        return None
    return shapes_of(network.state_dict()), Preprocess.of(network).size


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def way_out(name: str, wrong: Shapes, at_size: AtSize) -> str:
    """A sentence on the size that the weights are of; "" where these shapes are not those of the network at any.

    wrong: the shapes of the weights that do not fit.
    """
    own = at_size(None)
    if own is None:
        return ""
    twice = at_size(2 * own[1])  # a step to the next size may round to the same shape deep in the network
    if twice is None or any(own[0].get(key) == twice[0].get(key) for key in wrong):
        return ""  # something that the picture's size does not decide
    fixed = f"the picture size of {name} is fixed by its weights, and these are of"
    if _has(own[0], wrong):
        return f"{fixed} {own[1]} pixels: leave --image-size out, or give --image-size {own[1]}"
    for size in SIZES:
        found = at_size(size)
        if found is not None and _has(found[0], wrong):
            return f"{fixed} {size} pixels: give --image-size {size}"
    return ""


def _has(shapes: Shapes, wrong: Shapes) -> bool:
    return all(shapes.get(key) == shape for key, shape in wrong.items())

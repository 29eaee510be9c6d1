"""The steps of a decoded picture before the network: scale to 0..1, subtract the mean, divide by the deviation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm.data
import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """A model's input: ``size`` pixels square, RGB, with the mean and deviation it was trained with (in 0..1)."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Preprocess:
        """As timm's configuration of the model says; the size is what the model was built for."""
        config: dict[str, Any] = timm.data.resolve_model_data_config(model)
        embed = getattr(model, "patch_embed", None)
        built_for = getattr(embed, "img_size", None)
        size = int(built_for[0]) if built_for is not None else int(config["input_size"][-1])
        return cls(size=size, mean=tuple(config["mean"]), std=tuple(config["std"]))

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, size, size) -> float32 of the same shape. The host does not wait for the device."""
        mean, std = (_filled(values, pixels.device) for values in (self.mean, self.std))
        return pixels.float().div_(255).sub_(mean).div_(std)


def _filled(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1), made on the device: a copy from the host's memory would wait for what the device has still to do."""
    return torch.stack([torch.full((1, 1), value, device=device) for value in values])

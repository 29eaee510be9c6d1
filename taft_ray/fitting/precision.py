"""The precision of a fit's matrix products. Weights, sums and Δw stay float32; factors are rounded before they are multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from taft_ray.errors import UsageError
from taft_ray.fitting.config import FIT_PRECISIONS

_WORDS = {"tf32": "tf32", "bfloat16": "bf16"}  # of torch


@contextmanager
def products(device: torch.device, precision: str) -> Iterator[None]:
    """Products of this process's float32 matrices are made in this precision while the block lasts.

    "float32" changes nothing. UsageError for a precision that this kind of device has no instructions for.
    """
    if precision == "float32":
        yield
        return
    if precision not in FIT_PRECISIONS.get(device.type, ()):
        able = ", ".join(FIT_PRECISIONS.get(device.type, ("float32",)))
        raise UsageError(f"fit_precision={precision!r} on {device.type}: expected one of {able}")
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    settings: Any = getattr(backend, "matmul", None)
    if not hasattr(settings, "fp32_precision"):
        raise UsageError(
            f"fit_precision={precision!r}: torch {torch.__version__} has no such setting; take 2.9 or newer"
        )
    before = settings.fp32_precision
    settings.fp32_precision = _WORDS[precision]
    try:
        yield
    finally:
        settings.fp32_precision = before

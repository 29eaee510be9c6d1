"""The frozen prefix over pixels: what the cache holds of a picture, and what an audit computes of one and keeps nowhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from taft_ray.errors import TaftError
from taft_ray.models import Preprocess
from taft_ray.plans.spec import RunSpec

# Pictures a forward pass, always padded to it: a picture's tokens must not depend on its neighbours
PREFIX_BATCH = {"cpu": 16, "cuda": 128}
# On CPUs torch's fused attention multiplies bfloat16 in small blocks. Written out it is 1.3 to 2.7 times as fast for so few
# patches, and equal at 600. In float32 it is slower. All is measured: DeiT-Tiny's prefix takes 8.6 ms per picture, not 11.2
WRITTEN_OUT_PATCHES = 256


_TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Prefix(Protocol):
    """The maker of the numbers that the cache holds of a picture: a tangent model's prefix, an additive run's rows, or both."""

    @property
    def network(self) -> nn.Module: ...
    def prefix(self, images: Tensor) -> Tensor | tuple[Tensor, ...]: ...


@contextmanager
def arithmetic(tm: Prefix, spec: RunSpec) -> Iterator[None]:
    """``tm.prefix`` inside the block runs as the cache's tokens are made: the precision of the spec, and the attention for it."""
    patches = getattr(getattr(tm.network, "patch_embed", None), "num_patches", None)
    written_out = spec.device == "cpu" and spec.precision == "bfloat16" and (patches or 0) <= WRITTEN_OUT_PATCHES
    modules = tm.network.modules() if written_out else ()  # walking through them costs 1 % of a small network's pass
    changed = [module for module in modules if getattr(module, "fused_attn", False)]
    for module in changed:
        module.fused_attn = False  # type: ignore[assignment]  # timm's own switch
    try:
        with torch.autocast(spec.device, torch.bfloat16, enabled=spec.precision == "bfloat16"):
            yield
    finally:
        for module in changed:
            module.fused_attn = True  # type: ignore[assignment]


def prefix_tokens(
    tm: Prefix,
    preprocess: Preprocess,
    pixels: Iterable[np.ndarray],
    spec: RunSpec,
    *,
    at_most: int | None = None,
    together: int | None = None,
) -> np.ndarray:
    """Pictures, each uint8 (3, S, S) -> tokens (n, T, D) as float16, or uint16 holding bfloat16 bits; or rows, int16 (n, 1, S).

    The others are as of `prefix_columns`.
    """
    return prefix_columns(tm, preprocess, pixels, spec, at_most=at_most, together=together)[0]


def prefix_columns(
    tm: Prefix,
    preprocess: Preprocess,
    pixels: Iterable[np.ndarray],
    spec: RunSpec,
    *,
    at_most: int | None = None,
    together: int | None = None,
) -> list[np.ndarray]:
    """`prefix_tokens`, and where the maker gives rows too, those behind: int16 (n, S).

    at_most: no more than so many pictures come; needed where ``pixels`` has no length. They are taken as they are needed.
    So a lazy decoder works just before they are used, while the processor's cache has them.

    together: pictures per pass, always padded to it. None: `PREFIX_BATCH`, by which the cache is made.

    Guarantees: a picture's tokens do not depend on the pictures around it: every pass has the same shape. On a GPU passes
    follow each other without the host: it waits once, at the end.
    """
    device = torch.device(spec.device)
    on_gpu = device.type == "cuda"
    size = together or PREFIX_BATCH[spec.device]
    room = at_most if at_most is not None else len(pixels)  # type: ignore[arg-type]  # its caller says which has none
    columns: list[Tensor] = []
    finite = torch.ones((), dtype=torch.bool, device=device)
    waiting, done = iter(pixels), 0
    while some := list(itertools.islice(waiting, size)):
        chunk = torch.zeros(size, *some[0].shape, dtype=torch.uint8, pin_memory=on_gpu)
        for place, picture in zip(chunk.numpy(), some, strict=False):
            place[...] = picture
        images = preprocess(chunk.to(device, non_blocking=on_gpu))
        with arithmetic(tm, spec):
            made = tm.prefix(images)
            several = [
                one[: len(some)].to(_TORCH[spec.cache_dtype] if one.is_floating_point() else one.dtype)
                for one in (made if isinstance(made, tuple) else (made,))
            ]
        if not done:
            columns = [torch.empty(room, *one.shape[1:], dtype=one.dtype, pin_memory=on_gpu) for one in several]
        for stored, column in zip(several, columns, strict=True):
            if stored.is_floating_point():
                for extreme in stored.aminmax():  # either is NaN where any value is
                    finite &= torch.isfinite(extreme)
            column[done : done + len(some)].copy_(stored, non_blocking=on_gpu)
        done += len(some)
    if not bool(finite):  # which waits for all that was asked of the device
        raise TaftError(f"tokens of {spec.model} leave the range of {spec.cache_dtype}; use --cache-dtype bfloat16")
    return [_as_numpy(column[:done]) for column in columns or [torch.empty(0, 1, 1, dtype=torch.float16)]]


def _as_numpy(column: Tensor) -> np.ndarray:
    return column.numpy() if column.dtype != torch.bfloat16 else column.view(torch.int16).numpy().view(np.uint16)

"""The frozen prefix over pixels: what the cache holds of a picture, and what an audit computes of one and keeps nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from taft_ray.errors import TaftError
from taft_ray.models import Preprocess
from taft_ray.plans.spec import RunSpec
from taft_ray.tangent import TangentModel

# Pictures a forward pass, always padded to it: a picture's tokens must not depend on its neighbours
PREFIX_BATCH = {"cpu": 16, "cuda": 128}
# On CPUs torch's fused attention multiplies bfloat16 in small blocks: written out it is 1.3 to 2.7 times as fast for so few
# patches, equal at 600, and in float32 slower (measured; DeiT-Tiny's prefix takes 8.6 ms a picture instead of 11.2)
WRITTEN_OUT_PATCHES = 256


@contextmanager
def arithmetic(tm: TangentModel, spec: RunSpec) -> Iterator[None]:
    """``tm.prefix`` inside the block runs as the cache's tokens are made: the precision of the spec, and the attention for it."""
    patches = getattr(getattr(tm.network, "patch_embed", None), "num_patches", None)
    written_out = spec.device == "cpu" and spec.precision == "bfloat16" and (patches or 0) <= WRITTEN_OUT_PATCHES
    changed = [module for module in tm.network.modules() if written_out and getattr(module, "fused_attn", False)]
    for module in changed:
        module.fused_attn = False  # type: ignore[assignment]  # timm's own switch
    try:
        with torch.autocast(spec.device, torch.bfloat16, enabled=spec.precision == "bfloat16"):
            yield
    finally:
        for module in changed:
            module.fused_attn = True  # type: ignore[assignment]


def prefix_tokens(tm: TangentModel, preprocess: Preprocess, pixels: np.ndarray, spec: RunSpec) -> np.ndarray:
    """uint8 (n, 3, S, S) -> tokens (n, T, D) as float16, or uint16 holding bfloat16 bits.

    Guarantees: a picture's tokens do not depend on the pictures around it: every pass has the same shape. On a GPU passes
    follow each other without the host: it waits once, at the end.
    """
    device = torch.device(spec.device)
    on_gpu = device.type == "cuda"
    target = torch.float16 if spec.cache_dtype == "float16" else torch.bfloat16
    size = PREFIX_BATCH[spec.device]
    tokens = torch.empty(0, 1, 1, dtype=target)
    finite = torch.ones((), dtype=torch.bool, device=device)
    for at in range(0, len(pixels), size):
        part = pixels[at : at + size]
        chunk = torch.zeros(size, *part.shape[1:], dtype=torch.uint8, pin_memory=on_gpu)
        chunk.numpy()[: len(part)] = part
        images = preprocess(chunk.to(device, non_blocking=on_gpu))
        with arithmetic(tm, spec):
            stored = tm.prefix(images)[: len(part)].to(target)
        finite &= torch.isfinite(stored).all()
        if not at:
            tokens = torch.empty(len(pixels), *stored.shape[1:], dtype=target, pin_memory=on_gpu)
        tokens[at : at + len(part)].copy_(stored, non_blocking=on_gpu)
    if not bool(finite):  # which waits for all that was asked of the device
        raise TaftError(f"tokens of {spec.model} leave the range of {spec.cache_dtype}; use --cache-dtype bfloat16")
    return tokens.numpy() if target is torch.float16 else tokens.view(torch.int16).numpy().view(np.uint16)

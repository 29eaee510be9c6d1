"""The frozen prefix over pixels: what the cache holds of a picture, and what an audit computes of one and keeps nowhere."""

from __future__ import annotations

import numpy as np
import torch

from taft_ray.errors import TaftError
from taft_ray.models import Preprocess
from taft_ray.plans.spec import RunSpec
from taft_ray.tangent import TangentModel

# Pictures a forward pass, always padded to it: a picture's tokens must not depend on its neighbours
PREFIX_BATCH = {"cpu": 16, "cuda": 128}


def prefix_tokens(tm: TangentModel, preprocess: Preprocess, pixels: np.ndarray, spec: RunSpec) -> np.ndarray:
    """uint8 (n, 3, S, S) -> tokens (n, T, D) as float16, or uint16 holding bfloat16 bits.

    Guarantees: a picture's tokens do not depend on the pictures around it: every pass has the same shape.
    """
    out = []
    device = torch.device(spec.device)
    target = torch.float16 if spec.cache_dtype == "float16" else torch.bfloat16
    size = PREFIX_BATCH[spec.device]
    for at in range(0, len(pixels), size):
        chunk = torch.from_numpy(np.array(pixels[at : at + size]))
        count = len(chunk)
        if count < size:
            chunk = torch.cat([chunk, torch.zeros(size - count, *chunk.shape[1:], dtype=torch.uint8)])
        images = preprocess(chunk.to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
            tokens = tm.prefix(images)[:count]
        stored = tokens.to(target)
        if not bool(torch.isfinite(stored).all()):
            raise TaftError(f"tokens of {spec.model} leave the range of {spec.cache_dtype}; use --cache-dtype bfloat16")
        out.append(stored.cpu())
    if not out:
        return np.zeros((0, 1, 1), np.float16 if spec.cache_dtype == "float16" else np.uint16)
    tokens = torch.cat(out)
    return tokens.numpy() if target is torch.float16 else tokens.view(torch.int16).numpy().view(np.uint16)

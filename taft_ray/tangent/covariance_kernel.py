"""`covariance_product` as one kernel for NVIDIA's GPUs, a program per picture: X̂ is read once, in blocks of tokens.

S = z·x̄, which is Σ p s, is known before the first token. Each block adds Σ_t p_t (s_t − S) X̂_t. Rounding leaves a rest of
Σ_t p_t (s_t − S), which is taken out at the end. Sums are float32. The width is cut into C parts that the program's warps share.
Legend: as in `covariance`; M rows, R·H or more, of which the matrix units want 16.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

PART = 128  # of the width: what a warp multiplies at a time
BLOCK = 16  # tokens that are read at a time: the fewest that the matrix units take, for the most programs side by side
WARP_BYTES = 8 << 10  # of z that a warp holds in registers, beside twice or once as much of v
MOST_WARPS = 16
MOST_STAGES = 3  # blocks under way
_stages: dict[tuple[Any, ...], int] = {}  # how many of them fit, by all that it depends on


@triton.jit
def _kernel(
    z, n, p, x_bar, index, out, scale, tokens, z_head, z_row, out_head, out_row,
    BY_INDEX: tl.constexpr, H: tl.constexpr, R: tl.constexpr, D: tl.constexpr, M: tl.constexpr, C: tl.constexpr,
    W: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    picture = tl.load(index + b) if BY_INDEX else b
    n += picture * tokens * D
    p += picture * R * H * tokens
    x_bar += picture * R * H * D

    row = tl.arange(0, M)
    d = (tl.arange(0, C) * W)[:, None, None] + tl.arange(0, W)[None, None, :]  # (C, 1, W)
    rows = row[None, :, None]
    there = (rows < R * H) & (d < D)
    at = b * R + rows // H
    z_tile = tl.load(z + (rows % H) * z_head + at * z_row + d, mask=there, other=0.0)  # (C, M, W)
    mean = tl.load(x_bar + rows * D + d, mask=there, other=0.0).to(tl.float32)
    expected = tl.sum(tl.sum(z_tile.to(tl.float32) * mean, 2), 0)  # (M,)
    v = tl.zeros((C, M, W), tl.float32)
    rest = tl.zeros((M,), tl.float32)
    for start in range(0, tokens, BLOCK):
        t = start + tl.arange(0, BLOCK)
        n_tile = tl.load(n + t[None, :, None] * D + d, mask=(t[None, :, None] < tokens) & (d < D), other=0.0)
        s = tl.sum(tl.dot(z_tile, tl.permute(n_tile, (0, 2, 1)), input_precision=PRECISION), 0)  # (M, BLOCK)
        known = (row[:, None] < R * H) & (t[None, :] < tokens)
        weight = tl.load(p + row[:, None] * tokens + t[None, :], mask=known, other=0.0).to(tl.float32)
        a = weight * (s - tl.expand_dims(expected, 1))
        rest += tl.sum(a, 1)
        spread = tl.broadcast_to(a.to(n_tile.dtype)[None, :, :], (C, M, BLOCK))
        v = tl.dot(spread, n_tile, v, input_precision=PRECISION)
    v = scale * (v - rest[None, :, None] * mean)
    tl.store(out + (rows % H) * out_head + at * out_row + d, v.to(out.dtype.element_ty), mask=there)


def sizes_of(heads: int, rows: int, width: int, *, by_index: bool, precision: str = "tf32") -> dict[str, Any]:
    """The constants that a kernel is compiled for, by name."""
    return {
        "BY_INDEX": by_index, "H": heads, "R": rows, "D": width, "M": max(16, triton.next_power_of_2(rows * heads)),
        "C": triton.next_power_of_2(triton.cdiv(width, PART)), "W": PART, "BLOCK": BLOCK, "PRECISION": precision,
    }  # fmt: skip


def warps_of(sizes: Mapping[str, Any], itemsize: int) -> int:
    """Warps of a program, for values of so many bytes."""
    return max(4, sizes["C"] * sizes["M"] * PART * itemsize // WARP_BYTES)


def product(
    z: Tensor, n: Tensor, p: Tensor, x_bar: Tensor, index: Tensor | None, scale: float, precision: str = "tf32"
) -> Tensor | None:
    """`covariance_product`; None where there is no such kernel: a program would not fit into a multiprocessor, or triton cannot compile it.

    precision: of float32 products, triton's ``input_precision``; values of 16 bits are multiplied exactly.
    """
    heads, width = z.shape[0], n.shape[2]
    _, rows, _, tokens = p.shape
    z, n, p, x_bar = z if z.stride(2) == 1 else z.contiguous(), n.contiguous(), p.contiguous(), x_bar.contiguous()
    out = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    sizes = sizes_of(heads, rows, width, by_index=index is not None, precision=precision)
    warps = warps_of(sizes, n.itemsize)
    if warps > MOST_WARPS:
        return None
    key = (n.dtype, n.device, *sizes.values())
    for stages in range(_stages.get(key, MOST_STAGES), 0, -1):
        launch: dict[str, Any] = {"num_warps": warps, "num_stages": stages}
        try:
            with torch.cuda.device(z.device) if z.is_cuda else nullcontext():  # the interpreter has no device
                _kernel[(z.shape[1] // rows,)](
                    z, n, p, x_bar, n if index is None else index.contiguous(), out, scale, tokens,
                    z.stride(0), z.stride(1), out.stride(0), out.stride(1), **sizes, **launch,
                )  # fmt: skip
        except OutOfResources:
            continue
        except Exception as error:  # what is missing (a C compiler, say) costs time, not the fit
            if z.is_cuda and torch.cuda.is_current_stream_capturing():
                raise  # it is the recording that failed
            warnings.warn(f"no kernel for the class token's attention, torch's products instead: {error}", stacklevel=2)
            break
        _stages[key] = stages
        return out
    _stages[key] = 0
    return None

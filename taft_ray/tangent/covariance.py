"""The class token's attention applied to a direction, Cov_p[X̂]·z per head: the one part of a last block's tangent that reads tokens.

    v = √(1/E) Σ_t p_t (s_t − Σ p s) X̂_t,   s_t = z·X̂_t

a symmetric matrix applied to z, so that its adjoint is itself: going back reads X̂ as going forward does and keeps nothing more.
Legend: B batch, N pictures in memory, T tokens, D width, H heads, E head width, R rows that are read out.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor

from taft_ray.tangent.normalisation import softmax_tangent


def covariance_product(
    z: Tensor, n: Tensor, p: Tensor, x_bar: Tensor, index: Tensor | None, scale: float
) -> Tensor:  # fmt: skip
    """``scale``·Cov_p[X̂]·z, (H, B·R, D) as z is; differentiable in z.

    ``n`` (N, T, D): X̂. ``p`` (N, R, H, T): the attention's weights. ``x_bar`` (N, R, H, D): Σ_t p_t X̂_t. ``index`` (B,) int64:
    which of the N pictures the batch is; None is all of them, in order. One kernel computes it on a GPU, in half precision or
    where float32 products may be rounded to TF32. The kernel reads each picture's X̂ where it lies, once. Else there are two
    products, of a copy of the batch.
    """
    known: Tensor | None = x_bar
    if index is not None and not _has_kernel(z, n, p):
        # once for both directions, of which neither takes the kernel then: it would want x_bar of the same pictures
        n, p, index, known = n.index_select(0, index), p.index_select(0, index), None, None
    return _differentiable(z, n, p, known, index, scale)


def _differentiable(
    z: Tensor, n: Tensor, p: Tensor, x_bar: Tensor | None, index: Tensor | None, scale: float
) -> Tensor:
    if torch.is_grad_enabled() and z.requires_grad:
        return _CovarianceProduct.apply(z, n, p, x_bar, index, scale)  # type: ignore[return-value]  # apply is untyped
    return _product(z, n, p, x_bar, index, scale)


def _product(z: Tensor, n: Tensor, p: Tensor, x_bar: Tensor | None, index: Tensor | None, scale: float) -> Tensor:
    if x_bar is not None and _has_kernel(z, n, p):
        from taft_ray.tangent import covariance_kernel  # needs triton

        product = covariance_kernel.product(z, n, p, x_bar, index, scale)
        if product is not None:
            return product
    return by_products(z, n, p, index, scale)


def by_products(z: Tensor, n: Tensor, p: Tensor, index: Tensor | None, scale: float) -> Tensor:
    """The same in torch's own operations, for any device and type."""
    if index is not None:
        n, p = n.index_select(0, index), p.index_select(0, index)
    count, rows, heads, tokens = p.shape
    picturewise = z.unflatten(1, (count, rows)).permute(1, 2, 0, 3).flatten(1, 2)  # (B, R·H, D)
    s = torch.bmm(picturewise, n.mT).view(count, rows, heads, tokens)
    v = torch.bmm(softmax_tangent(s * scale, p).flatten(1, 2), n)
    return v.view(count, rows, heads, -1).permute(2, 0, 1, 3).flatten(1, 2)


def _has_kernel(z: Tensor, n: Tensor, p: Tensor) -> bool:
    return (
        z.is_cuda
        and z.dtype == n.dtype == p.dtype
        and (n.itemsize == 2 or (n.dtype == torch.float32 and _may_round()))
        and 0 < z.numel() < 2**31
        and not torch.compiler.is_compiling()
        and _is_supported(z.device)
    )


def _may_round() -> bool:
    """Whether float32 products on a GPU may be rounded to TF32."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # it was set by torch's newer switches, of which this one does not know
        return torch.backends.cuda.matmul.fp32_precision == "tf32"


@functools.cache
def _is_supported(device: torch.device) -> bool:
    """NVIDIA's GPUs from Ampere on, where triton is installed."""
    there = torch.version.hip is None and importlib.util.find_spec("triton") is not None
    return there and torch.cuda.get_device_capability(device) >= (8, 0)


class _CovarianceProduct(torch.autograd.Function):
    """Its own adjoint."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, n: Tensor, p: Tensor, x_bar: Tensor | None, index: Tensor | None, scale: float
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(n, p, x_bar, index)
        ctx.scale = scale
        return _product(z, n, p, x_bar, index, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        n, p, x_bar, index = ctx.saved_tensors
        return _differentiable(gradients[0], n, p, x_bar, index, ctx.scale), None, None, None, None, None

"""The derivatives of layer normalisation and softmax with respect to their input.

Both are symmetric matrices (up to the scale of a row). So PyTorch's backward pass, one kernel each, is the forward derivative
too, and the adjoint of that. Legend: D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def softmax_tangent(s_dot: Tensor, p: Tensor) -> Tensor:
    """p ⊙ (ṡ − Σ p ṡ) over the last axis, p the softmax; the shape of both."""
    if torch.is_grad_enabled() and s_dot.requires_grad:
        return _SoftmaxTangent.apply(s_dot, p)  # type: ignore[return-value]  # apply is untyped
    return torch._softmax_backward_data(s_dot, p, -1, p.dtype)


def normalised_tangent(x_dot: Tensor, n: Tensor, s: Tensor) -> Tensor:
    """s·(ẋc − n·mean(n·ẋc)), ẋc = ẋ − mean ẋ: the tangent of the normalised input n (…, D), s (…, 1) its scale."""
    if torch.is_grad_enabled() and x_dot.requires_grad:
        return _NormalisedTangent.apply(x_dot, n, s)  # type: ignore[return-value]  # apply is untyped
    return _project(x_dot, n, s)


def _project(x_dot: Tensor, n: Tensor, s: Tensor) -> Tensor:
    # beside values in half precision CUDA's kernel takes float32 moments only
    kind = torch.float32 if x_dot.is_cuda and x_dot.itemsize < 4 else x_dot.dtype
    zero, one = torch.zeros_like(s, dtype=kind), torch.ones_like(s, dtype=kind)
    projected, _, _ = torch.ops.aten.native_layer_norm_backward(
        x_dot.contiguous(), n, n.shape[-1:], zero, one, None, None, [True, False, False]
    )
    return projected * s


class _SoftmaxTangent(torch.autograd.Function):
    """PyTorch would keep ṡ, as many values as there are scores, for a derivative with respect to p that nobody asks for."""

    @staticmethod
    def forward(ctx: Any, s_dot: Tensor, p: Tensor) -> Tensor:
        ctx.save_for_backward(p)
        return torch._softmax_backward_data(s_dot, p, -1, p.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return softmax_tangent(gradients[0], *ctx.saved_tensors), None


class _NormalisedTangent(torch.autograd.Function):
    """PyTorch differentiates its own backward kernel in many passes; this one is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x_dot: Tensor, n: Tensor, s: Tensor) -> Tensor:
        ctx.save_for_backward(n, s)
        return _project(x_dot, n, s)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return normalised_tangent(gradients[0], *ctx.saved_tensors), None, None

"""Activations that act on each value by itself, and their slopes."""

from __future__ import annotations

from typing import Any

import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Hardsigmoid(nn.Module):
    """nn.Hardsigmoid, whose own slope PyTorch cannot differentiate."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 3).clamp(0, 6) / 6


_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.GELU,
    nn.SiLU,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    Hardsigmoid,
    nn.ELU,
    nn.Softplus,
    timm.layers.GELU,
    timm.layers.GELUTanh,
    timm.layers.QuickGELU,
)


def is_elementwise(module: nn.Module) -> bool:
    """True for an activation known to act on each value by itself, without parameters."""
    return type(module) in _ELEMENTWISE


def slope(module: nn.Module, x: Tensor) -> Tensor:
    """φ'(x), the shape of x.

    GELU has PyTorch's own kernel, Φ(x) + x·φ(x) with Φ and φ themselves: the form GELU(x)/x + … breaks near 0.
    QuickGELU, x·σ(1.702x), has its own because its module cannot be differentiated while a graph is exported. Any
    other activation is differentiated with a cotangent of ones, which for an elementwise function is its derivative.
    """
    if _is_gelu(module):
        return torch.ops.aten.gelu_backward(torch.ones_like(x), x)
    if type(module) is timm.layers.QuickGELU:
        gate = torch.sigmoid(1.702 * x)
        return gate + 1.702 * x * gate * (1 - gate)
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        y = module(leaf * 1)  # times one: an in-place activation must not overwrite the leaf
        return torch.autograd.grad(y, leaf, torch.ones_like(y))[0]


def through_slope(module: nn.Module, x: Tensor, x_dot: Tensor) -> Tensor:
    """φ'(x)·ẋ, where the slope is not needed again."""
    if _is_gelu(module):
        return torch.ops.aten.gelu_backward(x_dot, x)
    return slope(module, x) * x_dot


def slope_tangent(module: nn.Module, x: Tensor, x_dot: Tensor) -> Tensor:
    """φ'(x)·ẋ, differentiable in ẋ; of the two the input is kept for that and not the slope, so that it can be shared."""
    if torch.is_grad_enabled() and x_dot.requires_grad:
        return _SlopeTangent.apply(x_dot, x, module)  # type: ignore[return-value]  # apply is untyped
    return through_slope(module, x, x_dot)


def activated_product(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W φ(x) + b of rows x (n, D_in), differentiable in W and b; the input is kept for that and not φ(x)."""
    if torch.is_grad_enabled() and weight.requires_grad:
        return _ActivatedProduct.apply(x, weight, bias, module)  # type: ignore[return-value]  # apply is untyped
    return F.linear(module(x), weight, bias)


class _SlopeTangent(torch.autograd.Function):
    """A diagonal matrix: its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x_dot: Tensor, x: Tensor, module: nn.Module) -> Tensor:
        ctx.save_for_backward(x)
        ctx.module = module
        return through_slope(module, x, x_dot)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return slope_tangent(ctx.module, x, gradients[0]), None, None


class _ActivatedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, module: nn.Module) -> Tensor:
        ctx.save_for_backward(x)
        ctx.module, ctx.with_bias = module, bias is not None
        return F.linear(module(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor | None, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        return None, gradient.mT @ ctx.module(x), gradient.sum(0) if ctx.with_bias else None, None


def _is_gelu(module: nn.Module) -> bool:
    return type(module) in (nn.GELU, timm.layers.GELU) and getattr(module, "approximate", "none") == "none"

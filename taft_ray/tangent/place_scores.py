"""Scores whose direction depends on the token's place: s_t = z_g(t)·n_t, and the adjoint, which gathers tokens by place.

Both read the tokens once and keep nothing; they are each other's derivative. Legend: B batch, T tokens, D width, Q rows of a
picture (heads times rows read out), G places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Slices = tuple[slice, ...]


def place_scores(z: Tensor, n: Tensor, tokens: Slices) -> Tensor:
    """z (Q, B, G, D), n (B, T, D), the tokens of each place -> (B, Q, T); differentiable in z."""
    if torch.is_grad_enabled() and z.requires_grad:
        return _Scores.apply(z, n, tokens)  # type: ignore[return-value]  # apply is untyped
    return _scores(z, n, tokens)


def _gathered(s: Tensor, n: Tensor, tokens: Slices) -> Tensor:
    if torch.is_grad_enabled() and s.requires_grad:
        return _Gathered.apply(s, n, tokens)  # type: ignore[return-value]  # apply is untyped
    return _gather(s, n, tokens)


def _scores(z: Tensor, n: Tensor, tokens: Slices) -> Tensor:
    s = z.new_empty(z.shape[1], z.shape[0], n.shape[1])
    for place, where in enumerate(tokens):
        s[:, :, where] = torch.bmm(z[:, :, place].transpose(0, 1), n[:, where].mT)
    return s


def _gather(s: Tensor, n: Tensor, tokens: Slices) -> Tensor:
    z = n.new_empty(s.shape[1], s.shape[0], len(tokens), n.shape[2])
    for place, where in enumerate(tokens):
        z[:, :, place] = torch.bmm(s[:, :, where], n[:, where]).transpose(0, 1)
    return z


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, n: Tensor, tokens: Slices) -> Tensor:
        ctx.save_for_backward(n)
        ctx.tokens = tokens
        return _scores(z, n, tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (n,) = ctx.saved_tensors
        return _gathered(gradients[0], n, ctx.tokens), None, None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, n: Tensor, tokens: Slices) -> Tensor:
        ctx.save_for_backward(n)
        ctx.tokens = tokens
        return _gather(s, n, tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (n,) = ctx.saved_tensors
        return place_scores(gradients[0], n, ctx.tokens), None, None

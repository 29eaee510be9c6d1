"""Transformer blocks as pairs of residual branches, and the exact class-token short cut for the last one.

Legend: B batch, T tokens, D width, H heads, E head width, R rows that are read out of the last block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from taft_ray.tangent.normalisation import softmax_tangent
from taft_ray.tangent.pairs import lean
from taft_ray.tangent.rule import LinearInput, Rule, Saved, Saving, plus
from taft_ray.tangent.rules import Fallback, LayerNorm, SelfAttention, Sequence, rule_for
from taft_ray.tangent.trained import Probes, trained_vector


class Residual(Rule):
    """A pre-norm block: x ← x + attend(x); x ← x + feed(x). Only the first ``rows`` tokens leave it, when given."""

    def __init__(self, name: str, attend: Rule, feed: Rule, rows: int | None, *, reads_rows_only: bool) -> None:
        super().__init__(name)
        self.attend, self.feed, self.rows = attend, feed, rows
        self.reads_rows_only = reads_rows_only  # an input tangent may be given as its first ``rows`` rows

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        x = x[:, : self.rows] + self.attend.primal(x, saved)
        return x + self.feed.primal(x, saved)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        attended = self.attend.tangent(x_dot, saved, delta)
        x_dot = plus(None if x_dot is None else x_dot[:, : self.rows], attended)
        return plus(x_dot, self.feed.tangent(x_dot, saved, delta))

    def dual(self, x: Tensor, x_dot: Tensor | None, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        attended, attended_dot = self.attend.dual(x, x_dot, delta)
        x = x[:, : self.rows] + attended
        x_dot = plus(None if x_dot is None else x_dot[:, : self.rows], attended_dot)
        fed, fed_dot = self.feed.dual(x, x_dot, delta)
        return x + fed, plus(x_dot, fed_dot)

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        yield from self.attend.linear_inputs(saved, trained)
        yield from self.feed.linear_inputs(saved, trained)


class Rows(Rule):
    """Keeps the first rows of the tokens (after a block that has no rule which computes only those)."""

    def __init__(self, name: str, rows: int) -> None:
        super().__init__(name)
        self.rows = rows

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        return x[:, : self.rows]

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        return None if x_dot is None else x_dot[:, : self.rows]


class ReadoutAttention(Rule):
    """norm1 and attention of the last block for the R rows that are read out: keys and values are never formed.

    The input may have a tangent: none (the block is the first that is trained), one of its first U = R rows (a linearised class
    token in front of it), or one of all U = T rows (blocks before it are trained). With X̂ the normalised tokens and u what the input's
    tangent becomes behind norm1, per head and read-out row:

        q̇ = ΔW_q h₀ + Δb_q + W_q ḣ₀,   h₀ = γX̂₀ + β,   ḣ₀ = ΔγX̂₀ + Δβ + u₀
        z = γ(ΔW_kᵀ q + W_kᵀ q̇) + Δγ r,   r = W_kᵀ q
        ṡ_t = (z·X̂_t + r·u_t) √(1/E),   a_t = p_t (ṡ_t − Σ p ṡ)
        ȯ = W_v (γ Σ a_t X̂_t + Δγ x̄ + Δβ + Σ p_t u_t) + ΔW_v (γx̄ + β) + Δb_v,   x̄ = Σ p_t X̂_t

    Terms of ṡ that are constant in t drop out of a. Token work: 4·R·H·T·D multiply-adds a picture, 8 with a tangent of all rows,
    instead of about 24·T·D².
    """

    def __init__(self, name: str, norm: LayerNorm, module: Attention, rows: int) -> None:
        super().__init__(name)
        self.norm, self.module, self.rows = norm, module, rows
        self.tail = Sequence(name, [rule_for(self.key("norm"), module.norm), rule_for(self.key("proj"), module.proj)])

    def heads(self, flat: Tensor) -> Tensor:
        """(..., H·E) -> (..., H, E)."""
        return flat.unflatten(-1, (self.module.num_heads, self.module.head_dim))

    def weights(self, stacked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(3·H·E, D) -> query, key, value weights, each (H, E, D)."""
        q, k, v = stacked.unflatten(0, (3, self.module.num_heads, self.module.head_dim)).unbind(0)
        return q, k, v

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        n, s = self.norm.normalise(x)
        gamma = self.norm.module.weight
        w_q, w_k, w_v = self.weights(self.module.qkv.weight)
        bias = self.module.qkv.bias
        b_q, _, b_v = (None, None, None) if bias is None else self.heads(bias.unflatten(0, (3, -1))).unbind(0)
        h0 = self.norm.affine(n[:, : self.rows])
        q = torch.einsum("brd,hed->brhe", h0, w_q)
        q = q if b_q is None else q + b_q
        r = torch.einsum("brhe,hed->brhd", q, w_k)
        scores = torch.einsum("brhd,btd->brht", r if gamma is None else r * gamma, n) * self.module.scale
        p = scores.softmax(-1)
        x_bar = torch.einsum("brht,btd->brhd", p, n)
        h_bar = self.norm.affine(x_bar)
        o = torch.einsum("brhd,hed->brhe", h_bar, w_v)
        o = o if b_v is None else o + b_v
        for part, value in (("n", n), ("s", s), ("h0", h0), ("q", q), ("r", r), ("p", p), ("x_bar", x_bar)):
            saved[self.key(part)] = value
        return self.tail.primal(o.flatten(2), saved)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        n, s, h0, q, r, p, x_bar = (saved[self.key(part)] for part in ("n", "s", "h0", "q", "r", "p", "x_bar"))
        gamma = self.norm.module.weight
        w_q, w_k, w_v = self.weights(self.module.qkv.weight)
        d_query, d_key, d_value = self.trained(delta, h0, q, self.norm.affine(x_bar))
        u = None
        if x_dot is not None:
            known = x_dot.shape[1]  # U
            u = self.norm.input_tangent(x_dot, n[:, :known], s[:, :known])

        d_gamma, d_beta = (trained_vector(delta, self.norm.key(part), h0) for part in ("weight", "bias"))
        h0_dot = None if d_gamma is None else n[:, : self.rows] * d_gamma
        if d_beta is not None:
            h0_dot = plus(h0_dot, d_beta.expand_as(h0))
        if u is not None:
            h0_dot = plus(h0_dot, u[:, : self.rows])
        q_dot = plus(None if h0_dot is None else torch.einsum("brd,hed->brhe", h0_dot, w_q), d_query)

        d_gamma, d_beta = (trained_vector(delta, self.norm.key(part), r) for part in ("weight", "bias"))
        z = plus(None if q_dot is None else torch.einsum("brhe,hed->brhd", q_dot, w_k), d_key)
        if z is not None and gamma is not None:
            z = z * gamma
        if d_gamma is not None:
            z = plus(z, r * d_gamma)

        v_in = None
        if z is not None:
            batch, rows, heads, width = z.shape
            s_dot = torch.bmm(z.flatten(1, 2), n.transpose(1, 2)).view(batch, rows, heads, n.shape[1])
            if u is not None:
                from_input = torch.bmm(r.flatten(1, 2), u.transpose(1, 2)).view(batch, rows, heads, known)
                s_dot = s_dot + F.pad(from_input, (0, n.shape[1] - known))
            a = softmax_tangent(s_dot * self.module.scale, p)
            v_in = torch.bmm(a.flatten(1, 2), n).view(batch, rows, heads, width)
            v_in = v_in if gamma is None else v_in * gamma
        if d_gamma is not None:
            v_in = plus(v_in, x_bar * d_gamma)
        if d_beta is not None:
            v_in = plus(v_in, d_beta.expand_as(x_bar))
        if u is not None:
            v_in = plus(v_in, torch.bmm(p[..., :known].flatten(1, 2), u).view_as(x_bar))
        o_dot = None if v_in is None else torch.einsum("brhd,hed->brhe", v_in, w_v)
        o_dot = plus(o_dot, d_value)
        return self.tail.tangent(None if o_dot is None else o_dot.flatten(2), saved, delta)

    def trained(
        self, delta: Mapping[str, Tensor], h0: Tensor, q: Tensor, h_bar: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """ΔW_q h₀ + Δb_q (B, R, H, E), ΔW_kᵀ q (B, R, H, D), ΔW_v h̄ + Δb_v (B, R, H, E): each None when it is not trained."""
        weight, bias = self.key("qkv.weight"), self.key("qkv.bias")
        if isinstance(delta, Probes):
            if weight not in delta and bias not in delta:
                return None, None, None
            width, whole = self.module.attn_dim, 3 * self.module.attn_dim
            query = delta.site(h0[:, :, None], weight, bias, 0, width)
            key = delta.site(q, weight, None, width, 2 * width, transposed=True) if weight in delta else None
            value = delta.site(h_bar, weight, bias, 2 * width, whole)
            return self.heads(query[:, :, 0]), key, value
        query = key = value = None
        if weight in delta:
            dw_q, dw_k, dw_v = self.weights(delta[weight])
            query = torch.einsum("brd,hed->brhe", h0, dw_q)
            key = torch.einsum("brhe,hed->brhd", q, dw_k)
            value = torch.einsum("brhd,hed->brhe", h_bar, dw_v)
        if bias in delta:
            db_q, _, db_v = self.heads(delta[bias].unflatten(0, (3, -1))).unbind(0)
            query, value = plus(query, db_q.expand_as(q)), plus(value, db_v.expand_as(q))
        return query, key, value

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        """The query rows saw h₀ and each head's value rows saw γx̄ + β; keys have no single input (plain mean)."""
        weight, bias = self.key("qkv.weight"), self.key("qkv.bias")
        if weight in trained:
            known_bias = bias if bias in trained else None
            width, head = self.module.attn_dim, self.module.head_dim
            h_bar = self.norm.affine(saved[self.key("x_bar")])
            yield LinearInput(weight, known_bias, 0, width, saved[self.key("h0")])
            for index in range(self.module.num_heads):
                start = 2 * width + index * head
                yield LinearInput(weight, known_bias, start, start + head, h_bar[:, :, index])
        yield from self.tail.linear_inputs(saved, trained)


def _has_plain_scores(attention: nn.Module) -> bool:
    """True where the scores are linear in the keys' input, which is what the short cut rests on (no qk-norm, no gate)."""
    return (
        type(attention) is Attention
        and attention.gate is None
        and isinstance(attention.k_norm, nn.Identity)
        and isinstance(attention.q_norm, nn.Identity)
    )


def block_rule(name: str, block: nn.Module, *, rows: int | None, frozen_input: bool) -> Rule:
    """The rule of one block. ``rows`` is set for the last block under class-token pooling; ``frozen_input`` says that
    its input tokens carry no tangent but the class token's."""
    if type(block) is not Block:
        fallback = Fallback(name, block)
        return fallback if rows is None else Sequence(name, [fallback, Rows(name, rows)])
    norm = rule_for(f"{name}.norm1", block.norm1)
    short_cut = rows is not None and isinstance(norm, LayerNorm) and _has_plain_scores(block.attn)
    if short_cut:
        attention: list[Rule] = [ReadoutAttention(f"{name}.attn", norm, block.attn, rows)]  # type: ignore[arg-type]
    elif type(block.attn) is Attention and block.attn.gate is None:
        attention = [norm, SelfAttention(f"{name}.attn", block.attn, rows)]
    else:
        attention = [norm, Fallback(f"{name}.attn", block.attn)]
        attention += [] if rows is None else [Rows(name, rows)]
    attending = [*attention, rule_for(f"{name}.ls1", block.ls1)]
    feeding = [rule_for(f"{name}.{part}", block.get_submodule(part)) for part in ("norm2", "mlp", "ls2")]
    if rows is None:
        attending, feeding = lean(attending), lean(feeding)
    attend, feed = Sequence(name, attending), Sequence(name, feeding)
    return Residual(name, attend, feed, rows, reads_rows_only=short_cut and frozen_input)

"""The exact class-token short cut: attention in a last block of which only some rows are read out.

Legend: B batch, T tokens, D width, H heads, E head width, R rows that are read out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor

from taft_ray.tangent.covariance import covariance_product
from taft_ray.tangent.normalisation import softmax_tangent
from taft_ray.tangent.rule import LinearInput, Rule, Saved, Saving, plus, where_it_lies
from taft_ray.tangent.rules import LayerNorm, Sequence, rule_for
from taft_ray.tangent.trained import Probes, trained_vector


def folds(weight: Tensor) -> bool:
    """Whether γ, β, Δγ and Δβ go into the weights: on a GPU, where passes over activations are dear and batches large."""
    return weight.is_cuda


class ReadoutAttention(Rule):
    """norm1 and attention of the last block for the R rows that are read out: keys and values are never formed.

    The input may have a tangent: none (the block is the first that is trained), one of its first U = R rows (a linearised class
    token in front of it), or one of all U = T rows (blocks before it are trained). With X̂ the normalised tokens and u what the input's
    tangent becomes behind norm1, per head and read-out row:

        q̇ = ΔW_q h₀ + Δb_q + W_q ḣ₀,   h₀ = γX̂₀ + β,   ḣ₀ = ΔγX̂₀ + Δβ + u₀
        z = γ(ΔW_kᵀ q + W_kᵀ q̇) + Δγ r,   r = W_kᵀ q
        ṡ_t = (z·X̂_t + r·u_t) √(1/E),   a_t = p_t (ṡ_t − Σ p ṡ)
        ȯ = W_v (γ Σ a_t X̂_t + Δγ x̄ + Δβ + Σ p_t u_t) + ΔW_v (γx̄ + β) + Δb_v,   x̄ = Σ p_t X̂_t

    Terms of ṡ that are constant in t drop out of a. Token work: 2·R·H·T·D multiply-adds a picture, 4 with a tangent of all rows,
    instead of about 12·T·D².

    On a GPU every pass over arrays of z's size, R·H·D values a picture, costs a good part of what X̂ costs. Where u = 0, γ, β, Δγ and Δβ
    therefore go into the weights, and z and ȯ are sums of two products each (`_folded`):

        z = q̇·(W_k γ) + q·(ΔW_k γ + W_k Δγ),   m = Cov_p[X̂]·z √(1/E)
        ȯ = (W_v γ) m + (W_v Δγ + ΔW_v γ) x̄ + W_v Δβ + ΔW_v β + Δb_v
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
        alone = x_dot is None and not isinstance(delta, Probes)
        fold = alone and folds(self.module.qkv.weight)
        o_dot = self._folded(saved, delta) if fold else self._spread(x_dot, saved, delta)
        return self.tail.tangent(None if o_dot is None else o_dot.flatten(2), saved, delta)

    def _spread(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        """ȯ, (B, R, H, E)."""
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
        return plus(o_dot, d_value)

    def _folded(self, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        """ȯ, (B, R, H, E), of a frozen input. Matrices a head: rows (H, B·R, …), weights (H, E, D)."""
        module, rows = self.module, self.rows
        gamma, beta = self.norm.module.weight, self.norm.module.bias
        d_gamma, d_beta = (delta.get(self.norm.key(part)) for part in ("weight", "bias"))
        d_weight, d_bias = (delta.get(self.key(f"qkv.{part}")) for part in ("weight", "bias"))
        w_q, w_k, w_v = self.weights(module.qkv.weight)
        dw_q, dw_k, dw_v = (None, None, None) if d_weight is None else self.weights(d_weight)
        db_q, _, db_v = (None,) * 3 if d_bias is None else self.heads(d_bias.unflatten(0, (3, -1))).unbind(0)

        def headwise(values: Tensor) -> Tensor:
            return values.flatten(0, 1).transpose(0, 1)

        h0_dot = d_beta
        if d_gamma is not None:
            n, index = where_it_lies(saved, self.key("n"))
            first = n[:, :rows] if index is None else n[:, :rows].index_select(0, index)
            h0_dot = first * d_gamma if d_beta is None else torch.addcmul(d_beta, first, d_gamma)
        q = saved[self.key("q")]
        q_dot = None if dw_q is None else torch.einsum("brd,hed->brhe", saved[self.key("h0")], dw_q)
        q_dot = plus(q_dot, db_q)
        if h0_dot is not None:
            q_dot = plus(q_dot, torch.einsum("...d,hed->...he", h0_dot, w_q))

        parts = []
        if q_dot is not None:
            parts.append((q_dot.expand_as(q), w_k if gamma is None else w_k * gamma))
        moved_k = _product_rule(w_k, dw_k, gamma, d_gamma)
        if moved_k is not None:
            parts.append((q, moved_k))
        o_dot = None
        if parts:
            rows_in, weights = zip(*parts, strict=True)
            z = torch.bmm(headwise(torch.cat(rows_in, -1)), torch.cat(weights, 1))
            n, index = where_it_lies(saved, self.key("n"))
            p, x_bar = (where_it_lies(saved, self.key(part))[0] for part in ("p", "x_bar"))
            o_dot = torch.bmm(
                covariance_product(z, n, p, x_bar, index, module.scale), (w_v if gamma is None else w_v * gamma).mT
            )
        moved_v = _product_rule(w_v, dw_v, gamma, d_gamma)
        if moved_v is not None:
            x_bar = headwise(saved[self.key("x_bar")])
            o_dot = torch.bmm(x_bar, moved_v.mT) if o_dot is None else torch.baddbmm(o_dot, x_bar, moved_v.mT)
        o_dot = None if o_dot is None else o_dot.transpose(0, 1).unflatten(0, q.shape[:2])
        constant = plus(None if d_beta is None else w_v @ d_beta, None if dw_v is None or beta is None else dw_v @ beta)
        constant = plus(constant, db_v)
        return o_dot if constant is None else plus(o_dot, constant.expand_as(q))

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


def _product_rule(w: Tensor, dw: Tensor | None, gamma: Tensor | None, d_gamma: Tensor | None) -> Tensor | None:
    """The tangent of w·diag(γ); None when it is zero."""
    scaled = dw if dw is None or gamma is None else dw * gamma
    return plus(scaled, None if d_gamma is None else w * d_gamma)

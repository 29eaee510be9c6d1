"""Attention pooling: a few trained queries read all tokens (SigLIP, the perception encoder).

Legend: B batch, T tokens, D width, H heads, E head width, L queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from taft_ray.tangent.normalisation import softmax_tangent
from taft_ray.tangent.parts import Part
from taft_ray.tangent.rule import LinearInput, Rule, Saved, Saving, plus
from taft_ray.tangent.rules import Fallback, Identity, Sequence, rule_for
from taft_ray.tangent.trained import Probes, trained_vector


class LatentPool(Rule):
    """Attention of L latent queries, whose scores are linear in the tokens: keys and values are never formed.

    The queries q = W_q l + b_q and r = W_kᵀ q are the same for all pictures. Per head and query, with x̄ = Σ p_t x_t:

        z = ΔW_kᵀ q + W_kᵀ (ΔW_q l + Δb_q + W_q Δl),   ṡ_t = (z·x_t + r·ẋ_t) √(1/E),   a_t = p_t (ṡ_t − Σ p ṡ)
        ȯ = W_v (Σ a_t x_t + Σ p_t ẋ_t) + ΔW_v x̄ + Δb_v

    4·L·H·T·D multiply-adds a picture instead of the 2·T·D² of keys and values. The keys' bias changes nothing.
    """

    def __init__(self, name: str, module: AttentionPoolLatent) -> None:
        super().__init__(name)
        self.module = module
        width = module.num_heads * module.head_dim
        self.query = Part.of_layer(name, module, "q") if isinstance(module.q, nn.Linear) else None
        bias = None if module.kv.bias is None else "kv.bias"
        self.key_part = Part(name, module, "kv.weight", bias, 0, width, 0)
        self.value = Part(name, module, "kv.weight", bias, width, 2 * width, width)
        self.q_norm = rule_for(self.key("q_norm"), module.q_norm)
        self.proj = rule_for(self.key("proj"), module.proj)
        feed = (
            [] if module.mlp is None else [rule_for(self.key(part), getattr(module, part)) for part in ("norm", "mlp")]
        )
        self.feed = Sequence(name, feed)

    def _split(self, flat: Tensor) -> Tensor:
        """(…, H·E) -> (…, H, E)."""
        return flat.unflatten(-1, (self.module.num_heads, self.module.head_dim))

    def _heads(self, weight: Tensor) -> Tensor:
        """(H·E, D) -> (H, E, D)."""
        return weight.unflatten(0, (self.module.num_heads, self.module.head_dim))

    def _fed(self, x: Tensor, y: Tensor | None) -> Tensor:
        return x if self.module.mlp is None else plus(x, y)  # type: ignore[return-value]  # x is there

    def _pooled(self, x: Tensor) -> Tensor:
        """The first query's row, or the mean of all."""
        if self.module.pool == "token":
            return x[:, 0]
        return x.mean(1) if self.module.pool == "avg" else x

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        latent = self.module.latent.expand(x.shape[0], -1, -1)
        q = self._split(self.module.q(latent))
        q = self.q_norm.primal(q, saved)
        r = torch.einsum("blhe,hed->blhd", q, self._heads(self.key_part.base_weight()))
        p = (torch.einsum("blhd,btd->blht", r, x) * self.module.scale).softmax(-1)
        x_bar = torch.einsum("blht,btd->blhd", p, x)
        o = torch.einsum("blhd,hed->blhe", x_bar, self._heads(self.value.base_weight())).flatten(2)
        bias = self.value.base_bias()
        for part, value in (("x", x), ("q", q), ("r", r), ("p", p), ("x_bar", x_bar)):
            saved[self.key(part)] = value
        out = self.proj.primal(o if bias is None else o + bias, saved)
        return self._pooled(self._fed(out, self.feed.primal(out, saved)))

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        x, r, p, x_bar = (saved[self.key(part)] for part in ("x", "r", "p", "x_bar"))
        z, d_value = self._directions(saved, delta)
        s_dot = None if z is None else torch.bmm(z.expand_as(r).flatten(1, 2), x.mT).view_as(p)
        if x_dot is not None:
            s_dot = plus(s_dot, torch.bmm(r.flatten(1, 2), x_dot.mT).view_as(p))
        v_in = None
        if s_dot is not None:
            v_in = torch.bmm(softmax_tangent(s_dot * self.module.scale, p).flatten(1, 2), x).view_as(x_bar)
        if x_dot is not None:
            v_in = plus(v_in, torch.bmm(p.flatten(1, 2), x_dot).view_as(x_bar))
        o_dot = None
        if v_in is not None:
            o_dot = torch.einsum("blhd,hed->blhe", v_in, self._heads(self.value.base_weight()))
        o_dot = plus(o_dot, d_value)
        out = self.proj.tangent(None if o_dot is None else o_dot.flatten(2), saved, delta)
        fed = self.feed.tangent(out, saved, delta)
        total = fed if out is None or self.module.mlp is None else plus(out, fed)
        return None if total is None else self._pooled(total)

    def _directions(self, saved: Saved, delta: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """z (B or 1, L, H, D) and ΔW_v x̄ + Δb_v (B, L, H, E)."""
        q, x_bar = saved[self.key("q")], saved[self.key("x_bar")]
        w_k = self._heads(self.key_part.base_weight())
        q_dot = self._query_tangent(saved, delta)
        z = None if q_dot is None else torch.einsum("blhe,hed->blhd", q_dot, w_k)
        if isinstance(delta, Probes):
            part = self.key_part
            if part.weight_name in delta:
                z = plus(z, delta.site(q, part.weight_name, None, part.start, part.stop, transposed=True))
            return z, self.value.sites(delta, x_bar)
        moved_k, moved_v = (part.moved_weight(delta) for part in (self.key_part, self.value))
        if moved_k is not None:
            z = plus(z, torch.einsum("blhe,hed->blhd", q[:1], self._heads(moved_k)))
        d_value = None if moved_v is None else torch.einsum("blhd,hed->blhe", x_bar, self._heads(moved_v))
        d_bias = self.value.moved_bias(delta)
        return z, plus(d_value, None if d_bias is None else self._split(d_bias).expand(*x_bar.shape[:3], -1))

    def _query_tangent(self, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        """q̇, (B or 1, L, H, E)."""
        latent = self.module.latent
        batch = saved[self.key("q")].shape[0]
        moved = trained_vector(delta, self.key("latent"), latent.expand(batch, -1, -1))
        moved = None if moved is None else moved.reshape(-1, *latent.shape[1:])
        if self.query is None:
            out = moved
        elif isinstance(delta, Probes):
            out = plus(
                None if moved is None else moved @ self.query.base_weight().T,
                _without_heads(self.query.sites(delta, latent.expand(batch, -1, -1)[:, :, None])),
            )
        else:
            weight, bias = self.query.moved_weight(delta), self.query.moved_bias(delta)
            out = None if moved is None else moved @ self.query.base_weight().T
            out = plus(out, None if weight is None else latent @ weight.T)
            out = plus(out, None if bias is None else bias.expand(1, latent.shape[1], -1))
        if out is None and isinstance(self.q_norm, Identity):
            return None
        out = None if out is None else self._split(out)
        if isinstance(self.q_norm, Identity):
            return out
        return self.q_norm.tangent(None if out is None else out.expand(batch, -1, -1, -1), saved, delta)

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        """The query rows saw the latents and each head's value rows saw x̄; keys have no single input (plain mean)."""
        x_bar, head = saved[self.key("x_bar")], self.module.head_dim
        if self.query is not None:
            yield from self.query.linear_input(self.module.latent.detach().expand(len(x_bar), -1, -1), trained)
        for index in range(self.module.num_heads):
            yield from self.value.linear_input(x_bar[:, :, index], trained, (index * head, (index + 1) * head))
        yield from self.proj.linear_inputs(saved, trained)
        yield from self.feed.linear_inputs(saved, trained)


def _without_heads(site: Tensor | None) -> Tensor | None:
    return None if site is None else site[:, :, 0]


def attention_pool_rule(name: str, module: nn.Module) -> Rule:
    """The closed rule where the scores are linear in the tokens (no keys' norm, no positions of its own), else the fallback."""
    plain = type(module) is AttentionPoolLatent and isinstance(module.k_norm, nn.Identity) and module.pos_embed is None
    return LatentPool(name, module) if plain else Fallback(name, module)  # type: ignore[arg-type]  # narrowed by type

"""The exact class-token short cut where keys are turned by their place, or normalised.

Legend: B batch, T tokens, D width, H heads, E head width, R rows that are read out, G places.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent.normalisation import softmax_tangent
from taft_ray.tangent.place_scores import place_scores
from taft_ray.tangent.projections import Projections
from taft_ray.tangent.readout import output_of, query_and_value_inputs
from taft_ray.tangent.rotation import Places, Rotation, turned_back
from taft_ray.tangent.rule import LinearInput, Rule, Saved, Saving, plus
from taft_ray.tangent.rules import LayerNorm, rule_for
from taft_ray.tangent.trained import Probes


class PlacedReadout(Rule):
    """norm1 and attention of the last block for its first R rows, which are not turned. Values are never formed.

    X̂ are the normalised tokens. The input's tangent behind norm1 is u, of its first U = R rows or of all U = T, as in
    `readout.ReadoutAttention`:

        ȯ = W_v (γ Σ a_t X̂_t + Δγ x̄ + Δβ + Σ p_t u_t) + ΔW_v (γx̄ + β) + Δb_v,   a_t = p_t (ṡ_t − Σ p ṡ),   x̄ = Σ p_t X̂_t

    The subclass makes the scores and ṡ.
    """

    def __init__(self, name: str, norm: LayerNorm, module: nn.Module, rows: int) -> None:
        super().__init__(name)
        self.norm, self.rows = norm, rows
        self.maps = Projections(name, module)
        self.scale = float(module.scale)  # type: ignore[arg-type]  # timm's own
        self.q_norm = rule_for(self.key("q_norm"), getattr(module, "q_norm", None) or nn.Identity())
        self.tail = output_of(name, module)

    @abstractmethod
    def scores(self, q: Tensor, n: Tensor, saved: Saving) -> Tensor:
        """(B, R, H, T) before √(1/E), of queries (B, R, H, E)."""

    @abstractmethod
    def scores_tangent(
        self, q_dot: Tensor | None, u: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]
    ) -> Tensor | None:
        """ṡ before √(1/E)."""

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        n, s = self.norm.normalise(x)
        w_q, _, w_v = self.maps.base_weights()
        b_q, _, b_v = self.maps.base_biases()
        h0 = self.norm.affine(n[:, : self.rows])
        q = torch.einsum("brd,hed->brhe", h0, w_q)
        q = self.q_norm.primal(q if b_q is None else q + b_q, saved)
        p = (self.scores(q, n, saved) * self.scale).softmax(-1)
        x_bar = self._mean(p, n)
        o = torch.einsum("brhd,hed->brhe", self.norm.affine(x_bar), w_v)
        for part, value in (("n", n), ("s", s), ("h0", h0), ("q", q), ("p", p), ("x_bar", x_bar)):
            saved[self.key(part)] = value
        return self.tail.primal((o if b_v is None else o + b_v).flatten(2), saved)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        if isinstance(delta, Probes):
            raise UnsupportedModel(
                f"the Jacobian's rows cannot be taken apart: {self.name} turns or normalises its keys"
            )
        n, s, h0, p, x_bar = (saved[self.key(part)] for part in ("n", "s", "h0", "p", "x_bar"))
        w_q, _, w_v = self.maps.base_weights()
        dw_q, _, dw_v = self.maps.moved_weights(delta)
        db_q, _, db_v = self.maps.moved_biases(delta)
        d_gamma, d_beta = (delta.get(self.norm.key(part)) for part in ("weight", "bias"))
        u = None
        if x_dot is not None:
            known = x_dot.shape[1]  # U
            u = self.norm.input_tangent(x_dot, n[:, :known], s[:, :known])

        h0_dot = None if d_gamma is None else n[:, : self.rows] * d_gamma
        h0_dot = plus(h0_dot, None if d_beta is None else d_beta.expand_as(h0))
        h0_dot = plus(h0_dot, None if u is None else u[:, : self.rows])
        q_dot = None if h0_dot is None else torch.einsum("brd,hed->brhe", h0_dot, w_q)
        q_dot = plus(q_dot, None if dw_q is None else torch.einsum("brd,hed->brhe", h0, dw_q))
        q_dot = plus(q_dot, None if db_q is None else db_q.expand(*h0.shape[:2], -1, -1))
        q_dot = self.q_norm.tangent(q_dot, saved, delta)

        s_dot = self.scores_tangent(q_dot, u, saved, delta)
        v_in = None if s_dot is None else self._mean(softmax_tangent(s_dot * self.scale, p), n)
        v_in = v_in if v_in is None or self.norm.gamma is None else v_in * self.norm.gamma
        v_in = plus(v_in, None if d_gamma is None else x_bar * d_gamma)
        v_in = plus(v_in, None if d_beta is None else d_beta.expand_as(x_bar))
        v_in = plus(v_in, None if u is None else self._mean(p[..., : u.shape[1]], u))
        o_dot = None if v_in is None else torch.einsum("brhd,hed->brhe", v_in, w_v)
        if dw_v is not None:
            o_dot = plus(o_dot, torch.einsum("brhd,hed->brhe", self.norm.affine(x_bar), dw_v))
        o_dot = plus(o_dot, None if db_v is None else db_v.expand(*h0.shape[:2], -1, -1))
        return self.tail.tangent(None if o_dot is None else o_dot.flatten(2), saved, delta)

    def _mean(self, p: Tensor, n: Tensor) -> Tensor:
        """Σ p_t n_t, (B, R, H, D)."""
        return torch.bmm(p.flatten(1, 2), n).unflatten(1, p.shape[1:3])

    def moved_keys(self, delta: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """M = ΔW_k·diag γ + W_k·diag Δγ (H, E, D), m = ΔW_k β + W_k Δβ + Δb_k (H, E): a key moves by M X̂ + m."""
        gamma, beta = self.norm.gamma, self.norm.beta
        d_gamma, d_beta = (delta.get(self.norm.key(part)) for part in ("weight", "bias"))
        w_k, dw_k = self.maps.base_weights()[1], self.maps.moved_weights(delta).key
        matrix = plus(
            dw_k if dw_k is None or gamma is None else dw_k * gamma, None if d_gamma is None else w_k * d_gamma
        )
        shift = plus(None if dw_k is None or beta is None else dw_k @ beta, None if d_beta is None else w_k @ d_beta)
        return matrix, plus(shift, self.maps.moved_biases(delta).key)

    def base_keys(self) -> tuple[Tensor, Tensor | None]:
        """W_k·diag γ (H, E, D) and W_k β + b_k (H, E): a token's key is W_k·diag γ X̂ + W_k β + b_k."""
        w_k, b_k = self.maps.base_weights()[1], self.maps.base_biases().key
        shift = plus(None if self.norm.beta is None else w_k @ self.norm.beta, b_k)
        return w_k if self.norm.gamma is None else w_k * self.norm.gamma, shift

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        """As `ReadoutAttention.linear_inputs`: the query rows and each head's value rows; keys have no single input."""
        h0, x_bar = saved[self.key("h0")], saved[self.key("x_bar")]
        yield from query_and_value_inputs(self.maps, h0, self.norm.affine(x_bar), trained)
        yield from self.tail.linear_inputs(saved, trained)


class AxialReadout(PlacedReadout):
    """Keys that turn, in each pair of channels, with the token's row or with its column. They are not formed either.

    The channels that turn with the row g and those that turn with the column g' each add their part:

        q·R_t (M X̂_t + m) = z_g·X̂_t + c_g + z_g'·X̂_t + c_g',   z_g = Mᵀ R_gᵀ q,   c_g = m·R_gᵀ q

    A weight meets 2·√T turned queries instead of T tokens: about √T·D² + 2·H·T·D multiply-adds per picture for the keys,
    instead of T·D².
    """

    def __init__(self, name: str, norm: LayerNorm, module: nn.Module, rows: int, rotation: Rotation) -> None:
        super().__init__(name, norm, module, rows)
        self.half = rotation.half
        places = rotation.places()
        assert places is not None  # see `placed_readout`
        self._places: dict[tuple[torch.device, torch.dtype] | None, tuple[Places, ...]] = {None: places}

    def _places_at(self, like: Tensor) -> tuple[Places, ...]:
        where = (like.device, like.dtype)
        found = self._places.get(where)
        if found is None:
            found = tuple(places.at(like) for places in self._places[None])
            if not torch.compiler.is_compiling():  # a graph's tensors stay in the graph
                self._places[where] = found
        return found

    def _placed_scores(self, pairs: list[tuple[Tensor, Tensor | None, Tensor | None]], n: Tensor) -> Tensor | None:
        """Σ q·R_t (M n_t + m) over pairs (q, M, m), (B, R, H, T)."""
        total = None
        for places in self._places_at(n):
            z, constant = None, None
            for q, matrix, shift in pairs:
                if matrix is None and shift is None:
                    continue
                queries = turned_back(q, places, half=self.half).permute(2, 0, 1, 3, 4)  # (H, B, R, G, C)
                if matrix is not None:  # a product each: on the way back one factor of each is a constant
                    factors = queries.flatten(1, 3), matrix.index_select(1, places.channels)
                    z = torch.bmm(*factors) if z is None else torch.baddbmm(z, *factors)
                if shift is not None:
                    of_place = torch.einsum("hbrgc,hc->brhg", queries, shift.index_select(1, places.channels))
                    constant = plus(constant, of_place)
            if z is not None:
                batch, rows, heads = n.shape[0], self.rows, self.maps.heads
                z = (
                    z.view(heads, batch, rows, len(places.tokens), z.shape[-1]).transpose(1, 2).flatten(0, 1)
                )  # rows of a head
                s = place_scores(z, n, places.tokens).unflatten(1, (heads, rows)).transpose(1, 2)
                total = plus(total, s)
            if constant is not None:
                total = plus(total, constant.index_select(-1, places.place_of))
        return total

    def scores(self, q: Tensor, n: Tensor, saved: Saving) -> Tensor:
        total = self._placed_scores([(q, *self.base_keys())], n)
        assert total is not None  # there are keys
        return total

    def scores_tangent(
        self, q_dot: Tensor | None, u: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]
    ) -> Tensor | None:
        q, n = saved[self.key("q")], saved[self.key("n")]
        pairs: list[tuple[Tensor, Tensor | None, Tensor | None]] = [(q, *self.moved_keys(delta))]
        if q_dot is not None:
            pairs.append((q_dot, *self.base_keys()))
        total = self._placed_scores(pairs, n)
        if u is None:
            return total
        w_k = self.maps.base_weights()[1]
        if u.shape[1] == n.shape[1]:
            return plus(total, self._placed_scores([(q, w_k, None)], u))
        r = torch.einsum("brhe,hed->brhd", q, w_k)  # rows of the prefix: not turned
        first = torch.einsum("brhd,bud->brhu", r, u)
        return plus(total, F.pad(first, (0, n.shape[1] - u.shape[1])))


class KeyReadout(PlacedReadout):
    """Keys whose angle depends on row and column at once, or that are normalised. They are formed, token by token.

        ṡ_t = q̇·κ_t + q·R_t N'(k_t) (M X̂_t + m + W_k u_t),   κ_t = R_t N(k_t)

    N is the keys' norm. The keys take T·D² multiply-adds per picture, a twelfth of the block's.
    """

    def __init__(self, name: str, norm: LayerNorm, module: nn.Module, rows: int, rotation: Rotation | None) -> None:
        super().__init__(name, norm, module, rows)
        self.rotation = rotation
        self.k_norm = rule_for(self.key("k_norm"), getattr(module, "k_norm", None) or nn.Identity())

    def _mapped(self, n: Tensor, matrix: Tensor | None, shift: Tensor | None) -> Tensor | None:
        """M n_t + m, (B, T, H, E)."""
        if matrix is not None:
            flat = F.linear(n, matrix.flatten(0, 1), None if shift is None else shift.flatten())
            return flat.unflatten(-1, matrix.shape[:2])
        return None if shift is None else shift.expand(*n.shape[:2], -1, -1)

    def _queries(self, q: Tensor) -> Tensor:
        """R_tᵀ q, (B, R, T or 1, H, E). Turning the keys' tangent instead would turn its gradient, too."""
        spread = q.unsqueeze(2)
        return spread if self.rotation is None else self.rotation.turn_back(spread)

    def scores(self, q: Tensor, n: Tensor, saved: Saving) -> Tensor:
        keys = self._mapped(n, *self.base_keys())
        assert keys is not None  # there are keys
        keys = self.k_norm.primal(keys, saved).transpose(1, 2)
        keys = (keys if self.rotation is None else self.rotation.turn(keys)).contiguous()
        saved[self.key("k")] = keys
        return torch.einsum("brhe,bhte->brht", q, keys)

    def scores_tangent(
        self, q_dot: Tensor | None, u: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]
    ) -> Tensor | None:
        q, n, keys = (saved[self.key(part)] for part in ("q", "n", "k"))
        moved = self._mapped(n, *self.moved_keys(delta))
        if u is not None:
            through = self._mapped(u, self.maps.base_weights()[1], None)
            assert through is not None
            moved = plus(moved, F.pad(through, (0, 0, 0, 0, 0, n.shape[1] - u.shape[1])))
        moved = self.k_norm.tangent(moved, saved, delta)
        total = None if q_dot is None else torch.einsum("brhe,bhte->brht", q_dot, keys)
        return plus(total, None if moved is None else (self._queries(q) * moved.unsqueeze(1)).sum(-1).transpose(2, 3))


def placed_readout(
    name: str, norm: LayerNorm, module: nn.Module, rows: int, rotation: Rotation | None
) -> PlacedReadout:
    """The cheapest rule that is exact."""
    plain_keys = isinstance(getattr(module, "k_norm", None) or nn.Identity(), nn.Identity)
    if rotation is not None and plain_keys and rotation.places() is not None:
        return AxialReadout(name, norm, module, rows, rotation)
    return KeyReadout(name, norm, module, rows, rotation)

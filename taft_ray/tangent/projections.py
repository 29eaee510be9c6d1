"""An attention layer's query, key and value maps, wherever timm keeps them.

Legend: H heads, E head width, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from taft_ray.tangent.parts import Part


class Three(NamedTuple):
    """A tensor each for queries, keys and values, or None."""

    query: Tensor | None
    key: Tensor | None
    value: Tensor | None


class Projections:
    """The three maps of ``module``, a head at a time.

    Known are one weight ``qkv`` with one bias or with ``q_bias`` and ``v_bias``, and three layers ``q_proj``, ``k_proj``
    and ``v_proj``. Fewer key and value heads than query heads are repeated.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        self.module = module
        self.heads = int(module.num_heads)  # type: ignore[arg-type]  # timm's own
        kv_heads = int(getattr(module, "num_kv_heads", self.heads))
        self.groups = self.heads // kv_heads
        fused = getattr(module, "qkv", None)
        self.fused = isinstance(fused, nn.Linear)
        if isinstance(fused, nn.Linear):
            width = fused.out_features // 3
            self.one_bias = fused.bias is not None
            names = ("qkv.bias",) * 3 if self.one_bias else ("q_bias", "k_bias", "v_bias")
            there = self.one_bias or getattr(module, "q_bias", None) is not None
            self.parts = tuple(
                Part(
                    name,
                    module,
                    "qkv.weight",
                    names[place] if there else None,
                    place * width,
                    (place + 1) * width,
                    place * width if self.one_bias else 0,
                )
                for place in range(3)
            )
        else:
            self.parts = tuple(Part.of_layer(name, module, layer) for layer in ("q_proj", "k_proj", "v_proj"))
            self.one_bias = False
        self.query, self.key, self.value = self.parts
        self.width = self.query.size
        self.head_dim = self.width // self.heads
        self.kv_width = self.key.size

    def split(self, flat: Tensor) -> Tensor:
        """(…, H·E) -> (…, H, E); of keys and values, fewer heads are not repeated yet."""
        return flat.unflatten(-1, (-1, self.head_dim))

    def repeated(self, heads: Tensor, axis: int) -> Tensor:
        """As many heads as the queries have."""
        return heads if self.groups == 1 else heads.repeat_interleave(self.groups, dim=axis)

    def weights(self, stacked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A fused weight (3·H·E, D) -> three of (H, E, D)."""
        q, k, v = stacked.unflatten(0, (3, self.heads, self.head_dim)).unbind(0)
        return q, k, v

    def base_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Three of (H, E, D)."""
        if self.fused:
            return self.weights(self.module.qkv.weight)  # type: ignore[union-attr]  # it is fused
        q, k, v = (part.base_weight().unflatten(0, (-1, self.head_dim)) for part in self.parts)
        return q, self.repeated(k, 0), self.repeated(v, 0)

    def base_biases(self) -> Three:
        """Three of (H, E)."""
        return self._three([part.base_bias() for part in self.parts])

    def moved_weights(self, delta: Mapping[str, Tensor]) -> Three:
        """Three of (H, E, D), None where nothing is trained."""
        if self.fused:
            name = self.query.weight_name
            return Three(*self.weights(delta[name])) if name in delta else Three(None, None, None)
        return self._three([part.moved_weight(delta) for part in self.parts])

    def moved_biases(self, delta: Mapping[str, Tensor]) -> Three:
        """Three of (H, E), None where nothing is trained."""
        if self.fused and self.one_bias:
            name = self.query.bias_name
            if name not in delta:
                return Three(None, None, None)
            return Three(*self.split(delta[name].unflatten(0, (3, -1))).unbind(0))
        return self._three([part.moved_bias(delta) for part in self.parts])

    def _three(self, values: list[Tensor | None]) -> Three:
        q, k, v = (None if value is None else value.unflatten(0, (-1, self.head_dim)) for value in values)
        return Three(q, *(None if value is None else self.repeated(value, 0) for value in (k, v)))

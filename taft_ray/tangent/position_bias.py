"""BEiT's relative position bias: scores that are added by where a query and a key lie, from a trained table.

Legend: B batch, T tokens, H heads, R query rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from taft_ray.tangent.rule import plus
from taft_ray.tangent.trained import trained_vector


class PositionBias:
    """The bias that ``module`` adds to its scores, from its own table and from one that all blocks share.

    shared: () -> (H, T, T), from a table outside the blocks, which is frozen.
    """

    def __init__(self, name: str, module: nn.Module, shared: Callable[[], Tensor] | None) -> None:
        self.table = f"{name}.relative_position_bias_table"
        self.module, self.shared = module, shared

    @property
    def _values(self) -> Tensor | None:
        """(places, H)."""
        return self.module.relative_position_bias_table  # type: ignore[return-value]  # timm's own

    @classmethod
    def of(cls, name: str, module: nn.Module, shared: Callable[[], Tensor] | None) -> PositionBias | None:
        """None where no bias is added at all."""
        own = module.relative_position_bias_table
        return None if own is None and shared is None else cls(name, module, shared)

    def scores(self, rows: int | None = None) -> Tensor:
        """(H, R, T); all rows by default."""
        table = self._values
        own = None if table is None else self._looked_up(table, rows)
        shared = None if self.shared is None else self.shared().detach()[:, :rows]
        total = plus(own, shared)
        assert total is not None  # see `of`
        return total

    def tangent(self, delta: Mapping[str, Tensor], like: Tensor, rows: int | None = None) -> Tensor | None:
        """The scores' tangent by the table, (1 or B, H, R, T); ``like`` (B, …) for the batch. None where it is not trained."""
        table = self._values
        moved = None if table is None else trained_vector(delta, self.table, like)
        if table is None or moved is None:
            return None
        return self._looked_up(moved.reshape(-1, *table.shape), rows)

    def _looked_up(self, table: Tensor, rows: int | None) -> Tensor:
        """(…, places, H) -> (…, H, R, T)."""
        index: Tensor = self.module.relative_position_index[:rows]  # type: ignore[index]  # timm's own
        found = table.index_select(-2, index.flatten()).unflatten(-2, index.shape)
        return found.movedim(-1, -3)

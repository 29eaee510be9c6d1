"""Rotary positions: queries and keys are turned, pair of channels by pair of channels, by an angle of where their token lies.

Legend: T tokens, P prefix tokens (class token and registers, never turned), H heads, E head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from timm.layers import apply_rot_embed
from torch import Tensor


class Places(NamedTuple):
    """Channels that turn alike for all tokens of a place: a row of the picture, or a column."""

    channels: Tensor  # (C,) int64
    sin: Tensor  # (places, C); the first place is the prefix, whose angle is 0
    cos: Tensor
    tokens: tuple[slice, ...]  # of each place
    place_of: Tensor  # (T,) int64


class Rotation:
    """R_t for every token t of one block: R_t x = x·cos + J x·sin, with J a quarter turn in each pair.

    table: timm's, (T − P, 2·E) or (H, T − P, 2·E), sines first. grid: rows and columns of patches.
    half: pairs are (i, i + E/2) and not (2i, 2i + 1).
    """

    def __init__(self, table: Tensor, prefix: int, grid: tuple[int, int], *, half: bool) -> None:
        sin, cos = table.detach().chunk(2, -1)
        *outer, _, width = sin.shape
        self.prefix, self.grid, self.half = prefix, grid, half
        self._tables = {(sin.device, sin.dtype): (
            torch.cat([sin.new_zeros(*outer, prefix, width), sin], -2),
            torch.cat([cos.new_ones(*outer, prefix, width), cos], -2),
        )}  # fmt: skip
        self._own = next(iter(self._tables))

    @property
    def tokens(self) -> int:
        return self._tables[self._own][0].shape[-2]

    def _at(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Sines and cosines where ``like`` is, in float32 or wider as timm keeps them."""
        place = (like.device, torch.promote_types(like.dtype, torch.float32))
        found = self._tables.get(place)
        if found is None:
            sin, cos = self._tables[self._own]
            found = (sin.to(*place), cos.to(*place))
            if not torch.compiler.is_compiling():  # a graph's tensors stay in the graph
                self._tables[place] = found
        return found

    def turn(self, x: Tensor) -> Tensor:
        """R_t x_t, (…, H, T, E)."""
        sin, cos = self._at(x)
        return apply_rot_embed(x, sin, cos, half=self.half)

    def places(self) -> tuple[Places, ...] | None:
        """Channels by row and by column; None where an angle depends on both (or differs from head to head)."""
        sin, cos = self._tables[self._own]
        if sin.ndim != 2:
            return None
        patches = [table[self.prefix :].unflatten(0, self.grid) for table in (sin, cos)]  # (rows, columns, E)
        by_row = torch.stack([(table == table[:, :1]).flatten(0, 1).all(0) for table in patches]).all(0)
        by_column = torch.stack([(table == table[:1]).flatten(0, 1).all(0) for table in patches]).all(0)
        if not bool((by_row | by_column).all()):
            return None
        found = []
        rows, columns = self.grid
        inside = tuple(slice(self.prefix + r * columns, self.prefix + (r + 1) * columns) for r in range(rows))
        across = tuple(slice(self.prefix + c, None, columns) for c in range(columns))
        before = slice(0, self.prefix)
        for mask, first, where in ((by_row, 0, inside), (by_column & ~by_row, 1, across)):
            channels = mask.nonzero()[:, 0]
            if len(channels):
                tables = (table.select(1 - first, 0)[:, channels] for table in patches)
                kept = [
                    torch.cat([t.new_full((1, len(channels)), start), t])
                    for t, start in zip(tables, (0.0, 1.0), strict=True)
                ]
                place_of = torch.zeros(self.tokens, dtype=torch.int64)
                for place, tokens in enumerate(where, start=1):
                    place_of[tokens] = place
                found.append(Places(channels, *kept, (before, *where), place_of))
        return tuple(found)


def turned_back(q: Tensor, places: Places, *, half: bool) -> Tensor:
    """R_gᵀ q on the channels of ``places``: (…, E) -> (…, places, C)."""
    kind = torch.promote_types(q.dtype, torch.float32)
    sin, cos = (table.to(q.device, kind) for table in (places.sin, places.cos))
    chosen = q.index_select(-1, places.channels.to(q.device)).unsqueeze(-2)
    chosen = chosen.expand(*chosen.shape[:-2], len(sin), -1)
    return apply_rot_embed(chosen, -sin, cos, half=half)

"""Rotary positions: queries and keys are turned, pair of channels by pair of channels, by an angle of where their token lies.

Legend: T tokens, P prefix tokens (class token and registers, never turned), H heads, E head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from timm.layers import apply_rot_embed
from torch import Tensor


class Places(NamedTuple):
    """Channels that turn alike for all tokens of a place, which is a row of patches or a column."""

    channels: Tensor  # (C,) int64
    sin: Tensor  # (places, C); the first place is the prefix, whose angle is 0
    cos: Tensor
    tokens: tuple[slice, ...]  # of each place
    place_of: Tensor  # (T,) int64

    def at(self, like: Tensor) -> Places:
        """The same where ``like`` is, sines and cosines in float32 or wider as timm keeps them."""
        kind = torch.promote_types(like.dtype, torch.float32)
        channels, place_of = self.channels.to(like.device), self.place_of.to(like.device)
        return Places(channels, self.sin.to(like.device, kind), self.cos.to(like.device, kind), self.tokens, place_of)


class Rotation:
    """R_t for every token t of one block: R_t x = x·cos + J x·sin, with J a quarter turn in each pair.

    ``table``: timm's, (T − P, 2·E) or (H, T − P, 2·E), sines first. ``grid``: rows and columns of patches.
    ``half``: pairs are (i, i + E/2) and not (2i, 2i + 1).
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

    def turn_back(self, x: Tensor) -> Tensor:
        """R_tᵀ x, of (…, 1, H, E) alike for all tokens: (…, T, H, E)."""
        sin, cos = (table.transpose(0, 1) if table.ndim == 3 else table.unsqueeze(1) for table in self._at(x))
        return apply_rot_embed(x, -sin, cos, half=self.half)

    def places(self) -> tuple[Places, ...] | None:
        """Channels by row and by column; None where an angle depends on both (or differs from head to head)."""
        sin, cos = self._tables[self._own]
        if sin.ndim != 2:
            return None
        patches = [table[self.prefix :].unflatten(0, self.grid) for table in (sin, cos)]  # (rows, columns, E)
        by_row, by_column = (_constant(patches, along) for along in (1, 0))
        if not bool((by_row | by_column).all()):
            return None
        rows, columns = self.grid
        inside = tuple(slice(self.prefix + r * columns, self.prefix + (r + 1) * columns) for r in range(rows))
        across = tuple(slice(self.prefix + c, None, columns) for c in range(columns))
        found = []
        for mask, along, where in ((by_row, 1, inside), (by_column & ~by_row, 0, across)):
            channels = mask.nonzero()[:, 0]
            if len(channels):
                found.append(self._places(channels, [table.select(along, 0) for table in patches], where))
        return tuple(found)

    def _places(self, channels: Tensor, tables: list[Tensor], where: tuple[slice, ...]) -> Places:
        """tables: sines and cosines (rows or columns, E)."""
        sin, cos = (table[:, channels] for table in tables)
        sin, cos = torch.cat([torch.zeros_like(sin[:1]), sin]), torch.cat([torch.ones_like(cos[:1]), cos])
        place_of = torch.zeros(self.tokens, dtype=torch.int64, device=sin.device)
        for place, tokens in enumerate(where, start=1):
            place_of[tokens] = place
        return Places(channels, sin, cos, (slice(0, self.prefix), *where), place_of)


def _constant(patches: list[Tensor], along: int) -> Tensor:
    """(E,) which channels' values are the same along an axis of the grid, up to the last bits of a sine."""
    most = min(4 * torch.finfo(patches[0].dtype).eps, 1e-6)
    spread = torch.stack([(table - table.select(along, 0).unsqueeze(along)).abs().amax((0, 1)) for table in patches])
    return spread.amax(0) <= most


def turned_back(q: Tensor, places: Places, *, half: bool) -> Tensor:
    """R_gᵀ q on the channels of ``places``: (…, E) -> (…, places, C)."""
    chosen = q.index_select(-1, places.channels).unsqueeze(-2)
    chosen = chosen.expand(*chosen.shape[:-2], len(places.sin), -1)
    return apply_rot_embed(chosen, -places.sin, places.cos, half=half)

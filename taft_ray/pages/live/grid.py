"""The shards of a run as one drawing: a cell per shard, a path per state and generation.

Guarantees: ten thousand shards are a few paths. A state is told by its shape, so that no reader needs the colours. There is no style
attribute, which the page's content security policy would refuse.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

WIDTH = 720.0
_LARGEST = 26.0  # px of a cell
_GENERATIONS = 4  # later ones look alike
ORDER = ("trained", "subtracted", "dropped", "pending", "quarantined", "empty")


def kind_of(shard: Mapping[str, Any]) -> tuple[str, int]:
    """The look of a shard: its state, and its generation where it is in the model; 0 elsewhere."""
    state = str(shard["state"])
    return state, min(int(shard["generation"]), _GENERATIONS) if state in ("trained", "subtracted") else 0


def kinds(shards: Sequence[Mapping[str, Any]]) -> list[tuple[tuple[str, int], int]]:
    """Every look and how many shards have it, in the order of the legend."""
    counted = Counter(map(kind_of, shards))
    place = {state: n for n, state in enumerate(ORDER)}
    return sorted(counted.items(), key=lambda one: (place.get(one[0][0], len(ORDER)), one[0][1]))


def name_of(kind: tuple[str, int]) -> str:
    """A look in words."""
    state, generation = kind
    if not generation:
        return state
    return f"{state}, generation {generation}{' or later' if generation == _GENERATIONS else ''}"


def shard_grid(shards: Sequence[Mapping[str, Any]]) -> Markup:
    """The drawing, in rows from the left, by number."""
    columns = max(1, min(len(shards), max(24, math.ceil(math.sqrt(2 * len(shards))))))
    cell = min(_LARGEST, WIDTH / columns)
    rows = math.ceil(len(shards) / columns)
    parts: dict[tuple[str, int], list[str]] = {}
    for at, shard in enumerate(shards):
        x, y = cell * (at % columns), cell * (at // columns)
        kind = kind_of(shard)
        parts.setdefault(kind, []).append(_cell(kind[0], x, y, cell))
    paths = Markup("").join(
        Markup('<path class="{}" d="{}"/>').format(_class(kind), "".join(drawn))
        for kind, drawn in sorted(parts.items())
    )
    told = ", ".join(f"{count:,} {name_of(kind)}" for kind, count in kinds(shards))
    box = Markup('<svg class="grid" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return box.format(f"{WIDTH:g}", f"{max(cell * rows, 1):g}", f"{len(shards):,} shards: {told}", paths)


def swatch(kind: tuple[str, int]) -> Markup:
    """A cell by itself, for the legend."""
    return Markup('<svg class="swatch" viewBox="0 0 16 16" aria-hidden="true"><path class="{}" d="{}"/></svg>').format(
        _class(kind), _cell(kind[0], 0, 0, 16)
    )


def _class(kind: tuple[str, int]) -> str:
    state = kind[0] if kind[0] in ORDER else "other"
    return f"s-{state} g-{kind[1]}"


def _cell(state: str, x: float, y: float, size: float) -> str:
    """A full square in the model; with a notch while its delta is fitted again; a frame, a dot, a cross and a dash outside."""
    gap = size * 0.1
    left, top, side = x + gap, y + gap, size - 2 * gap
    middle = top + side / 2
    if state == "trained":
        return f"M{left:.1f} {top:.1f}h{side:.1f}v{side:.1f}h-{side:.1f}z"
    if state == "subtracted":
        return f"M{left:.1f} {top:.1f}v{side:.1f}h{side:.1f}z"
    if state == "pending":
        third = side / 3
        return f"M{left + third:.1f} {top + third:.1f}h{third:.1f}v{third:.1f}h-{third:.1f}z"
    if state == "quarantined":
        return f"M{left:.1f} {top:.1f}l{side:.1f} {side:.1f}m0 -{side:.1f}l-{side:.1f} {side:.1f}"
    if state == "empty":
        return f"M{left:.1f} {middle:.1f}h{side:.1f}"
    thin = side * 0.12  # a frame, also of a state that another version has
    inner = side - 2 * thin
    return f"M{left + thin:.1f} {top + thin:.1f}h{inner:.1f}v{inner:.1f}h-{inner:.1f}z"

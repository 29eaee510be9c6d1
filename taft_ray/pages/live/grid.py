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

WIDTH, _LARGEST = 720, 26  # px of the drawing, and of a cell at most
CELL = 10  # units of the drawing
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
    rows = math.ceil(len(shards) / columns)
    parts: dict[tuple[str, int], list[str]] = {}
    for at, shard in enumerate(shards):
        kind = kind_of(shard)
        parts.setdefault(kind, []).append(_cell(kind[0], CELL * (at % columns), CELL * (at // columns)))
    paths = Markup("").join(
        Markup('<path class="{}" d="{}"/>').format(_class(kind), "".join(drawn))
        for kind, drawn in sorted(parts.items())
    )
    told = ", ".join(f"{count:,} {name_of(kind)}" for kind, count in kinds(shards))
    box = Markup('<svg class="grid" width="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    width = f"{min(_LARGEST * columns, WIDTH):g}"
    return box.format(width, CELL * columns, CELL * max(rows, 1), f"{len(shards):,} shards: {told}", paths)


def swatch(kind: tuple[str, int]) -> Markup:
    """A cell by itself, for the legend."""
    drawn = Markup('<svg class="swatch" viewBox="0 0 {} {}" aria-hidden="true"><path class="{}" d="{}"/></svg>')
    return drawn.format(CELL, CELL, _class(kind), _cell(kind[0], 0, 0))


def _class(kind: tuple[str, int]) -> str:
    state = kind[0] if kind[0] in ORDER else "other"
    return f"s-{state} g-{kind[1]}"


def _cell(state: str, x: int, y: int) -> str:
    """A full square in the model, half of one while its delta is fitted again. Outside: a frame, a dot, a cross and a dash."""
    left, top = x + 1, y + 1
    if state == "trained":
        return f"M{left} {top}h8v8h-8z"
    if state == "subtracted":
        return f"M{left} {top}v8h8z"
    if state == "pending":
        return f"M{left + 3} {top + 3}h2v2h-2z"
    if state == "quarantined":
        return f"M{left} {top}l8 8m0-8l-8 8"
    if state == "empty":
        return f"M{left} {top + 4}h8"
    return f"M{left + 1} {top + 1}h6v6h-6z"  # a frame, also of a state that another version has

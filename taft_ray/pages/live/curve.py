"""Accuracy against samples forgotten, as SVG without a style attribute."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

WIDE, NARROW = 720, 340
_HEIGHT = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 44
_DOTS = 60  # more points are a line alone


def accuracy_curve(points: Sequence[tuple[int, float]]) -> tuple[Markup, Markup] | None:
    """The drawing for a wide and for a narrow page; None below two points. points: samples forgotten so far, accuracy."""
    return (_drawn(points, WIDE), _drawn(points, NARROW)) if len(points) >= 2 else None


def _drawn(points: Sequence[tuple[int, float]], width: int) -> Markup:
    most = max(1, max(x for x, _ in points))
    ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        right = _LEFT + (width - _LEFT - _RIGHT) * x / most
        return round(right, 1), round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - y) / (high - low), 1)

    parts = []
    for tick in ticks:
        _, y = place(0, tick)
        parts.append(
            Markup('<path class="rule" d="M{} {}H{}"/><text class="label end" x="{}" y="{}">{}</text>').format(
                _LEFT, y, width - _RIGHT, _LEFT - 8, y + 4, f"{100 * tick:.4g} %"
            )
        )
    for number in dict.fromkeys(round(most * part) for part in (0, 0.5, 1)):
        x, _ = place(number, low)
        side = "start" if number == 0 else "end" if number == most else "middle"
        parts.append(
            Markup('<text class="label {}" x="{}" y="{}">{}</text>').format(side, x, _HEIGHT - 24, f"{number:,}")
        )
    parts.append(
        Markup('<text class="label middle" x="{}" y="{}">samples forgotten</text>').format(
            (width + _LEFT - _RIGHT) / 2, _HEIGHT - 6
        )
    )
    line = [place(x, y) for x, y in points]
    parts.append(Markup('<path class="line" d="M{}"/>').format("L".join(f"{x} {y}" for x, y in line)))
    if len(line) <= _DOTS:
        parts += [Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(x, y) for x, y in line]
    return Markup('<svg viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(width, _HEIGHT, Markup("").join(parts))


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round values around a range."""
    span = max(high - low, 0.002)
    step = 10 ** math.floor(math.log10(span))
    step = next(step * part for part in (0.2, 0.25, 0.5, 1.0, 2.0) if span / (step * part) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 2)
    return [step * n for n in range(first, last + 1)]

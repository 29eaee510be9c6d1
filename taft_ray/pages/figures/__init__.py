"""The drawings of pages, as inline SVG."""

from __future__ import annotations

from collections.abc import Callable

from taft_ray.pages.figures.svg import NARROW, WIDE


def both(draw: Callable[..., str | None]) -> tuple[str, str] | None:
    """A picture for a wide page and for a narrow one; None where there is nothing to draw. draw: takes ``width``."""
    wide, narrow = draw(width=WIDE), draw(width=NARROW)
    return None if wide is None or narrow is None else (wide, narrow)

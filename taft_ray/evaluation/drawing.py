"""A picture's place on a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taft_ray.evaluation.figures import NARROW, WIDE
from taft_ray.evaluation.markup import Raw, esc


def drawn(draw: Callable[..., str | None], report: dict[str, Any], alt: str, caption: str, missing: str) -> Raw:
    """A picture drawn twice, for a wide and a narrow page; of the two only one is ever shown or read out."""
    wide = draw(report, width=WIDE)
    narrow = draw(report, width=NARROW)
    if wide is None or narrow is None:
        return Raw(f"<p><strong>{esc(missing)}</strong></p>" if missing else "")
    return Raw(
        f'<figure><div class="wide" role="img" aria-label="{esc(alt)}">{wide}</div>'
        f'<div class="narrow" role="img" aria-label="{esc(alt)}">{narrow}</div>'
        f"<figcaption>{esc(caption)}</figcaption></figure>"
    )

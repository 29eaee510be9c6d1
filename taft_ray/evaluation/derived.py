"""How a derived number of a report is made: its value, and the measurements that it comes from.

A number whose measurement is missing, not finite, negative or a zero divisor is ``None`` with a ``reason``, never a guess.
"""

import math
from collections.abc import Mapping
from typing import Any

from taft_ray.evaluation.measured import Measured, lookup

NO_MONOLITH = "not measured: run with --monolithic"


def no_monolith(measured: Measured) -> str:
    """Why nothing is known of the one model over everything."""
    removed_by = lookup(measured.facts, "monolith.removed_by")
    if not removed_by:
        return NO_MONOLITH
    return f"not measured: request {removed_by} removed that model before it was evaluated; train --monolithic makes it again"


def number(
    label: str,
    unit: str,
    formula: str,
    sources: Mapping[str, Any],
    value: float | None,
    *,
    reason: str | None = None,
    note: str | None = None,
) -> dict[str, Any]:
    """One derived number as it stands in report.json. An overflow to infinity is no number either."""
    if value is not None and not math.isfinite(value):
        value, reason = None, f"no number: {formula} overflows"
    return {
        "label": label,
        "unit": unit,
        "value": value,
        "formula": formula,
        "from": dict(sources),
        "reason": None if value is not None else reason,
        "note": note,
    }


def ratio(
    measured: Measured,
    label: str,
    unit: str,
    top: str,
    bottom: str,
    *,
    missing: Mapping[str, str],
    note: str | None = None,
) -> dict[str, Any]:
    """``top / bottom``; ``missing`` gives, for each of the two paths, what to say where it was not measured."""
    sources = measured.take((top, bottom))
    value = reason = None
    absent = [path for path in (top, bottom) if path not in sources]
    if absent:
        reason = missing[absent[0]]
    elif sources[bottom] == 0:
        reason = f"no ratio: {bottom} was measured as 0"
    else:
        value = sources[top] / sources[bottom]
    return number(label, unit, f"{top} / {bottom}", sources, value, reason=reason, note=note)


def divide(top: float | None, bottom: float | None) -> float | None:
    """The quotient; None where a part was not measured, or by zero."""
    return None if top is None or not bottom else top / bottom


def why(first: Mapping[str, float], no_first: str, second: Mapping[str, float], no_second: str, zero: str) -> str:
    """Why a quotient of two sets of measurements has no value."""
    return no_first if not first else no_second if not second else zero

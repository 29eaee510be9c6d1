"""How a number is written for a person; report.json has every digit."""

from typing import Any

ABSENT = "not measured"
_OF_SUBTRACTION = {"drop": "begin", "purge": "subtract and remove"}


def timed_step(mode: str, step: str) -> str:
    """A step whose seconds a forget has, in words: a subtraction drops no shard, and its certificate has the names of a drop."""
    return _OF_SUBTRACTION.get(step, step) if mode == "subtract" else step


def value_of(number: dict[str, Any], *, short: bool = False) -> str:
    value, unit = number["value"], number["unit"]
    if value is None:
        return "–" if short else number["reason"]
    if unit == "×":
        return f"{times(value)}×"
    if unit == "accuracy":
        return percent(value)
    if unit == "share":
        return f"{100 * value:.3g} %"
    if unit == "points":
        sign = "" if "margin" in number["label"] else "−" if value < 0 else "+"
        return f"{sign}{abs(value):.2f} points"
    return seconds(value) if unit == "s" else f"{recorded(value)} {unit}".strip()


def percent(value: Any, absent: str = ABSENT) -> str:
    return f"{100 * value:.2f} %" if isinstance(value, int | float) else absent


def seconds(value: Any, absent: str = ABSENT) -> str:
    if not isinstance(value, int | float):
        return absent
    return f"{recorded(value)} s" + (f" ({duration(value)})" if value >= 120 else "")


def recorded(value: Any, absent: str = ABSENT) -> str:
    """A measurement at the precision a reader can use; the table of raw measurements has every digit."""
    if value is None:
        return absent
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def times(value: float) -> str:
    """A ratio, at three figures or so."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """A time a person reads at a glance."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"

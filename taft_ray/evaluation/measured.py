"""The measurements a report is made of: the facts of a run made fit for JSON, read by path.

Guarantees: what cannot be used as a number (not finite, a negative time) reads as not measured and is named in
``problems``. Everything else is kept as it came.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


class Measured:
    """A run's facts; ``facts`` is the plain copy that goes into report.json."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self.facts: dict[str, Any] = self._plain(facts, "")

    def number(self, path: str) -> float | None:
        value = lookup(self.facts, path)
        return value if is_measure(value) else None

    def take(self, paths: Iterable[str]) -> dict[str, float]:
        return {path: value for path in paths if (value := self.number(path)) is not None}

    def count(self, part: str) -> int:
        value = self.facts.get(part)
        return len(value) if isinstance(value, list) else 0

    def _plain(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind is str or kind is bool or value is None or (kind is int and value >= 0):  # most of a large run's facts
            return value
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            value = value.item()  # a numpy or torch scalar
        if isinstance(value, Mapping):
            return {str(key): self._plain(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, set | frozenset):
            return self._plain(sorted(value, key=str), path)
        if isinstance(value, float) and not math.isfinite(value):
            self.problems.append(f"{path} was recorded as {value}: treated as not measured")
            return None
        if isinstance(value, int | float) and value < 0 and "seconds" in path:
            self.problems.append(f"{path} was recorded as {value}: a negative time is treated as not measured")
            return None
        return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def is_measure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def lookup(measurements: Any, path: str) -> Any:
    """The measurement at ``path`` (``shards[3].seconds``), or None where there is none."""
    here = measurements
    for key, index in _STEP.findall(path):
        if key:
            here = here.get(key) if isinstance(here, dict) else None
        else:
            here = here[int(index)] if isinstance(here, list) and int(index) < len(here) else None
    return here


def first_fits(measurements: Mapping[str, Any]) -> list[int]:
    """Positions in ``shards`` of each shard's earliest recorded fit; a later generation is a retrain."""
    earliest: dict[str, tuple[float, int]] = {}
    for index, entry in enumerate(measurements["shards"]):
        if is_measure(lookup(entry, "seconds")):
            generation = entry.get("generation")
            rank = (float(generation) if is_measure(generation) else 0.0, index)
            name = str(entry.get("shard", index))
            earliest[name] = min(rank, earliest.get(name, rank))
    return sorted(index for _, index in earliest.values())

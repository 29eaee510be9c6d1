"""The numbers of a report about forgetting: how many samples, how long it took, and what became of the accuracy."""

from statistics import median
from typing import Any

from taft_ray.evaluation.derived import NO_MONOLITH, number, ratio
from taft_ray.evaluation.measured import Measured, lookup

NO_FORGET = "not measured: nothing has been forgotten"


def forgets(measured: Measured) -> dict[str, Any]:
    """All forgets together, and each."""
    samples = measured.take(f"forgets[{i}].samples" for i in range(measured.count("forgets")))
    numbers: dict[str, Any] = {
        "forgotten_samples": number(
            "samples forgotten", "", "sum of forgets[*].samples", samples, sum(samples.values())
        )
    }
    totals = measured.take(f"forgets[{i}].seconds.total" for i in range(measured.count("forgets")))
    numbers["forget_seconds_median"] = number(
        "seconds per forget, median",
        "s",
        "median of forgets[*].seconds.total",
        totals,
        median(totals.values()) if totals else None,
        reason=NO_FORGET if not measured.count("forgets") else "not measured: no forget has total seconds",
    )
    ways = {
        "speedup_retrain": ("retrain after forget against the monolith", "retrain", "no shard was retrained for it"),
        "speedup_end_to_end": ("forget, end to end, against the monolith", "total", "not measured: no total time"),
    }
    for i in range(measured.count("forgets")):
        for name, (label, key, missing) in ways.items():
            bottom = f"forgets[{i}].seconds.{key}"
            numbers[f"forgets[{i}].{name}"] = ratio(
                measured,
                label,
                "×",
                "monolith.seconds",
                bottom,
                missing={"monolith.seconds": NO_MONOLITH, bottom: missing},
            )
        numbers[f"forgets[{i}].accuracy_change"] = _change(measured, i)
    for name, (label, key, _) in ways.items():
        each = [numbers[f"forgets[{i}].{name}"] for i in range(measured.count("forgets"))]
        usable = [number for number in each if number["value"] is not None]
        if measured.number("monolith.seconds") is None:
            reason = NO_MONOLITH
        else:
            reason = f"not measured: no forget has {key} seconds" if each else NO_FORGET
        numbers[f"{name}_median"] = number(
            f"{label}, median",
            "×",
            f"median of monolith.seconds / forgets[*].seconds.{key}",
            {path: value for number in usable for path, value in number["from"].items()},
            median(number["value"] for number in usable) if usable else None,
            reason=reason,
            note=f"of {len(usable)} forget{'s' * (len(usable) != 1)}" if usable else None,
        )
    return numbers


def _change(measured: Measured, i: int) -> dict[str, Any]:
    """Accuracy after a forget less before it. Two evaluations that were not of the same pictures are not compared."""
    after, before = f"forgets[{i}].accuracy_after", f"forgets[{i}].accuracy_before"
    sources = measured.take((after, before))
    reason = "not measured: the accuracy was not taken before and after"
    change = None
    if len(sources) == 2:
        of = [lookup(measured.facts, f"forgets[{i}].evaluated_{when}") or {} for when in ("before", "after")]
        if of[0] == of[1]:
            change = 100 * (sources[after] - sources[before])
        else:
            told = [f"{one.get('n')} pictures of {one.get('data')}" for one in of]
            reason = f"not compared: measured on {told[0]} before, on {told[1]} after"
    return number("accuracy after less before", "points", f"({after} − {before}) × 100", sources, change, reason=reason)

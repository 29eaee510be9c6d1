"""The content of ``report.json``: numbers derived from a run's measurements, each with the measurements it comes from.

Guarantees: pure (no clock, no files, no ray). Every number under ``derived`` lists in ``from`` the paths and values it
was computed from. Each path resolves in ``measurements``, which hold the facts as they came. A number whose measurement
is missing, not finite, negative or a zero divisor is ``None`` with a ``reason``, never a guess.
"""

from collections.abc import Mapping
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.evaluation.accuracy_numbers import accuracy
from taft_ray.evaluation.derived import NO_MONOLITH, number
from taft_ray.evaluation.forget_numbers import forgets
from taft_ray.evaluation.measured import Measured, is_measure, lookup
from taft_ray.evaluation.speed_numbers import throughput, training

SCHEMA = "taft_ray.report/1"
ONE_MODEL = "not measured: an additive run is one model over everything already, and retrains nothing"


def summarise(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a run, ready for ``json.dumps(..., allow_nan=False)``."""
    for part, kind in (("run", Mapping), ("shards", list | tuple)):
        if not isinstance(facts.get(part), kind):
            raise UsageError(
                f"a report needs the facts 'run' and 'shards', got no {part!r}; gather them from the ledger"
            )
    measured = Measured(facts)
    notes: list[str] = [
        f"shard {ill.get('shard')} is in quarantine, out of the model: {_why(ill)}"
        for ill in facts.get("quarantine", ())
        if isinstance(ill, Mapping)
    ]
    derived = {
        **_counts(measured),
        **training(measured, notes),
        **accuracy(measured, notes),
        **forgets(measured),
        **throughput(measured),
    }
    if lookup(measured.facts, "run.spec.solver") == "additive":
        for one in derived.values():
            if one["reason"] == NO_MONOLITH:
                one["reason"] = ONE_MODEL
    return {
        "schema": SCHEMA,
        "derived": derived,
        "notes": notes + measured.problems,
        "not_measured": {name: one["reason"] for name, one in derived.items() if one["value"] is None},
        "measurements": measured.facts,
    }


def _why(ill: Mapping[str, Any]) -> str:
    """The reason for a quarantine, and the way out."""
    if not ill.get("objects") and ill.get("reason"):
        return f"{ill['reason']}; taft-ray train tries it again"
    return "its storage is damaged; taft-ray repair makes it again"


def _counts(measured: Measured) -> dict[str, Any]:
    shards = measured.facts["shards"]
    now: dict[str, tuple[float, int]] = {}
    for i, shard in enumerate(shards):
        generation = lookup(shard, "generation")
        rank = (float(generation) if is_measure(generation) else 0.0, i)
        name = str(lookup(shard, "shard"))
        now[name] = max(rank, now.get(name, rank))
    states = {
        f"shards[{i}].state": lookup(shards[i], "state") for _, i in sorted(now.values(), key=lambda rank: rank[1])
    }
    return {
        f"shards_{state}": number(
            f"shards {state}", "", f"count of shards whose latest state is {state!r}", chosen, len(chosen)
        )
        for state in ("trained", "dropped", "subtracted", "empty", "pending", "quarantined")
        for chosen in [{path: got for path, got in states.items() if got == state}]
    }

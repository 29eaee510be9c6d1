"""Measuring the models of a run on cached evaluation data: what `evaluate` answers with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.orchestration.actors import ask, worker_for
from taft_ray.orchestration.quarantine import damaged_objects, quarantines
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.storage import Store, digest_json


def remove_damaged(store: Store, prefix: str, parts: Sequence[dict[str, Any]]) -> bool:
    """Remove a cache of evaluation data of which a part is damaged: whether it was."""
    damaged = damaged_objects(store, parts)
    if damaged:
        store.erase([info.key for info in store.list(f"{prefix}/")])
    return bool(damaged)


def measured(
    run: str, spec: RunSpec, data: str, composer: Any, parts: Sequence[dict[str, Any]], n_rejected: int
) -> dict[str, Any]:
    """Accuracy of the composed model (each way), the comparison model, and by number of shards; committed."""
    state: RunState = ask(composer.snapshot)
    if not state.in_model:
        raise UsageError(f"no shard is in the model of {run}; train first, or retrain one that was dropped")
    worker = worker_for(run, spec, ask(composer.class_count))
    answer: dict[str, Any] = {"data": data, "rejected": n_rejected}
    by_mode: dict[str, Any] = {}
    for mode in reversed(spec.modes):
        composed = ask(composer.compose, mode)
        measured = ask(worker.evaluate, composed["key"], parts)
        by_mode[mode] = {
            "accuracy": measured["accuracy"],
            "composed": composed["digest"],
            "seconds": composed["seconds"],
        }
        if mode == spec.compose:
            answer |= {"accuracy": measured["accuracy"], "n": measured["n"], "composed": composed["digest"]}
    answer["by_composition"] = by_mode
    state = ask(composer.snapshot)  # after composing, which may have put a damaged shard aside
    monolith = (state.monolith or {}).get("delta")
    answer["monolith"] = None if monolith is None else ask(worker.evaluate, None, parts, monolith)["accuracy"]
    shards = state.in_model
    answer["by_shards"] = ask(
        worker.accuracy_by_shards,
        [shard.delta for shard in shards],
        [shard.weight for shard in shards],
        parts,
        _milestones(len(shards)),
    )
    ask(composer.commit, "evaluated", answer, f"evaluated/{digest_json(answer)}")
    return {**answer, "ok": not state.quarantined, "quarantined": quarantines(state)}


def _milestones(shards: int) -> list[int]:
    """Where the curve of accuracy against shards is measured: about ten points."""
    return sorted({max(1, round(shards * i / 10)) for i in range(1, 11)} | {1, shards})

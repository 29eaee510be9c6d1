"""`runs`: every run in a folder. Starts nothing, and reads no more than each run's spec and ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taft_ray.errors import StorageError, TaftError
from taft_ray.log import operation
from taft_ray.plans.fold import replay
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.run.address import run_address
from taft_ray.run.spec import is_run, run_spec
from taft_ray.storage import Ledger, Store


@operation("runs")
def runs(uri: str) -> dict[str, Any]:
    """The runs at this place: the place itself where it is one, and each folder right under it that is. {"place", "runs"}

    StorageError where a local place is no folder; a bucket cannot tell a folder without objects from none.
    """
    place = place_of(uri)
    return {"place": place.uri, "runs": [_summary(run) for run in runs_in(place)]}


def place_of(uri: str) -> Store:
    """A place that may hold runs; StorageError where a local one is no folder."""
    place = Store(run_address(uri))
    if place.local and not Path(run_address(uri)).is_dir():  # in a bucket, a folder without objects is none either
        raise StorageError(f"there is no folder {place.uri}; give the folder that holds runs, or a run")
    return place


def runs_in(place: Store) -> list[Store]:
    """The place itself where it is a run, and each folder right under it that is."""
    there = [place] if is_run(place) else []
    return there + [run for run in map(place.inside, place.folders()) if is_run(run)]


def _summary(store: Store) -> dict[str, Any]:
    spec = None
    try:
        spec = run_spec(store)
        state = replay(Ledger(store).entries())
    except TaftError as error:  # damaged, or made by a newer version: the others are listed all the same
        return problem_told(store.uri, spec, str(error))
    return summary_of(store.uri, spec, state)


def problem_told(run: str, spec: RunSpec | None, problem: str) -> dict[str, Any]:
    """A run of which no more can be said than its problem, and its spec where that could be read."""
    told: dict[str, Any] = dict.fromkeys(("model", "shards", "samples", "open_requests", "composed", "problem"))
    known = {} if spec is None else {"model": spec.model, "shards": spec.shards}
    return {"run": run, **told, **known, "problem": problem}


def last_composed(spec: RunSpec, state: RunState) -> str | None:
    """The digest of the model that was composed last in the run's own way; None before the first."""
    composed = [one.digest for one in state.compositions if one.mode == spec.compose]
    return composed[-1] if composed else None


def summary_of(run: str, spec: RunSpec, state: RunState) -> dict[str, Any]:
    """A run of the answer of `runs`, from a state that was read."""
    return {
        "run": run,
        "model": spec.model,
        "shards": len(state.shards) or spec.shards,
        "samples": sum(shard.samples for shard in state.shards.values()),
        "open_requests": sum(request.forgotten is None for request in state.requests.values()),
        "composed": last_composed(spec, state),
        "problem": None,
    }

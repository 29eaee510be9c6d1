"""`runs`: every run in a folder. Starts nothing, and reads no more than each run's spec and ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taft_ray.errors import StorageError, TaftError
from taft_ray.log import operation
from taft_ray.plans.fold import replay
from taft_ray.run.address import run_address
from taft_ray.run.spec import is_run, run_spec
from taft_ray.storage import Ledger, Store


@operation("runs")
def runs(uri: str) -> dict[str, Any]:
    """The runs at this place: the place itself where it is one, and each folder right under it that is. {"place", "runs"}

    StorageError where a local place is no folder; a bucket cannot tell a folder without objects from none.
    """
    place = Store(run_address(uri))
    if place.local and not Path(run_address(uri)).is_dir():  # in a bucket, a folder without objects is none either
        raise StorageError(f"there is no folder {place.uri}; give the folder that holds runs, or a run")
    there = [place] if is_run(place) else []
    there += [run for run in map(place.inside, place.folders()) if is_run(run)]
    return {"place": place.uri, "runs": [_summary(run) for run in there]}


def _summary(store: Store) -> dict[str, Any]:
    told: dict[str, Any] = dict.fromkeys(("model", "shards", "samples", "open_requests", "composed", "problem"))
    told = {"run": store.uri, **told}
    try:
        spec = run_spec(store)
        told |= {"model": spec.model, "shards": spec.shards}
        state = replay(Ledger(store).entries())
    except TaftError as error:  # damaged, or made by a newer version: the others are listed all the same
        return {**told, "problem": str(error)}
    composed = [one.digest for one in state.compositions if one.mode == spec.compose]
    return {
        **told,
        "shards": len(state.shards) or spec.shards,
        "samples": sum(shard.samples for shard in state.shards.values()),
        "open_requests": sum(request.forgotten is None for request in state.requests.values()),
        "composed": composed[-1] if composed else None,
    }

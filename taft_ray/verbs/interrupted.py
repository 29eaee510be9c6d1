"""How far an interrupted command brought a run, and which command goes on. Starts nothing and changes nothing."""

from __future__ import annotations

from taft_ray.counting import are, plural, which
from taft_ray.errors import TaftError
from taft_ray.plans.fold import replay
from taft_ray.run.address import run_address
from taft_ray.run.spec import is_run
from taft_ray.storage import Ledger, Store


def what_is_left(run: str) -> str:
    """A sentence or two for a person; empty where nobody can tell."""
    try:
        store = Store(run_address(run))
        if not is_run(store):
            return "nothing was recorded"
        state = replay(Ledger(store).entries())
    except TaftError:
        return ""
    if state.cached is None:
        told = ["the run is begun and its pictures are not all read in; parts that are finished stay"]
    else:
        filled = [shard for shard in state.shards.values() if shard.samples]
        told = [f"{len(filled) - len(state.pending)} of {plural(len(filled), 'shard')} done"]
    open_ones = [
        request.request for request in state.requests.values() if request.forgotten is None and not request.waiting
    ]
    if open_ones:
        told.append(
            f"{which('request', open_ones)} {are(len(open_ones))} recorded; taft-ray forget {store.uri} --due goes on"
        )
    return "; ".join(told)

"""A run as its storage says, for verbs that need no composer and change nothing."""

from __future__ import annotations

from taft_ray.counting import are, plural, which
from taft_ray.errors import IntegrityError
from taft_ray.plans.fold import replay
from taft_ray.plans.state import RunState
from taft_ray.run.spec import run_spec
from taft_ray.storage import KeptReleases, Ledger, Store, Tombstones


def damage_of(run: str) -> IntegrityError | None:
    """Why nothing can be said of a run: its spec or its ledger is damaged. None: that is not it."""
    try:
        store = Store(run)
        run_spec(store)
        replay(Ledger(store).entries())
    except IntegrityError as error:
        return error
    return None


def read_state(store: Store) -> RunState:
    """The ledger's state; IntegrityError when the folder is an older copy, which has not forgotten all that it must."""
    state = replay(Ledger(store).entries())
    check_newest(store, state)
    return state


def check_newest(store: Store, state: RunState) -> None:
    """IntegrityError where the folder of this state is an older copy: it has not forgotten all that it must, or lacks releases."""
    if missing := Tombstones(store, state.identity).missing(state.requests):
        raise IntegrityError(
            f"{which('forget request', missing)} {are(len(missing))} kept beside {store.uri} and not in its ledger: an "
            "older copy of the folder was put back. Another possible cause: the folder could not be written when they were made. "
            "Run taft-ray forget --due first"
        )
    if lost := KeptReleases(store, state.identity).names() - state.releases.keys():
        raise IntegrityError(
            f"{plural(len(lost), 'release is', 'releases are')} kept beside {store.uri} and not in its ledger: an older copy of the "
            "folder was put back. Run taft-ray forget --due first, which registers them again"
        )

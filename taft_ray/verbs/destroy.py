"""`destroy`: remove a run, older versions too. Needs no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taft_ray.counting import are, plural
from taft_ray.errors import StorageError
from taft_ray.log import operation
from taft_ray.run.address import run_address
from taft_ray.run.spec import is_run
from taft_ray.storage import Store
from taft_ray.storage import rundir as names
from taft_ray.storage.beside import SUFFIX

_FOLDERS = (  # the ledger late: what is interrupted says until then what the run was
    names.COMPOSED_FOLDER, names.DELTAS_FOLDER, names.CHECKPOINTS_FOLDER, names.CACHE_FOLDER, names.EVAL_FOLDER,
    names.BASE_FOLDER, names.REPORTS_FOLDER, names.SERVING_FOLDER, names.OUTCOMES_FOLDER, names.CERTIFICATES_FOLDER,
    names.MANIFEST_FOLDER, "keys", names.LEDGER_FOLDER,
)  # fmt: skip


@operation("destroy")
def destroy(run: str) -> dict[str, Any]:
    """Remove every object of a run, its spec last: interrupted, it goes on when it is called again.

    Objects that are none of a run's stay, and are named. Tombstones beside the run stay, too: they keep forgotten what an
    older copy of the folder would bring back. StorageError where there is no run, or something is left of it.
    """
    store = Store(run_address(run))
    if not is_run(store):
        raise StorageError(f"no run at {store.uri}: run.json is missing")
    tombstones = _tombstones(store)
    removed, versions, beyond = 0, 0, None
    for folder in _FOLDERS:
        mine = list(store.traces(f"{folder}/"))
        erased = store.erase(mine)
        removed, versions, beyond = removed + len(mine), versions + erased.versions, beyond or erased.beyond
    store.sweep(0.0)
    _check_gone(store, _left(store, beyond))  # before the spec goes, so that the same command can go on
    last = store.erase([names.SPEC_KEY])
    beyond = beyond or last.beyond
    left = _left(store, beyond)
    _check_gone(store, left)
    store.prune()
    return {
        "run": store.uri,
        "removed": removed + 1,
        "older_versions": versions + last.versions,
        "left": left,
        "tombstones": tombstones,
        "beyond_reach": beyond,
    }


def _left(store: Store, beyond: str | None) -> list[str]:
    """Keys that are in the folder yet; older versions that are beyond reach do not count."""
    return [key for key in store.traces() if beyond is None or store.exists(key)]


def _check_gone(store: Store, left: Sequence[str]) -> None:
    """StorageError where objects of the run were written again while it was removed."""
    mine = [key for key in left if key.startswith(tuple(f"{one}/" for one in _FOLDERS))]
    if mine:
        raise StorageError(
            f"{plural(len(mine), 'object')} of {store.uri} {are(len(mine))} there again, such as {mine[0]}: a process works on "
            "the run. End it, then run the same command again"
        )


def _tombstones(store: Store) -> str | None:
    """Where tombstones stay beside the run, also those of runs that this address held before; None where there are none.

    The ledger is not asked: it may be damaged, or gone with a destroy that was interrupted.
    """
    beside = store.beside(SUFFIX)
    return beside.uri if beside is not None and beside.list() else None

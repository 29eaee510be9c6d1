"""The spec of a folder's run."""

from __future__ import annotations

from taft_ray.errors import IntegrityError, StorageError
from taft_ray.plans.spec import RunSpec
from taft_ray.storage import MALFORMED, Store, read_spec
from taft_ray.storage import rundir as names


def run_spec(store: Store) -> RunSpec:
    """The spec of the run in this folder; StorageError when there is no run."""
    values = read_spec(store)
    if values is None:
        raise StorageError(f"no run at {store.uri}: run.json is missing; make one with taft-ray train")
    try:
        return RunSpec.from_json(values)
    except MALFORMED as error:
        raise IntegrityError(
            f"{names.SPEC_KEY} in {store.uri} has not the fields of a spec ({type(error).__name__}: {error}); "
            "restore it from a copy"
        ) from error


def is_run(store: Store) -> bool:
    """Whether the folder is a run already."""
    return store.exists(names.SPEC_KEY)

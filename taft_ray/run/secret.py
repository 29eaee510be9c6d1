"""The key of the id hashes: who has it, and what follows where nobody has."""

from __future__ import annotations

from collections.abc import Sequence

from taft_ray.data import id_hash
from taft_ray.errors import IntegrityError, ObjectMissing, TaftError
from taft_ray.plans.state import RunState
from taft_ray.storage import Store, id_key
from taft_ray.storage import rundir as names


def secret_to_read_in(store: Store, state: RunState, *, reading: bool) -> bytes | None:
    """The key of the id hashes: made with the run, None once it was destroyed; then no data may be read in."""
    try:
        return id_key(store, create=state.created is None)
    except ObjectMissing:
        if reading:
            raise TaftError(
                f"{names.ID_KEY} in {store.uri} is gone, and without it nobody can tell which samples were forgotten. "
                "Nothing may be read into this run any more; restore the key or make another run"
            ) from None
        return None


def secret_of(store: Store) -> bytes | None:
    """The key of the id hashes, None where nobody has it."""
    try:
        return id_key(store, create=False)
    except (ObjectMissing, IntegrityError):
        return None  # destroyed or damaged: the hashes of samples that are still there are in the manifest


def hashes_of(store: Store, ids: Sequence[str]) -> list[str]:
    """The id hash of each; none once the key of the id hashes was destroyed."""
    secret = secret_of(store)
    return [] if secret is None else [id_hash(name, secret) for name in ids]

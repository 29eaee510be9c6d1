"""`destroy-key`: make every tombstone unreadable, for good. Needs no Ray."""

from __future__ import annotations

from typing import Any

from taft_ray.errors import StorageError
from taft_ray.log import operation
from taft_ray.plans.facts import KeyDestroyed
from taft_ray.run.record import Record
from taft_ray.storage import rundir as names


@operation("destroy-key")
def destroy_key(run: str) -> dict[str, Any]:
    """Destroy the key of the id hashes, older versions too: {"destroyed": key, "older_versions", "beyond_reach"}.

    From then on nobody can tell whom a tombstone names, and nothing can be read into the run any more. Samples that are
    still in it can be forgotten as before. Idempotent.
    """
    record = Record(run)
    # committed first: a crash after it is finished by the next call, and `verify` names a key that is still there
    record.commit(KeyDestroyed, "key-destroyed", KeyDestroyed)
    erased = record.store.erase([names.ID_KEY])
    if record.store.remaining([names.ID_KEY]) and erased.beyond is None:
        raise StorageError(f"{names.ID_KEY} is still listed after its deletion at {record.store.uri}; run it again")
    return {"destroyed": names.ID_KEY, "older_versions": erased.versions, "beyond_reach": erased.beyond}

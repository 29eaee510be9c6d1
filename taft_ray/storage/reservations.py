"""Reservations of privacy beside a run: what was spent stays spent when an older copy of the run's folder is put back.

They lie in ``<run>.tombstones/spent/``, outside the folder that a backup of the run holds, and are never changed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from taft_ray.errors import CommitConflict, CommitUnknown, IntegrityError
from taft_ray.storage.digest import seal, unseal
from taft_ray.storage.objects import Store
from taft_ray.storage.tombstones import SUFFIX

_SEAL = "self"


class KeptReservations:
    """The reservations of one run, as JSON objects beside its folder, named by their digests.

    ``identity`` tells runs apart that one address held one after the other, as of `Tombstones`. A run in the root of a bucket
    has no place beside it: then nothing is kept.
    """

    def __init__(self, store: Store, identity: str) -> None:
        self.store = store.beside(SUFFIX)
        self._run = identity[:32]

    def write(self, name: str, facts: Mapping[str, Any]) -> None:
        """Keep a reservation; the same one again changes nothing."""
        if self.store is None:
            return
        data = seal({"reserved": dict(facts), "run": self._run}, _SEAL)
        try:
            self.store.create(self._key(name), data)
        except (CommitConflict, CommitUnknown):
            if name not in self.names():
                self.store.write(self._key(name), data)

    def names(self) -> set[str]:
        """The names of all that are kept, from a listing."""
        if self.store is None or not self._run:
            return set()
        listed = self.store.list(f"spent/{self._run}/")
        return {info.key.rpartition("/")[2].removesuffix(".json") for info in listed}

    def read(self, names: set[str]) -> Iterator[dict[str, Any]]:
        """Those of these names; IntegrityError for one that was changed."""
        if self.store is None:
            return
        for name in sorted(names):
            where = f"{self._key(name)} in {self.store.uri}"
            facts = unseal(self.store.read(self._key(name)), _SEAL, where).get("reserved")
            if not isinstance(facts, dict):
                raise IntegrityError(f"{where} is no reservation; restore it from a copy")
            yield facts

    def _key(self, name: str) -> str:
        return f"spent/{self._run}/{name}.json"

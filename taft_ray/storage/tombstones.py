"""Tombstones beside a run: what must stay forgotten even when an older copy of the run's folder is put back.

They lie in ``<run>.tombstones/``, outside the folder that a backup of the run holds. A request is written there before it
enters the ledger, and never changed.
"""

from collections.abc import Collection, Mapping
from typing import Any

from taft_ray.errors import CommitConflict, CommitUnknown, IntegrityError
from taft_ray.storage.digest import seal, unseal
from taft_ray.storage.objects import Store

SUFFIX = ".tombstones"
_SEAL = "self"


class Tombstones:
    """The forget requests of one run, as JSON objects beside its folder.

    ``identity`` (the digest of the key of the id hashes) tells runs apart that one address held one after the other:
    tombstones of another are neither read nor touched. A run in the root of a bucket has no place beside it: then nothing
    is kept.
    """

    def __init__(self, store: Store, identity: str) -> None:
        self.store = store.beside(SUFFIX)
        self._run = identity[:32]

    def write(self, request: str, facts: Mapping[str, Any]) -> None:
        """Keep a request; the same one again changes nothing."""
        if self.store is None:
            return
        data = seal({**facts, "request": request, "run": self._run}, _SEAL)
        try:
            self.store.create(self._key(request), data)
        except (CommitConflict, CommitUnknown):
            if request not in self.names():
                self.store.write(self._key(request), data)

    def names(self) -> set[str]:
        """The names of all requests of this run that are kept, from a listing."""
        if self.store is None or not self._run:
            return set()
        return {info.key.rpartition("/")[2].removesuffix(".json") for info in self.store.list(f"{self._run}/")}

    def read(self, only: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Requests of this run by name, all of them or ``only`` these, oldest first; IntegrityError for a changed one."""
        store = self.store
        if store is None:
            return {}
        found = [self._read_one(store, name) for name in sorted(self.names() if only is None else only)]
        return {facts["request"]: facts for facts in sorted(found, key=lambda f: (f["requested"], f["request"]))}

    def _read_one(self, store: Store, name: str) -> dict[str, Any]:
        where = f"{self._key(name)} in {store.uri}"
        facts = unseal(store.read(self._key(name)), _SEAL, where)
        kinds = {"request": str, "mode": str, "hashes": list, "owners": list, "requested": int | float}
        wrong = sorted(field for field, kind in kinds.items() if not isinstance(facts.get(field), kind))
        if wrong or facts["request"] != name:
            raise IntegrityError(
                f"{where} is no tombstone: its fields {wrong or ['request']} are wrong; restore it from a copy"
            )
        return facts

    def damaged(self) -> set[str]:
        """The names of the kept requests that cannot be read."""
        return {name for name in self.names() if not self._is_whole(name)}

    def _is_whole(self, name: str) -> bool:
        try:
            self.read([name])
        except IntegrityError:
            return False
        return True

    def rewrite(self, request: str, facts: Mapping[str, Any]) -> None:
        """Put a request in the place of a damaged one: the ledger has what it asked."""
        if self.store is not None:
            self.store.write(self._key(request), seal({**facts, "request": request, "run": self._run}, _SEAL))

    def missing(self, known: Collection[str]) -> list[str]:
        """The requests kept here that a run's ledger does not know: an older copy of its folder was put back."""
        return sorted(self.names() - set(known))

    def _key(self, request: str) -> str:
        return f"{self._run}/{request}.json"

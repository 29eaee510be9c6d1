"""Tombstones beside a run: what must stay forgotten even when an older copy of the run's folder is put back.

A request is written there before it enters the ledger.
"""

from collections.abc import Collection, Mapping
from typing import Any

from taft_ray.errors import IntegrityError
from taft_ray.storage.beside import BesideRun
from taft_ray.storage.objects import Store


class Tombstones:
    """The forget requests of one run, as JSON objects beside its folder. identity: as of `BesideRun`."""

    def __init__(self, store: Store, identity: str) -> None:
        self._kept = BesideRun(store, identity)

    @property
    def store(self) -> Store | None:
        """Where they lie; None where nothing is kept."""
        return self._kept.store

    def write(self, request: str, facts: Mapping[str, Any]) -> None:
        """Keep a request; the same one again changes nothing."""
        self._kept.write(request, {**facts, "request": request})

    def names(self) -> set[str]:
        """The names of all requests of this run that are kept, from a listing."""
        return self._kept.names()

    def read(self, only: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Requests of this run by name, all of them or ``only`` these, oldest first; IntegrityError for a changed one."""
        if self.store is None:
            return {}
        found = [self._read_one(name) for name in sorted(self.names() if only is None else only)]
        return {facts["request"]: facts for facts in sorted(found, key=lambda f: (f["requested"], f["request"]))}

    def _read_one(self, name: str) -> dict[str, Any]:
        facts, where = self._kept.read(name)
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
        self._kept.rewrite(request, {**facts, "request": request})

    def missing(self, known: Collection[str]) -> list[str]:
        """The requests kept here that a run's ledger does not know: an older copy of its folder was put back."""
        return sorted(self.names() - set(known))

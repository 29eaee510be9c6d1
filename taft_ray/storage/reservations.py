"""Reservations of privacy beside a run: what was spent stays spent when an older copy of the run's folder is put back."""

from collections.abc import Iterator, Mapping
from typing import Any

from taft_ray.errors import IntegrityError
from taft_ray.storage.beside import BesideRun
from taft_ray.storage.objects import Store


class KeptReservations:
    """The reservations of one run, as JSON objects beside its folder, named by their digests. identity: as of `BesideRun`."""

    def __init__(self, store: Store, identity: str) -> None:
        self._kept = BesideRun(store, identity, "spent/")

    def write(self, name: str, facts: Mapping[str, Any]) -> None:
        """Keep a reservation; the same one again changes nothing."""
        self._kept.write(name, {"reserved": dict(facts)})

    def names(self) -> set[str]:
        """The names of all that are kept, from a listing."""
        return self._kept.names()

    def read(self, names: set[str]) -> Iterator[dict[str, Any]]:
        """Those of these names; IntegrityError for one that was changed."""
        for name in sorted(names):
            body, where = self._kept.read(name)
            facts = body.get("reserved")
            if not isinstance(facts, dict):
                raise IntegrityError(f"{where} is no reservation; restore it from a copy")
            yield facts

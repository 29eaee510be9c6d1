"""Facts of a run beside its folder, which hold when an older copy of the folder is put back: privacy that was spent, and releases."""

from collections.abc import Iterator, Mapping
from typing import Any

from taft_ray.errors import IntegrityError
from taft_ray.storage.beside import BesideRun
from taft_ray.storage.objects import Store


class KeptFacts:
    """Facts of one kind of one run, as JSON objects by name. identity: as of `BesideRun`. field: under which each object has its fact."""

    def __init__(self, store: Store, identity: str, folder: str, field: str) -> None:
        self._kept, self._field = BesideRun(store, identity, folder), field

    def write(self, name: str, facts: Mapping[str, Any]) -> None:
        """Keep a fact; the same one again changes nothing."""
        self._kept.write(name, {self._field: dict(facts)})

    def names(self) -> set[str]:
        """The names of all that are kept, from a listing."""
        return self._kept.names()

    def read(self, names: set[str]) -> Iterator[dict[str, Any]]:
        """Those of these names; IntegrityError for one that was changed."""
        for name in sorted(names):
            body, where = self._kept.read(name)
            facts = body.get(self._field)
            if not isinstance(facts, dict):
                raise IntegrityError(f"{where} has no {self._field!r} fact; restore it from a copy")
            yield facts


class KeptReservations(KeptFacts):
    """Reservations of privacy, named by their digests: what was spent stays spent."""

    def __init__(self, store: Store, identity: str) -> None:
        super().__init__(store, identity, "spent/", "reserved")


class KeptReleases(KeptFacts):
    """Releases, by their names: what left the house stays outside."""

    def __init__(self, store: Store, identity: str) -> None:
        super().__init__(store, identity, "released/", "released")

"""Sealed JSON objects beside a run, in ``<run>.tombstones/``: outside the folder that a backup of the run holds, and never changed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from taft_ray.errors import CommitConflict, CommitUnknown
from taft_ray.storage.digest import seal, unseal
from taft_ray.storage.objects import Store

SUFFIX = ".tombstones"
KINDS = ("", "spent/", "released/")  # folders: of tombstones, reservations of privacy, and releases
_SEAL = "self"
_KEPT = re.compile(rf"(?:{'|'.join(KINDS)})[0-9a-f]{{32}}/[^/]+\.json")


def strangers_beside(store: Store) -> Sequence[str]:
    """The keys in ``<run>.tombstones/`` that nothing of a taft_ray has; objects of another run at this address are known."""
    beside = store.beside(SUFFIX)
    return () if beside is None else [info.key for info in beside.list() if not _KEPT.fullmatch(info.key)]


class BesideRun:
    """The objects of one kind of one run, by name.

    ``identity`` (the digest of the key of the id hashes) tells runs apart that one address held one after the other. Objects of
    another are neither read nor touched. Beside a run in the root of a bucket is no place: then nothing is kept.

    folder: of the kind, "" or with a slash at its end.
    """

    def __init__(self, store: Store, identity: str, folder: str = "") -> None:
        self.store = store.beside(SUFFIX)
        self.run, self._folder = identity[:32], f"{folder}{identity[:32]}/"

    def write(self, name: str, body: Mapping[str, Any]) -> None:
        """Keep an object; the same one again changes nothing."""
        if self.store is None:
            return
        data = self._sealed(body)
        try:
            self.store.create(self._key(name), data)
        except (CommitConflict, CommitUnknown):
            if name not in self.names():
                self.store.write(self._key(name), data)

    def rewrite(self, name: str, body: Mapping[str, Any]) -> None:
        """Put an object in the place of a damaged one."""
        if self.store is not None:
            self.store.write(self._key(name), self._sealed(body))

    def names(self) -> set[str]:
        """The names of all that are kept, from a listing. A stranger's file among them has none: see `strangers_beside`."""
        if self.store is None or not self.run:
            return set()
        keys = (info.key.removeprefix(self._folder) for info in self.store.list(self._folder))
        return {key.removesuffix(".json") for key in keys if key.endswith(".json") and "/" not in key}

    def read(self, name: str) -> tuple[dict[str, Any], str]:
        """An object's fields, and its place for errors. IntegrityError for one that was changed."""
        assert self.store is not None  # it has no names otherwise
        where = f"{self._key(name)} in {self.store.uri}"
        return unseal(self.store.read(self._key(name)), _SEAL, where), where

    def _sealed(self, body: Mapping[str, Any]) -> bytes:
        return seal({**body, "run": self.run}, _SEAL)

    def _key(self, name: str) -> str:
        return f"{self._folder}{name}.json"

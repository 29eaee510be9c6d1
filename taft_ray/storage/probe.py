"""A storage tried out: objects are written under a name of nobody's, read, created twice, listed and removed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from taft_ray.errors import CommitConflict, StorageError
from taft_ray.storage.objects import Store

_CONTENT = b"taft-ray probe"


def creates_once(store: Store) -> bool:
    """Whether it refuses to create an object that is there. Without that two writers could commit the same ledger entry.

    StorageError where it cannot be written to.
    """
    with _probe(store) as key:
        store.create(key, _CONTENT)
        try:
            store.create(key, b"another " + _CONTENT)
        except CommitConflict:
            return store.read(key) == _CONTENT
        return False


def check_creates_once(store: Store) -> None:
    """StorageError for a storage that would lose commits of a run, or cannot be written to."""
    if not creates_once(store):
        raise StorageError(
            f"{store.uri} does not refuse to create an object that is there (a conditional put), so that commits of a run "
            "could be lost. Use a storage that honours it, such as Amazon S3, Google Cloud Storage, MinIO or a local folder"
        )


def check_use(store: Store) -> None:
    """StorageError where an object that was written cannot be read, listed or removed."""
    with _probe(store) as key:
        store.write(key, _CONTENT)
        if store.read(key) != _CONTENT:
            raise StorageError(f"{store.uri} gives back other bytes than were written")
        if key not in {info.key for info in store.list(key)}:
            raise StorageError(f"{store.uri} does not list an object that it has")
        store.erase([key])
        if store.exists(key):
            raise StorageError(f"{store.uri} still has an object that was removed")


@contextmanager
def _probe(store: Store) -> Iterator[str]:
    """A key that nobody uses, gone again afterwards."""
    key = f"reports/probe-{secrets.token_hex(8)}"  # the one folder of a run that may hold other files
    try:
        yield key
    finally:
        with suppress(StorageError):
            store.erase([key])
            if not store.list():  # there was no run, and no folder for one
                store.prune()

"""Objects by key under one root, on a local folder or any fsspec file system."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.storage.copies import copies
from taft_ray.storage.faults import redact, secrets_in
from taft_ray.storage.local import TEMPORARY, LocalFolder
from taft_ray.storage.remote import RemoteFolder
from taft_ray.storage.versions import Erasure

_LOCAL = ("file", "local")


@dataclass(frozen=True)
class ObjectInfo:
    """An object's key and its size in bytes."""

    key: str
    size: int


class Store:
    """Objects by key under the root `uri`: a plain path, file://, s3://bucket/prefix, memory://, any fsspec URI.

    `storage_options` go to the fsspec file system. Credentials and AWS_ENDPOINT_URL come from the usual AWS places.
    A key is a relative path with "/" between its parts.

    Guarantees: a reader sees a whole object or none, also after a crash. `create` succeeds for one caller only,
    and listings are fresh. Every error of a backend is a `StorageError` that names the URI, the cause and the fix, never a
    credential. An endpoint that cannot be reached fails in about 20 s at most. Safe for threads and processes;
    picklable, unless it was given credentials (they would travel in the pickle: it refuses).
    """

    def __init__(self, uri: str, **storage_options: Any) -> None:
        uri = os.fspath(uri)
        protocol, separator, path = uri.partition("://")
        # "::" is part of a name, but before or between protocols it chains file systems
        if not uri or (separator and ("::" in protocol or "://" in path)):
            raise UsageError(
                f"expected one folder as a path or URI, got {redact(uri)!r}; give for example ./run or s3://bucket/run"
            )
        self._given = uri
        self._options = storage_options
        self.uri = redact(uri)
        self._folder: LocalFolder | RemoteFolder
        if not separator or protocol in _LOCAL:
            root = Path(path if separator else uri).expanduser().absolute()
            self._folder = LocalFolder(root, self.uri)
        else:
            self._folder = RemoteFolder(protocol, _root(protocol, path, uri), self.uri, storage_options)

    @property
    def local(self) -> bool:
        """Whether objects are files of this machine, so that reading one needs no copy."""
        return self._folder.local

    def beside(self, suffix: str) -> "Store | None":
        """The store at this one's root with ``suffix`` added to its name; None where the root has no name (a bucket)."""
        root = self._given.rstrip("/")
        if not self.local and "/" not in root.partition("://")[2]:
            return None
        return Store(f"{root}{suffix}", **self._options)

    def inside(self, folder: str) -> "Store":
        """The store whose root is this folder of this one."""
        return Store(f"{self._given.rstrip('/')}/{_checked(folder)}", **self._options)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._given != self.uri or any(True for _ in secrets_in(self._options)):
            # a pickle is kept by Ray's object store, on disk when memory is short, and by whoever logs it
            raise UsageError(
                f"expected a store without credentials in its URI or options, got {self!r} to pickle. Put them into the "
                "environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, a role) of every process and leave them out here"
            )
        return _reopen, (self._given, self._options)

    def read(self, key: str) -> bytes:
        """The object's bytes; `ObjectMissing` when it is not there."""
        return self._folder.read(_checked(key))

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Put the object, replacing one that is there: readers see the old or the new one, never a part."""
        self._folder.write(_checked(key), data)

    def create(self, key: str, data: bytes | memoryview) -> None:
        """Put the object if there is none: of any number of callers exactly one succeeds.

        Raises `CommitConflict` when it is already there, `CommitUnknown` when a fault hides whether it was put.
        On S3 the object of a `CommitConflict` can be the caller's own: aiohttp puts once more when a connection breaks.
        A caller to whom that matters writes content that only it can write, and reads it back (as `Ledger` does).
        """
        self._folder.create(_checked(key), data)

    def exists(self, key: str) -> bool:
        """Whether there is an object of exactly this key (a folder is not one)."""
        return self._folder.exists(_checked(key))

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Every object whose key starts with `prefix`, sorted by key; asked of the storage each time."""
        if prefix:
            _checked(prefix.removesuffix("/"))
        return [ObjectInfo(key, size) for key, size in sorted(self._folder.list(prefix))]

    def folders(self) -> Sequence[str]:
        """The names of the folders right under the root, sorted; nothing below them is listed."""
        return sorted(self._folder.folders())

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when it is not there."""
        self._folder.delete(_checked(key))

    def erase(self, keys: Sequence[str]) -> Erasure:
        """Remove these objects, and every older version of exactly these keys where the bucket has (or had) versioning.

        Guarantees: when it returns, no reader sees any of the objects. `Erasure.beyond` says what could not be removed
        beyond that; nothing is raised for it. Idempotent: after a crash call it with the same keys; a key whose object
        is gone already loses its older versions all the same.
        """
        return self._folder.erase(_checked_all(keys))

    def remaining(self, keys: Sequence[str]) -> Sequence[str]:
        """Which of these keys have an object or an older version with content, sorted; delete markers have none.

        Older versions that may not be listed are not seen: `erase` says so.
        """
        return list(self._folder.remaining(_checked_all(keys)))

    def traces(self, prefix: str = "") -> Sequence[str]:
        """Every key with this prefix that has an object or an older version with content, sorted.

        These are the keys that `list` shows, and those that a plain `delete` left behind in a bucket with versioning.
        """
        if prefix:
            _checked(prefix.removesuffix("/"))
        return list(self._folder.traces(prefix))

    def versioned(self) -> bool | None:
        """Whether older versions are kept here, or were once; None when the storage does not say."""
        return self._folder.versioned()

    def fetch(self, key: str, into: Path | None = None) -> Path:
        """A local file with the object: the file itself when local, else a fresh copy at `into`/key.

        Without `into` the copy lies in a temporary folder of this process, removed when it exits; when it was killed,
        by `sweep_copies`.
        """
        if isinstance(self._folder, LocalFolder):
            return self._folder.fetch(_checked(key))
        return self._folder.fetch(_checked(key), into if into is not None else copies())

    def upload(self, path: Path, key: str) -> None:
        """Put a local file as the object, replacing one that is there."""
        self._folder.upload(Path(path), _checked(key))

    def prune(self) -> None:
        """Remove folders without objects, the root itself too, where folders are more than names."""
        if isinstance(self._folder, LocalFolder):
            self._folder.prune()

    def sweep(self, older_than_s: float = 3600.0) -> Sequence[str]:
        """Remove what killed writers left: unfinished files and S3 uploads older than this; the names of what went.

        Such leftovers are no objects (`list` does not show them), but they hold data: a purge must sweep too.
        """
        return self._folder.sweep(older_than_s)


def _reopen(uri: str, options: dict[str, Any]) -> Store:
    return Store(uri, **options)


def _root(protocol: str, path: str, uri: str) -> str:
    root = path.strip("/")
    if protocol == "memory":
        return f"/{root}".rstrip("/")
    if not root:
        raise UsageError(f"expected a bucket in the URI, got {redact(uri)!r}; give for example s3://bucket/run")
    return root


def _checked(key: str) -> str:
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(TEMPORARY) for part in parts) or "\\" in key or "\0" in key:
        raise UsageError(f"expected a key of plain names with '/' between them, got {key!r}; correct it")
    return key


def _checked_all(keys: Sequence[str]) -> list[str]:
    return [_checked(key) for key in dict.fromkeys(keys)]

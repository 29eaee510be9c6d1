"""A store's objects behind any other fsspec file system: s3:// (also MinIO, SeaweedFS, ...), memory://, gs://."""

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from taft_ray.errors import CommitConflict, CommitUnknown, ObjectMissing, StorageError, TaftError, UsageError
from taft_ray.extras import unreadable
from taft_ray.storage import faults
from taft_ray.storage.versions import Erasure, Version, Versions, prefixes_of

T = TypeVar("T")

CONNECT_TIMEOUT_S = 4
READ_TIMEOUT_S = 15
ATTEMPTS = 6  # of a store that fails each twentieth call, one call in 60 million fails for good
PAUSE_S = 0.2  # after the first attempt; doubled after each, times a random half to one
LAST_CONNECT_S = 14.0  # an attempt to connect begins no later: an unreachable endpoint fails in < 20 s

_S3 = ("s3", "s3a")
_PARALLEL = 16  # requests at a time, where each costs a round trip
_FILE_SYSTEMS: dict[str, Any] = {}
_OPENING = threading.Lock()
_CREATING = threading.Lock()  # memory:// has no create-if-absent of its own; it is only for the threads of one process


def _file_system(protocol: str, options: dict[str, Any]) -> Any:
    """The file system for these options and this environment: shared by a process's stores (an S3 client is slow)."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    identity = json.dumps([os.getpid(), protocol, options, environment], sort_keys=True, default=repr)
    name = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()  # a digest: it holds secrets
    with _OPENING:
        if name not in _FILE_SYSTEMS:
            _FILE_SYSTEMS[name] = _open_file_system(protocol, options)
        return _FILE_SYSTEMS[name]


def _open_file_system(protocol: str, options: dict[str, Any]) -> Any:
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        if (said := unreadable(protocol, f"storage at {protocol}://", error)) is not None:
            raise UsageError(said) from error
        raise
    if protocol not in _S3:
        return fsspec.filesystem(protocol, **options)
    config = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        # a create that is silently repeated meets its own object and reports a conflict: all repeating is done here
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "max_pool_connections": 32,
    } | options.get("config_kwargs", {})
    settings = {"use_listings_cache": False, **options, "config_kwargs": config, "skip_instance_cache": True}
    file_system = fsspec.filesystem(protocol, **settings)
    file_system.retries = 1
    return file_system


class RemoteFolder:
    """Objects under `root` (a path of that file system); `uri` is what messages call it.

    Guarantees: an object appears whole or not at all. Calls that may be repeated are repeated after an overload, a timeout
    or a broken connection: up to 6 attempts with a growing pause. A create is repeated only if it certainly had no effect.
    """

    local = False

    def __init__(self, protocol: str, root: str, uri: str, options: dict[str, Any]) -> None:
        self.protocol = protocol
        self.root = root.rstrip("/")
        self.uri = uri
        self.options = options

    @property
    def _fs(self) -> Any:
        return _file_system(self.protocol, self.options)

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _repeated(self, doing: str, call: Callable[[], T], may_repeat: Callable[[BaseException], bool]) -> T:
        started = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call()
            except TaftError:
                raise
            except Exception as error:  # every backend has its own classes; `storage_error` tells them apart
                # one that was reached and did not answer in time gets its attempts, however long they take
                late = faults.is_unconnected(error) and time.monotonic() - started > LAST_CONNECT_S
                if late or attempt == ATTEMPTS or not may_repeat(error):
                    self._fail(error, doing)
                time.sleep(PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
        raise AssertionError("the last attempt returns or raises")

    def _fail(self, error: Exception, doing: str) -> None:
        translated = faults.storage_error(error, doing, self.uri, self.options)
        if doing.startswith("create "):
            if faults.is_lost_race(error):
                raise CommitConflict(f"cannot {doing} in {self.uri}: it already exists; read again") from error
            if not faults.is_without_effect(error):
                raise CommitUnknown(f"{translated}; it may or may not have happened: read it back") from error
        raise translated from error

    def read(self, key: str) -> bytes:
        # one stream: with more, s3fs first asks for the size, a second round trip
        extra = {"max_concurrency": 1} if self.protocol in _S3 else {}
        return bytes(
            self._repeated(f"read {key}", lambda: self._fs.cat_file(self._path(key), **extra), faults.is_transient)
        )

    def write(self, key: str, data: bytes | memoryview) -> None:
        self._repeated(f"write {key}", lambda: self._fs.pipe_file(self._path(key), bytes(data)), faults.is_transient)

    def upload(self, path: Path, key: str) -> None:
        if not path.is_file():
            raise StorageError(f"cannot upload {path}: there is no such file")
        self._repeated(f"write {key}", lambda: self._fs.put_file(os.fspath(path), self._path(key)), faults.is_transient)

    def create(self, key: str, data: bytes | memoryview) -> None:
        def call() -> None:
            if self.protocol == "memory":
                with _CREATING:
                    self._fs.pipe_file(self._path(key), bytes(data), mode="create")
            else:
                self._fs.pipe_file(self._path(key), bytes(data), mode="create")

        self._repeated(
            f"create {key}", call, lambda error: faults.is_transient(error) and faults.is_without_effect(error)
        )

    def exists(self, key: str) -> bool:
        def call() -> bool:
            try:
                return self._fs.info(self._path(key))["type"] == "file"
            except FileNotFoundError:
                return False

        return self._repeated(f"look up {key}", call, faults.is_transient)

    def list(self, prefix: str) -> list[tuple[str, int]]:
        folder, _, start = prefix.rpartition("/")
        extra = {"prefix": start} if start and self.protocol in _S3 else {}

        def call() -> dict[str, dict[str, Any]]:
            try:
                return self._fs.find(self._path(folder).rstrip("/"), detail=True, **extra)
            except FileNotFoundError as error:
                if faults.server_code(error) == "NoSuchBucket":
                    raise
                return {}

        found = self._repeated(f"list {prefix or 'everything'}", call, faults.is_transient)
        cut = len(self.root) + 1
        objects = ((name[cut:], int(info["size"] or 0)) for name, info in found.items() if info["type"] == "file")
        return [(key, size) for key, size in objects if key.startswith(prefix) and key and not key.endswith("/")]

    def folders(self) -> Sequence[str]:
        def call() -> Sequence[dict[str, Any]]:
            try:
                return self._fs.ls(self.root, detail=True, refresh=True)
            except FileNotFoundError as error:
                if faults.server_code(error) == "NoSuchBucket":
                    raise
                return []

        found = self._repeated("list folders", call, faults.is_transient)
        return [entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "directory"]

    def delete(self, key: str) -> None:
        def call() -> None:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._path(key))

        self._repeated(f"delete {key}", call, faults.is_transient)

    def fetch(self, key: str, into: Path) -> Path:
        target = into / key
        staged = target.with_name(f".taft-{os.getpid()}-{threading.get_ident()}-{target.name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._repeated(
                f"fetch {key}", lambda: self._fs.get_file(self._path(key), os.fspath(staged)), faults.is_transient
            )
            if staged.is_dir():  # memory:// makes a folder of a folder
                staged.rmdir()
                raise ObjectMissing(f"cannot fetch {key} in {self.uri}: there is no such object")
            os.replace(staged, target)
        except OSError as error:
            raise faults.storage_error(error, f"keep a copy of {key}", os.fspath(into)) from error
        finally:
            staged.unlink(missing_ok=True)
        return target

    def _versions(self) -> Versions | None:
        """None where the protocol has none that could be asked for."""
        if self.protocol not in _S3:
            return None
        bucket, _, root = self.root.partition("/")

        def call(doing: str, operation: str, **arguments: Any) -> dict[str, Any]:
            return self._repeated(doing, lambda: self._fs.call_s3(operation, **arguments), faults.is_transient)

        return Versions(call, self.delete, bucket, root, self.uri)

    def versioned(self) -> bool | None:
        versions = self._versions()
        if versions is None:
            return False if self.protocol == "memory" else None
        return versions.kept()

    def erase(self, keys: Sequence[str]) -> Erasure:
        versions = self._versions()
        if versions is None:
            with ThreadPoolExecutor(_PARALLEL) as pool:
                list(pool.map(self.delete, keys))
            unknown = f"whether {self.protocol}:// keeps older versions of deleted objects was not looked at"
            return Erasure(beyond=None if self.protocol == "memory" else unknown)
        if versions.kept() is False:
            versions.hide(keys)
            return Erasure()
        return versions.erase(keys)

    def remaining(self, keys: Sequence[str]) -> Sequence[str]:
        with ThreadPoolExecutor(_PARALLEL) as pool:
            current = {key for found in pool.map(self.list, prefixes_of(keys)) for key, _ in found}
        return sorted(current.union(self._kept(lambda versions: versions.of(keys))).intersection(keys))

    def traces(self, prefix: str) -> Sequence[str]:
        return sorted({key for key, _ in self.list(prefix)}.union(self._kept(lambda versions: versions.walk(prefix))))

    def _kept(self, ask: Callable[[Versions], Sequence[Version]]) -> set[str]:
        """The keys of the versions with content that `ask` finds; none where they may not be listed."""
        versions = self._versions()
        if versions is None or versions.kept() is False:
            return set()
        try:
            return {version.key for version in ask(versions) if not version.marker}
        except StorageError as error:
            if faults.is_transient(error):
                raise
            return set()  # `erase` says so

    def sweep(self, older_than_s: float) -> Sequence[str]:
        if self.protocol not in _S3:
            return []
        bucket, _, root = self.root.partition("/")
        prefix = f"{root}/" if root else ""

        def call() -> list[str]:
            swept, marker = [], {}
            while True:
                page = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marker)
                for upload in page.get("Uploads", []):
                    age = datetime.now(UTC) - upload["Initiated"]
                    if age.total_seconds() >= older_than_s and upload["Key"].startswith(prefix):
                        self._fs.call_s3(
                            "abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        swept.append(upload["Key"][len(prefix) :])
                if not page.get("IsTruncated"):
                    return sorted(swept)
                marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

        return self._repeated("sweep unfinished uploads", call, faults.is_transient)

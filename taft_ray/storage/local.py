"""A store's objects as files of a local folder (or of any mounted file system with hard links)."""

import fcntl
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from taft_ray.errors import CommitConflict, CommitUnknown, ObjectMissing
from taft_ray.storage.faults import storage_error
from taft_ray.storage.versions import Erasure

TEMPORARY = ".taft-"
"""Names of unfinished files start with this; no key may."""
_FEW, _ERASERS = 32, 16  # keys that are erased one after another, and threads for more


class LocalFolder:
    """Objects under `root`, one file each; `uri` is what messages call it.

    Guarantees: a reader sees a whole object or none. An object survives a power failure once its `write` or `create`
    has returned (the file and its folder are synced). An unfinished file left by a killed process is never listed;
    `sweep` removes it.
    """

    local = True

    def __init__(self, root: Path, uri: str) -> None:
        self.root = root
        self.uri = uri

    def _path(self, key: str) -> Path:
        return self.root / key

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise storage_error(error, doing, self.uri) from error

    @contextmanager
    def _staged(self, key: str, fill: Callable[[IO[bytes]], object]) -> Iterator[tuple[Path, Path]]:
        """A complete, synced temporary file beside the place of `key`, and that place; removed afterwards."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(path.parent)
        staged = Path(file.name)
        try:
            with file:  # and its lock, until it has its place
                fill(file)
                file.flush()
                os.fsync(file.fileno())
                yield staged, path
        finally:
            staged.unlink(missing_ok=True)

    def read(self, key: str) -> bytes:
        with self._translated(f"read {key}"):
            try:
                return self._path(key).read_bytes()
            except (IsADirectoryError, NotADirectoryError) as error:
                raise FileNotFoundError(str(error)) from error  # as on S3, where a folder is no object

    def _replace(self, key: str, fill: Callable[[IO[bytes]], object]) -> None:
        with self._translated(f"write {key}"), self._staged(key, fill) as (staged, path):
            os.replace(staged, path)
            _sync_folder(path.parent)

    def write(self, key: str, data: bytes | memoryview) -> None:
        self._replace(key, lambda file: file.write(data))

    def upload(self, path: Path, key: str) -> None:
        def fill(file: IO[bytes]) -> None:
            with open(path, "rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)

        self._replace(key, fill)

    def create(self, key: str, data: bytes | memoryview) -> None:
        with self._translated(f"create {key}"), self._staged(key, lambda file: file.write(data)) as (staged, path):
            try:
                os.link(staged, path)
            except FileExistsError as error:
                # over NFS a repeated request can be answered "exists" by our own first one: then the link count is 2
                if os.stat(staged).st_nlink != 2:
                    raise CommitConflict(f"cannot create {key} in {self.uri}: it already exists; read again") from error
            try:
                _sync_folder(path.parent)
            except OSError as error:
                raise CommitUnknown(f"{key} in {self.uri} was created but may not survive a power failure") from error

    def exists(self, key: str) -> bool:
        with self._translated(f"look up {key}"):
            try:
                return stat.S_ISREG(os.stat(self._path(key)).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def list(self, prefix: str) -> list[tuple[str, int]]:
        folder, _, _ = prefix.rpartition("/")
        with self._translated(f"list {prefix or 'everything'}"):
            found = self._walk(self._path(folder), f"{folder}/" if folder else "")
            return [(key, size) for key, size in found if key.startswith(prefix)]

    def folders(self) -> Sequence[str]:
        with self._translated("list folders"):
            try:
                return [entry.name for entry in os.scandir(self.root) if entry.is_dir()]
            except (FileNotFoundError, NotADirectoryError):
                return []

    def _walk(self, folder: Path, prefix: str, temporary: bool = False) -> Iterator[tuple[str, int]]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/", temporary)
            elif entry.name.startswith(TEMPORARY) == temporary:
                with suppress(FileNotFoundError):  # deleted by another process since
                    yield f"{prefix}{entry.name}", entry.stat().st_size

    def delete(self, key: str) -> None:
        # a folder is no object, as on S3
        with self._translated(f"delete {key}"), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            os.unlink(self._path(key))
            _sync_folder(self._path(key).parent)

    def fetch(self, key: str) -> Path:
        if not self.exists(key):
            raise ObjectMissing(f"cannot fetch {key} in {self.uri}: there is no such object")
        return self._path(key)

    def versioned(self) -> bool | None:
        return False

    def erase(self, keys: Sequence[str]) -> Erasure:
        if len(keys) <= _FEW:
            for key in keys:
                self.delete(key)
            return Erasure()
        with ThreadPoolExecutor(_ERASERS) as erasers:  # most of a deletion is waiting for the disk
            for _ in erasers.map(self.delete, keys):
                pass
        return Erasure()

    def remaining(self, keys: Sequence[str]) -> Sequence[str]:
        return [key for key in sorted(set(keys)) if self.exists(key)]

    def traces(self, prefix: str) -> Sequence[str]:
        return sorted(key for key, _ in self.list(prefix))

    def prune(self) -> None:
        for folder, _, _ in os.walk(self.root, topdown=False):
            with suppress(OSError):  # it holds something
                os.rmdir(folder)

    def sweep(self, older_than_s: float) -> Sequence[str]:
        """A dead writer's file goes at once; age decides only where the file system has no locks."""
        swept = []
        with self._translated("sweep unfinished files"):
            for key, _ in list(self._walk(self.root, "", temporary=True)):
                with suppress(FileNotFoundError):
                    if _is_abandoned(self._path(key), older_than_s):
                        swept.append(key)
        return sorted(swept)


def _open_locked(folder: Path) -> IO[bytes]:
    """A new unfinished file that is locked as long as its writer lives, however that ends."""
    while True:
        file = open(folder / f"{TEMPORARY}{uuid.uuid4().hex}", "xb")  # noqa: SIM115 - its caller closes it
        with suppress(OSError):  # a file system without locks: then a sweep goes by age
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # swept in the instant before it was locked


def _is_abandoned(path: Path, older_than_s: float) -> bool:
    """Remove an unfinished file if its writer is dead (or, without locks, if it is older than this)."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # somebody is writing it
        except OSError:
            if time.time() - os.fstat(file.fileno()).st_mtime < older_than_s:
                return False
        path.unlink()
        return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

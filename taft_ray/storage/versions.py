"""Older versions of S3 objects: what a delete leaves behind in a bucket with versioning, listed and removed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from taft_ray.counting import plural
from taft_ray.errors import StorageError
from taft_ray.storage import faults

PAGE = 1000
"""Versions a request may list: S3's limit."""

BATCH = 1000
"""Versions a request may delete: S3's limit."""

_ROUNDS = 4  # listings of an erase: what one leaves, the next sees
_THREADS = 16  # requests at a time, where each costs a round trip
_ALONE = 8  # up to so many keys of a folder are asked for one by one, more by listing their folder


_Id = tuple[str, str]  # a key and a version


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """The work of `Store.erase` beyond deleting the current objects.

    `versions`: older versions and delete markers removed. `beyond`: a sentence on what could not be reached and why,
    None when a listing shows nothing left (or the storage keeps no versions).
    """

    versions: int = 0
    beyond: str | None = None


@dataclass(frozen=True)
class Version:
    """A version of an object, or a delete marker; `id` is "null" for one written while versioning was off."""

    key: str
    id: str
    latest: bool
    marker: bool

    @property
    def name(self) -> _Id:
        return self.key, self.id

    @property
    def current(self) -> bool:
        """Whether readers see it."""
        return self.latest and not self.marker


class Versions:
    """The versions of the objects under `root` in one S3 bucket; keys are relative to it.

    `call(doing, operation, **arguments)` asks the server and repeats and translates as a store does; `delete(key)`
    deletes the current object. Folders are listed one by one (with S3's delimiter), which is right everywhere:
    SeaweedFS 4.48 loses entries when it pages through a tree.
    """

    def __init__(
        self, call: Callable[..., dict[str, Any]], delete: Callable[[str], None], bucket: str, root: str, uri: str
    ) -> None:
        self._call = call
        self._delete = delete
        self._bucket = bucket
        self._root = f"{root}/" if root else ""
        self._uri = uri

    def kept(self) -> bool | None:
        """Whether the bucket keeps versions, or did once (suspended); None when it does not say."""
        try:
            answer = self._call("see whether versions are kept", "get_bucket_versioning", Bucket=self._bucket)
        except StorageError:
            return None
        return "Status" in answer

    def walk(self, prefix: str) -> list[Version]:
        """Every version and delete marker whose key starts with `prefix`."""
        found: list[Version] = []
        prefixes = [prefix]
        with ThreadPoolExecutor(_THREADS) as pool:
            while prefixes:
                below: list[str] = []
                for versions, folders in pool.map(self._folder, prefixes):
                    found += versions
                    below += folders
                prefixes = below
        return found

    def of(self, keys: Sequence[str]) -> list[Version]:
        """Every version and delete marker of exactly these keys."""
        wanted = set(keys)
        with ThreadPoolExecutor(_THREADS) as pool:
            pages = pool.map(lambda prefix: self._folder(prefix)[0], prefixes_of(keys))
            return [version for page in pages for version in page if version.key in wanted]

    def erase(self, keys: Sequence[str]) -> Erasure:
        """Remove every version and delete marker of these keys. Raises only when a current object cannot be deleted.

        A key's older versions go first, then what hides them. So one that cannot be removed never becomes current again,
        and an erase that was killed leaves what a listing shows.
        """
        current: set[_Id] = set()
        older: set[_Id] = set()
        left: list[Version] = []
        refusals: dict[_Id, str] = {}
        unseen = ""
        for turn in range(_ROUNDS):
            try:
                left, unseen = self.of(keys), ""
            except StorageError as error:
                unseen = faults.reason(error)
                self.hide(keys)
                if not faults.is_transient(error):
                    break
                continue
            current |= {version.name for version in left if version.current}
            older |= {version.name for version in left} - current
            stuck = {v.key for v in left if not faults.is_passing(refusals.get(v.name, ""))}
            open_ones = [v for v in left if v.key not in stuck or faults.is_passing(refusals.get(v.name, ""))]
            if turn == _ROUNDS - 1 or all(v.latest and v.marker and v.key in stuck for v in open_ones):
                break
            refusals |= self._remove([version for version in left if not version.latest])
            kept = {key for (key, _) in refusals}
            refusals |= self._remove([version for version in left if version.latest and version.key not in kept])
            self.hide([v.key for v in left if v.current and (v.key in kept or v.name in refusals)])
        seen = sorted(version.key for version in left if version.current)
        if seen:
            raise StorageError(f"{seen[:4]} in {self._uri} are still there after their deletion; stop other writers")
        gone = older - {version.name for version in left}
        return Erasure(versions=len(gone), beyond=self._beyond(unseen, left, refusals, len(keys)))

    def hide(self, keys: Sequence[str]) -> None:
        """Delete the current objects of these keys; `StorageError` when one cannot be deleted."""
        refused = self._in_batches([{"Key": self._root + key} for key in keys])
        with ThreadPoolExecutor(_THREADS) as pool:  # one by one they tell why, or go after all
            list(pool.map(self._delete, [key for (key, _) in refused]))

    def _remove(self, versions: Sequence[Version]) -> dict[_Id, str]:
        """Delete exactly these versions; the error code of each that was refused ("": no answer)."""
        return self._in_batches([{"Key": self._root + version.key, "VersionId": version.id} for version in versions])

    def _in_batches(self, named: Sequence[dict[str, str]]) -> dict[_Id, str]:
        batches = [named[at : at + BATCH] for at in range(0, len(named), BATCH)]
        if not batches:
            return {}
        with ThreadPoolExecutor(min(_THREADS, len(batches))) as pool:
            return {name: code for refused in pool.map(self._batch, batches) for name, code in refused}

    def _batch(self, named: Sequence[dict[str, str]]) -> list[tuple[_Id, str]]:
        try:
            wanted = {"Objects": list(named), "Quiet": True}
            answer = self._call("delete versions", "delete_objects", Bucket=self._bucket, Delete=wanted)
            refused = [(error, error.get("Code", "")) for error in answer.get("Errors", [])]
        except StorageError as error:
            refused = [(one, faults.server_code(error)) for one in named]
        return [((one["Key"].removeprefix(self._root), one.get("VersionId", "")), code) for one, code in refused]

    def _beyond(self, unseen: str, left: Sequence[Version], refusals: dict[_Id, str], keys: int) -> str | None:
        if unseen:
            return (
                f"older versions of {plural(keys, 'object')} in {self._uri} could not be listed ({unseen}); "
                "whether the bucket still keeps any is not known"
            )
        content = [version for version in left if not version.marker]
        objects = {version.key for version in content}
        markers = [version for version in left if version.key not in objects]  # others only hide what is left
        parts = []
        if content:
            parts.append(
                f"{plural(len(content), 'older version')} of {plural(len(objects), 'object')}, with their content,"
            )
        if markers:
            one = "delete marker, which names a key and holds no content,"
            parts.append(plural(len(markers), one, "delete markers, which name a key and hold no content,"))
        if not parts:
            return None
        codes = sorted({refusals[v.name] for v in left if refusals.get(v.name)}) or ["the storage gave no reason"]
        return f"{' and '.join(parts)} could not be removed from {self._uri} ({', '.join(codes)})"

    def _folder(self, prefix: str) -> tuple[list[Version], list[str]]:
        """Every version directly under a folder whose key starts with `prefix`, and the folders below."""
        found: list[Version] = []
        below: list[str] = []
        for page in self._pages(prefix):
            for kind in ("Versions", "DeleteMarkers"):
                found += [
                    Version(v["Key"].removeprefix(self._root), v["VersionId"], v["IsLatest"], kind == "DeleteMarkers")
                    for v in page.get(kind, [])
                ]
            below += [folder["Prefix"].removeprefix(self._root) for folder in page.get("CommonPrefixes", [])]
        return found, below

    def _pages(self, prefix: str) -> Iterator[dict[str, Any]]:
        where = {"Bucket": self._bucket, "Prefix": self._root + prefix, "Delimiter": "/", "MaxKeys": PAGE}
        marker: dict[str, str] = {}
        while True:
            page = self._call(f"list older versions of {prefix}", "list_object_versions", **where, **marker)
            yield page
            if not page.get("IsTruncated"):
                return
            marker = {"KeyMarker": page["NextKeyMarker"]}
            if page.get("NextVersionIdMarker"):  # AWS refuses an empty one
                marker["VersionIdMarker"] = page["NextVersionIdMarker"]


def prefixes_of(keys: Iterable[str]) -> list[str]:
    """The prefixes by which to list these keys: themselves while they are few in their folder, else their folder."""
    by_folder: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        by_folder[key[: key.rfind("/") + 1]].add(key)
    return [p for folder, inside in by_folder.items() for p in (inside if len(inside) <= _ALONE else [folder])]

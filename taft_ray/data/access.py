"""Where data lies: a local path or an fsspec URI, listed and opened with one kind of error for each reaction.

Data that is not there is a ``DataError`` (give another URI); storage out of reach is a ``StorageError`` (mend it).
"""

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from taft_ray.errors import DataError, StorageError, TaftError, UsageError
from taft_ray.extras import unreadable

_WILDCARDS = frozenset("*?[")
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


@contextlib.contextmanager
def reading(uri: str) -> Iterator[None]:
    """Translate whatever storage raises inside the block; a programming error of ours goes through as it is."""
    try:
        yield
    except TaftError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"there is no data at {uri}: {error}; check --data") from error
    except OSError as error:
        raise StorageError(
            f"cannot read {uri}: {_short(error)}; check the address, the network and the keys"
        ) from error
    except Exception as error:
        # Object store clients raise classes of their own (botocore, aiohttp, google, azure), which are not OSErrors.
        if type(error).__module__ == "builtins":
            raise
        raise StorageError(
            f"cannot read {uri}: {_short(error)}; check the address, the network and the keys"
        ) from error


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem a URI belongs to, and the path in it (absolute where local).

    An address is one place. ``::`` is part of a name, never a chain of file systems.
    """
    protocol, separator, _ = uri.partition("://")
    if not separator or not _PROTOCOL.fullmatch(protocol):
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        of_protocol = fsspec.get_filesystem_class(protocol)
        return of_protocol(**of_protocol._get_kwargs_from_urls(uri)), of_protocol._strip_protocol(uri)
    except (ImportError, ValueError) as error:
        if (said := unreadable(protocol, f"reading {uri}", error)) is not None:
            raise UsageError(said) from error
        raise UsageError(
            f"cannot understand the address {uri!r}: {error}; give a path or a URI such as s3://…"
        ) from error
    except Exception as error:
        raise StorageError(f"cannot reach {uri}: {_short(error)}") from error


def exists(uri: str) -> bool:
    """Whether a file or folder of exactly this name is there."""
    fs, path = filesystem(uri)
    with reading(uri):
        return _info(fs, path) is not None


def open_file(uri: str) -> BinaryIO:
    fs, path = filesystem(uri)
    return cast(BinaryIO, fs.open(path, "rb"))


def list_files(uri: str, named: str = "--data") -> tuple[str, dict[str, tuple[str, int]]]:
    """The root, and every file under it: ``{path relative to the root: (uri, size, or 0 where unknown)}``.

    A single file's root is its folder. ``*``, ``?`` and ``[`` are wildcards where no such path exists, and the root is
    then the folder above the first of them. Links are followed. DataError where nothing is there; ``named``: the option or
    argument that it tells to check.
    """
    fs, path = filesystem(uri)
    with reading(uri):
        fs.invalidate_cache()  # a listing from before the data was uploaded would hide files without a word
        info = _info(fs, path)
        if info is not None:
            if _is_file(fs, path, info):
                root, found = fs._parent(path), {path: info.get("size")}
            else:
                root, found = path, _walk(fs, path)
        elif _WILDCARDS & set(path):
            root, pattern = _root_and_pattern(fs, path)
            matches = cast(dict[str, dict[str, Any]], fs.glob(f"{glob.escape(root)}/{pattern}", detail=True))
            found = {name: entry.get("size") for name, entry in matches.items() if _is_file(fs, name, entry)}
        else:
            raise DataError(f"there is no data at {uri}; check {named}")
    root = root.rstrip("/")
    files: dict[str, tuple[str, int]] = {}
    for name in sorted(found):
        relative = name[len(root) :].lstrip("/")
        _check_name(relative, uri)
        files[relative] = (_uri(fs, name), int(found[name] or 0))
    return _uri(fs, root), files


def _root_and_pattern(fs: fsspec.AbstractFileSystem, path: str) -> tuple[str, str]:
    """The folder above the first wildcard; a folder that is there under a name such as ``w[1]`` is none."""
    parts = path.split("/")
    first = next(i for i, part in enumerate(parts) if _WILDCARDS & set(part))
    while first < len(parts) - 1 and _info(fs, "/".join(parts[: first + 1])) is not None:
        first = next((i for i in range(first + 1, len(parts)) if _WILDCARDS & set(parts[i])), len(parts) - 1)
    return "/".join(parts[:first]), "/".join(parts[first:])


def _info(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    try:
        return fs.info(path)
    except FileNotFoundError:
        return None


def _is_file(fs: fsspec.AbstractFileSystem, path: str, info: dict[str, Any]) -> bool:
    # fsspec calls a local link neither a file nor a directory
    return os.path.isfile(path) if _is_local(fs) else info["type"] == "file"


def _walk(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, int | None]:
    if _is_local(fs):
        return dict(_walk_local(path, (os.path.realpath(path),)))
    entries = cast(dict[str, dict[str, Any]], fs.find(path, detail=True))
    # object stores mark an empty folder with an object whose name ends in a slash
    return {n: e.get("size") for n, e in entries.items() if e["type"] == "file" and not n.endswith("/") and n != path}


def _walk_local(path: str, above: tuple[str, ...]) -> Iterator[tuple[str, int | None]]:
    # fsspec's own find does not enter linked folders, which would lose their pictures silently.
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in above:  # a link to a folder above would go round forever
                    yield from _walk_local(entry.path, (*above, real))
            elif entry.is_file():
                yield entry.path, entry.stat().st_size
            else:  # a dangling link or a device: listed, so that it is accounted for and not lost
                yield entry.path, 0


def _check_name(relative: str, uri: str) -> None:
    try:
        relative.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the file name {relative!r} under {uri} is not UTF-8 and cannot be an id; rename it"
        ) from error


def _uri(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return path if _is_local(fs) else str(fs.unstrip_protocol(path))


def _is_local(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]

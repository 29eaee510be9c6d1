"""The members of a tar file, from first to last: also of several tars that were glued together."""

import contextlib
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from taft_ray.data import access
from taft_ray.data.source_file import SourceFile
from taft_ray.errors import DataError

_BLOCK = 512
_SCAN = 1 << 20


@contextlib.contextmanager
def opened(file: SourceFile) -> Iterator[BinaryIO]:
    """The file's handle; what tarfile raises inside the block is a DataError."""
    with access.reading(file.uri), access.open_file(file.uri) as handle:
        try:
            yield handle
        except tarfile.TarError as error:
            raise DataError(
                f"{file.uri} is not a whole, uncompressed tar: {error}; write it again, or decompress it"
            ) from error


def members(file: SourceFile, handle: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Every member, in order; DataError where the file ends, or goes on, as no tar does.

    The caller may seek in the handle between two members.
    """
    start: int | None = 0
    while start is not None:
        handle.seek(start)
        with tarfile.open(fileobj=handle, mode="r:") as tar:
            yield from tar
            end = tar.offset
        start = _next_archive(file, handle, end)


def is_plain(member: tarfile.TarInfo) -> bool:
    """Whether the member's bytes lie in the archive as they are: a regular file without holes."""
    return member.isreg() and not member.issparse()


def content(handle: BinaryIO, member: tarfile.TarInfo) -> bytes:
    """The bytes of a regular member."""
    handle.seek(member.offset_data)
    read = handle.read(member.size)
    if len(read) != member.size:
        raise tarfile.ReadError(f"member {member.name} ends after {len(read)} of {member.size} bytes")
    return read


def _next_archive(file: SourceFile, handle: BinaryIO, end: int) -> int | None:
    """Where another tar begins behind the end of one; None where only zeros follow.

    tarfile takes a damaged header for the end: only the block of zeros says that nothing was lost.
    """
    handle.seek(end)
    block = handle.read(_BLOCK)
    if len(block) < _BLOCK or any(block):
        raise DataError(f"{file.uri} is cut off or damaged at byte {end} of {file.size}; write it again")
    at = end + _BLOCK
    while chunk := handle.read(_SCAN):
        rest = chunk.lstrip(b"\0")
        if rest:
            return at + (len(chunk) - len(rest)) // _BLOCK * _BLOCK
        at += len(chunk)
    return None

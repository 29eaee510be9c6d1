"""A PNG's chunks: the file without those that no pixel needs, and how many of its bits are significant."""

from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# all that decides the pixels, and which way up they are
_NEEDED = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sBIT", b"eXIf"})
_FRAME = 12  # bytes of a chunk around its content: length, name, checksum


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, end) of each chunk; the last one may be cut off."""
    at = len(_SIGNATURE)
    while at + 8 <= len(data):
        end = at + _FRAME + int.from_bytes(data[at : at + 4])
        yield data[at + 4 : at + 8], at, end
        at = end


def without_comments(data: bytes) -> bytes | None:
    """A PNG without texts, colour profile and other chunks that no pixel needs; None for one without such, or no PNG."""
    if not data.startswith(_SIGNATURE):
        return None
    kept = [data[at:end] for name, at, end in _chunks(data) if name in _NEEDED]
    slim = b"".join([_SIGNATURE, *kept])
    return slim if len(slim) < len(data) else None


def significant_bits(data: bytes) -> int | None:
    """The significant bits of grey, or of the colour that has most, as the chunk sBIT says; None where there is none."""
    if not data.startswith(_SIGNATURE):
        return None
    for name, at, _ in _chunks(data):
        if name == b"sBIT":
            colours = 3 if int.from_bytes(data[at : at + 4]) >= 3 else 1  # what follows is of alpha
            return max(data[at + 8 : at + 8 + colours], default=None)
        if name == b"IDAT":
            return None
    return None

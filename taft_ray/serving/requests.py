"""HTTP requests of a serving as bytes: who is let in, how much is read, and the pictures in a body. Needs neither torch nor ray."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from taft_ray.errors import UsageError

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_HEADERS_MOST = 8192  # bytes of the headers of a part
SHORTEST_TOKEN = 16
_OWN = ("127.0.0.1", "::1")


class Refused(Exception):
    """A request that is answered with ``status`` and one sentence."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)  # as they are: it travels between processes
        self.status, self.why = status, why

    def __str__(self) -> str:
        return self.why


def token_digests(file: str) -> tuple[str, ...]:
    """SHA-256, as hex, of each token in a file: one per line. UsageError where there is none, or one is short."""
    try:
        return digests_of(Path(file).expanduser().read_text(), f"--token-file {file}")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {file} cannot be read: {error}; give a file with a token per line") from error


def digests_of(text: str, where: str) -> tuple[str, ...]:
    """`token_digests` of a text. where: what an error calls it."""
    tokens = text.split()
    if not tokens:
        raise UsageError(f"{where} is empty; write a token of {SHORTEST_TOKEN} or more characters there")
    if any(len(token) < SHORTEST_TOKEN for token in tokens):
        raise UsageError(f"{where}: expected tokens of {SHORTEST_TOKEN} or more characters; make a longer one")
    return tuple(hashlib.sha256(token.encode()).hexdigest() for token in tokens)


def check_access(authorization: str, caller: str, tokens: Sequence[str]) -> None:
    """Refused (401) unless the caller has one of the tokens; without tokens, unless it is on this machine (403)."""
    if not tokens:
        if caller not in _OWN:
            raise Refused(403, "this serving has no tokens, and answers callers on its own machine alone")
        return
    kind, _, token = authorization.partition(" ")
    given = hashlib.sha256(token.strip().encode()).hexdigest()
    matches = [hmac.compare_digest(given, known) for known in tokens]  # all of them: the time tells nothing
    if kind.lower() != "bearer" or not any(matches):
        raise Refused(401, "expected the header 'Authorization: Bearer TOKEN' with a token of this serving")


async def read_body(chunks: AsyncIterator[bytes], declared: str, most: int) -> bytes:
    """The body of a request; Refused (413) as soon as it is, or says that it is, longer than ``most`` bytes."""
    too_long = Refused(413, f"a request may have {most:,} bytes; send fewer or smaller pictures")
    if declared.isdecimal() and int(declared) > most:
        raise too_long
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > most:
            raise too_long
    return bytes(body)


def pictures_in(body: bytes, content_type: str, most: int) -> list[bytes]:
    """The encoded pictures of a body: itself, or the parts of multipart/form-data in their order.

    Refused: 400 for a body that is none, 413 for more than ``most`` pictures.
    """
    if not content_type.strip().lower().startswith("multipart/"):
        if not body:
            raise Refused(400, "the body is empty; send the bytes of a picture, or several as multipart/form-data")
        return [body]
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Refused(400, "the multipart body names no boundary; let a library make it")
    parts = _parts(body, b"--" + (found[1] or found[2]).encode("latin-1"), most)
    if not parts:
        raise Refused(400, "the multipart body has no part; send the bytes of a picture in each")
    return parts


def _parts(body: bytes, mark: bytes, most: int) -> list[bytes]:
    """The contents between the boundaries (RFC 2046, 5.1.1)."""
    begin = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    if begin == 1:
        raise Refused(400, "the multipart body does not have its boundary")
    parts: list[bytes] = []
    at = begin + len(mark)
    while True:
        if body.startswith(b"--", at):
            return parts
        head = body.find(b"\r\n", at)  # behind the boundary may be white space
        end = body.find(b"\r\n" + mark, at)
        if head == -1 or end == -1 or body[at:head].strip(b" \t"):
            raise Refused(400, "the multipart body is cut off, or no multipart body")
        first = body.find(b"\r\n\r\n", head, min(head + _HEADERS_MOST, end + 4))
        if first == -1:
            raise Refused(400, "a part of the multipart body has no end of its headers")
        if len(parts) == most:
            raise Refused(413, f"a request may have {most:,} pictures; send several requests")
        parts.append(body[first + 4 : end] if first + 4 <= end else b"")
        at = end + 2 + len(mark)

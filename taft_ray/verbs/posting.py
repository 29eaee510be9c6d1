"""A JSON document sent by POST: over https alone (http on this machine), tried again with back-off, never to another place.

Guarantees: at most `TRIES` tries, each with a time limit. A redirect is followed within the same scheme, host and port alone. No
error names more of the URL than its scheme and host, for the rest may be a secret.
"""

from __future__ import annotations

import http.client
import random
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from taft_ray.errors import UsageError
from taft_ray.version import VERSION

TRIES = 5
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_REDIRECTS = 3
_READ, _TOLD = 64 << 10, 200  # bytes of an answer that are read, and characters that are kept
_HERE = ("127.0.0.1", "localhost", "::1")
_KEEPS_POST = (307, 308)
_COMES_AGAIN = (408, 425, 429)  # beside 5xx: the same may be accepted later
_EXPECTED = "expected https://host/path; http:// is for 127.0.0.1 and localhost alone"


@dataclass(frozen=True)
class Posted:
    """How a POST ended. status, answer: of the last answer, None and "" where there was none. problem: None where it was accepted."""

    status: int | None
    answer: str
    problem: str | None
    tries: int


def origin(url: str) -> str:
    """Scheme, host and port of a URL. UsageError for one that nothing may be sent to."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # which may be no number
    except ValueError as error:
        raise UsageError(f"--notify: not a URL ({error}); {_EXPECTED}") from error
    if not host or parts.scheme not in ("https", "http") or (parts.scheme == "http" and host not in _HERE):
        raise UsageError(f"--notify {parts.scheme or '?'}://{host or ''}: {_EXPECTED}")
    if parts.username is not None or parts.password is not None:
        raise UsageError("--notify has a user or a password in the URL; give a URL without")
    return _origin(parts)


def _origin(parts: SplitResult) -> str:
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout: float = 10.0,
    tries: int = TRIES,
    pause: Callable[[float], None] = time.sleep,
) -> Posted:
    """Send ``body`` until a 2xx answers it, or it is refused for good, or nobody took it in so many tries.

    timeout: seconds for a connection, and for an answer. pause: waits between tries.
    """
    origin(url)
    told = Posted(None, "", "it was not tried", 0)
    for attempt in range(1, tries + 1):
        told, again = _try(url, body, headers, timeout, attempt)
        if not again:
            return told
        if attempt < tries:
            pause(min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25))
    return told


def _try(url: str, body: bytes, headers: Mapping[str, str], timeout: float, attempt: int) -> tuple[Posted, bool]:
    """One try, and whether another makes sense."""
    for _ in range(_REDIRECTS + 1):
        try:
            status, answer, location = _once(url, body, headers, timeout)
        except TimeoutError:
            return Posted(None, "", f"no answer in {timeout:g} s", attempt), True
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return Posted(None, "", f"no answer in {timeout:g} s", attempt), True
            told = f"no answer: {type(reason).__name__}: {str(reason)[:_TOLD]}"
            return Posted(None, "", told, attempt), not isinstance(reason, ssl.SSLCertVerificationError)
        if 200 <= status < 300:
            return Posted(status, answer, None, attempt), False
        if not 300 <= status < 400:
            again = status >= 500 or status in _COMES_AGAIN
            return Posted(status, answer, f"refused with status {status}", attempt), again
        target = _target(url, location)
        if status not in _KEEPS_POST or target is None or _place(target) != _place(url):
            place = "nowhere" if target is None else _place(target)
            told = f"redirected with status {status} to {place}, which is not followed; give the final URL as --notify"
            return Posted(status, answer, told, attempt), False
        url = target
    return Posted(None, "", f"redirected more than {_REDIRECTS} times", attempt), False


def _target(url: str, location: str | None) -> str | None:
    """The URL that a redirect names; None where it names none."""
    try:
        return None if location is None else urljoin(url, location)
    except ValueError:
        return None


def _place(url: str) -> str:
    try:
        return _origin(urlsplit(url))
    except ValueError:
        return "no URL"


def _once(url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> tuple[int, str, str | None]:
    """Status, text and location of the answer."""
    more = {"Content-Type": "application/json", "User-Agent": f"taft_ray/{VERSION}", **headers}
    request = urllib.request.Request(url, data=body, headers=more, method="POST")
    ends = time.monotonic() + timeout
    try:
        answer = _opener(urlsplit(url).hostname in _HERE).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status or 0, _text(answer, ends), answer.headers.get("Location")


def _opener(here: bool) -> urllib.request.OpenerDirector:
    """Opens http and https, through the environment's proxies unless the place is ``here``; redirects are left as they are."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler({} if here else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _text(answer: Any, ends: float) -> str:
    """The beginning of an answer's body; what comes too late, or too long, is left."""
    data = b""
    while len(data) < _READ:
        if time.monotonic() > ends:
            raise TimeoutError
        piece = answer.read1(_READ - len(data))
        if not piece:
            break
        data += piece
    text = data.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text)[:_TOLD].strip()

"""Access to the page: a token where it can be reached from elsewhere, sessions of browsers, and forms that no other site can send.

Guarantees: a token is compared in constant time and is in no cookie, log or page. A session's cookie is sent by this site's own pages
alone (SameSite=Strict) and read by no script (HttpOnly). A page on this machine answers to this machine's names alone, so that no
other site's name can point here.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from pathlib import Path

from taft_ray.errors import UsageError

LEAST = 16  # characters of a token
COOKIE = "taft_ray_page"
SESSION_S = 12 * 3600.0
_MOST_SESSIONS = 1000
_REFUSED_S = 0.5  # a wrong token is answered after this, one at a time


def read_token(file: str) -> str:
    """The token of a file, without the white space around it; UsageError where there is none to use."""
    try:
        token = Path(file).expanduser().read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"--token-file {file} cannot be read: {error}") from error
    if len(token) < LEAST or not token.isprintable() or " " in token:
        raise UsageError(
            f"--token-file {file}: expected at least {LEAST} characters without spaces. "
            "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token


def is_this_machine(host: str) -> bool:
    """Whether an address to bind, or the name in a Host header, can only be this machine's."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """The right to see the page. token: None lets everybody on this machine in."""

    def __init__(self, host: str, token: str | None) -> None:
        if token is None and not is_this_machine(host):
            raise UsageError(
                f"--host {host} can be reached from elsewhere: give --token-file FILE, or leave --host out"
            )
        self._token = None if token is None else token.encode()
        self._local = is_this_machine(host)
        self._secret = secrets.token_bytes(32)
        self._sessions: dict[str, float] = {}  # when each ends
        self._lock, self._refusing = threading.Lock(), threading.Lock()

    @property
    def needs_token(self) -> bool:
        return self._token is not None

    def is_known_host(self, host: str) -> bool:
        """Whether the Host header is one that this page answers to."""
        if not self._local:
            return True
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return is_this_machine(name.removeprefix("[").removesuffix("]"))

    def allows(self, headers: Mapping[str, str]) -> bool:
        """Whether a request may see pages: by a session, or by the token as a bearer's."""
        if self._token is None or self.session(headers) is not None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self._is_token(given.strip())

    def session(self, headers: Mapping[str, str]) -> str | None:
        """The session of a browser, while it lasts."""
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return None
        with self._lock:
            lasts = found is not None and self._sessions.get(found.value, 0.0) > time.monotonic()
        return found.value if found is not None and lasts else None

    def begin(self, token: str, *, secure: bool) -> str | None:
        """Begin a session where the token is right: the Set-Cookie header; None, after a while, where it is wrong."""
        if not self._is_token(token):
            with self._refusing:
                time.sleep(_REFUSED_S)
            return None
        name, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            self._sessions = {one: ends for one, ends in self._sessions.items() if ends > now}
            while len(self._sessions) >= _MOST_SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))
            self._sessions[name] = now + SESSION_S
        return (
            f"{COOKIE}={name}; Path=/; HttpOnly; SameSite=Strict; Max-Age={SESSION_S:.0f}{'; Secure' if secure else ''}"
        )

    def _is_token(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    def csrf(self, session: str) -> str:
        """The secret that a form of this session carries."""
        return hmac.new(self._secret, session.encode(), "sha256").hexdigest()

    def is_own_form(self, session: str, given: str, headers: Mapping[str, str]) -> bool:
        """Whether a form was sent by a page of this session, and by this site where the browser says so."""
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            return False
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.csrf(session).encode())

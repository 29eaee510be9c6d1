"""The HTTP server of the page: sockets, headers, limits and streams of events. Everything else is in `routes`."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from taft_ray.errors import UsageError
from taft_ray.log import logger_of
from taft_ray.web.access import Access
from taft_ray.web.forgetting import Forgets
from taft_ray.web.reading import Readings
from taft_ray.web.routes import POLICY, Request, Response, Site

_MOST_BODY = 8 << 20  # bytes of a form: a hundred thousand ids
_MOST_STREAMS = 64
_LOOK_S, _BEAT_S, _STREAM_S = 2.0, 15.0, 600.0  # between looks at the storage, signs of life; the end of a stream
_PATIENCE_S = 30.0  # with a browser that sends or takes nothing
_log = logger_of(__name__)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PageServer(ThreadingHTTPServer):
    """A server of one site. A thread per connection; each ends with the process."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], site: Site) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.site = site
        self.streams = threading.BoundedSemaphore(_MOST_STREAMS)
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://[{host}]:{port}/" if ":" in str(host) else f"http://{host!s}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is no fault, and a browser's address belongs in no log."""
        _log.info("a connection ended early")


def page_server(
    uri: str, *, host: str = "127.0.0.1", port: int = 8550, token: str | None = None, allow_forget: bool = False
) -> PageServer:
    """A server of the runs at ``uri``, bound and not begun: `serve_forever` begins. port: 0 takes any that is free.

    UsageError for a host that needs a token, a form without one, and an address that cannot be had.
    """
    if allow_forget and token is None:
        raise UsageError("--allow-forget changes runs: give --token-file FILE too")
    site = Site(Readings(uri), Access(host, token), Forgets() if allow_forget else None)
    try:
        return PageServer((host, port), site)
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen at {host}, port {port}: {error}; choose another --port") from error


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "taft-ray", ""
    timeout = _PATIENCE_S
    server: PageServer  # type: ignore[assignment]  # the base class's is any server

    def do_GET(self) -> None:
        request = self._request()
        seen = self.server.site.events_of(request) if request.path.endswith("/events") else None
        if seen is None:
            self._send(self.server.site.answer(request))
            return
        refused = self.server.site.allowed(request)
        if refused is not None:
            self._send(refused)
        elif not self.server.streams.acquire(blocking=False):
            self._send(Response(503, b"too many pages are open", "text/plain", {"Retry-After": "30"}))
        else:
            try:
                self._stream(seen)
            finally:
                self.server.streams.release()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MOST_BODY:
            self.close_connection = True
            self._send(Response(413, b"the form is too long, or has no length", "text/plain"))
            return
        body = self.rfile.read(int(length))
        try:
            pairs = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=20)
        except ValueError:
            self._send(Response(400, b"the form cannot be read", "text/plain"))
            return
        self._send(self.server.site.answer(self._request({name: values[-1] for name, values in pairs.items()})))

    def _request(self, form: dict[str, str] | None = None) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.command, self.path, headers, form or {})

    def _send(self, answer: Response) -> None:
        self.send_response(answer.status)
        for name, value in {**_HEADERS, "Content-Type": answer.kind, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _stream(self, seen: Callable[[], str]) -> None:
        """Say each change of what is seen; the browser says by Last-Event-ID what it saw last."""
        self.close_connection = True
        self.send_response(200)
        for name, value in {**_HEADERS, "Content-Type": "text/event-stream", "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        last, began, beat = self._known(), time.monotonic(), 0.0
        while time.monotonic() - began < _STREAM_S:
            now = seen()
            if now != last:
                self.wfile.write(f"id: {now}\ndata: {now}\n\n".encode())
                last, beat = now, time.monotonic()
            elif time.monotonic() - beat > _BEAT_S:
                self.wfile.write(b": alive\n\n")
                beat = time.monotonic()
            self.wfile.flush()
            time.sleep(_LOOK_S)

    def _known(self) -> str | None:
        """The state that the page shows: the last event that the browser got, or what its address says."""
        asked = parse_qs(urlsplit(self.path).query, max_num_fields=20).get("seen")
        return self.headers.get("Last-Event-ID") or (asked[-1] if asked else None)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: addresses of requests and browsers are in no log."""

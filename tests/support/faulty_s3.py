"""A faulty road to a real S3 server: a proxy on 127.0.0.1 that spoils a given fraction of requests, and counts them.

    with s3_server(folder) as server, faulty_s3(server.endpoint, fraction=0.05, seed=1) as proxy:
        environment = proxy.environment(server, tmp_path / "site", read_timeout_s=1.0)
        subprocess.run([...], env={**os.environ, **environment})
        assert proxy.count(*FAULTS) > 0

Requests and answers go on byte for byte, so that signatures hold (the client signs the proxy's address as Host).
`environment` also shortens the read timeout in that process and in all it starts (Ray's workers too). Else each request
without an answer costs 15 s.
"""

import os
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from s3_server import S3Server

SLOW_DOWN = "503 before the server saw it"
CUT_BEFORE = "connection cut before the server saw it"
CUT_AFTER = "connection cut after the server acted"
CUT_WITHIN = "connection cut within the answer"
SILENT_BEFORE = "no answer, the server never saw it"
SILENT_AFTER = "no answer, though the server acted"
FAULTS = (SLOW_DOWN, CUT_BEFORE, CUT_AFTER, CUT_WITHIN, SILENT_BEFORE, SILENT_AFTER)
UNSEEN = (SLOW_DOWN, CUT_BEFORE, SILENT_BEFORE)
SILENT = (SILENT_BEFORE, SILENT_AFTER)

_WEIGHTS = (2, 1, 1, 1, 0.5, 0.5)  # a third 503, somewhat more cut, the slow ones last
_HOLD_S = 60.0  # how long a request without an answer is held, if the client does not leave before
_TOO_BUSY = (
    b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>"
)

_TIMEOUT_VARIABLE = "TAFT_RAY_TESTS_READ_TIMEOUT_S"
_SITE = f'''
"""Shortens the read timeout of storage as soon as it is imported (Python imports this module when it starts)."""
import os, sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

class _Shorten(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "taft_ray.storage.remote":
            return None
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            module.READ_TIMEOUT_S = float(os.environ["{_TIMEOUT_VARIABLE}"])
        spec.loader.exec_module = exec_module
        return spec

if "{_TIMEOUT_VARIABLE}" in os.environ:
    sys.meta_path.insert(0, _Shorten())
'''


@dataclass(frozen=True)
class _Message:
    """An HTTP message as it came: its first line and headers, and its body."""

    head: bytes
    body: bytes

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])


class FaultyS3:
    """The proxy in front of `upstream`: each request meets a fault with probability `fraction`, drawn from `seed`.

    `faults` limits the kinds. Each HTTP method has draws of its own. With several connections, which request meets which fault
    is a matter of time. But the faults that the first n requests of a method meet in all are not.
    """

    def __init__(self, upstream: str, *, fraction: float, seed: int, faults: tuple[str, ...] = FAULTS) -> None:
        where = urlsplit(upstream)
        assert where.hostname is not None
        assert where.port is not None
        self._upstream = (where.hostname, where.port)
        self.fraction = fraction
        self.faults = faults
        self._seed = seed
        self._draws: dict[str, random.Random] = {}
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._methods: Counter[tuple[str, str]] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._connections: set[socket.socket] = set()
        self._stopped = False
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def counts(self) -> dict[str, int]:
        """Counts of what was done so far: requests in all, and each kind of fault."""
        with self._lock:
            return dict(self._counts)

    def count(self, *faults: str, method: str | None = None) -> int:
        """How many requests (of an HTTP method) met one of these faults."""
        with self._lock:
            return sum(n for (kind, of), n in self._methods.items() if kind in faults and method in (None, of))

    def environment(self, server: S3Server, site: Path, *, read_timeout_s: float) -> dict[str, str]:
        """The variables that a process needs to use the server through this proxy with a short read timeout.

        Writes a ``sitecustomize.py`` into `site`. For processes started with it, not for the one that is running:
        there set the variables by `monkeypatch` and `taft_ray.storage.remote.READ_TIMEOUT_S` too.
        """
        site.mkdir(parents=True, exist_ok=True)
        (site / "sitecustomize.py").write_text(_SITE)
        paths = [str(site), os.environ.get("PYTHONPATH", "")]
        return {
            **server.environment,
            "AWS_ENDPOINT_URL": self.endpoint,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            _TIMEOUT_VARIABLE: str(read_timeout_s),
        }

    def stop(self) -> None:
        self._stopped = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._stopped:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One connection of a client, until either side ends it or a fault does."""
        with self._lock:
            self._connections.add(client)
        try:
            with client, client.makefile("rb") as reader, suppress(OSError, EOFError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with socket.create_connection(self._upstream, timeout=_HOLD_S) as server:
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    with server.makefile("rb") as answers:
                        while self._exchange(client, reader, server, answers):
                            pass
        finally:
            with self._lock:
                self._connections.discard(client)

    def _exchange(self, client: socket.socket, reader: BinaryIO, server: socket.socket, answers: BinaryIO) -> bool:
        """One request and its answer; whether the connection goes on."""
        request = _read_request(reader, client)
        if request is None:
            return False
        fault = self._draw(request.method)
        if fault == SLOW_DOWN:
            body = b"" if request.method == "HEAD" else _TOO_BUSY
            head = f"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            return True
        if fault not in UNSEEN:
            server.sendall(request.head + request.body)
            answer = _read_answer(answers, request.method)
            whole = answer.head + answer.body
            if fault is None:
                client.sendall(whole)
                return _field(answer.head, b"connection") != b"close"
            if fault == CUT_WITHIN:
                client.sendall(whole[: max(1, len(whole) // 2)])
        if fault in SILENT:
            self._hold(client)
        return False

    def _draw(self, method: str) -> str | None:
        with self._lock:
            self._counts["requests"] += 1
            weights = [_WEIGHTS[FAULTS.index(fault)] for fault in self.faults]
            draws = self._draws.setdefault(method, random.Random(f"{self._seed} {method}"))
            fault = draws.choices(self.faults, weights)[0] if draws.random() < self.fraction else None
            if fault is not None:
                self._counts[fault] += 1
                self._methods[fault, method] += 1
            return fault

    def _hold(self, client: socket.socket) -> None:
        """Say nothing until the client has given up."""
        until = time.monotonic() + _HOLD_S
        while time.monotonic() < until and not self._stopped:
            if select.select([client], [], [], 0.25)[0] and not client.recv(1, socket.MSG_PEEK):
                return


@contextmanager
def faulty_s3(upstream: str, *, fraction: float, seed: int, faults: tuple[str, ...] = FAULTS) -> Iterator[FaultyS3]:
    proxy = FaultyS3(upstream, fraction=fraction, seed=seed, faults=faults)
    try:
        yield proxy
    finally:
        proxy.stop()


def _read_request(reader: BinaryIO, client: socket.socket) -> _Message | None:
    head = _read_head(reader)
    if not head:
        return None
    if _field(head, b"expect") == b"100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    return _Message(head, _read_body(reader, head, until_end=False))


def _read_answer(reader: BinaryIO, method: str) -> _Message:
    while True:
        head = _read_head(reader)
        if not head:
            raise EOFError("the server hung up")
        status = _Message(head, b"").status
        if status >= 200:  # else: go on sending
            break
    if method == "HEAD" or status in (204, 304):
        return _Message(head, b"")
    return _Message(head, _read_body(reader, head, until_end=True))


def _read_head(reader: BinaryIO) -> bytes:
    lines = []
    while line := reader.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _read_body(reader: BinaryIO, head: bytes, *, until_end: bool) -> bytes:
    length = _field(head, b"content-length")
    if length is not None:
        return _exactly(reader, int(length))
    if _field(head, b"transfer-encoding") != b"chunked":
        return reader.read() if until_end else b""
    parts = []
    while True:
        size = reader.readline()
        parts.append(size)
        if count := int(size.split(b";")[0], 16):
            parts.append(_exactly(reader, count + 2))
            continue
        while line := reader.readline():  # trailers, up to an empty line
            parts.append(line)
            if line == b"\r\n":
                break
        return b"".join(parts)


def _exactly(reader: BinaryIO, count: int) -> bytes:
    data = reader.read(count)
    if len(data) < count:
        raise EOFError("the connection ended within a message")
    return data


def _field(head: bytes, name: bytes) -> bytes | None:
    """A header's value in lower case."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().lower()
    return None

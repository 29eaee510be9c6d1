"""An HTTP server on this machine that takes notices of recalls, or answers as a test says."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Said = tuple[int, Mapping[str, str], bytes]
OK: Said = (200, {}, b"taken")


@dataclass
class Received:
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class NoticeServer:
    """says: the answer to the n-th request (from 0). hung: set at the end, for those that wait."""

    says: Callable[[int, Received], Said]
    received: list[Received] = field(default_factory=list)
    hung: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def hang(self) -> Said:
        """Answer nothing until the test ends."""
        self.hung.wait(60)
        return OK


@contextmanager
def notice_server(says: Callable[[int, Received], Said] | None = None) -> Iterator[NoticeServer]:
    """A server on a port of its own; by default it takes everything."""
    server = NoticeServer(says or (lambda number, received: OK))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received = Received(self.path, dict(self.headers), body)
            server.received.append(received)
            status, headers, answer = server.says(len(server.received) - 1, received)
            try:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)
            except OSError:
                pass  # nobody waits any more

        do_GET = do_POST

        def log_message(self, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

    with Quiet(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.hung.set()
            http.shutdown()
            thread.join()

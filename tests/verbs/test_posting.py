"""A notice is sent until it is taken, and to nobody else: refusals, silence and redirects of a real server."""

import itertools
import socket
import threading

import pytest
from notice_server import OK, notice_server

from taft_ray.errors import UsageError
from taft_ray.verbs.posting import TRIES, origin, post

BODY, HEADERS = b'{"a":1}', {"Idempotency-Key": "k"}


def nowait(seconds: float) -> None:
    assert 0 < seconds <= 10


def test_refused_twice_and_then_taken() -> None:
    with notice_server(lambda number, _: (503, {}, b"later") if number < 2 else OK) as server:
        told = post(f"{server.url}/recalls?token=t", BODY, HEADERS, pause=nowait)
    assert (told.status, told.answer, told.problem, told.tries) == (200, "taken", None, 3)
    assert [one.body for one in server.received] == [BODY] * 3
    assert {one.headers["Idempotency-Key"] for one in server.received} == {"k"}
    assert {one.path for one in server.received} == {"/recalls?token=t"}


def test_pauses_grow() -> None:
    pauses: list[float] = []
    with notice_server(lambda *_: (500, {}, b"")) as server:
        told = post(server.url, BODY, HEADERS, pause=pauses.append)
    assert (told.status, told.problem, told.tries) == (500, "refused with status 500", TRIES)
    assert len(server.received) == TRIES
    assert all(later > earlier for earlier, later in itertools.pairwise(pauses))


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_refusal_for_good_is_not_tried_again(status: int) -> None:
    with notice_server(lambda *_: (status, {}, "kein \x1b[31mGerät\n".encode())) as server:
        told = post(server.url, BODY, HEADERS, pause=nowait)
    assert (told.status, told.tries, len(server.received)) == (status, 1, 1)
    assert told.answer == "kein  [31mGerät", "nothing that a terminal would obey"


def test_silent_server_is_given_up() -> None:
    with notice_server(lambda *_: server.hang()) as server:
        told = post(server.url, BODY, HEADERS, timeout=0.1, tries=2, pause=nowait)
    assert (told.status, told.problem, told.tries) == (None, "no answer in 0.1 s", 2)


def test_answer_that_trickles_is_given_up() -> None:
    """Each byte comes in time, and the answer does not."""
    ended = threading.Event()

    def trickle(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not ended.wait(0.02):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=trickle, args=(listening,))
        thread.start()
        told = post(f"http://127.0.0.1:{listening.getsockname()[1]}", BODY, HEADERS, timeout=0.3, tries=1, pause=nowait)
        ended.set()
        thread.join()
    assert (told.status, told.problem) == (None, "no answer in 0.3 s")


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    told = post(f"http://127.0.0.1:{port}/secret-path", BODY, HEADERS, tries=2, pause=nowait)
    assert told.status is None
    assert told.tries == 2
    assert told.problem is not None
    assert "refused" in told.problem
    assert "secret-path" not in told.problem


def test_redirect_to_another_host_is_not_followed() -> None:
    with notice_server() as other, notice_server(lambda *_: (307, {"Location": f"{other.url}/x"}, b"")) as server:
        told = post(server.url, BODY, HEADERS, pause=nowait)
        assert other.received == []
    assert told.status == 307
    assert told.problem is not None
    assert "is not followed" in told.problem
    assert other.url in told.problem


@pytest.mark.parametrize("location", ["https://127.0.0.1/x", "file:///etc/passwd", "http://[x", None])
def test_redirect_to_another_scheme_or_nowhere_is_not_followed(location: str | None) -> None:
    headers = {} if location is None else {"Location": location}
    with notice_server(lambda *_: (308, headers, b"")) as server:
        told = post(server.url, BODY, HEADERS, pause=nowait)
    assert (told.status, told.tries) == (308, 1)
    assert told.problem is not None


@pytest.mark.parametrize("status", [301, 302, 303])
def test_redirect_that_would_lose_the_body_is_not_followed(status: int) -> None:
    with notice_server(lambda *_: (status, {"Location": "/moved"}, b"")) as server:
        told = post(server.url, BODY, HEADERS, pause=nowait)
    assert (told.status, len(server.received)) == (status, 1)


def test_redirect_within_the_host_is_followed_with_the_body_and_not_for_ever() -> None:
    with notice_server(lambda number, _: (308, {"Location": "/moved"}, b"") if number == 0 else OK) as server:
        told = post(f"{server.url}/here", BODY, HEADERS, pause=nowait)
    assert (told.status, told.tries) == (200, 1)
    assert [(one.path, one.body) for one in server.received] == [("/here", BODY), ("/moved", BODY)]
    with notice_server(lambda *_: (307, {"Location": "/again"}, b"")) as server:
        told = post(server.url, BODY, HEADERS, pause=nowait)
    assert told.problem == "redirected more than 3 times"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x", "ftp://127.0.0.1/x", "127.0.0.1:80", "https://", "https:///x", "", "http://127.0.0.1.example.org",
        "https://user:secret@example.org/x", "http://127.0.0.1:port/", "http://localhost@example.org/", "https://[x",
    ],
)  # fmt: skip
def test_url_that_nothing_may_be_sent_to_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--notify") as error:
        origin(url)
    assert "secret" not in str(error.value)
    with pytest.raises(UsageError):
        post(url, BODY, HEADERS)


def test_origin_is_all_that_is_told_of_a_url() -> None:
    assert origin("https://Example.org/hook/token?x=1") == "https://example.org:443"
    assert origin("http://[::1]:8000/x") == "http://[::1]:8000"
    assert origin("http://localhost/x") == "http://localhost:80"

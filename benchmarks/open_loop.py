"""An open-loop load on a serving: requests at their times, whether or not earlier ones were answered; and replicas to kill."""

import http.client
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlparse

import ray


@dataclass(frozen=True)
class Answered:
    """An answer. Times by the clock of this process (`time.time`): planned, sent and come. status: 0 where none came."""

    planned: float
    sent: float
    come: float
    status: int
    composed: str
    ledger: int


def post(url: str, picture: bytes, planned: float, headers: dict[str, str] | None = None, model: str = "") -> Answered:
    """POST a picture by a connection of its own. model: its name, where several are served."""
    place = urlparse(url)
    sent = time.time()
    try:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        connection.request("POST", f"{place.path.rstrip('/')}/predict/{model}", picture, headers or {})
        response = connection.getresponse()
        response.read()
        status, told = response.status, response.headers
        connection.close()
    except OSError:
        return Answered(planned, sent, time.time(), 0, "", -1)
    return Answered(
        planned, sent, time.time(), status, told.get("X-Taft-Composed", ""), int(told.get("X-Taft-Ledger", -1))
    )


@dataclass
class Load:
    """The answers to a load; read them when the block has ended."""

    answers: list[Answered] = field(default_factory=list)

    def failed(self) -> list[Answered]:
        return [one for one in self.answers if one.status != 200]

    def after(self, moment: float, digests: Sequence[str]) -> list[Answered]:
        """Answers that came after a moment with one of these models."""
        return [one for one in self.answers if one.come > moment and one.composed in digests]


@contextmanager
def load_on(
    url: str, pictures: Sequence[bytes], rate: float, headers: dict[str, str] | None = None, model: str = ""
) -> Iterator[Load]:
    """A load of so many requests per second until the block ends."""
    load, ended = Load(), threading.Event()

    def send() -> None:
        began = time.time()
        with ThreadPoolExecutor(64) as callers:
            number = 0
            while not ended.is_set():
                planned = began + number / rate
                if (wait := planned - time.time()) > 0:
                    ended.wait(wait)
                asked = callers.submit(post, url, pictures[number % len(pictures)], planned, headers, model)
                asked.add_done_callback(lambda done: load.answers.append(done.result()))
                number += 1

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield load
    finally:
        ended.set()
        sending.join()


def replicas_of(serving: str) -> list[str]:
    """The names of the actors that hold the models of a serving."""
    named = ray.util.list_named_actors(all_namespaces=True)
    wanted = f"SERVE_REPLICA::taft-ray-{serving}#replicas#"
    return sorted(one["name"] for one in named if one["name"].startswith(wanted))  # type: ignore[index, call-overload]


def kill(name: str) -> None:
    """End a replica at once, as a crash does."""
    ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)

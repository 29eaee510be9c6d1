"""Notes beside the ledger of what commands wait for. A note says nothing of what holds, and may go at any time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from taft_ray.errors import ObjectMissing
from taft_ray.jsonable import JsonObject
from taft_ray.storage import MALFORMED, Store, parse_json
from taft_ray.storage.rundir import WAITING_FOLDER

AGAIN_S = 30.0  # between two times that a note is written
FRESH_S = 150.0  # after the last, for clocks differ: then whoever wrote it has gone


@dataclass(frozen=True)
class Wait(JsonObject):
    """A command waits. by: who. what: for what. Times in unix seconds: since when, and when it said so last."""

    by: str
    what: str
    since: float
    told: float

    def __post_init__(self) -> None:
        kinds = (self.by, str), (self.what, str), (self.since, int | float), (self.told, int | float)
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise ValueError("a note of what is waited for has not the fields it should have")


def write(store: Store, name: str, wait: Wait) -> None:
    """Keep a note under a name of its own."""
    store.write(_key(name), json.dumps(wait.to_json()).encode())


def remove(store: Store, name: str) -> None:
    """Nothing is waited for any more."""
    store.erase([_key(name)])


def waits(store: Store, now: float) -> list[Wait]:
    """The waits that are fresh, the longest first."""
    return sorted((wait for _, wait in _notes(store) if wait and _is_fresh(wait, now)), key=lambda wait: wait.since)


def stale(store: Store, now: float) -> list[str]:
    """Keys of the notes that killed commands left."""
    return [key for key, wait in _notes(store) if wait is None or not _is_fresh(wait, now)]


def _is_fresh(wait: Wait, now: float) -> bool:
    return abs(now - wait.told) < FRESH_S


def _notes(store: Store) -> Iterator[tuple[str, Wait | None]]:
    """Each note; None for one that cannot be read."""
    for info in store.list(f"{WAITING_FOLDER}/"):
        try:
            yield info.key, Wait.from_json(parse_json(store.read(info.key)))
        except ObjectMissing:
            continue
        except (*MALFORMED, ValueError):
            yield info.key, None


def _key(name: str) -> str:
    return f"{WAITING_FOLDER}/{name}.json"

"""Replicas that serve a run, as they name themselves in its folder: a note each, before its first answer.

A note has a name of its own per incarnation. A replica whose lease has run out takes a new one. So a note without an
acknowledgement is dead once a lease from before has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.jsonable import JsonObject
from taft_ray.storage import MALFORMED, Store, canonical_json, parse_json
from taft_ray.storage.rundir import SERVING_FOLDER


@dataclass(frozen=True)
class ReplicaNote(JsonObject):
    """A replica's note. digests: of the models that it may answer with.

    number: of the latest ledger entry before which it answers with nothing that had to go; -1 before it has read any.

    left: models that it answered with and does no more, each with the number of the entry that it had read then.
    """

    serving: str
    replica: str
    number: int = -1
    digests: tuple[str, ...] = ()
    left: Mapping[str, int] = field(default_factory=dict)


def note_key(serving: str, replica: str) -> str:
    """Where a replica's note lies."""
    return f"{SERVING_FOLDER}/{serving}/{replica}.json"


def write_note(store: Store, note: ReplicaNote) -> None:
    """Keep a note, in the place of the replica's one before."""
    store.write(note_key(note.serving, note.replica), canonical_json(note.to_json()))


def remove_note(store: Store, serving: str, replica: str) -> None:
    """Forget a replica: it may answer no more."""
    store.erase([note_key(serving, replica)])


def remove_notes(store: Store, serving: str) -> None:
    """Forget all replicas of a serving: none may answer any more."""
    store.erase([info.key for info in store.list(f"{SERVING_FOLDER}/{serving}/")])


def notes_in(store: Store) -> dict[str, list[ReplicaNote]]:
    """The notes of all servings, from one listing: each serving's by the names of replicas.

    One that cannot be read counts as one of a replica that has acknowledged nothing.
    """
    found: dict[str, list[ReplicaNote]] = {}
    for info in sorted(store.list(f"{SERVING_FOLDER}/"), key=lambda info: info.key):
        folder, _, name = info.key.rpartition("/")
        serving, replica = folder.rpartition("/")[2], name.removesuffix(".json")
        try:
            note = ReplicaNote.from_json(parse_json(store.read(info.key)))
        except ObjectMissing:  # it has left meanwhile
            continue
        except (*MALFORMED, ValueError, IntegrityError):
            note = ReplicaNote(serving, replica)
        found.setdefault(serving, []).append(replace(note, serving=serving, replica=replica))
    return found

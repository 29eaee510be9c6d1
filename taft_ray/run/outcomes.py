"""Outcomes that were recorded in a run: what `verify` and `audit` answered, and of which ledger entry.

An outcome is a sealed JSON object in ``outcomes/``. Its name has the verb, and number and digest of the entry that was the newest
then. The same verb at the same entry takes the place of the outcome before. Nothing refers to an outcome, and no ledger entry vouches
for it: its seal finds damage, and not somebody who can seal.

Guarantees: an outcome names no sample. Keyed hashes of forgotten ones, and names of objects that are no part of a run, are left out.
The run's address is left out, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from taft_ray.errors import IntegrityError, ObjectMissing, StorageError
from taft_ray.storage import MALFORMED, Entry, Store
from taft_ray.storage.digest import seal, unseal
from taft_ray.storage.rundir import OUTCOMES_FOLDER, outcome_key, outcome_of
from taft_ray.version import VERSION

SCHEMA = "taft_ray.outcome/1"
VERIFY, AUDIT, AUDIT_PRIVACY, AUDIT_RECONSTRUCT = "verify", "audit", "audit-privacy", "audit-reconstruct"
VERBS = (VERIFY, AUDIT, AUDIT_PRIVACY, AUDIT_RECONSTRUCT)
_SEAL = "digest"
_LEFT_OUT = ("run", "recorded")  # fields of answers
_HEX = re.compile(r"[0-9a-f]{32,}")
_HASH = 32  # characters of an id hash
_WORD = re.compile(r"[/=._-]")
_WORDS = frozenset({
    "run", "json", "keys", "id", "key", "noise", "base", "whitening", "safetensors", "manifest", "MANIFEST", "rows", "parquet",
    "cache", "shard", "generation", "part", "arrow", "deltas", "monolith", "checkpoints", "stage", "ledger", "composed", "eval",
    "certificates", "signature", "reports", "serving", "outcomes", "verify", "audit", "privacy", "reconstruct",
})  # fmt: skip
_NUMBER = re.compile(r"\d*|[0-9a-f]{8,}")  # fewer letters may be a name


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The answer of a verb, as it was kept. number, head: of the newest ledger entry then. made: ISO 8601. sealed: the object's bytes."""

    verb: str
    number: int
    head: str
    made: str
    version: str
    answer: Mapping[str, Any]
    sealed: bytes


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The latest outcome of a verb. since: how many ledger entries came after it; None: it is of a ledger that is not this one.

    outcome: None where it cannot be read, and why.
    """

    verb: str
    number: int
    since: int | None
    outcome: Outcome | None
    problem: str | None = None

    def told(self) -> dict[str, Any]:
        """The outcome for an answer."""
        known = self.outcome
        return {
            "verb": self.verb,
            "ok": None if known is None else known.answer.get("ok"),
            "made": None if known is None else known.made,
            "number": self.number,
            "since": self.since,
            **({} if self.problem is None else {"problem": self.problem}),
        }


def record_outcome(
    store: Store,
    verb: str,
    head: Entry | None,
    answer: Mapping[str, Any],
    hashes: Collection[str],
    keys: Iterable[str] = (),
) -> str:
    """Keep the answer of a verb; the key of the outcome. head: the newest entry of the ledger that it is of.

    hashes: of forgotten samples. keys: of the objects that the answer may name. StorageError where it cannot be kept.
    """
    if head is None:
        raise StorageError(
            f"{store.uri} has no ledger that can be read, so the outcome of {verb} was not recorded. Restore the ledger, or leave "
            "--record out"
        )
    key = outcome_key(verb, head.number, head.digest)
    foreign = sorted({one for key in keys for one in _foreign(key)}, key=len, reverse=True)
    kept = {name: _without(value, hashes, foreign) for name, value in answer.items() if name not in _LEFT_OUT}
    body = {
        "schema": SCHEMA,
        "verb": verb,
        "head": {"number": head.number, "digest": head.digest},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": VERSION,
        "answer": kept,
    }
    try:
        store.write(key, seal(body, _SEAL))
    except StorageError as error:
        raise StorageError(
            f"{error}. The {verb} came to its end, and its outcome is not recorded: run it again"
        ) from error
    return key


def _foreign(key: str) -> Iterator[str]:
    """A key that is none of the run's, and the folders above it that are none, either."""
    while not is_own_name(key):
        yield key
        key = key.rpartition("/")[0]


def is_own_name(key: str) -> bool:
    """Whether a key has the words and digests alone of which a run makes its keys: no name that a person gave."""
    return all(word in _WORDS or _NUMBER.fullmatch(word) for word in _WORD.split(key))


def _without(value: Any, hashes: Collection[str], foreign: list[str]) -> Any:
    """A value of JSON without these hashes and keys in its texts."""
    if isinstance(value, Mapping):
        return {name: _without(one, hashes, foreign) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without(one, hashes, foreign) for one in value]
    if not isinstance(value, str):
        return value
    for key in foreign:
        value = re.sub(rf"(?<![\w-]){re.escape(key)}(?![\w-])", "(an object that is no part of a run)", value)
    return _HEX.sub(lambda found: "(a hash)" if _holds(found[0], hashes) else found[0], value)


def _holds(text: str, hashes: Collection[str]) -> bool:
    return any(text[start : start + _HASH] in hashes for start in range(len(text) - _HASH + 1))


def read_outcome(store: Store, key: str) -> Outcome:
    """An outcome; IntegrityError for one that was changed, or that has another's name."""
    where = f"{key} in {store.uri}"
    sealed = store.read(key)
    try:
        body = unseal(sealed, _SEAL, where)
        head, answer = body["head"], body["answer"]
        made = Outcome(
            verb=body["verb"], number=head["number"], head=head["digest"], made=body["made"], version=body["version"],
            answer=answer, sealed=sealed,
        )  # fmt: skip
        fine = (
            body["schema"] == SCHEMA
            and isinstance(answer, dict)
            and key == outcome_key(made.verb, made.number, made.head)
        )
    except MALFORMED as error:
        raise IntegrityError(f"{where} is no outcome that a taft_ray of this version wrote; remove it") from error
    if not fine:
        raise IntegrityError(f"{where} is no outcome of that name; remove it")
    return made


def latest_outcomes(store: Store, entries: int, digest_at: Callable[[int], str]) -> list[Recorded]:
    """The latest outcome of each verb, in the order of `VERBS`. digest_at: of the ledger's entry of a number below ``entries``."""
    latest: dict[str, tuple[bool, int, str]] = {}
    for info in store.list(f"{OUTCOMES_FOLDER}/"):
        if (named := outcome_of(info.key)) is None:
            continue
        verb, number, short = named
        is_ours = number < entries and digest_at(number).startswith(short)
        latest[verb] = max(latest.get(verb, (False, -1, "")), (is_ours, number, info.key))
    return [_recorded(store, verb, *latest[verb], entries) for verb in VERBS if verb in latest]


def _recorded(store: Store, verb: str, is_ours: bool, number: int, key: str, entries: int) -> Recorded:
    since = entries - 1 - number if is_ours else None
    try:
        return Recorded(verb=verb, number=number, since=since, outcome=read_outcome(store, key))
    except (IntegrityError, ObjectMissing) as error:
        return Recorded(verb=verb, number=number, since=since, outcome=None, problem=str(error))

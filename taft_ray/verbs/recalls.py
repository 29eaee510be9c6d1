"""`recalls` and `check`: how what left the house stands, and notices to whoever has what is recalled. Starts nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.log import operation
from taft_ray.plans.recalls import RECALLED, Standing, answered_with, standing, standings, unplaced
from taft_ray.plans.releases import RecallNotified
from taft_ray.plans.state import RunState
from taft_ray.privacy import SigningKey
from taft_ray.proof.notice import idempotency_key, notice, signed
from taft_ray.run.address import run_address
from taft_ray.run.record import Record
from taft_ray.run.replicas import notes_in
from taft_ray.run.spec import run_spec
from taft_ray.run.state import check_newest, read_state
from taft_ray.storage import Store
from taft_ray.verbs.exported import entry_of
from taft_ray.verbs.posting import Posted, origin, post

CHANGED, UNKNOWN = "changed", "unknown"
_STATEMENT = "taft_ray.privacy-statement/1"


@operation("recalls")
def recalls(run: str) -> dict[str, Any]:
    """Every release and how it stands: {"run", "ok", "releases", "undecided", "servings"}, in the order of the ledger.

    undecided: forgets of which nobody can tell yet whether a release holds their samples. servings: of a run that was served.
    """
    run = run_address(run)
    store = Store(run)
    run_spec(store)
    return recalls_of(store, run, read_state(store))


def recalls_of(store: Store, run: str, state: RunState) -> dict[str, Any]:
    """The answer of `recalls` from a state that was read; of ``store`` the notes of replicas alone."""
    now = time.time()
    waiting = unplaced(state) if state.releases else []
    return {
        "run": run,
        "ok": True,
        "releases": [release_told(one) for one in standings(state, now)],
        **({"undecided": waiting} if waiting else {}),
        **({"servings": servings_told(store, state)} if state.servings else {}),
    }


def servings_told(store: Store, state: RunState) -> list[dict[str, Any]]:
    """The servings for an answer, and the models that they may have answered with."""
    notes = notes_in(store) if state.open_servings else {}
    return [
        {
            "serving": one.fact.serving,
            "modes": list(one.fact.modes),
            "replicas": one.fact.replicas,
            "began": one.began,
            "ended": one.ended,
            "models": [
                {**asdict(model), "withdrawn_by": list(model.withdrawn_by)}
                for model in answered_with(state, one, {d for note in notes.get(name, ()) for d in note.digests})
            ],
            **({"overrode": one.fact.overrode} if one.fact.overrode else {}),
        }
        for name, one in state.servings.items()
    ]


def release_told(one: Standing) -> dict[str, Any]:
    """A release for an answer."""
    fact = one.release.fact
    return {
        "release": fact.release,
        "what": fact.what,
        "status": one.status,
        "released": one.release.time,
        "digest": fact.digest,
        "bytes": fact.bytes,
        "composed": fact.composed,
        "shards": list(fact.shards),
        "to": fact.to,
        "contact": fact.contact,
        "until": fact.until,
        "recalled_by": list(one.requests),
        "notified": [
            {"where": told.where, "status": told.status, "answer": told.answer} for _, told in one.release.notices
        ],
        **({"told": tellings} if (tellings := _tellings(one)) else {}),
        **({"owners": len(fact.owners)} if fact.owners else {}),
        **({"overrode": fact.overrode} if fact.overrode else {}),
    }


def _tellings(one: Standing) -> list[dict[str, Any]]:
    return [{"by": told.by, "when": when} for _, when, told in one.release.tellings]


@operation("recalls --notify")
def notify(
    run: str,
    url: str,
    key: SigningKey,
    *,
    releases: Sequence[str] = (),
    timeout: float = 10.0,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Send a signed notice of every recalled release to ``url``, once: the answer of `recalls`, with "notices" of what was sent.

    releases: those alone; all of them by default.

    A notice that was taken is a fact of the ledger, and is not sent again. One whose fact was lost with this process is sent
    again with the same bytes and the same Idempotency-Key.

    ok: False where one was not taken. The others are sent all the same.
    """
    if not 0 < timeout < float("inf"):
        raise UsageError(f"expected --timeout > 0, got {timeout}")
    run, where, digest = run_address(run), origin(url), hashlib.sha256(url.encode()).hexdigest()
    record = Record(run)
    check_newest(record.store, record.state)
    notices = []
    for one in recalled_of(record.state, releases):
        if any(told.url == digest for _, told in one.release.notices):
            continue
        told = notice(record.state, record.spec, one)
        headers = {"Idempotency-Key": idempotency_key(told)}
        posted = post(url, signed(told, key), headers, timeout=timeout, pause=pause)
        if posted.problem is None:
            _commit(record, one, posted, where, digest, headers["Idempotency-Key"], key)
        notices.append(
            {
                "release": one.release.fact.release,
                "ok": posted.problem is None,
                "status": posted.status,
                "answer": posted.answer,
                "problem": posted.problem,
                "tries": posted.tries,
            }
        )
    record.refresh()
    return {**recalls_of(record.store, run, record.state), "ok": all(one["ok"] for one in notices), "notices": notices}


def recalled_of(state: RunState, releases: Sequence[str] = ()) -> list[Standing]:
    """The recalled releases, or those of these names. UsageError for one that is not recalled, or none of the run's."""
    found = {one.release.fact.release: one for one in standings(state, time.time())}
    for name in releases:
        if name not in found:
            raise UsageError(f"the run has no release {name!r}; taft-ray recalls RUN lists them")
        if found[name].status != RECALLED:
            raise UsageError(f"release {name} is {found[name].status}: there is no recall to tell; leave it out")
    return [one for name, one in found.items() if one.status == RECALLED and (not releases or name in releases)]


def _commit(
    record: Record, one: Standing, posted: Posted, where: str, digest: str, idempotency: str, key: SigningKey
) -> None:
    release = one.release.fact.release
    fact = RecallNotified(
        release, one.requests, where, digest, posted.status or 0, posted.answer, idempotency, key.public.hex
    )
    record.commit(RecallNotified, f"{release}/notified/{digest[:16]}", lambda: fact)


@operation("check")
def check(run: str, file: str) -> dict[str, Any]:
    """How an exported file, or a published statement, stands: {"file", "run", "ok", "status", "digest", "release", "note"}.

    status: that of its release, by its SHA-256. It is "changed" where the release that it names has another. It is "unknown" where
    the run has registered no such file.

    ok: it is current, or superseded by a newer one. Needs no torch.
    """
    path, run = Path(file).expanduser(), run_address(run)
    store = Store(run)
    run_spec(store)
    state = read_state(store)
    try:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}; give an exported file") from error
    now, found = time.time(), None
    known = next((one for one in reversed(state.releases.values()) if one.fact.digest == digest), None)
    entry = entry_of(path) or {}
    if known is not None:
        found = standing(state, known, now)
        status, note = _with_its_files(path, found)
    else:
        named = _named(state, entry)
        found = None if named is None else standing(state, state.releases[named], now)
        status, note = (UNKNOWN, _unknown(entry)) if named is None else (CHANGED, _CHANGED)
    return {
        "file": str(path),
        "run": run,
        "ok": status in ("current", "superseded"),
        "status": status,
        "digest": digest,
        "release": None if found is None else release_told(found),
        "note": note,
    }


_CHANGED = "its bytes are not those that were released: take the file anew from whoever released it"


def _with_its_files(path: Path, found: Standing) -> tuple[str, str | None]:
    """The status of a file that has its digest: changed where a file that belongs to it has not."""
    for name, digest in found.release.fact.beside.items():
        try:
            with (path.parent / name).open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() == digest:
                    continue
        except OSError:
            pass
        return CHANGED, f"{name}, which belongs to it, is missing or changed"
    return found.status, None


def _named(state: RunState, entry: dict[str, Any]) -> str | None:
    """The release that a file says it is; of a statement, the latest of the same model."""
    name = entry.get("release")
    if isinstance(name, str) and name in state.releases:
        return name
    if entry.get("schema") != _STATEMENT:
        return None
    of_model = (
        r.fact for r in state.releases.values() if not r.fact.is_model and r.fact.composed == entry.get("model")
    )
    return next((fact.release for fact in reversed([*of_model])), None)


def _unknown(entry: dict[str, Any]) -> str:
    if entry.get("registered") is False:
        return "it says that it was never registered: it was made where the ledger could not be written"
    if isinstance(entry.get("release"), str):
        return f"it names the release {str(entry['release'])[:16]}, which this run does not have: is it another run's?"
    if "composed" in entry:
        return "it names no release: a taft_ray made it that had no register, or it is another run's"
    return "it has no entry of taft_ray"

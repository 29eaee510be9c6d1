"""`verify` of the register: every release is of the model that the ledger had where it rests, and none holds what had been forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from taft_ray.counting import plural
from taft_ray.errors import IntegrityError
from taft_ray.plans.facts import fact_of
from taft_ray.plans.fold import apply
from taft_ray.plans.gate import hold
from taft_ray.plans.recalls import holds
from taft_ray.plans.releases import WHATS, Released, ReleaseState
from taft_ray.plans.state import RunState
from taft_ray.proof.evidence import Evidence
from taft_ray.storage import KeptReleases

_SHA256 = re.compile(r"[0-9a-f]{64}")


def releases(run: Evidence) -> None:
    """The facts of the register agree with the ledger around them; a notice, or a telling, is of a release that was recalled then."""
    known = run.state.releases
    beside = KeptReleases(run.store, run.state.identity)
    with run.examining("releases"):
        if lost := beside.names() - known.keys():
            raise IntegrityError(
                f"{plural(len(lost), 'release is', 'releases are')} kept beside {run.store.uri} and not in its ledger: an older copy "
                "of the folder was put back. Run taft-ray forget --due, which registers them again"
            )
    for name in sorted(beside.names() & known.keys()):
        with run.examining("releases"):
            _kept(beside, known[name].fact)
    if not known:
        return
    at = {one.number: one for one in known.values()}
    notices = {number: fact for one in known.values() for number, fact in one.notices}
    tellings = {number: fact for one in known.values() for number, _, fact in one.tellings}
    rests: dict[int, list[ReleaseState]] = {}
    for one in known.values():
        if not one.fact.restored:  # the ledger that it rests on is gone
            rests.setdefault(one.fact.rests_on, []).append(one)
    state = RunState()
    for entry in run.entries:
        with run.examining("releases"):
            wrong: list[str] = []
            if (one := at.get(entry.number)) is not None:
                wrong += _at_its_commit(run, state, one)
            if (told := notices.get(entry.number) or tellings.get(entry.number)) is not None:
                held = holds(state, state.releases[told.release].fact)
                if not set(told.requests) <= set(held):
                    wrong.append(
                        f"a recall of release {told.release} was told for requests whose samples it does not hold"
                    )
            if wrong:
                run.problems += [f"releases: {text}" for text in wrong]
        apply(state, entry)
        for one in rests.pop(entry.number, ()):
            with run.examining("releases"):
                run.problems += [f"releases: {text}" for text in _of_its_model(state, one.fact)]
            _check_entry(run, one, entry.digest)
    run.problems += [
        f"releases: release {one.fact.release} rests on entry {number}, which the ledger has not"
        for number, several in rests.items()
        for one in several
    ]
    run.checks["releases"] = len(known)


def _kept(beside: KeptReleases, fact: Released) -> None:
    """A release beside the run is whole, and the one of the ledger."""
    for facts in beside.read({fact.release}):
        if replace(fact_of(Released, facts), restored=False, left=()) != replace(fact, restored=False, left=()):
            raise IntegrityError(
                f"release {fact.release} is kept beside the run with other facts than the ledger has; restore it from a copy"
            )


def _check_entry(run: Evidence, one: ReleaseState, digest: str) -> None:
    with run.examining("releases"):
        if one.fact.entry != digest or one.fact.rests_on >= one.number:
            raise IntegrityError(
                f"release {one.fact.release} rests on entry {one.fact.rests_on} with digest {one.fact.entry[:16]}, and that "
                f"entry has {digest[:16]}"
            )


def _of_its_model(state: RunState, fact: Released) -> Iterator[str]:
    """Where a release is not of the model that the run had then."""
    shards = tuple(shard.shard for shard in state.in_tier(fact.by_records))
    if fact.members != state.members_of(fact.by_records) or (fact.is_model and fact.shards != shards):
        yield f"release {fact.release} is not of the model that the run had at entry {fact.rests_on}"


def _at_its_commit(run: Evidence, before: RunState, one: ReleaseState) -> Iterator[str]:
    """Where a release says what cannot be, or should not have been made. before: the state just before it."""
    fact = one.fact
    if fact.what not in WHATS or not all(map(_SHA256.fullmatch, (fact.digest, *fact.beside.values()))):
        yield f"release {fact.release} has no kind or no digest that a taft_ray writes"
    if fact.release in before.releases:
        yield f"release {fact.release} is there twice"
    if not fact.is_model or fact.restored:
        return
    if held := holds(before, fact):
        yield f"release {fact.release} held what was forgotten by {held[:4]} when it was made"
    then = datetime.fromisoformat(one.time).timestamp()
    if fact.overrode is None and hold(before, run.spec, then, fact.composed) is not None:
        yield f"release {fact.release} was published although the release gate held it back, and does not say so"

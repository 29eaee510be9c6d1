"""`verify` of a run with a release gate folds its ledger once, and finds what a replay per certificate finds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from folder import reseal, state_of
from released import copied, finished, toy_export, toy_forget, trained_toy
from toy_run import EVERYONE

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.plans import fold
from taft_ray.plans.fold import Replayed, replay
from taft_ray.proof.contradictions import contradictions
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Entry, Ledger, Store
from taft_ray.verbs.release import release as set_gate


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gate that is changed between, releases, and requests that are carried out in another order than they were asked."""
    run = trained_toy(tmp_path_factory.mktemp("fold") / "run")
    set_gate(str(run), "2")
    toy_export(run, run.parent / "1.pt2")
    late = Composer(str(run)).request_forget(Selection(ids=(EVERYONE[0],)), "retrain", 4e9)["request"]
    toy_forget(run, [EVERYONE[5]], "drop")
    toy_forget(run, [EVERYONE[8]], "retrain")
    toy_export(run, run.parent / "2.pt2")
    finished(run, late)
    set_gate(str(run), "3")
    for name in EVERYONE[9:12]:
        toy_forget(run, [name], "retrain")
    return run


def entries_of(run: Path) -> list[Entry]:
    return Ledger(Store(str(run))).entries()


def certificates(run: Path) -> Iterator[dict[str, Any]]:
    for request in state_of(run).requests.values():
        if request.forgotten is not None:
            yield json.loads((run / request.forgotten.certificate.key).read_bytes())


def test_states_are_those_of_a_replay_in_any_order_of_numbers(gated: Path) -> None:
    entries = entries_of(gated)
    replayed = Replayed(entries)
    for number in (0, 3, 3, len(entries) - 1, 5, 4, 10**6, -1, -3, 7, len(entries)):
        assert replayed.after(number) == replay(entries[: number + 1]), number


def forgeries(certificate: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield certificate
    yield {**certificate, "publication": {"gate": "1 forget", "held": False}}
    yield {name: value for name, value in certificate.items() if name != "publication"}
    for number in (0, 10**6, -2):
        yield {**certificate, "rests_on": {**certificate["rests_on"], "number": number}}


def test_each_certificate_is_judged_as_by_a_replay_of_its_own(gated: Path) -> None:
    entries, state = entries_of(gated), state_of(gated)
    replayed = Replayed(entries)
    found = 0
    for certificate in certificates(gated):
        for told in forgeries(certificate):
            alone = list(contradictions(told, entries, state))
            assert list(contradictions(told, entries, state, replayed)) == alone
            found += bool(alone)
    assert found > 10
    assert [one for certificate in certificates(gated) for one in contradictions(certificate, entries)] == []


def test_ledger_is_folded_a_fixed_number_of_times(gated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the chain, once for all certificates; the register's own fold does not go through this name."""
    applied = 0
    real = fold.apply

    def counting(state: Any, entry: Any) -> None:
        nonlocal applied
        applied += 1
        real(state, entry)

    monkeypatch.setattr(fold, "apply", counting)
    answer = verify(str(gated))
    assert answer["problems"] == []
    assert answer["checks"]["certificates"] == 6
    assert applied <= 2 * len(entries_of(gated))


def test_problems_are_told_in_the_order_of_the_requests(gated: Path, tmp_path: Path) -> None:
    """The first request was carried out after the two behind it."""
    run = copied(gated, tmp_path / "run")
    reseal(run, "release-gate-set", lambda body: {**body, "gate": {"forgets": 7}})
    problems = [one for one in verify(str(run))["problems"] if "is not held as the ledger's release gate says" in one]
    keys = [request.forgotten.certificate.key for request in state_of(run).requests.values() if request.forgotten]
    assert [one.split(": ")[1] for one in problems] == keys

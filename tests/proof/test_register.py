"""`verify` finds a register that was changed by somebody who could make the chain whole again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import reseal, state_of
from proved import KEY
from released import copied, toy_export, toy_forget, trained_toy
from toy_run import EVERYONE

from taft_ray.plans.releases import RecallNotified, RecallTold
from taft_ray.proof.verify_run import verify
from taft_ray.run.record import Record
from taft_ray.storage import KeptReleases, Store
from taft_ray.verbs.release import release as set_gate


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a gate that was overridden, and a release that was recalled and told."""
    run = trained_toy(tmp_path_factory.mktemp("register") / "run")
    set_gate(str(run), "2")
    first = toy_export(run, run.parent / "1.pt2")
    certificate = toy_forget(run, [EVERYONE[0]], "retrain")
    toy_export(run, run.parent / "2.pt2", now=True)
    record = Record(str(run))
    told = RecallNotified(
        first.release, (certificate["request"],), "https://a:443", "0" * 64, 200, "", "k", KEY.public.hex
    )
    record.commit(RecallNotified, "told", lambda: told)
    letter = RecallTold(first.release, (certificate["request"],), "a letter")
    record.commit(RecallTold, "letter", lambda: letter)
    return run


def first_alone(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Changes the first entry of a kind."""
    seen: list[None] = []

    def change(body: dict[str, Any]) -> dict[str, Any]:
        seen.append(None)
        return {**body, **changes} if len(seen) == 1 else body

    return change


def test_register_that_was_written_here_has_no_problem(released: Path) -> None:
    answer = verify(str(released))
    assert answer["problems"] == []
    assert answer["checks"]["releases"] == 2


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("released", {"members": "0" * 64}, "is not of the model that the run had"),
        ("released", {"shards": [0]}, "is not of the model that the run had"),
        ("released", {"entry": "0" * 64}, "with digest 0000"),
        ("released", {"rests_on": 10**6}, "which the ledger has not"),
        ("released", {"rests_on": -1}, "which the ledger has not"),
        ("released", {"digest": "sha"}, "no digest"),
        ("released", {"what": "gift"}, "no kind"),
        ("recall-notified", {"requests": ["ffff"]}, "told for requests whose samples it does not hold"),
        ("recall-told", {"requests": ["ffff"]}, "told for requests whose samples it does not hold"),
    ],
)  # fmt: skip
def test_what_was_changed_in_the_register_is_found(
    released: Path, tmp_path: Path, kind: str, changes: dict[str, Any], words: str
) -> None:
    run = copied(released, tmp_path / "run")
    reseal(run, kind, first_alone(**changes))
    assert any(words in problem for problem in verify(str(run))["problems"]), verify(str(run))["problems"]


def test_override_that_is_not_told_is_found(released: Path, tmp_path: Path) -> None:
    run = copied(released, tmp_path / "run")
    reseal(run, "released", lambda body: {name: value for name, value in body.items() if name != "overrode"})
    assert any("held it back, and does not say so" in problem for problem in verify(str(run))["problems"])


@pytest.mark.parametrize("sealed", [True, False])
def test_release_that_was_changed_beside_the_run_is_found(released: Path, tmp_path: Path, sealed: bool) -> None:
    """An older copy of the folder would register it again as it lies there."""
    run = copied(released, tmp_path / "run")
    kept = KeptReleases(Store(str(run)), state_of(run).identity)
    name = sorted(kept.names())[0]
    (facts,) = kept.read({name})
    path = next(tmp_path.glob(f"run.tombstones/released/*/{name}.json"))
    if sealed:
        path.unlink()
        kept.write(name, {**facts, "digest": "0" * 64})
    else:
        path.write_bytes(path.read_bytes().replace(facts["digest"].encode(), b"0" * 64))
    (problem,) = verify(str(run))["problems"]
    assert problem.startswith("releases: ")
    assert name in problem


def test_two_releases_of_one_name_and_a_notice_of_none_are_found(released: Path, tmp_path: Path) -> None:
    run = copied(released, tmp_path / "run")
    name = next(iter(state_of(run).releases))
    reseal(run, "released", lambda body: {**body, "release": name})
    assert any("is there twice" in problem for problem in verify(str(run))["problems"])
    run = copied(released, tmp_path / "other")
    reseal(run, "recall-notified", lambda body: {**body, "release": "nobody"})
    assert any("recall-notified" in problem for problem in verify(str(run))["problems"])


def test_release_of_what_had_been_forgotten_is_found(released: Path, tmp_path: Path) -> None:
    """A release that says that it rests on the ledger before the forget, and was committed after it."""
    run = copied(released, tmp_path / "run")
    first, _ = state_of(run).releases.values()
    told = first.fact.to_json()
    old = {name: told[name] for name in ("rests_on", "entry", "members", "shards", "composed")}
    reseal(run, "released", lambda body: {**body, **old})
    assert any("held what was forgotten by" in problem for problem in verify(str(run))["problems"])

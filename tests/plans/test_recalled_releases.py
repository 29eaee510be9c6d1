"""A release is recalled by exactly the forgets whose samples it holds. The gate, too, reads the ledger alone."""

import random
import time
from pathlib import Path

import pytest
from folder import state_of
from released import copied, finished, in_model, toy_export, toy_forget, trained_toy
from toy_run import EVERYONE, OWNERS, SPEC, TWO_TIERS, owner_of, shard_of

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.errors import PublicationHeld, TaftError, UsageError
from taft_ray.plans.gate import hold
from taft_ray.plans.recalls import CURRENT, EXPIRED, RECALLED, SUPERSEDED, holds, standing
from taft_ray.plans.releases import gate_of
from taft_ray.plans.spec import RunSpec
from taft_ray.proof.verify_run import verify
from taft_ray.run.register import Recipient
from taft_ray.verbs.release import release as set_gate


@pytest.fixture(scope="module")
def deltas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_toy(tmp_path_factory.mktemp("deltas") / "run")


@pytest.fixture(scope="module")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_toy(tmp_path_factory.mktemp("tiers") / "run", TWO_TIERS)


def status_of(run: Path, name: str, now: float | None = None) -> str:
    state = state_of(run)
    return standing(state, state.releases[name], time.time() if now is None else now).status


def of_shard(shard: int) -> list[str]:
    return [name for name in EVERYONE if shard_of(name) == shard]


@pytest.mark.parametrize("seed", [4, 5, 6])
@pytest.mark.parametrize("spec", [SPEC, TWO_TIERS], ids=["deltas", "two tiers"])
def test_release_is_recalled_by_exactly_the_forgets_of_its_samples(
    deltas: Path, tiers: Path, tmp_path: Path, spec: RunSpec, seed: int
) -> None:
    """Random forgets, of which some bring dropped shards back, and releases between them, of every tier and of owners."""
    run = copied(tiers if spec.two_tiers else deltas, tmp_path / "run")
    draw = random.Random(seed)
    contents: dict[str, set[str]] = {}
    wanted: dict[str, set[str]] = {}
    asked: dict[str, set[str]] = {}
    for step in range(7):
        mode = draw.choice(spec.modes)
        by_records = spec.by_records(mode)
        there = in_model(run, by_records)
        if there:
            owners = [draw.choice(OWNERS)] if by_records and draw.random() < 0.5 else []
            held = {name for name in there if not owners or owner_of(name) in owners}
            if held:
                made = toy_export(run, tmp_path / f"{step}.pt2", mode, owners)
                contents[made.release] = held
                assert bool(made.samples) == bool(owners)
        ids = draw.sample(EVERYONE, draw.randint(1, 2))
        how = draw.choice(("drop", "retrain", "subtract") if spec.two_tiers else ("drop", "retrain"))
        before = set(state_of(run).tombstones)
        certificate = toy_forget(run, ids, how)
        hashes = state_of(run).tombstones.keys() - before
        fresh = {name for name in ids if name not in set().union(*asked.values(), set())} if hashes else set()
        asked.setdefault(certificate["request"], set()).update(fresh)
        for name, held in contents.items():
            wanted[name] = {request for request, samples in asked.items() if samples & held}
        state = state_of(run)
        assert {name: set(holds(state, state.releases[name].fact)) for name in contents} == wanted
        outside = {one["release"] for one in certificate.get("outside", ())}
        assert outside == {name for name, requests in wanted.items() if certificate["request"] in requests}
    assert verify(str(run))["problems"] == []
    assert any(wanted.values())


def test_shard_that_only_comes_back_recalls_nothing(deltas: Path, tmp_path: Path) -> None:
    """The last request touches shard 0 too, of which it forgets nobody: the release is of that shard, and not of shard 1."""
    run = copied(deltas, tmp_path / "run")
    a, (b, c) = of_shard(0)[0], of_shard(1)[:2]
    toy_forget(run, [c], "drop")
    made = toy_export(run, tmp_path / "1.pt2")
    first = toy_forget(run, [a], "drop")
    last = toy_forget(run, [a, b], "retrain")
    assert (last["shards"], last["samples"]) == ([0, 1], 1)
    assert (len(first["outside"]), last["outside"]) == (1, [])
    assert holds(state_of(run), made) == [first["request"]]


def test_model_without_anything_forgotten_is_superseded_by_another(deltas: Path, tmp_path: Path) -> None:
    run = copied(deltas, tmp_path / "run")
    first = toy_export(run, tmp_path / "1.pt2")
    assert status_of(run, first.release) == CURRENT
    a, b = of_shard(0)[:2]
    toy_forget(run, [a], "retrain")
    second = toy_export(run, tmp_path / "2.pt2")
    assert (status_of(run, first.release), status_of(run, second.release)) == (RECALLED, CURRENT)
    toy_forget(run, [of_shard(1)[0]], "drop")
    toy_forget(run, [of_shard(1)[0]], "retrain")  # back, without the sample
    third = toy_export(run, tmp_path / "3.pt2")
    toy_forget(run, [b], "drop")
    fourth = toy_export(run, tmp_path / "4.pt2")
    assert shard_of(b) not in fourth.shards
    toy_forget(run, [b], "retrain")
    assert [status_of(run, one.release) for one in (second, third, fourth)] == [RECALLED, RECALLED, SUPERSEDED]
    assert verify(str(run))["ok"]


def test_expired_release_is_nobodys_to_recall_and_its_forgets_stay_known(deltas: Path, tmp_path: Path) -> None:
    run = copied(deltas, tmp_path / "run")
    until = time.time() + 3600
    made = toy_export(run, tmp_path / "1.pt2", recipient=Recipient(until=until))
    certificate = toy_forget(run, [EVERYONE[0]], "retrain")
    assert [one["until"] for one in certificate["outside"]] == [until]
    state = state_of(run)
    assert status_of(run, made.release, until - 1) == RECALLED
    later = standing(state, state.releases[made.release], until)
    assert (later.status, later.requests) == (EXPIRED, (certificate["request"],))


def test_promise_recalls_when_it_is_carried_out(deltas: Path, tmp_path: Path) -> None:
    run = copied(deltas, tmp_path / "run")
    composer = Composer(str(run))
    asked = composer.request_forget(Selection(ids=(EVERYONE[0],)), "retrain", time.time() + 3600)
    made = toy_export(run, tmp_path / "1.pt2")
    assert asked["waiting"]
    assert status_of(run, made.release) == CURRENT
    finished(run, asked["request"])
    assert status_of(run, made.release) == RECALLED


def test_statement_holds_nothing(deltas: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from taft_ray.run.record import Record
    from taft_ray.run.register import commit, made_of

    run = copied(deltas, tmp_path / "run")
    record = Record(str(run))
    fact = replace(made_of(record, "statement", None, None), release="5" * 16, digest="0" * 64, bytes=1)
    commit(record, fact)
    assert status_of(run, fact.release) == CURRENT
    certificate = toy_forget(run, [EVERYONE[0]], "retrain")
    assert certificate["outside"] == []
    assert status_of(run, fact.release) == SUPERSEDED
    assert verify(str(run))["problems"] == []


def test_what_is_being_forgotten_is_never_released(deltas: Path, tmp_path: Path) -> None:
    """A request that a crash cut off before its drop, and one that comes between the making of a model and its release."""
    run = copied(deltas, tmp_path / "run")
    composer = Composer(str(run))
    composer.forgetting.request(Selection(ids=(EVERYONE[0],)), "retrain")  # no drop follows
    with pytest.raises(TaftError, match="not carried out yet"):
        toy_export(run, tmp_path / "1.pt2")
    assert state_of(run).releases == {}

    from dataclasses import replace

    from taft_ray.run.record import Record
    from taft_ray.run.register import commit, made_of

    run = copied(deltas, tmp_path / "other")
    record = Record(str(run))
    fact = replace(made_of(record, "export", "c", "mean"), release="5" * 16, digest="0" * 64, bytes=1)
    toy_forget(run, [EVERYONE[0]], "drop")
    for now in (False, True):
        with pytest.raises(TaftError, match="never published"):
            commit(record, fact, now)
    assert state_of(run).releases == {}


# --- the gate


@pytest.mark.parametrize("text", ["0", "-1", "0d", "epsilon=0", "ten", "10h", "epsilon=", "1e3", "", "epsilon=1e999"])
def test_gate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--after .*: expected 10 \(forgets\), 30d"):
        gate_of(text)


def test_gate_of_forgets_opens_when_enough_have_left_and_holds_no_forget_back(deltas: Path, tmp_path: Path) -> None:
    run = copied(deltas, tmp_path / "run")
    set_gate(str(run), "2")
    first = toy_export(run, tmp_path / "1.pt2")
    again = toy_export(run, tmp_path / "2.pt2")  # nothing was forgotten between
    certificate = toy_forget(run, [EVERYONE[0]], "retrain")
    assert certificate["publication"] == {
        "gate": "2 forgets", "held": True, "since": again.release, "forgets": 1, "until": "1 more forget",
    }  # fmt: skip
    with pytest.raises(PublicationHeld, match=r"until 1 more forget.*add --now"):
        toy_export(run, tmp_path / "3.pt2")
    certificate = toy_forget(run, [EVERYONE[1]], "retrain")
    assert certificate["publication"] == {"gate": "2 forgets", "held": False}
    made = toy_export(run, tmp_path / "3.pt2")
    assert made.overrode is None
    toy_forget(run, [EVERYONE[5]], "drop")
    with pytest.raises(PublicationHeld):
        toy_export(run, tmp_path / "4.pt2")
    assert toy_export(run, tmp_path / "4.pt2", now=True).overrode == "2 forgets"
    assert len(holds(state_of(run), first)) == 3
    assert verify(str(run))["problems"] == []


def test_no_two_models_of_different_lines_differ_by_less_than_the_gate(tiers: Path, tmp_path: Path) -> None:
    """The sums and the deltas' composition are two lines: a newer one beside an older other shows a forget as well."""
    run = copied(tiers, tmp_path / "run")
    set_gate(str(run), "2")
    toy_export(run, tmp_path / "1.pt2", "additive")
    toy_forget(run, [EVERYONE[0]], "subtract")
    with pytest.raises(PublicationHeld):
        toy_export(run, tmp_path / "2.pt2", "mean")
    toy_forget(run, [EVERYONE[1]], "subtract")
    toy_export(run, tmp_path / "2.pt2", "mean")
    toy_forget(run, [EVERYONE[2]], "subtract")
    with pytest.raises(PublicationHeld):
        toy_export(run, tmp_path / "3.pt2", "additive")
    assert verify(str(run))["problems"] == []


def test_gate_of_days_opens_with_time(deltas: Path, tmp_path: Path) -> None:
    run = copied(deltas, tmp_path / "run")
    set_gate(str(run), "30d")
    toy_export(run, tmp_path / "1.pt2")
    assert hold(state_of(run), SPEC, time.time()) is None
    toy_forget(run, [EVERYONE[0]], "drop")
    held = hold(state_of(run), SPEC, time.time())
    assert held is not None
    assert "30 days" in str(held)
    assert hold(state_of(run), SPEC, time.time() + 30 * 86400) is None


def test_gate_is_set_once_changed_and_given_up(deltas: Path, tmp_path: Path) -> None:
    run = copied(deltas, tmp_path / "run")
    assert set_gate(str(run))["gate"] is None
    assert state_of(run).gates == []
    assert set_gate(str(run), "none")["gate"] is None
    assert state_of(run).gates == []
    for _ in range(2):
        assert set_gate(str(run), "10")["gate"] == "10 forgets"
    assert set_gate(str(run), "1d")["gate"] == "1 day"
    assert set_gate(str(run), "none") == {"run": str(run), "gate": None, "held": False, "releases": 0}
    assert len(state_of(run).gates) == 3
    with pytest.raises(UsageError, match="needs a private run"):
        set_gate(str(run), "epsilon=0.5")

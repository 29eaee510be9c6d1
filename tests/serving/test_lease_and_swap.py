"""A replica answers only while its lease holds, and never with a model of which something has left the run."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from folder import finish, kinds, plain_forget
from plain import plain_add, plain_train
from plain_replica import DRAIN, LEASE, PlainReplica, begin_serving, notes, plain_forget_served
from tiny import owner_of, picture, sample_id, write_parquet

import taft_ray as tr
from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.errors import TaftError
from taft_ray.proof.contradictions import contradictions
from taft_ray.serving.answering import Asked, answered, decoded
from taft_ray.serving.replica import Unconfirmed
from taft_ray.storage import Ledger, Store
from taft_ray.storage.rundir import TURN_KEY

PICTURES = [picture(number) for number in range(1000, 1006)]


@pytest.fixture(scope="module")
def additive(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("served-additive") / "run"
    plain_train(run, spec_of(parquet, solver="additive", features=48))
    return run


def predicted(run: Path, pictures: list[bytes], folder: Path) -> list[tuple[str, tuple[float, ...]]]:
    folder.mkdir(exist_ok=True)
    paths = []
    for number, data in enumerate(pictures):
        paths.append(folder / f"{number}.png")
        paths[-1].write_bytes(data)
    return [(one.label, one.probabilities) for one in tr.Run(run).predict(paths).predictions]


def said(answer: dict[str, Any]) -> list[tuple[str, tuple[float, ...]]]:
    return [(one["label"], tuple(one["probabilities"])) for one in answer["predictions"]]


@pytest.mark.parametrize("together", [1, 2, 6])
def test_answers_are_to_the_bit_those_of_predict(
    served: PlainReplica, run: Path, tmp_path: Path, together: int
) -> None:
    expected = predicted(run, PICTURES, tmp_path / "pictures")
    found = []
    for at in range(0, len(PICTURES), together):
        answer = served.answer(*PICTURES[at : at + together])
        assert answer["composed"] == tr.Run(run).status().composed
        found += said(answer)
    assert found == expected


def test_answers_of_an_additive_run_are_those_of_predict(
    additive: Path, copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    run = copy_of(additive)
    tr.Run(run).tune(weights=())
    begin_serving(run)
    served = PlainReplica(str(run)).poll()
    assert said(served.answer(*PICTURES)) == predicted(run, PICTURES, tmp_path / "pictures")
    before = served.answer(PICTURES[0])["composed"]
    plain_forget_served(run, [sample_id(3)], "subtract", served)
    assert served.answer(PICTURES[0])["composed"] != before
    assert said(served.answer(*PICTURES)) == predicted(run, PICTURES, tmp_path / "pictures")


def test_model_of_some_owners_is_served_beside_that_of_all(
    additive: Path, copy_of: Callable[..., Path], trained: Path, tmp_path: Path
) -> None:
    run, other = copy_of(additive), copy_of(trained, "other")
    begin_serving(run)
    begin_serving(other)
    owners = f"{owner_of(1)},{owner_of(2)}"
    served = PlainReplica(f"all={run}", f"some={run}?owners={owners}", f"other={other}").poll()
    answers = {name: served.answer(*PICTURES, name=name) for name in ("all", "some", "other")}
    assert len({answer["composed"] for answer in answers.values()}) == 3
    assert said(answers["all"]) == predicted(run, PICTURES, tmp_path / "pictures")
    assert said(answers["other"]) == predicted(other, PICTURES, tmp_path / "pictures")
    of_all, of_some = (served.replica.model(name) for name in ("all", "some"))
    assert of_all is not None
    assert of_some is not None
    assert of_all.frozen is of_some.frozen


def test_two_runs_on_the_same_weights_share_the_tensors_of_their_frozen_part(
    trained: Path, copy_of: Callable[..., Path], tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    other = tmp_path / "seeded"
    plain_train(other, spec_of(parquet, trainable="head", seed=3))
    runs = [copy_of(trained), other]
    for one in runs:
        begin_serving(one)
    served = PlainReplica(f"a={runs[0]}", f"b={runs[1]}").poll()
    first, second = (served.replica.model(name) for name in "ab")
    assert first is not None
    assert second is not None
    assert first.frozen is not second.frozen
    assert first.frozen.key == second.frozen.key
    mine, its = (dict(one.frozen.maker.network.named_parameters()) for one in (first, second))
    shared = [name for name in mine if mine[name].data_ptr() == its[name].data_ptr()]
    assert set(mine) - set(shared) <= {"head.weight"}, "the head's alone is drawn from the seed"
    pixels = {name: decoded(served.replica, name, PICTURES, 10**6)[0] for name in "ab"}
    together = answered(served.replica, [Asked(name, pixels[name]) for name in "ab"])
    assert [said(one) for one in together] == [predicted(one, PICTURES, tmp_path / "pictures") for one in runs], (
        "through the frozen part together"
    )


def test_storage_that_cannot_be_reached_ends_the_lease_and_its_return_begins_another(
    served: PlainReplica, run: Path
) -> None:
    away = run.with_name("away")
    composed = served.answer(PICTURES[0])["composed"]
    run.rename(away)
    served.clock.pass_by(LEASE - 0.1)
    served.poll()
    assert served.answer(PICTURES[0])["composed"] == composed
    served.clock.pass_by(0.2)
    served.poll()
    assert "cannot be answered" in served.answer(PICTURES[0])["unconfirmed"]
    assert served.replica.told("copy")["confirmed"] is False
    shutil.rmtree(run, ignore_errors=True)  # a note may have been tried there
    away.rename(run)
    assert served.poll().answer(PICTURES[0])["composed"] == composed


def test_answer_that_was_under_way_when_the_lease_ended_is_not_let_go(served: PlainReplica) -> None:
    name = served.sources[0].name
    reference = served.replica.read(name)
    served.clock.pass_by(LEASE + 0.1)
    assert served.replica.released(reference) is False
    served.poll()
    reference = served.replica.read(name)
    assert served.replica.released(reference) is True


def test_forgotten_is_in_no_answer_after_the_next_look(served: PlainReplica, run: Path) -> None:
    before = served.answer(PICTURES[0])
    certificate = plain_forget_served(run, [sample_id(0)], "drop", served)
    after = served.answer(PICTURES[0])
    assert after["composed"] == certificate["composed_after"] != before["composed"]
    assert after["ledger"] > before["ledger"]
    (withdrawn,) = certificate["withdrawn"]
    told = str(tr.answers.Certificate.from_json(certificate))
    assert "served no more" in told
    assert "1 replica acknowledged" in told
    assert [step["step"] for step in certificate["steps"]][-1] == "withdrawn"
    assert withdrawn["digest"] == before["composed"]
    assert withdrawn["acknowledged"] == ["r-1"]
    assert withdrawn["lapsed"] == []
    assert DRAIN <= withdrawn["waited"] < LEASE
    assert tr.Run(run).verify().problems == ()
    assert tr.verify_certificate(next((run / "certificates").glob("*.json"))).ok


def test_model_without_the_shard_is_answered_with_while_it_is_fitted_again(served: PlainReplica, run: Path) -> None:
    before = served.answer(PICTURES[0])["composed"]
    composer = Composer(str(run))
    composer.forgetting.withdrawing.clock = served.clock
    asked = composer.request_forget(Selection(ids=(sample_id(0),)), "retrain")
    dropped = served.poll().answer(PICTURES[0])["composed"]
    assert dropped == composer.composed_digest() != before
    composer.resume_forget(asked["request"])
    assert served.poll().answer(PICTURES[0])["composed"] == dropped
    served.clock.pass_by(1)
    composer.withdraw(asked["request"])
    served.clock.pass_by(DRAIN)
    certificate = finish(composer, composer.forgetting.answer(asked["request"]))
    served.poll()
    assert served.answer(PICTURES[0])["composed"] == certificate["composed_after"] not in (before, dropped)
    assert [one["digest"] for one in certificate["withdrawn"]] == sorted({before})


def test_certificate_waits_for_a_replica_that_does_not_look(served: PlainReplica, run: Path) -> None:
    composer = Composer(str(run))
    composer.forgetting.withdrawing.clock = served.clock
    asked = composer.request_forget(Selection(ids=(sample_id(0),)), "drop")
    composer.resume_forget(asked["request"])
    with pytest.raises(TaftError, match="replicas that serve the run may answer with the model before it"):
        composer.conclude_forget(asked["request"], {})
    waited = 0.0
    while composer.withdraw(asked["request"]) > 0:
        served.clock.pass_by(0.1)
        waited += 0.1
    assert LEASE + DRAIN < waited < 1.1 * (LEASE + DRAIN)
    assert "unconfirmed" in served.answer(PICTURES[0]), "by its own clock it may not answer any more, either"
    certificate = composer.conclude_forget(asked["request"], {})
    (withdrawn,) = certificate["withdrawn"]
    assert (withdrawn["acknowledged"], withdrawn["lapsed"]) == ([], ["r-1"])
    assert notes(run) == {}, "a note whose lease has ended is dead"
    assert served.poll().answer(PICTURES[0])["composed"] == certificate["composed_after"]
    assert list(notes(run)) == ["r-2"], "the replica has a new name, before it answers again"


def test_replica_that_was_killed_is_waited_for_once(served: PlainReplica, run: Path) -> None:
    killed = PlainReplica(str(run), name="killed", clock=served.clock).poll()
    assert notes(run).keys() == {"r-1", "killed-1"}
    del killed
    first = plain_forget_served(run, [sample_id(0)], "drop", served)
    assert [(one["acknowledged"], one["lapsed"]) for one in first["withdrawn"]] == [(["r-1"], ["killed-1"])]
    second = plain_forget_served(run, [sample_id(1)], "drop", served)
    assert [(one["acknowledged"], one["lapsed"]) for one in second["withdrawn"]] == [(["r-1"], [])]
    assert second["withdrawn"][0]["waited"] < LEASE


def test_old_model_keeps_what_is_left_of_its_lease_and_no_more_while_the_new_one_is_loaded(
    served: PlainReplica, run: Path
) -> None:
    old = served.answer(PICTURES[0])["composed"]
    served.loads.held = True
    composer = Composer(str(run))
    composer.request_forget(Selection(ids=(sample_id(0),)), "drop")
    for _ in range(9):
        served.clock.pass_by(LEASE / 10)
        assert served.poll().answer(PICTURES[0])["composed"] == old
    served.clock.pass_by(LEASE / 10)
    assert "unconfirmed" in served.poll().answer(PICTURES[0])
    served.loads.go()
    assert served.poll().answer(PICTURES[0])["composed"] == composer.composed_digest()


def test_batch_with_the_old_model_holds_the_acknowledgement_back(served: PlainReplica, run: Path) -> None:
    reference = served.replica.read(served.sources[0].name)
    composer = Composer(str(run))
    asked = composer.request_forget(Selection(ids=(sample_id(0),)), "drop")
    composer.resume_forget(asked["request"])
    rewritten = composer.record.ledger.known_op(f"{asked['request']}/rewritten")
    assert rewritten is not None
    served.poll()
    assert notes(run)["r-1"] < rewritten.number
    assert served.replica.released(reference)
    served.poll()
    assert notes(run)["r-1"] >= rewritten.number


def test_older_copy_of_the_folder_is_not_served(served: PlainReplica, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "backup")
    plain_forget_served(run, [sample_id(0)], "drop", served)
    after = served.answer(PICTURES[0])
    shutil.rmtree(run)
    shutil.copytree(copy, run)
    served.poll()
    assert served.answer(PICTURES[0])["composed"] == after["composed"], "until its lease ends"
    served.clock.pass_by(LEASE + 0.1)
    assert "unconfirmed" in served.poll().answer(PICTURES[0])
    fresh = PlainReplica(str(run), name="fresh", clock=served.clock).poll()
    with pytest.raises(Unconfirmed, match="not in its ledger"):
        fresh.replica.read(fresh.sources[0].name)


def test_ledger_that_is_shorter_than_it_was_is_not_followed(served: PlainReplica, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "backup")
    begin_serving(run, "s2")
    served.poll()
    shutil.rmtree(run)
    shutil.copytree(copy, run)
    served.clock.pass_by(LEASE + 0.1)
    told = served.poll().answer(PICTURES[0])
    assert "an older copy of the folder was put back" in told["unconfirmed"].lower()


def test_serving_that_has_ended_answers_no_more(served: PlainReplica, run: Path) -> None:
    Composer(str(run)).end_serving("s1")
    served.poll()
    with pytest.raises(Unconfirmed, match="has it as ended"):
        served.replica.read(served.sources[0].name)
    assert notes(run) == {}


def test_model_without_any_shard_is_no_model(served: PlainReplica, run: Path) -> None:
    old = served.answer(PICTURES[0])["composed"]
    composer = Composer(str(run))
    composer.forgetting.withdrawing.clock = served.clock
    asked = composer.request_forget(Selection(shards=(0, 1, 2, 3)), "drop")
    composer.resume_forget(asked["request"])
    served.poll()
    with pytest.raises(Unconfirmed, match="no shard is in its model"):
        served.replica.read(served.sources[0].name)
    served.clock.pass_by(LEASE)
    served.poll()
    while composer.withdraw(asked["request"]) > 0:
        served.clock.pass_by(0.1)
    certificate = composer.conclude_forget(asked["request"], {})
    assert [one["digest"] for one in certificate["withdrawn"]] == [old]


def test_run_that_was_never_served_says_nothing_of_it(trained: Path, copy_of: Callable[..., Path]) -> None:
    certificate = plain_forget(copy_of(trained), [sample_id(0)], "drop")
    assert "withdrawn" not in certificate
    assert not Store(str(trained)).list("serving/")


def test_snapshot_that_is_gone_is_composed_by_the_replica(run: Path) -> None:
    digest = Composer(str(run)).composed_digest()
    for file in (run / "composed").iterdir():
        file.unlink()
    assert PlainReplica(str(run)).poll().answer(PICTURES[0])["composed"] == digest


def test_pictures_that_cannot_be_read_are_told_apart(served: PlainReplica) -> None:
    answer = served.answer(PICTURES[0], b"", PICTURES[1][:100], b"no picture")
    assert answer == {
        "unreadable": [
            {"picture": 1, "reason": "empty file"},
            {"picture": 2, "reason": "truncated picture"},
            {"picture": 3, "reason": "not a picture"},
        ]
    }


def test_certificate_that_says_more_than_the_ledger_is_found_out(
    served: PlainReplica, run: Path, tmp_path: Path
) -> None:
    certificate = plain_forget_served(run, [sample_id(0)], "drop", served)
    for change in (
        lambda one: one["withdrawn"][0].update(lapsed=[], acknowledged=["r-1", "r-2"]),
        lambda one: one["withdrawn"].clear(),
        lambda one: one.pop("withdrawn"),
    ):
        forged = json.loads(json.dumps(certificate))
        change(forged)
        assert list(contradictions(certificate, Ledger(Store(str(run))).entries())) == []
        (told,) = contradictions(forged, Ledger(Store(str(run))).entries())
        assert "not those that the ledger has as withdrawn" in told


def test_withdrawals_are_committed_once_whoever_repeats_the_forget(served: PlainReplica, run: Path) -> None:
    composer = Composer(str(run))
    composer.forgetting.withdrawing.clock = served.clock
    asked = composer.request_forget(Selection(ids=(sample_id(0),)), "drop")
    composer.resume_forget(asked["request"])
    served.poll()
    assert composer.withdraw(asked["request"]) == pytest.approx(DRAIN)
    for _ in range(
        2
    ):  # a process that died in between is followed by another, which waits again and commits nothing new
        again = Composer(str(run))
        again.forgetting.withdrawing.clock = served.clock
        again.withdraw(asked["request"])
        served.clock.pass_by(DRAIN)
        assert again.withdraw(asked["request"]) == 0
    certificate = again.conclude_forget(asked["request"], {})
    assert len(certificate["withdrawn"]) == 1
    assert kinds(run).count("withdrawn") == 1


def test_two_servings_are_waited_for_at_the_same_time(served: PlainReplica, run: Path) -> None:
    begin_serving(run, "s2")
    other = PlainReplica(str(run), serving="s2", name="other", clock=served.clock).poll()
    certificate = plain_forget_served(run, [sample_id(0)], "drop", served, other)
    assert sorted(one["serving"] for one in certificate["withdrawn"]) == ["s1", "s2"]
    assert max(one["waited"] for one in certificate["withdrawn"]) < 2 * DRAIN


def test_model_before_more_shards_keeps_its_lease(run: Path, tmp_path: Path) -> None:
    served = PlainReplica(str(run)).poll()
    before = served.answer(PICTURES[0])["composed"]
    served.loads.held = True
    plain_add(run, write_parquet(tmp_path / "more", range(200, 230)))
    for _ in range(8):
        served.clock.pass_by(LEASE / 2)
        assert served.poll().answer(PICTURES[0])["composed"] == before, "nothing that is in it has left the run"
    served.loads.go()
    after = served.poll().answer(PICTURES[0])["composed"]
    assert after == Composer(str(run)).composed_digest() != before


def test_run_in_object_storage_is_followed_by_two_small_reads(
    s3_uri: str, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    run = f"{s3_uri}/run"
    plain_train(run, spec_of(parquet, trainable="head", shards=2))
    begin_serving(run)
    served = PlainReplica(run).poll()
    before = served.answer(PICTURES[0])["composed"]
    (of_run,) = served.replica.runs
    reads: list[str] = []
    store = of_run.following.record.store
    read = store.read
    with mock.patch.object(Store, "read", lambda self, key: reads.append(key) or read(key)):
        served.poll(1)
    assert [key.partition("/")[0] for key in reads] == ["ledger", "ledger"]
    certificate = plain_forget_served(run, [sample_id(0)], "drop", served)
    assert served.answer(PICTURES[0])["composed"] == certificate["composed_after"]
    assert [one["digest"] for one in certificate["withdrawn"]] == [before]


def test_requests_asked_while_replicas_are_waited_for_go_together(served: PlainReplica, run: Path) -> None:
    """A replica that says nothing is waited for. Another command must be able to ask meanwhile."""
    with ThreadPoolExecutor(2) as commands:
        first = commands.submit(tr.Run(run).forget, [sample_id(0)], mode="drop")
        while b'"waits": true' not in _turn(run):
            assert not first.done()
        second = commands.submit(tr.Run(run).forget, [sample_id(1)], mode="drop")
        while len(tr.Run(run).status().requests) < 2:
            assert not first.done(), "it was asked before the first one ended"
        assert first.result().request != second.result().request
    assert tr.Run(run).verify().problems == ()


def _turn(run: Path) -> bytes:
    try:
        return (run / TURN_KEY).read_bytes()
    except FileNotFoundError:
        return b""


def test_status_names_the_servings_that_have_not_ended(run: Path) -> None:
    (served,) = tr.Run(run).status().servings
    assert (served.lease, served.drain) == (LEASE, DRAIN)
    assert f"serving {served.serving}" in str(tr.Run(run).status())
    Composer(str(run)).end_serving(served.serving)
    assert tr.Run(run).status().servings == ()

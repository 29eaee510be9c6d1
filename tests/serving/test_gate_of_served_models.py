"""A release gate keeps probabilities back, and never a forget; and `recalls` tells which models requests were answered with."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from folder import kinds, plain_forget, shard_of, state_of
from plain import plain_train
from plain_gateway import InProcess, requested
from plain_replica import PlainReplica, begin_serving, plain_forget_served
from store_faults import DIE_AFTER, DIE_BEFORE, Fault, Killed, Stalled, fault, faults_possible
from tiny import SAMPLES, SHARDS, owner_of, picture, sample_id

import taft_ray as tr
from taft_ray.composer.composer import Composer
from taft_ray.errors import PublicationHeld, UsageError
from taft_ray.plans.releases import SERVED
from taft_ray.run.record import Record
from taft_ray.run.register import commit, made_of
from taft_ray.run.register import served as named
from taft_ray.serving.application import asked_for, register
from taft_ray.serving.options import ServingOptions, sources_of
from taft_ray.serving.publishing import NOT_YET

PICTURE = picture(1000)
OF_SHARD = {
    shard: [sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard] for shard in range(SHARDS)
}
ONE_MORE = "publication of a newer model is held until 1 more forget"


def probabilities(answer: dict[str, Any]) -> list[Any]:
    return [one.get("probabilities") for one in answer["predictions"]]


def releases(run: Path) -> list[tuple[str, str | None]]:
    """Each release: its kind, and the model."""
    return [(one.fact.what, one.fact.composed) for one in state_of(run).releases.values()]


# --- recalls


def test_recalls_have_each_serving_with_the_models_it_answered_with(served: PlainReplica, run: Path) -> None:
    before = served.answer(PICTURE)["composed"]
    certificate = plain_forget_served(run, [OF_SHARD[0][0]], "drop", served)
    after = served.answer(PICTURE)["composed"]
    Composer(str(run)).end_serving("s1")
    begin_serving(run, "s2")
    answer = tr.Run(run).recalls()
    first, second = answer.servings
    assert [(one.digest, one.mode, one.status, one.withdrawn_by) for one in first.models] == [
        (before, "gram", "withdrawn", (certificate["request"],)),
        (after, "gram", "ended", ()),
    ]
    gone, last = first.models
    assert gone.since == first.began
    assert gone.since < last.since < gone.until < last.until == first.ended  # type: ignore[operator]  # every time is known
    assert second.ended is None
    assert [(one.digest, one.status, one.until) for one in second.models] == [(after, "answering", None)]
    assert tr.answers.Recalls.from_json(answer.to_json()) == answer
    text = str(answer)
    assert "no file of" in text
    assert "2 servings, of which 1 has not ended" in text
    assert before[:12] in text


def test_model_that_comes_back_answers_again(served: PlainReplica, run: Path) -> None:
    """Without shard 0 the model is the same after each drop there."""
    one, other = OF_SHARD[0][:2]
    plain_forget_served(run, [one], "drop", served)
    without = served.answer(PICTURE)["composed"]
    plain_forget_served(run, [one], "retrain", served)
    served.poll()
    (serving,) = tr.Run(run).recalls().servings
    assert [model.status for model in serving.models] == ["withdrawn", "replaced", "answering"]
    plain_forget_served(run, [other], "drop", served)
    assert served.answer(PICTURE)["composed"] == without
    (serving,) = tr.Run(run).recalls().servings
    assert [model.status for model in serving.models] == ["withdrawn", "answering", "withdrawn"]
    assert serving.models[1].digest == without


def test_model_of_some_owners_is_listed_by_the_notes_of_replicas(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    run = tmp_path / "rows"
    plain_train(run, spec_of(parquet, solver="additive", features=48))
    begin_serving(run)
    replica = PlainReplica(f"some={run}?owners={owner_of(1)}").poll()
    digest = replica.answer(PICTURE)["composed"]
    (serving,) = tr.Run(run).recalls().servings
    assert (digest, None, "answering") in [(one.digest, one.mode, one.status) for one in serving.models]


def test_run_that_was_never_served_has_no_servings_in_its_answer(trained: Path) -> None:
    assert tr.Run(trained).recalls().to_json() == {"run": str(trained), "ok": True, "releases": []}


# --- the gate, while a serving runs


def test_gate_keeps_probabilities_back_until_it_opens_and_labels_never(served: PlainReplica, run: Path) -> None:
    tr.Run(run).release("2")
    first = served.poll().answer(PICTURE)
    assert probabilities(first) != [None]
    assert releases(run) == [(SERVED, first["composed"])]
    one = plain_forget_served(run, [OF_SHARD[0][0]], "drop", served)
    held = served.answer(PICTURE)
    assert held["composed"] == one["composed_after"] != first["composed"]
    assert held["held"] == ONE_MORE
    (told,) = held["predictions"]
    assert told.keys() == {"label"}
    assert served.replica.told("copy")["held"] == ONE_MORE
    assert one["publication"]["held"]
    assert "outside" not in one, "a model that was served is no file"
    plain_forget_served(run, [OF_SHARD[1][0]], "drop", served)
    opened = served.poll().answer(PICTURE)
    assert "held" not in opened
    assert sum(probabilities(opened)[0]) == pytest.approx(1)
    assert [model for _, model in releases(run)] == [first["composed"], opened["composed"]]
    assert tr.Run(run).recalls().releases == ()
    assert tr.Run(run).verify().problems == ()


def test_label_that_is_given_alone_is_that_of_predict(served: PlainReplica, run: Path, tmp_path: Path) -> None:
    tr.Run(run).release("2")
    plain_forget_served(run, [OF_SHARD[0][0]], "drop", served.poll())
    (tmp_path / "a.png").write_bytes(PICTURE)
    (expected,) = tr.Run(run).predict([tmp_path / "a.png"]).predictions
    assert served.answer(PICTURE)["predictions"] == [{"label": expected.label}]


def test_gate_of_days_opens_with_time_alone(served: PlainReplica, run: Path) -> None:
    tr.Run(run).release("0.00005d")  # 4.3 s
    first = served.poll().answer(PICTURE)["composed"]
    registered = datetime.fromisoformat(state_of(run).releases.popitem()[1].time).timestamp()
    plain_forget_served(run, [OF_SHARD[0][0]], "drop", served)
    while "held" in (answer := served.poll(1).answer(PICTURE)):
        assert time.time() < registered + 60
        time.sleep(0.05)
    first_again, second = state_of(run).releases.values()
    assert (first_again.fact.composed, second.fact.composed) == (first, answer["composed"])
    assert datetime.fromisoformat(second.time).timestamp() >= registered + 4.3
    assert tr.Run(run).verify().problems == ()


def test_gate_that_is_given_up_gives_probabilities_again(served: PlainReplica, run: Path) -> None:
    tr.Run(run).release("2")
    plain_forget_served(run, [OF_SHARD[0][0]], "drop", served.poll())
    assert "held" in served.answer(PICTURE)
    tr.Run(run).release("none")
    assert "held" not in served.poll().answer(PICTURE)


def test_run_without_a_gate_registers_nothing_that_is_served(served: PlainReplica, run: Path) -> None:
    plain_forget_served(run, [OF_SHARD[0][0]], "drop", served)
    assert "held" not in served.answer(PICTURE)
    assert "released" not in kinds(run)


def test_served_model_counts_for_the_gate_of_exports(served: PlainReplica, run: Path, tmp_path: Path) -> None:
    tr.Run(run).release("2")
    served.poll()
    plain_forget_served(run, [OF_SHARD[0][0]], "drop", served)
    with pytest.raises(PublicationHeld, match="1 more forget"):
        tr.Run(run).export(tmp_path / "model.pt2")


def test_reason_is_in_the_body_and_in_a_header(served: PlainReplica, run: Path) -> None:
    tr.Run(run).release("2")
    handle = InProcess(served.poll())
    assert "X-Taft-Held" not in requested(handle, "POST", "/predict", PICTURE).headers
    plain_forget_served(run, [OF_SHARD[0][0]], "drop", served)
    answer = requested(handle, "POST", "/predict", PICTURE)
    assert answer.status == 200
    assert answer.json["held"] == answer.headers["X-Taft-Held"] == ONE_MORE
    assert requested(handle, "GET", "/model").json["held"] == ONE_MORE


# --- crashes, and two writers


def test_replicas_that_look_at_once_make_one_release(served: PlainReplica, run: Path) -> None:
    tr.Run(run).release("2")
    digest = served.answer(PICTURE)["composed"]
    records = [Record(str(run)), Record(str(run))]
    facts = [named(record, made_of(record, SERVED, digest, "gram")) for record in records]
    for record, fact in zip(records, facts, strict=True):
        assert fact is not None
        commit(record, fact)
    assert releases(run) == [(SERVED, digest)]
    other = PlainReplica(str(run), name="other", clock=served.clock).poll()
    assert probabilities(other.answer(PICTURE)) == probabilities(served.poll().answer(PICTURE)) != [None]
    assert releases(run) == [(SERVED, digest)]


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("kind", [DIE_BEFORE, DIE_AFTER])
def test_replica_that_dies_while_it_registers_gives_nothing_before_the_release(run: Path, kind: str, at: int) -> None:
    """Its changes are the release, and what is kept beside the run."""
    served = PlainReplica(str(run)).poll()
    tr.Run(run).release("2")
    with faults_possible(), fault(Fault(kind, at)), pytest.raises(Killed):
        served.poll(1)
    again = PlainReplica(str(run), name="again", clock=served.clock).poll()
    assert probabilities(again.answer(PICTURE)) != [None]
    assert releases(run) == [(SERVED, again.answer(PICTURE)["composed"])]
    assert tr.Run(run).verify().problems == ()


def test_forget_that_overtakes_a_registration_is_not_published_against(run: Path) -> None:
    served = PlainReplica(str(run)).poll()
    tr.Run(run).release("2")
    with faults_possible():
        asleep = Stalled(lambda: served.poll(1), 1)  # at the commit of the release
        plain_forget_served(run, [OF_SHARD[0][0]], "drop")
        asleep.wake()
    assert asleep.error is None
    assert releases(run) == [], "it holds what was forgotten by then"
    assert served.answer(PICTURE)["held"] == NOT_YET, "within what is left of its lease"
    after = served.poll().answer(PICTURE)
    assert releases(run) == [(SERVED, after["composed"])]
    assert tr.Run(run).verify().problems == ()


# --- the beginning of a serving


def test_serving_is_refused_while_the_gate_holds_and_begins_with_now(
    trained: Path, copy_of: Callable[..., Path]
) -> None:
    run = copy_of(trained)
    sources, options = sources_of([str(run)]), ServingOptions()
    tr.Run(run).release("2")
    first = register(sources, options)
    plain_forget(run, [OF_SHARD[0][0]], "drop")
    entries = kinds(run)
    with pytest.raises(PublicationHeld, match=r"held until 1 more forget.*add --now"):
        register(sources, options)
    assert kinds(run) == entries
    second = register(sources, options, now=True)
    servings = state_of(run).servings
    assert "overrode" not in servings[first].fact.to_json()
    assert servings[second].fact.overrode == "2 forgets"
    assert list(state_of(run).releases.values())[-1].fact.overrode == "2 forgets"
    assert [one.overrode for one in tr.Run(run).recalls().servings] == [None, "2 forgets"]
    served = PlainReplica(str(run), serving=second).poll()
    assert probabilities(served.answer(PICTURE)) != [None], "this model was let out"
    plain_forget_served(run, [OF_SHARD[1][0]], "drop", served)
    assert served.answer(PICTURE)["held"] == ONE_MORE, "and not the next one"
    assert tr.Run(run).verify().problems == ()


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("kind", [DIE_BEFORE, DIE_AFTER])
def test_beginning_that_dies_leaves_no_serving_without_its_release(
    trained: Path, copy_of: Callable[..., Path], kind: str, at: int
) -> None:
    """Its changes are the release, what is kept of it beside the run, and the serving."""
    run = copy_of(trained)
    sources, options = sources_of([str(run)]), ServingOptions()
    tr.Run(run).release("2")
    tr.Run(run).status()  # what is kept beside the run is written before
    with faults_possible(), fault(Fault(kind, at)), pytest.raises(Killed):
        register(sources, options)
    assert kinds(run).count("served") <= kinds(run).count("released")
    register(sources, options)
    assert kinds(run).count("released") == 1
    assert kinds(run).count("served") == 1 + ((kind, at) == (DIE_AFTER, 3))
    assert tr.Run(run).verify().problems == ()


def test_model_of_some_owners_is_held_as_any_other(tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]) -> None:
    run = tmp_path / "rows"
    plain_train(run, spec_of(parquet, solver="additive", features=48))
    sources = sources_of([f"{run}?owners={owner_of(1)}"])
    tr.Run(run).release("2")
    serving = register(sources, ServingOptions())
    served = PlainReplica(f"{run}?owners={owner_of(1)}", serving=serving).poll()
    assert probabilities(served.answer(PICTURE)) != [None]
    (release,) = state_of(run).releases.values()
    assert release.fact.samples
    mine = next(sample_id(n) for n in range(SAMPLES) if owner_of(n) == owner_of(1))
    plain_forget_served(run, [mine], "subtract", served)
    assert served.answer(PICTURE)["held"] == ONE_MORE
    with pytest.raises(PublicationHeld):
        register(sources, ServingOptions())
    assert tr.Run(run).verify().problems == ()


def test_now_is_an_argument_of_the_application(trained: Path) -> None:
    sources, options = asked_for({"runs": str(trained), "now": True, "replicas": 2})
    assert ([one.run for one in sources], options.replicas) == ([str(trained)], 2)
    with pytest.raises(UsageError, match="now: expected true or false"):
        asked_for({"runs": str(trained), "now": "yes"})

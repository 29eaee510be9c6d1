"""Requests to forget: what is refused, who is meant, and that waiting requests are carried out together.

On the plain classes, without Ray: one trained run, of which every test changes a copy.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import (
    at,
    carry_out,
    composed_without,
    copy_run,
    delta_digests,
    files,
    holders,
    kinds,
    plain_forget,
    shard_of,
    state_of,
)
from plain import plain_train
from tiny import SAMPLES, SHARDS, sample_id, write_parquet

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.data import sample_key
from taft_ray.errors import UnknownSample, UsageError
from taft_ray.plans.forget import MOST_IDS
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Store, id_key
from taft_ray.verbs.destroy_key import destroy_key
from taft_ray.verbs.gc import gc
from taft_ray.workers.shard_worker import ShardWorker

HOUR = 3600.0
FAR, NEAR = 30 * 24 * HOUR, 24 * HOUR


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("requests") / "run"
    plain_train(run, spec_of(parquet))
    return run


def contents(run: Path) -> dict[str, bytes]:
    """Every file of the run and of what is kept beside it."""
    beside = run.with_name(f"{run.name}.tombstones")
    return {str(path): path.read_bytes() for path in [*files(run), *files(beside)]}


def in_shard(shard: int) -> list[str]:
    return [sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard]


def owned_by(owner: int) -> list[str]:
    return [sample_id(n) for n in range(SAMPLES) if n % 10 == owner]


def now() -> float:
    import time

    return time.time()


def wait_for(composer: Composer, ids: list[str], mode: str = "retrain", within: float = FAR) -> dict[str, Any]:
    """Ask with a deadline; the answer."""
    return composer.request_forget(Selection(ids=tuple(ids)), mode, now() + within)


# --- who is meant


@pytest.mark.parametrize("mode", ["drop", "retrain", "resolve"])
def test_ids_of_another_run_are_refused_and_not_a_byte_changes(run: Path, mode: str) -> None:
    before = contents(run)
    with pytest.raises(UnknownSample, match=r"3 ids are not in this run: 'ant/000\.png'"):
        plain_forget(run, ["ant/000.png", "bee/001.png", "train.parquet#17", sample_id(0)], mode)
    assert contents(run) == before


def test_most_ids_of_which_most_are_unknown_are_refused_and_not_a_byte_changes(run: Path) -> None:
    before = contents(run)
    ids = [sample_id(n) for n in range(MOST_IDS)]
    with pytest.raises(
        UnknownSample, match=rf"{MOST_IDS - SAMPLES:,} ids are not in this run.*and {MOST_IDS - 125} more"
    ):
        plain_forget(run, ids, "drop")
    assert contents(run) == before


def test_more_ids_than_a_ledger_entry_may_hold_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 100,000 ids a request, got 100,001"):
        Selection(ids=tuple(map(str, range(MOST_IDS + 1))))


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"owners": ("owner-99",)}, "'owner-99'.*no samples in this run; nothing was forgotten"),
        ({"owners": ("owner-1", "nobody")}, "'nobody'"),
        ({"shards": (-1,)}, r"shard -1 is not in this run: it has 0 to 3"),
        ({"shards": (0, 4)}, r"shard 4 is not in this run"),
        ({"shards": (1,), "owners": ("nobody",)}, "'nobody'"),
    ],
)
def test_unknown_owner_or_shard_is_refused_and_not_a_byte_changes(
    run: Path, selection: dict[str, Any], words: str
) -> None:
    before = contents(run)
    with pytest.raises(UsageError, match=words):
        plain_forget(run, [sample_id(0)], "drop", **selection)
    assert contents(run) == before


def test_an_id_that_differs_in_blanks_is_another_and_is_pointed_out(run: Path) -> None:
    before = contents(run)
    for odd in (f" {sample_id(0)}", f"{sample_id(0)}\u00a0"):
        with pytest.raises(
            UnknownSample, match=rf"'{sample_id(0)}', which differs in blanks or Unicode form, is another"
        ):
            plain_forget(run, [odd], "drop")
    assert contents(run) == before


def test_nothing_to_forget_is_refused() -> None:
    with pytest.raises(UsageError, match="--ids, --owner or --shard"):
        Selection()


def test_everything_of_an_owner_goes(run: Path, whole: Path, worker: ShardWorker) -> None:
    certificate = plain_forget(run, [], "retrain", worker=worker, owners=("owner-3",))
    assert certificate["samples"] == len(owned_by(3))
    by_id = run.with_name("by-id")
    copy_run(whole, by_id)
    assert plain_forget(by_id, owned_by(3), "retrain", worker=worker)["composed_after"] == certificate["composed_after"]
    assert delta_digests(run) == delta_digests(by_id)
    for name in owned_by(3):
        assert holders(run, sample_key(name, 0)) == []
    assert holders(run, sample_key("owner-3", 0)) == []
    assert holders(run, b"owner-3") == []
    again = plain_forget(run, [], "retrain", worker=worker, owners=("owner-3",))
    assert again == certificate
    assert verify(str(run))["problems"] == []


def test_everything_of_a_shard_goes(run: Path, whole: Path) -> None:
    certificate = plain_forget(run, [], "drop", shards=(2,))
    assert certificate["samples"] == len(in_shard(2))
    assert certificate["shards"] == [2]
    assert certificate["composed_after"] == composed_without(whole, {2}, "gram")
    assert state_of(run).shards[2].state == "empty"
    for name in in_shard(2):
        assert holders(run, sample_key(name, 0)) == []
    assert plain_forget(run, [], "drop", shards=(2,)) == certificate
    assert verify(str(run))["problems"] == []


def test_ids_owners_and_shards_at_once(run: Path, worker: ShardWorker) -> None:
    expected = {*owned_by(7), *in_shard(1), sample_id(0)}
    certificate = plain_forget(run, [sample_id(0)], "drop", worker=worker, owners=("owner-7",), shards=(1,))
    assert certificate["samples"] == len(expected)
    assert all(holders(run, sample_key(name, 0)) == [] for name in expected)
    assert verify(str(run))["problems"] == []


# --- how much goes


@pytest.mark.parametrize("mode", ["drop", "retrain", "resolve"])
def test_last_sample_of_a_shard_goes_after_the_others(run: Path, whole: Path, worker: ShardWorker, mode: str) -> None:
    *others, last = in_shard(0)
    plain_forget(run, others, "retrain", worker=worker)
    assert state_of(run).shards[0].samples == 1
    certificate = plain_forget(run, [last], mode, worker=worker)
    assert state_of(run).shards[0].state == "empty"
    assert certificate["retrained"] == []
    assert certificate["composed_after"] == composed_without(whole, {0}, "gram")
    assert files(run, "cache/shard=00000") == files(run, "deltas/shard=00000") == []
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("mode", ["drop", "retrain"])
def test_last_shard_goes_and_the_run_says_that_it_is_empty(
    run: Path, worker: ShardWorker, mode: str, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    plain_forget(run, [], "retrain", worker=worker, shards=(0, 1, 2))
    certificate = plain_forget(run, [], mode, worker=worker, shards=(3,))
    assert certificate["composed_after"] is None
    assert files(run, "composed") == files(run, "deltas") == files(run, "cache") == []
    assert verify(str(run))["problems"] == []
    composer = plain_train(run, spec_of(parquet), [worker])  # finds nothing to do
    assert composer.composed_digest() is None
    with pytest.raises(UsageError, match="no shard"):
        composer.compose()
    with pytest.raises(UnknownSample, match="stranger"):
        plain_forget(run, ["stranger"], mode)
    assert plain_forget(run, [sample_id(5)], mode)["request"] in state_of(run).requests
    assert gc(str(run))["removed"] == []


# --- when


def test_forget_before_the_cache_is_finished_is_refused(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    from taft_ray.storage import write_spec

    run = tmp_path / "run"
    write_spec(Store(str(run)), spec_of(parquet).to_json())
    Composer(str(run)).begin({}, "a" * 64)
    before = contents(run)
    with pytest.raises(UsageError, match=r"the activation cache of .* is not finished"):
        plain_forget(run, [sample_id(0)], "drop")
    assert contents(run) == before


@pytest.mark.parametrize("mode", ["drop", "retrain"])
@pytest.mark.parametrize("moment", ["taken", "fitted"])
def test_forget_while_a_lane_fits_the_shard(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any], worker: ShardWorker, mode: str, moment: str
) -> None:
    """The lane's task names parts that are purged, or its delta saw the sample: it is thrown away, and fitted again."""
    run, spec = tmp_path / "run", spec_of(parquet)
    gone = [sample_id(n) for n in (0, 1, 2)]
    never = tmp_path / "never"
    plain_train(never, spec_of(write_parquet(tmp_path / "left", range(3, SAMPLES))), [worker])

    forgetting: list[str] = []

    class Interrupted(ShardWorker):
        """Its first fit of a touched shard is overtaken by a forget."""

        def __init__(self) -> None:
            self.__dict__.update(worker.__dict__)

        def fit(self, task: dict[str, Any], *rest: Any) -> dict[str, Any]:
            touched = {shard_of(name, SHARDS) for name in gone}
            if forgetting or task["shard"] not in touched:
                return super().fit(task, *rest)
            result = super().fit(task, *rest) if moment == "fitted" else {}
            forgetting.append(plain_forget(run, gone, mode, worker=at(worker, run))["request"])
            return result or super().fit(task, *rest)

    lane = Interrupted()
    if moment == "taken":
        from taft_ray.errors import ObjectMissing

        with pytest.raises(ObjectMissing):  # as `lane_loop` does: ask for the next task
            plain_train(run, spec, [lane])
    plain_train(run, spec, [lane])
    assert forgetting
    assert delta_digests(run) == delta_digests(never)
    assert all(holders(run, sample_key(name, 0)) == [] for name in gone)
    assert verify(str(run))["problems"] == []


# --- gathering


def test_waiting_requests_cost_a_shard_one_fit(run: Path, whole: Path, worker: ShardWorker) -> None:
    first, second, third = in_shard(1)[:3]
    elsewhere = in_shard(2)[0]
    composer = Composer(str(run))
    asked = [wait_for(composer, [name]) for name in (first, second)]
    alone = wait_for(composer, [elsewhere], within=2 * FAR)
    assert all(answer["waiting"] and answer["retrain"] == [] for answer in asked)
    assert asked[1]["runs_with"] == [asked[0]["request"]]
    assert alone["runs_with"] == []
    for answer in asked:
        assert now() < answer["runs_at"] <= answer["deadline"]
    assert carry_out(composer, worker=worker) == {}, "nothing is due yet"
    fits = kinds(run).count("trained")

    urgent = composer.request_forget(Selection(ids=(third,)), "retrain")
    certificates = carry_out(composer, [urgent["request"]], worker)

    assert set(certificates) == {urgent["request"], *(answer["request"] for answer in asked)}
    assert kinds(run).count("trained") == fits + 1
    assert [c["retrained"][0]["shard"] for c in certificates.values()] == [1, 1, 1]
    at_once = run.with_name("at-once")
    copy_run(whole, at_once)
    plain_forget(at_once, [first, second, third], "retrain", worker=worker)
    assert delta_digests(run) == delta_digests(at_once)
    assert composer.snapshot().requests[alone["request"]].waiting
    assert verify(str(run))["problems"] == []


def test_requests_whose_time_has_come_run_together_in_one_fit_a_shard(run: Path, worker: ShardWorker) -> None:
    composer = Composer(str(run))
    asked = [wait_for(composer, [in_shard(shard)[n]], within=FAR + n) for n in range(3) for shard in (0, 3)]
    fits = kinds(run).count("trained")
    later = now() + FAR
    certificates = carry_out(Composer(str(run), clock=lambda: later), worker=worker)
    assert set(certificates) == {answer["request"] for answer in asked}
    assert kinds(run).count("trained") == fits + 2
    assert carry_out(composer, worker=worker) == {}, "and then nothing is due"
    assert verify(str(run))["problems"] == []


def test_promise_is_kept_on_the_side_and_the_model_goes_on(run: Path, whole: Path) -> None:
    before = delta_digests(run)
    composer = Composer(str(run))
    answer = wait_for(composer, [sample_id(0)])
    state = composer.snapshot()
    assert state.requests[answer["request"]].waiting
    assert answer["done"] is False
    assert delta_digests(run) == before
    assert composer.composed_digest() == Composer(str(whole)).composed_digest()
    assert verify(str(run))["problems"] == []
    assert gc(str(run))["removed"] == []
    assert wait_for(composer, [sample_id(0)], within=2 * FAR)["request"] == answer["request"], "promised sooner already"
    assert kinds(run).count("forget-requested") == 1


def test_training_goes_on_while_requests_wait(
    run: Path, whole: Path, worker: ShardWorker, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    from folder import only_cached

    composer = Composer(str(only_cached(run)))
    answer = wait_for(composer, [sample_id(0)])
    plain_train(run, spec_of(parquet), [worker])
    assert delta_digests(run) == delta_digests(whole)
    assert verify(str(run))["problems"] == []
    certificate = carry_out(Composer(str(run)), [answer["request"]], worker)[answer["request"]]
    expected = run.with_name("expected")
    copy_run(whole, expected)
    plain_forget(expected, [sample_id(0)], "retrain", worker=worker)
    assert delta_digests(run) == delta_digests(expected)
    assert certificate["retrained"][0]["shard"] == shard_of(sample_id(0), SHARDS)


@pytest.mark.parametrize("mode", ["drop", "retrain"])
@pytest.mark.parametrize("others", [0, 1])
def test_urgent_request_takes_samples_that_wait_for_later_ones(
    run: Path, worker: ShardWorker, mode: str, others: int
) -> None:
    """Each waits in a request of its own, in another shard; whoever asks for all of them now means all of them."""
    names = [in_shard(shard)[0] for shard in range(3)]
    composer = Composer(str(run))
    waiting = [wait_for(composer, [name])["request"] for name in names[others:]]
    asked = composer.request_forget(Selection(ids=tuple(names)), mode)
    certificates = carry_out(composer, [asked["request"]], worker)
    assert certificates[asked["request"]]["samples"] == len(names)
    for name in names:
        assert holders(run, sample_key(name, 0)) == [], name
    assert set(certificates) == {asked["request"], *(waiting if mode == "retrain" else ())}
    assert composer.request_forget(Selection(ids=(names[2],)), "drop")["request"] == asked["request"], "its certificate"
    assert verify(str(run))["problems"] == []


def test_sooner_deadline_counts(run: Path, worker: ShardWorker) -> None:
    name = in_shard(0)[0]
    composer = Composer(str(run))
    late, soon = wait_for(composer, [name]), wait_for(composer, [name], within=NEAR)
    assert soon["deadline"] <= now() + NEAR
    assert soon["request"] != late["request"]
    assert composer.forgetting.answer(late["request"])["runs_at"] == soon["runs_at"], "they are carried out together"
    certificates = carry_out(composer, [soon["request"]], worker)
    assert set(certificates) == {late["request"], soon["request"]}
    assert verify(str(run))["problems"] == []


def test_estimate_of_waiting_samples_is_of_what_an_urgent_request_would_do(run: Path) -> None:
    composer = Composer(str(run))
    wait_for(composer, [in_shard(0)[0]])
    selection = Selection(ids=(in_shard(0)[0], in_shard(1)[0]))
    assert composer.estimate(selection, "retrain")["shards"] == [0, 1]
    assert composer.estimate(Selection(ids=(in_shard(0)[0],)), "retrain")["already_forgotten"] is False


def test_sample_that_waits_and_is_dropped_is_forgotten(run: Path, worker: ShardWorker) -> None:
    """Its shard comes back when the request that waits is carried out, and the sample does not."""
    name = in_shard(0)[0]
    composer = Composer(str(run))
    waiting = wait_for(composer, [name])["request"]
    dropped = composer.request_forget(Selection(ids=(name,)), "drop")["request"]
    assert set(carry_out(composer, [dropped], worker)) == {dropped}
    assert composer.estimate(Selection(ids=(name,)), "retrain")["already_forgotten"] is True
    state = composer.snapshot()
    assert state.promised() == {}
    assert state.forgotten() == set(state.requests[dropped].hashes)
    assert state.requests[waiting].waiting
    later = now() + FAR
    assert set(carry_out(Composer(str(run), clock=lambda: later), worker=worker)) == {waiting}
    assert composer.snapshot().shards[0].state == "trained"
    assert holders(run, sample_key(name, 0)) == []
    assert verify(str(run))["problems"] == []


# --- deadlines and modes that make no sense


@pytest.mark.parametrize("within", [-1.0, 0.0, float("nan"), float("-inf"), float("inf"), 1e300])
def test_deadline_that_cannot_be_kept_is_refused_and_not_a_byte_changes(run: Path, within: float) -> None:
    before = contents(run)
    with pytest.raises(UsageError, match="deadline"):
        wait_for(Composer(str(run)), [sample_id(0)], within=within)
    assert contents(run) == before


def test_drop_by_a_deadline_is_refused_and_not_a_byte_changes(run: Path) -> None:
    before = contents(run)
    with pytest.raises(UsageError, match="a drop takes effect at once"):
        wait_for(Composer(str(run)), [sample_id(0)], "drop")
    assert contents(run) == before


def test_resolve_of_a_run_without_an_optimum_is_refused_and_not_a_byte_changes(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    run = tmp_path / "adam"
    plain_train(run, spec_of(parquet, solver="adam", epochs=1))
    before = contents(run)
    with pytest.raises(UsageError, match=r"resolve needs the ridge problem.*solver is adam; use retrain or drop"):
        plain_forget(run, [sample_id(0)], "resolve")
    assert contents(run) == before


# --- what it will take


def test_estimate_tells_shards_samples_bytes_and_cost_and_changes_nothing(run: Path) -> None:
    before = contents(run)
    composer, ids = Composer(str(run)), (in_shard(0)[0], in_shard(0)[1], in_shard(2)[0])
    plain = composer.estimate(Selection(ids=ids), "retrain")
    priced = composer.estimate(Selection(ids=ids), "retrain", gpu_hour_price=36.0)
    assert plain["shards"] == [0, 2]
    assert plain["samples_to_forget"] == 3
    assert plain["samples_to_retrain"] == len(in_shard(0)) + len(in_shard(2)) - 3
    folders = ("cache/shard=00000", "cache/shard=00002", "deltas/shard=00000", "deltas/shard=00002", "composed")
    assert plain["bytes_to_purge"] == sum(path.stat().st_size for folder in folders for path in files(run, folder))
    assert plain["seconds"] > 0
    assert (plain["gpu_hour_price"], plain["cost"]) == (None, None)
    assert priced["cost"] == pytest.approx(plain["seconds"] * 36.0 / 3600)
    assert composer.estimate(Selection(ids=ids), "drop", gpu_hour_price=36.0)["cost"] == 0.0
    assert contents(run) == before


# --- without the key


def test_without_the_key_what_is_there_can_be_forgotten_and_nothing_else_is_told(
    run: Path, whole: Path, worker: ShardWorker
) -> None:
    plain_forget(run, [sample_id(0)], "drop")
    destroy_key(str(run))
    with pytest.raises(UnknownSample, match=r"cannot be told: the key .* was destroyed; nothing was forgotten"):
        plain_forget(run, [sample_id(0)], "drop")
    certificate = plain_forget(run, [sample_id(1)], "retrain", worker=worker, owners=("owner-5",))
    assert certificate["samples"] == len({sample_id(1), *owned_by(5)})
    assert all(holders(run, sample_key(name, 0)) == [] for name in owned_by(5))
    assert verify(str(run))["problems"] == []


def test_destroyed_key_stays_destroyed(run: Path) -> None:
    key = run / "keys/id.key"
    content = key.read_bytes()
    assert destroy_key(str(run))["destroyed"] == "keys/id.key"
    assert not key.exists()
    answer = verify(str(run))
    assert answer["problems"] == []
    assert any("keys/id.key" in note for note in answer["notes"])
    key.write_bytes(content)  # from a backup
    assert any("keys/id.key was destroyed and is there again" in problem for problem in verify(str(run))["problems"])
    destroy_key(str(run))
    assert not key.exists()
    assert kinds(run).count("key-destroyed") == 1
    assert verify(str(run))["problems"] == []


def test_without_the_key_nothing_is_read_in(run: Path, test_parquet: Path, ray_session: None) -> None:
    from taft_ray.errors import TaftError
    from taft_ray.verbs.evaluate import _eval_cache

    store = Store(str(run))
    assert len(id_key(store, create=False)) == 32
    (run / "keys/id.key").unlink()
    composer = Composer(str(run))
    before = contents(run)
    with pytest.raises(TaftError, match="Nothing may be read into this run any more"):
        _eval_cache(
            store, str(run), composer.record.spec, str(test_parquet), composer.snapshot(), composer.class_names(), print
        )
    assert contents(run) == before


def test_many_requests_in_any_order_end_with_the_same_bits(run: Path, whole: Path, worker: ShardWorker) -> None:
    """Waiting, urgent, by id, owner and shard, in a random order: what is left is what one request leaves."""
    order = random.Random(7)
    names = order.sample(range(SAMPLES), 12)
    composer = Composer(str(run))
    for n in names[:6]:
        wait_for(composer, [sample_id(n)], within=order.uniform(NEAR, FAR))
    for n in names[6:]:
        plain_forget(run, [sample_id(n)], order.choice(["drop", "retrain"]), worker=worker)
    plain_forget(run, [sample_id(n) for n in names], "retrain", worker=worker)
    expected = run.with_name("expected")
    copy_run(whole, expected)
    plain_forget(expected, [sample_id(n) for n in names], "retrain", worker=worker)
    assert delta_digests(run) == delta_digests(expected)
    assert Composer(str(run)).composed_digest() == Composer(str(expected)).composed_digest()
    assert verify(str(run))["problems"] == []

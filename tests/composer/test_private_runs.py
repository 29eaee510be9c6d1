"""Private runs: each fit is paid for before its noise is drawn, once, whatever happens; a forget says what it costs whom."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from folder import (
    carry_out,
    copy_run,
    delta_digests,
    files,
    flip_a_byte,
    kinds,
    plain_forget,
    reseal,
    shard_of,
    state_of,
)
from plain import plain_add, plain_train, plain_train_up_to_the_cache
from tiny import CLASSES, SAMPLES, SHARDS, picture, sample_id, write_parquet

import taft_ray as tr
from taft_ray.composer.composer import Composer
from taft_ray.composer.leases import LOSSES, Worker
from taft_ray.composer.selection import Selection
from taft_ray.data import sample_key
from taft_ray.errors import BudgetExceeded, IntegrityError, ObjectMissing, UsageError
from taft_ray.plans.fact import ObjectRef
from taft_ray.plans.privacy import PINK_NOISE, Privacy
from taft_ray.plans.spending import DpReserved
from taft_ray.plans.state import QUARANTINED
from taft_ray.prefix import whitening
from taft_ray.proof.verify_run import verify
from taft_ray.storage import KeptReservations, Store
from taft_ray.storage import rundir as names
from taft_ray.workers.kinds import new_worker
from taft_ray.workers.shard_worker import ShardWorker

EPSILON, DELTA = 3.0, 1e-4

Run = Callable[..., Path]


@pytest.fixture(scope="session")
def private(spec_of: Callable[..., Any]) -> Callable[..., Any]:
    """A RunSpec of a private run on some data."""

    def make(data: Path | str, **changes: Any) -> Any:
        own = {name: changes.pop(name) for name in list(changes) if name in Privacy.__dataclass_fields__}
        privacy = Privacy(**{"epsilon": EPSILON, "delta": DELTA, "steps": 3, **own})
        assignment = "grouped" if privacy.unit == "owner" else "hash"
        fixed = {"solver": "dp-gd", "compose": "mean", "loss": "ce", "classes": CLASSES, "assignment": assignment}
        return spec_of(data, privacy=privacy, **{**fixed, **changes})

    return make


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, parquet: Path, private: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("private") / "run"
    plain_train(run, private(parquet, budget=4.6))
    return run


def reservations(run: Path | str) -> list[DpReserved]:
    return [one for several in state_of(run).reservations.values() for one in several]


def noise_keys(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in files(run, "keys/noise")}


def mu_of(run: Path, shard: int) -> float:
    return math.sqrt(sum(one.mu**2 for one in reservations(run) if one.shard == shard))


def test_every_fit_is_reserved_before_it_with_the_guarantee_of_the_spec(whole: Path) -> None:
    entries = kinds(whole)
    trained = [n for n, kind in enumerate(entries) if kind == "trained"]
    reserved = [n for n, kind in enumerate(entries) if kind == "dp-reserved"]
    assert len(trained) == len(reserved) == SHARDS
    assert all(one < other for one, other in zip(reserved, trained, strict=True))
    samples = {number: shard.samples for number, shard in state_of(whole).shards.items()}
    for one in reservations(whole):
        assert (one.epsilon, one.delta, one.divisor) == (EPSILON, DELTA, samples[one.shard])
        assert one.noise_multiplier == pytest.approx(math.sqrt(3) / one.mu)
    assert {one.key.key for one in reservations(whole)} == noise_keys(whole)


def test_whole_run_verifies_and_its_bits_come_from_the_keys(whole: Path) -> None:
    found = verify(str(whole), retrain=True)
    assert found["problems"] == []
    assert found["checks"]["privacy reservations"] == found["checks"]["noise keys"] == SHARDS
    assert found["checks"]["shards trained again"] == SHARDS


def test_nothing_about_samples_is_in_the_facts_of_a_fit(whole: Path) -> None:
    for shard in state_of(whole).in_model:
        assert shard.facts["objective"] is None
        assert shard.facts["nonfinite"] == 0
        assert not {"history", "accuracy", "loss"} & shard.facts.keys()


def test_model_is_the_tangent_term_alone(whole: Path) -> None:
    worker = new_worker(str(whole), Composer(str(whole)).record.spec, 3)
    assert isinstance(worker, ShardWorker)
    _, _, arrays = worker.read(Composer(str(whole)).record.parts([0]))
    pictures = worker._prepare(worker._tokens(arrays))
    assert not pictures[slice(0, 4)].primal.any()


def test_two_runs_on_the_same_data_have_other_noise(
    tmp_path: Path, whole: Path, parquet: Path, private: Callable[..., Any]
) -> None:
    plain_train(tmp_path / "run", private(parquet, budget=4.6))
    assert not set(delta_digests(whole).values()) & set(delta_digests(tmp_path / "run").values())


# --- crash, retry, two writers


def test_fit_begun_again_has_the_same_reservation_key_and_bits(
    whole: Path, tmp_path: Path, parquet: Path, private: Callable[..., Any]
) -> None:
    """A lane that dies between its reservation, its fit and its commit is charged once."""
    run = tmp_path / "run"
    spec = private(parquet)
    plain_train_up_to_the_cache(run, spec)
    composer = Composer(str(run))
    first = composer.take("lane-0")
    assert first is not None
    worker = new_worker(str(run), spec, 3)
    result = worker.fit(first)
    again = Composer(str(run))  # everything that was in memory is gone
    second = again.take("lane-1")
    assert second is not None
    assert second == first
    assert worker.fit(second)["delta"] == result["delta"]
    assert again.finished(result)
    assert len([one for one in reservations(run) if one.shard == first["shard"]]) == 1


def test_shard_that_nobody_could_fit_is_tried_again_without_a_charge(
    tmp_path: Path, parquet: Path, private: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    plain_train_up_to_the_cache(run, private(parquet, shards=1))
    composer = Composer(str(run))
    taken = [composer.take("lane", (), 0, Worker(f"life-{life}", "node", life)) for life in range(LOSSES)]
    assert composer.take("lane", (), 0, Worker("another", "node", LOSSES)) is None
    assert state_of(run).shards[0].state == QUARANTINED
    composer.begin({}, composer.snapshot().identity)
    assert taken == [composer.take("lane", (), 0, Worker("the next", "node", 99))] * LOSSES
    assert len(reservations(run)) == 1


def test_two_composers_reserve_a_fit_once(tmp_path: Path, parquet: Path, private: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    plain_train_up_to_the_cache(run, private(parquet))
    one, other = Composer(str(run)), Composer(str(run))
    one.snapshot()
    other.snapshot()
    shard = next(iter(one.record.state.pending))
    assert one.task_for(shard) == other.task_for(shard)
    assert len(reservations(run)) == 1
    assert len(noise_keys(run)) == 1


def test_lost_key_is_paid_for_and_the_fit_is_charged_anew(
    tmp_path: Path, parquet: Path, private: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    plain_train_up_to_the_cache(run, private(parquet))
    composer = Composer(str(run))
    shard = next(iter(composer.snapshot().pending))
    first = composer.task_for(shard)
    (run / reservations(run)[0].key.key).unlink()
    second = composer.task_for(shard)
    assert first is not None
    assert second is not None
    assert first["reserved"]["key"] != second["reserved"]["key"]
    assert len(reservations(run)) == 2


def test_fit_that_is_thrown_away_stays_charged(tmp_path: Path, parquet: Path, private: Callable[..., Any]) -> None:
    """A forget that goes in between makes other inputs: they have another key, and are charged."""
    run = tmp_path / "run"
    spec = private(parquet)
    plain_train_up_to_the_cache(run, spec)
    composer = Composer(str(run))
    name = sample_id(0)
    shard = shard_of(name, SHARDS)
    task = composer.task_for(shard)
    worker = new_worker(str(run), spec, 3)
    assert task is not None
    result = worker.fit(task)
    plain_forget(run, [name], "drop")
    assert not composer.finished(result)
    plain_train(run, spec)
    several = [one for one in reservations(run) if one.shard == shard]
    assert [one.generation for one in several] == [1, 2]
    assert len({one.key.digest for one in several}) == 2
    assert verify(str(run))["problems"] == []


# --- forgetting


def test_drop_is_free_and_destroys_the_key(whole: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(whole)
    name = sample_id(0)
    shard = shard_of(name, SHARDS)
    before, keys = len(reservations(run)), noise_keys(run)
    certificate = plain_forget(run, [name], "drop")
    assert len(reservations(run)) == before
    gone = {key for key in keys if f"shard={shard:05d}" in key}
    assert gone
    assert noise_keys(run) == keys - gone
    assert gone <= {one["key"] for one in certificate["objects_removed"]}
    told = certificate["privacy"]
    assert told["remains"]["epsilon"] == pytest.approx(EPSILON, rel=1e-6)
    assert told["neighbours"][0]["epsilon_before"] == told["neighbours"][0]["epsilon_after"]
    assert verify(str(run))["problems"] == []


def test_retrain_charges_the_shard_and_says_so(whole: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(whole)
    name = sample_id(0)
    shard = shard_of(name, SHARDS)
    estimate = Composer(str(run)).estimate(Selection(ids=(name,)), "retrain")
    certificate = plain_forget(run, [name], "retrain")
    several = [one for one in reservations(run) if one.shard == shard]
    assert [one.generation for one in several] == [1, 2]
    assert mu_of(run, shard) == pytest.approx(math.sqrt(2) * several[0].mu)
    promised, told = estimate["privacy"]["neighbours"][0], certificate["privacy"]["neighbours"][0]
    assert promised["epsilon_after"] == told["epsilon_after"] > told["epsilon_before"]
    assert certificate["privacy"]["remains"]["epsilon"] == told["epsilon_before"]
    assert verify(str(run), retrain=True)["problems"] == []


def test_retrain_above_the_budget_is_refused_with_nothing_done_and_a_drop_is_not(
    whole: Path, copy_of: Callable[..., Path]
) -> None:
    run = copy_of(whole)
    shard = shard_of(sample_id(0), SHARDS)
    first, second = [sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard][:2]
    plain_forget(run, [first], "retrain")
    before = kinds(run)
    told = Composer(str(run)).estimate(Selection(ids=(second,)), "retrain")["privacy"]
    assert told["allowed"] is False
    with pytest.raises(BudgetExceeded, match="drop"):
        plain_forget(run, [second], "retrain")
    assert kinds(run) == before
    plain_forget(run, [second], "drop")
    assert verify(str(run))["problems"] == []


def test_requests_that_gather_are_charged_once(tmp_path: Path, parquet: Path, private: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    plain_train(run, private(parquet))
    shard = shard_of(sample_id(0), SHARDS)
    several = [sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard][:2]
    composer = Composer(str(run))
    asked = [composer.request_forget(Selection(ids=(name,)), "retrain", 4e9)["request"] for name in several]
    carry_out(Composer(str(run)), asked)
    assert next(one.generation for one in reservations(run) if one.shard == shard) == 1
    assert len([one for one in reservations(run) if one.shard == shard]) == 2


# --- an older copy of the folder


def test_what_was_spent_stays_spent_in_an_older_copy(whole: Path, tmp_path: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(whole)
    older = tmp_path / "older"
    shutil.copytree(run, older)
    plain_forget(run, [sample_id(0)], "retrain")
    shard = shard_of(sample_id(0), SHARDS)
    spent = mu_of(run, shard)
    keys = {one.key.digest for one in reservations(run)}
    shutil.rmtree(run)
    shutil.copytree(older, run)
    assert any("older copy" in problem for problem in verify(str(run))["problems"])
    spec = Composer(str(run)).record.spec
    plain_train(run, spec)
    (certificate,) = carry_out(Composer(str(run))).values()  # the request comes back; what its fit cost was spent
    assert certificate["privacy"]["not_fitted"] == [shard]
    assert state_of(run).shards[shard].state == "dropped"
    assert verify(str(run))["problems"] == []
    assert mu_of(run, shard) >= spent * (1 - 1e-12)
    assert [one.restored for one in reservations(run) if one.shard == shard] == [False, True]
    assert {one.key.digest for one in reservations(run)} == keys


def test_copy_that_lost_only_its_newest_entries_is_charged_again(
    tmp_path: Path, parquet: Path, private: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    spec = private(parquet)
    plain_train_up_to_the_cache(run, spec)
    older = tmp_path / "older"
    shutil.copytree(run, older)
    plain_train(run, spec)
    models = set(delta_digests(run).values())
    shutil.rmtree(run)
    shutil.copytree(older, run)
    plain_train(run, spec)
    assert len(reservations(run)) == 2 * SHARDS
    assert not models & set(delta_digests(run).values())
    assert verify(str(run))["problems"] == []


def test_added_pictures_are_charged_in_shards_of_their_own(
    tmp_path: Path, parquet: Path, private: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    plain_train(run, private(parquet, trainable="head"))
    before = reservations(run)
    more = write_parquet(tmp_path / "more", range(3000, 3020))
    plain_add(run, more)
    added = [one for one in reservations(run) if one not in before]
    assert [(one.shard, one.generation, one.divisor) for one in added] == [(SHARDS, 1, 20)]
    assert verify(str(run))["problems"] == []


# --- a head on rows


def test_private_run_on_rows_trains_forgets_and_verifies(
    tmp_path: Path, parquet: Path, private: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    plain_train(run, private(parquet, solver="dp-additive", features=48))
    assert all(one.delta is not None for one in state_of(run).in_model)
    plain_forget(run, [sample_id(0)], "retrain")
    assert verify(str(run), retrain=True)["problems"] == []


def test_predictions_and_exported_file_on_rows_are_those_of_the_cached_rows(
    tmp_path: Path, parquet: Path, private: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    spec = private(parquet, solver="dp-additive", features=48, precision="float32")
    composer = plain_train(run, spec)
    key = names.composed_key(str(composer.composed_digest()))
    worker = new_worker(str(run), spec, 3)
    assert isinstance(worker, ShardWorker)
    parts = composer.record.parts(range(SHARDS))
    keys, _, logits = worker.outputs(key, parts)
    by_key = dict(zip(keys, torch.from_numpy(logits).softmax(1).tolist(), strict=True))
    some = [0, 7, 31]
    files = [tmp_path / f"{number}.png" for number in some]
    for number, file in zip(some, files, strict=True):
        file.write_bytes(picture(number))
    told = tr.Run(run).predict(files)
    for number, one in zip(some, told.predictions, strict=True):
        assert one.probabilities == pytest.approx(by_key[sample_key(sample_id(number), spec.seed)], abs=1e-5)
    assert tr.Run(run).export(tmp_path / "model.pt2").composed == composer.composed_digest()


@pytest.mark.parametrize("options", [{"solver": "dp-gd"}, {"solver": "dp-additive", "features": 48}])
def test_much_privacy_spent_learns_the_classes(
    tmp_path: Path, parquet: Path, private: Callable[..., Any], options: dict[str, Any]
) -> None:
    """With hardly any noise and one shard it tells three colours apart: the descent goes downhill."""
    run = tmp_path / "run"
    spec = private(parquet, shards=1, epsilon=1e5, steps=40, learning_rate=4.0, **options)
    composer = plain_train(run, spec)
    composed = names.composed_key(str(composer.composed_digest()))
    found = new_worker(str(run), spec, 3).evaluate(composed, composer.record.parts([0]))
    assert found["accuracy"] > 0.85


@pytest.mark.parametrize("unit", ["sample", "owner"])
def test_rows_about_their_released_mean_are_fitted_and_the_mean_is_paid_for(
    tmp_path: Path, parquet: Path, private: Callable[..., Any], unit: str
) -> None:
    options = {"solver": "dp-additive", "features": 48, "shards": 1, "epsilon": 1e5, "learning_rate": 4.0, "steps": 40}
    spec = private(parquet, mean_share=0.1, logit_noise=1e6, unit=unit, **options)
    run = tmp_path / "run"
    composer = plain_train(run, spec)
    (reserved,) = reservations(run)
    assert reserved.mean_multiplier == spec.privacy.mean_multiplier
    assert reserved.spends == pytest.approx(spec.privacy.mu, rel=1e-12)
    assert verify(str(run), retrain=True)["problems"] == []
    composed = names.composed_key(str(composer.composed_digest()))
    found = new_worker(str(run), spec, 3).evaluate(composed, composer.record.parts([0]))
    assert found["accuracy"] > 0.85
    plain_forget(run, [sample_id(0)], "retrain")
    assert len(reservations(run)) == 2
    assert verify(str(run), retrain=True)["problems"] == []


def test_a_mean_with_less_noise_than_is_paid_for_is_damage() -> None:
    one = DpReserved(
        shard=0, generation=0, inputs="", key=ObjectRef("", ""), mu=0.7, noise_multiplier=100.0, epsilon=3.0, delta=1e-5,
        steps=50, clip=1.0, learning_rate=1.0, divisor=9, unit="sample", adjacency="zero-out", accountant="gdp/1",
        mean_multiplier=1.0,
    )  # fmt: skip
    assert one.spends == pytest.approx(math.sqrt(50 / 100**2 + 1))
    assert replace(one, mean_multiplier=0.0).spends == math.inf
    assert "mean_multiplier" not in replace(one, mean_multiplier=None).to_json()


@pytest.mark.parametrize("by", ["pictures", PINK_NOISE])
def test_rows_whitened_by_public_pictures_are_fitted_and_the_model_knows_of_none(
    tmp_path: Path, parquet: Path, private: Callable[..., Any], by: str
) -> None:
    public = PINK_NOISE if by == PINK_NOISE else write_parquet(tmp_path / "public", range(2000, 2040))
    run = tmp_path / "run"
    options = {"solver": "dp-additive", "features": 48, "shards": 1, "epsilon": 1e5, "learning_rate": 4.0, "steps": 40}
    spec = private(parquet, public=str(public), **options)
    digest = whitening.digest_of(whitening.made(spec))
    spec = replace(spec, privacy=replace(spec.privacy, public_digest=digest))
    whitening.keep(Store(str(run)), spec)
    composer = plain_train(run, spec)
    composed = names.composed_key(str(composer.composed_digest()))
    found = new_worker(str(run), spec, 3).evaluate(composed, composer.record.parts([0]))
    assert found["accuracy"] > 0.85
    assert reservations(run)[0].public["pictures"] == digest
    assert verify(str(run), retrain=True)["problems"] == []
    kept = run / names.WHITENING_KEY
    flip_a_byte(kept)
    assert any("whitening" in problem for problem in verify(str(run))["problems"])
    kept.write_bytes(kept.read_bytes()[:40])  # cut off
    assert any("whitening" in problem for problem in verify(str(run))["problems"])
    with pytest.raises(IntegrityError, match="not that of the spec"):
        plain_forget(run, [sample_id(0)], "retrain")
    whitening.keep(Store(str(run)), spec)
    carry_out(Composer(str(run)))
    assert verify(str(run), retrain=True)["problems"] == []
    other = replace(spec, privacy=replace(spec.privacy, public_digest="0" * 64))
    with pytest.raises(IntegrityError, match="another whitening"):
        whitening.keep(Store(str(run)), other)


# --- owners


def test_all_samples_of_an_owner_are_one_unit(tmp_path: Path, parquet: Path, private: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    spec = private(parquet, unit="owner")
    plain_train(run, spec)
    state = state_of(run)
    owners = {number: {f"owner-{n % 10}" for n in range(SAMPLES)} for number in state.shards}
    assert sum(one.divisor for one in reservations(run)) == len(set.union(*owners.values()))
    assert verify(str(run), retrain=True)["problems"] == []


# --- tampering


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: replace(one, mu=one.mu / 2), "less privacy"),
        (lambda one: replace(one, noise_multiplier=one.noise_multiplier / 2), "less privacy"),
        (lambda one: replace(one, steps=4 * one.steps), "another steps"),
        (lambda one: replace(one, clip=one.clip / 2), "another clip"),
        (lambda one: replace(one, delta=one.delta / 2), "another delta"),
        (lambda one: replace(one, unit="owner"), "another unit"),
        (lambda one: replace(one, adjacency="add-remove"), "another adjacency"),
        (lambda one: replace(one, mean_multiplier=1e9), "another mean_share"),
        (lambda one: replace(one, noise_multiplier=0.0), "less privacy"),
        (lambda one: replace(one, generation=7), "not paid for"),
    ],
)
def test_reservation_that_says_less_is_found(
    whole: Path, copy_of: Callable[..., Path], change: Callable[[DpReserved], DpReserved], said: str
) -> None:
    run = copy_of(whole)
    reseal(run, "dp-reserved", lambda body: change(DpReserved.from_json(body)).to_json())
    assert any(said in problem for problem in verify(str(run))["problems"])


def test_key_used_twice_is_found(whole: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(whole)
    key = reservations(run)[0].key.to_json()
    reseal(run, "dp-reserved", lambda body: {**body, "key": key})
    assert any("reserved twice" in problem or "paid for" in problem for problem in verify(str(run))["problems"])


def test_other_key_is_found_and_refused(whole: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(whole)
    one, other = reservations(run)[:2]
    shutil.copyfile(run / other.key.key, run / one.key.key)
    assert any("not the key" in problem for problem in verify(str(run))["problems"])
    spec = Composer(str(run)).record.spec
    worker = new_worker(str(run), spec, 3)
    task = {"shard": one.shard, "generation": 1, "parts": Composer(str(run)).record.parts([one.shard])}
    with pytest.raises(IntegrityError, match="not the key"):
        worker.fit({**task, "reserved": one.to_json()})
    with pytest.raises(UsageError, match="no privacy reserved"):
        worker.fit(task)
    with pytest.raises(UsageError, match="other inputs"):
        worker.fit({**task, "reserved": other.to_json()})
    (run / one.key.key).unlink()
    with pytest.raises(ObjectMissing):
        worker.fit({**task, "reserved": one.to_json()})


def test_certificate_that_hides_what_remains_is_found(whole: Path, copy_of: Callable[..., Path]) -> None:
    from taft_ray.proof.contradictions import contradictions
    from taft_ray.storage import Ledger

    run = copy_of(whole)
    certificate = plain_forget(run, [sample_id(0)], "drop")
    entries = Ledger(Store(str(run))).entries()
    assert list(contradictions(certificate, entries)) == []
    less = {**certificate["privacy"], "remains": {**certificate["privacy"]["remains"], "epsilon": 0.1}}
    assert list(contradictions({**certificate, "privacy": less}, entries))
    assert list(contradictions({name: value for name, value in certificate.items() if name != "privacy"}, entries))


# --- what is kept beside


def test_reservations_beside_the_run_are_of_this_run_alone(whole: Path, tmp_path: Path) -> None:
    state = state_of(whole)
    kept = KeptReservations(Store(str(whole)), state.identity)
    assert kept.names() == {one.digest for one in reservations(whole)}
    assert KeptReservations(Store(str(whole)), "f" * 64).names() == set()
    assert KeptReservations(Store(str(tmp_path / "elsewhere")), state.identity).names() == set()


def test_copy_elsewhere_goes_on_and_says_nothing_of_what_it_cannot_know(whole: Path, tmp_path: Path) -> None:
    target = tmp_path / "moved"
    copy_run(whole, target)
    found = verify(str(target))
    assert found["problems"] == []


def test_private_run_on_s3_is_charged_kept_and_forgets(s3_uri: str, parquet: Path, private: Callable[..., Any]) -> None:
    spec = private(parquet, trainable="head")
    plain_train(s3_uri, spec)
    plain_forget(s3_uri, [sample_id(0)], "retrain")
    kept = KeptReservations(Store(s3_uri), state_of(s3_uri).identity)
    assert kept.names() == {one.digest for one in reservations(s3_uri)}
    assert len(kept.names()) == SHARDS + 1
    over = list(Store(s3_uri).traces(f"{names.noise_folder(shard_of(sample_id(0), SHARDS))}/"))
    assert len(over) == 1  # older versions too are gone
    assert verify(s3_uri)["problems"] == []

"""Private runs on sampled batches: charged by PRV, made again by their keys, forgotten, and convicted where they say less than they spend."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import here
from folder import delta_digests, kinds, plain_forget, reseal, shard_of, state_of
from plain import plain_train, plain_train_up_to_the_cache
from tiny import CLASSES, SAMPLES, SHARDS, sample_id

import taft_ray as tr
from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.errors import BudgetExceeded, SpecMismatch, UsageError
from taft_ray.plans.privacy import Privacy
from taft_ray.plans.spending import DpReserved
from taft_ray.privacy import BatchStream, GaussianStream, epsilon_of_sampled, mu_of, stream_seed
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Store, digest_json, rundir
from taft_ray.verbs.pinned import pinned
from taft_ray.workers import private_fit
from taft_ray.workers.kinds import new_worker

EPSILON, DELTA, RATE, STEPS = 3.0, 1e-4, 0.2, 4
BUDGET = 4.2


@pytest.fixture(scope="session")
def sampled(spec_of: Callable[..., Any]) -> Callable[..., Any]:
    """A RunSpec of a private run on sampled batches of some data."""

    def make(data: Path | str, **changes: Any) -> Any:
        own = {name: changes.pop(name) for name in list(changes) if name in Privacy.__dataclass_fields__}
        fixed = {"epsilon": EPSILON, "delta": DELTA, "steps": STEPS, "sampling_rate": RATE}
        privacy = Privacy(**{**fixed, **own})
        assignment = "grouped" if privacy.unit == "owner" else "hash"
        options = {"solver": "dp-gd", "compose": "mean", "loss": "ce", "classes": CLASSES, "assignment": assignment}
        return spec_of(data, privacy=privacy, **{**options, **changes})

    return make


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, parquet: Path, sampled: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("sampled") / "run"
    plain_train(run, sampled(parquet, budget=BUDGET))
    return run


def reservations(run: Path) -> list[DpReserved]:
    return [one for several in state_of(run).reservations.values() for one in several]


def test_every_fit_is_reserved_with_the_rate_and_enough_noise(whole: Path) -> None:
    samples = {number: shard.samples for number, shard in state_of(whole).shards.items()}
    assert kinds(whole).count("dp-reserved") == SHARDS
    for one in reservations(whole):
        assert (one.epsilon, one.delta, one.divisor) == (EPSILON, DELTA, samples[one.shard])
        assert (one.sampling_rate, one.steps) == (RATE, STEPS)
        assert 0.999 * EPSILON < epsilon_of_sampled(one.noise_multiplier, RATE, STEPS, DELTA) <= EPSILON
        assert one.accountant.startswith("prv/opacus-")
        assert one.mu == mu_of(EPSILON, DELTA)


def test_whole_run_verifies_and_its_bits_come_from_the_keys(whole: Path) -> None:
    found = verify(str(whole), retrain=True)
    assert found["problems"] == []
    assert found["checks"]["privacy reservations"] == found["checks"]["shards trained again"] == SHARDS


def test_fit_begun_again_has_the_same_batches_and_bits(
    tmp_path: Path, parquet: Path, sampled: Callable[..., Any], whole: Path
) -> None:
    """A lane that dies before its commit is charged once; another run has other batches."""
    run, spec = tmp_path / "run", sampled(parquet)
    plain_train_up_to_the_cache(run, spec)
    first = Composer(str(run)).take("lane-0")
    assert first is not None
    result = new_worker(str(run), spec, 3).fit(first)
    second = Composer(str(run)).take("lane-1")
    assert second is not None
    assert second == first
    again = new_worker(str(run), spec, 3).fit(second)
    assert again["delta"] == result["delta"]
    assert len(reservations(run)) == 1
    assert again["delta"]["digest"] != delta_digests(whole)[first["shard"]]


def test_batches_and_noise_come_from_the_key_of_the_fit(
    whole: Path, copy_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(whole)
    store, spec = Store(str(run)), Composer(str(run)).record.spec
    seeds: dict[str, list[bytes]] = {"batches": [], "noise": []}

    class Batches(BatchStream):
        def __init__(self, seed: bytes) -> None:
            seeds["batches"].append(seed)
            super().__init__(seed)

    class Noise(GaussianStream):
        def __init__(self, seed: bytes) -> None:
            seeds["noise"].append(seed)
            super().__init__(seed)

    monkeypatch.setattr(private_fit, "BatchStream", Batches)
    monkeypatch.setattr(private_fit, "GaussianStream", Noise)
    assert verify(str(run), retrain=True)["problems"] == []
    expected = {
        stream_seed(
            rundir.read_secret(store, one.key.key), spec=digest_json(spec.to_json()), inputs=one.inputs, reservation=one.digest
        )
        for one in reservations(run)
    }  # fmt: skip
    assert set(seeds["batches"]) == set(seeds["noise"]) == expected
    assert len(expected) == SHARDS


def test_retrain_is_charged_by_prv_and_every_answer_says_so(whole: Path, copy_of: Callable[..., Path]) -> None:
    run, name = copy_of(whole), sample_id(0)
    shard = shard_of(name, SHARDS)
    promised = Composer(str(run)).estimate(Selection(ids=(name,)), "retrain")["privacy"]["neighbours"][0]
    certificate = plain_forget(run, [name], "retrain")
    several = [one for one in reservations(run) if one.shard == shard]
    assert [one.generation for one in several] == [1, 2]
    both = epsilon_of_sampled(several[0].noise_multiplier, RATE, 2 * STEPS, DELTA)
    told = certificate["privacy"]["neighbours"][0]
    assert (told["epsilon_before"], told["epsilon_after"], promised["epsilon_after"]) == (EPSILON, both, both)
    spent = tr.Run(run).privacy()
    assert (spent.epsilon, spent.sampling_rate) == (both, RATE)
    assert (spent.shards[shard].fits, spent.shards[shard].mu) == (2, mu_of(both, DELTA))
    assert [one.epsilon for one in spent.shards if one.shard != shard] == [EPSILON] * (SHARDS - 1)
    assert "4 steps on batches at rate 0.2" in str(spent)
    status = tr.Run(run).status()
    assert status.privacy == {"epsilon": both, "delta": DELTA, "budget": BUDGET}
    assert verify(str(run), retrain=True)["problems"] == []


def test_budget_is_of_the_sum_by_prv(whole: Path, copy_of: Callable[..., Path]) -> None:
    run, shard = copy_of(whole), shard_of(sample_id(0), SHARDS)
    names = [sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard]
    plain_forget(run, [names[0]], "retrain")
    before = kinds(run)
    with pytest.raises(BudgetExceeded, match="drop"):
        plain_forget(run, [names[1]], "retrain")
    assert kinds(run) == before
    plain_forget(run, [names[1]], "drop")
    assert verify(str(run))["problems"] == []


def test_statement_says_how_batches_are_made(whole: Path, tmp_path: Path) -> None:
    answer = here("privacy", whole, "--statement", tmp_path / "privacy.json", "--json")
    assert answer.code == 0, answer.err
    told = json.loads((tmp_path / "privacy.json").read_text())
    assert (told["mechanism"]["sampling"], told["mechanism"]["sampling_rate"]) == ("Poisson", RATE)
    assert "PRV" in told["mechanism"]["composition"]
    assert told["accountant"].startswith("prv/opacus-")


@pytest.mark.parametrize(
    "options",
    [
        {"unit": "owner", "sampling_rate": 0.5},
        {"adjacency": "add-remove", "divisor": 30},
        {"solver": "dp-additive", "features": 48},
    ],
    ids=["owners", "add-remove", "rows"],
)
def test_other_private_runs_sample_too(
    tmp_path: Path, parquet: Path, sampled: Callable[..., Any], options: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    plain_train(run, sampled(parquet, **options))
    plain_forget(run, [sample_id(0)], "retrain")
    assert verify(str(run), retrain=True)["problems"] == []


@pytest.mark.parametrize("options", [{"solver": "dp-gd"}, {"solver": "dp-additive", "features": 48}])
def test_much_privacy_spent_learns_the_classes(
    tmp_path: Path, parquet: Path, sampled: Callable[..., Any], options: dict[str, Any]
) -> None:
    from taft_ray.storage import rundir as names

    run = tmp_path / "run"
    spec = sampled(parquet, shards=1, epsilon=1e5, steps=80, learning_rate=2.0, **options)
    composer = plain_train(run, spec)
    composed = names.composed_key(str(composer.composed_digest()))
    found = new_worker(str(run), spec, 3).evaluate(composed, composer.record.parts([0]))
    assert found["accuracy"] > 0.85


# --- refusals


def test_shard_that_is_too_small_for_the_rate_is_refused_before_it_is_charged_and_one_that_shrinks_is_not(
    tmp_path: Path, parquet: Path, sampled: Callable[..., Any]
) -> None:
    smallest = min(shard.samples for shard in _shards_of(parquet, tmp_path / "sizes", sampled))
    with pytest.raises(UsageError, match=rf"samples of shard \d={smallest}: less than one unit per batch"):
        plain_train(tmp_path / "refused", sampled(parquet, sampling_rate=0.99 / smallest, trainable="head"))
    assert all(one.divisor > smallest for one in reservations(tmp_path / "refused"))
    run = tmp_path / "run"
    plain_train(run, sampled(parquet, sampling_rate=1 / smallest, trainable="head"))
    small = next(number for number, shard in state_of(run).shards.items() if shard.samples == smallest)
    gone = next(sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == small)
    plain_forget(run, [gone], "retrain")
    assert verify(str(run))["problems"] == []


def _shards_of(parquet: Path, run: Path, sampled: Callable[..., Any]) -> list[Any]:
    plain_train(run, sampled(parquet, trainable="head", steps=1))
    return list(state_of(run).shards.values())


def test_run_goes_on_with_its_own_rate_and_any_version_of_opacus(whole: Path, copy_of: Callable[..., Path]) -> None:
    store = Store(str(copy_of(whole)))
    spec = Composer(str(whole)).record.spec
    assert spec.privacy is not None
    newer = replace(spec, privacy=replace(spec.privacy, accountant="prv/opacus-9.9.9"))
    assert pinned(store, newer)[0] == spec
    for rate in (0.3, None):
        other = {"sampling_rate": rate, "accountant": spec.privacy.accountant if rate else "gdp/1"}
        with pytest.raises(SpecMismatch, match="privacy"):
            pinned(store, replace(spec, privacy=replace(spec.privacy, **other)))


def test_command_refuses_rates_that_mean_nothing(tmp_path: Path, parquet: Path, model_options: list[str]) -> None:
    train = ("train", tmp_path / "run", "--data", parquet, *model_options, "--classes", ",".join(CLASSES))
    private = (*train, "--private", "--epsilon", 3, "--delta", 1e-4)
    here(*train, "--sampling-rate", 0.1).complains(2, "--sampling-rate", "--private")
    for rate in (0, 1, -0.5, 2, "nan"):
        here(*private, f"--sampling-rate={rate}").complains(2, "0 < sampling_rate < 1", "--sampling-rate")
    here(*private, "--sampling-rate", 0.01, "--divisor", 30).complains(2, "at least 1 / 30")
    assert not (tmp_path / "run").exists()


# --- tampering


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: replace(one, noise_multiplier=one.noise_multiplier * 0.99), "less privacy"),
        (lambda one: replace(one, noise_multiplier=0.0), "less privacy"),
        (lambda one: replace(one, steps=2 * one.steps), "another steps"),
        (lambda one: replace(one, epsilon=one.epsilon / 2), "another epsilon"),
        (lambda one: replace(one, mu=one.mu / 2), "less privacy"),
        (lambda one: replace(one, sampling_rate=0.1), "at the rate 0.1; the spec has batches at the rate 0.2"),
        (lambda one: replace(one, sampling_rate=None), "reserves for full batches"),
        (lambda one: replace(one, generation=7), "not paid for"),
    ],
)
def test_reservation_that_says_less_is_found(
    whole: Path, copy_of: Callable[..., Path], change: Callable[[DpReserved], DpReserved], said: str
) -> None:
    run = copy_of(whole)
    reseal(run, "dp-reserved", lambda body: change(DpReserved.from_json(body)).to_json())
    assert any(said in problem for problem in verify(str(run))["problems"])


def test_certificate_that_hides_what_its_neighbours_spent_is_found(whole: Path, copy_of: Callable[..., Path]) -> None:
    from taft_ray.proof.contradictions import contradictions
    from taft_ray.storage import Ledger

    run = copy_of(whole)
    certificate = plain_forget(run, [sample_id(0)], "retrain")
    entries = Ledger(Store(str(run))).entries()
    assert list(contradictions(certificate, entries)) == []
    told = certificate["privacy"]["neighbours"][0]
    for factor, found in ((0.99, True), (1.0001, False)):
        less = [{**told, "epsilon_after": factor * told["epsilon_after"]}]
        changed = {**certificate, "privacy": {**certificate["privacy"], "neighbours": less}}
        assert any("privacy" in one for one in contradictions(changed, entries)) == found

"""Settings of an additive run's model are a function of their policy and of what is left. Stale ones are never used."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folder import files, flip_a_byte, kinds, plain_forget, state_of
from plain import plain_train
from tiny import CLASSES, SAMPLES, owner_of, sample_id, write_parquet

from taft_ray.composer.composer import Composer
from taft_ray.errors import IntegrityError
from taft_ray.plans.facts import Tuned
from taft_ray.proof.verify_run import verify
from taft_ray.run.choice import choice_for, choice_of_owners, first_rows, rows_in_model
from taft_ray.run.owned import sums_of_owners
from taft_ray.run.record import Record
from taft_ray.run.rows import model_of
from taft_ray.run.snapshots import load_arrays
from taft_ray.storage import Store
from taft_ray.verbs.tune import policy_of
from taft_ray.workers.row_worker import RowWorker


@pytest.fixture(scope="module")
def policy(parquet: Path, additive: Callable[..., Any]) -> Any:
    return replace(policy_of(additive(parquet), sizes=(12, 24, 48), left_out=50), searched_at=24)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, parquet: Path, additive: Callable[..., Any], policy: Any) -> Path:
    run = tmp_path_factory.mktemp("tuned") / "run"
    plain_train(run, additive(parquet)).tuning.adopt(policy)
    return run


def served(run: Path | str) -> tuple[Tuned, bytes]:
    """The settings of the model as readers have it, and the model's bits."""
    composer = Composer(str(run))
    composed, fact = composer.served()
    assert fact is not None
    assert fact.of == composed["digest"]
    model = model_of(composer.record.spec, load_arrays(Store(str(run)), composed["key"]), fact)
    return fact, model.coefficients.tobytes() + model.intercept.tobytes()


def alone(folder: Path, numbers: Sequence[int], additive: Callable[..., Any], policy: Any) -> Path:
    """A run on these samples alone, in another order and other shards, with the same policy."""
    data = write_parquet(folder / "data", list(numbers)[::-1])
    plain_train(folder / "run", additive(data, shards=2, classes=CLASSES)).tuning.adopt(policy)
    return folder / "run"


@pytest.mark.parametrize(("mode", "count"), [("subtract", 1), ("subtract", 25), ("drop", 1)])
def test_forget_and_choose_again_equals_never_seen(
    mode: str, count: int, tuned: Path, copy_of: Callable[..., Path], tmp_path: Path, additive: Any, policy: Any
) -> None:
    """The same settings, the same criteria and the same model, to the last bit."""
    run = copy_of(tuned)
    before = served(run)
    plain_forget(run, [sample_id(n) for n in range(3, 3 + count)], mode)
    composer = Composer(str(run))
    left = {key for keys, _, _ in rows_in_model(composer.record.store, composer.record.state) for key in keys}
    numbers = [n for n in range(SAMPLES) if _key(run, n) in left]
    assert len(numbers) == len(left) < SAMPLES
    never = alone(tmp_path / "never", numbers, additive, policy)
    assert served(run) == served(never)
    assert served(run)[1] != before[1]
    assert verify(str(run))["problems"] == verify(str(never))["problems"] == []


def _key(run: Path, number: int) -> bytes:
    from taft_ray.data import sample_key

    return sample_key(sample_id(number), Record(str(run)).spec.seed)


def test_choice_is_committed_once_and_again_after_a_forget(tuned: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(tuned)
    assert served(run)[0] == state_of(run).tuned
    assert kinds(run).count("tuned") == 1
    plain_forget(run, [sample_id(3)], "subtract")
    stale = state_of(run).tuned
    fresh = served(run)[0]
    assert stale is not None
    assert fresh.of != stale.of
    assert served(run)[0] == fresh == state_of(run).tuned
    assert kinds(run).count("tuned") == 2


@pytest.fixture
def stale(tuned: Path, copy_of: Callable[..., Path], policy: Any) -> tuple[Path, Any]:
    """A run whose ledger ends with settings of other sums, which nobody would choose; and those to be chosen."""
    run = copy_of(tuned)
    right = served(run)[0]
    assert right.settings is not None
    odd = replace(right.settings, size=12, weights=(0.0, 0.25, 4.0, 0.0), penalty=10.0, kappa=64.0)
    composer = Composer(str(run))
    composer.commit(replace(right, of="0" * 64, settings=odd), "tuned/stale")
    assert state_of(run).tuned.settings == odd  # type: ignore[union-attr]  # it was just committed
    return run, right


def test_readers_that_commit_choose_again(stale: tuple[Path, Any]) -> None:
    run, right = stale
    fact = served(run)[0]
    assert fact == right
    assert state_of(run).tuned == right


def test_readers_that_commit_nothing_choose_again(stale: tuple[Path, Any]) -> None:
    run, right = stale
    composer = Composer(str(run))
    before = kinds(run)
    assert choice_for(composer.record.store, composer.record.state, composer.composition.model() or {}) == right
    assert kinds(run) == before


def test_no_model_is_made_with_stale_settings(stale: tuple[Path, Any]) -> None:
    run, _ = stale
    old = state_of(run).tuned
    composer = Composer(str(run))
    composed = composer.compose()
    with pytest.raises(IntegrityError, match="choose them again"):
        model_of(composer.record.spec, load_arrays(Store(str(run)), composed["key"]), old)
    worker = RowWorker(str(run), len(CLASSES))
    parts = composer.record.parts([0])
    with pytest.raises(IntegrityError, match="choose them again"):
        worker.evaluate(composed["key"], parts, tuned=old)
    with pytest.raises(IntegrityError, match="choose them again"):
        worker.outputs(composed["key"], parts, tuned=old)


def test_stale_settings_are_no_fault(stale: tuple[Path, Any]) -> None:
    told = verify(str(stale[0]))
    assert told["problems"] == []
    assert any("settings in the ledger are of earlier sums" in note for note in told["notes"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 12}, "chooses them again"),
        ({"kappa": 1.0}, "chooses them again"),
        ({"penalty": 10.0}, "chooses them again"),
        ({"penalty": 0.123}, "no candidate"),
        ({"weights": (1.0, 1.0, 1.0, 7.0)}, "no candidate"),
        ({"size": 13}, "no candidate"),
    ],
)
def test_verify_finds_settings_that_the_policy_does_not_choose(
    changes: dict[str, Any], said: str, tuned: Path, copy_of: Callable[..., Path]
) -> None:
    run = copy_of(tuned)
    right = served(run)[0]
    assert right.settings is not None
    assert verify(str(run))["checks"]["choice of settings"] == 1
    composer = Composer(str(run))
    composer.commit(replace(right, settings=replace(right.settings, **changes)), "tuned/forged")
    (problem,) = verify(str(run))["problems"]
    assert said in problem
    composer.tuning.adopt(right.policy)  # type: ignore[arg-type]  # it has one
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("field", ["losses", "accuracy", "tried"])
def test_verify_finds_forged_criteria(field: str, tuned: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(tuned)
    right = served(run)[0]
    forged: dict[str, Any] = {
        "losses": (*right.losses[:-1], 0.5),
        "accuracy": 0.01,
        "tried": (replace(right.tried[0], gcv=0.001), *right.tried[1:]),
    }
    Composer(str(run)).commit(replace(right, **{field: forged[field]}), "tuned/forged")
    (problem,) = verify(str(run))["problems"]
    assert "criteria in the ledger" in problem


def test_criteria_in_the_ledger_have_three_digits(tuned: Path) -> None:
    fact = state_of(tuned).tuned
    assert fact is not None
    values = [*fact.losses, *(one.gcv for one in fact.tried), fact.accuracy]
    assert all(value is not None and float(f"{value:.3g}") == value for value in values)
    assert len(fact.losses) == len(fact.policy.kappas)  # type: ignore[union-attr]  # it has one
    assert fact.left_out == 50


def test_a_policy_comes_back(tuned: Path, copy_of: Callable[..., Path], policy: Any) -> None:
    run = copy_of(tuned)
    composer = Composer(str(run))
    other = replace(policy, sizes=(24,), kappas=(2.0,), weights=())
    first = served(run)
    composer.tuning.adopt(other)
    second = served(run)
    assert second[0].settings.size == 24  # type: ignore[union-attr]
    assert (second[0].left_out, second[0].losses) == (0, ())
    composer.tuning.adopt(policy)
    assert served(run) == first
    composer.tuning.give_up()
    composer.tuning.give_up()
    assert Composer(str(run)).served()[1] is None
    assert kinds(run)[-4:] == ["tuned"] * 4


def test_two_composers_choose_the_same_once(tuned: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(tuned)
    first, second = Composer(str(run)), Composer(str(run))
    first.served()
    second.served()
    plain_forget(run, [sample_id(3)], "subtract")
    assert first.served()[1] == second.served()[1]
    assert kinds(run).count("tuned") == 2


def test_a_policy_of_another_writer_stays(tuned: Path, copy_of: Callable[..., Path], policy: Any) -> None:
    """While one chooses again by the old policy, another gives it up."""
    run = copy_of(tuned)
    plain_forget(run, [sample_id(3)], "subtract")
    first, second = Composer(str(run)), Composer(str(run))
    choose, calls = first.tuning.choose, []

    def overtaken(*args: Any) -> Any:
        choice = choose(*args)
        if not calls:
            calls.append(choice)
            second.tuning.give_up()
        return choice

    first.tuning.choose = overtaken  # type: ignore[method-assign]
    assert first.served()[1] is None
    assert calls
    assert state_of(run).tuned is None


def test_damaged_rows_leave_the_model_and_the_choice(tuned: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(tuned)
    plain_forget(run, [sample_id(3)], "subtract")
    flip_a_byte(files(run, "cache")[-1])
    fact = served(run)[0]
    assert "quarantined" in kinds(run)
    assert fact.of == Composer(str(run)).composition.computed_digest()


def test_owners_have_settings_of_their_own_pictures(
    tuned: Path, tmp_path: Path, additive: Callable[..., Any], policy: Any
) -> None:
    owners = sorted({owner_of(n) for n in range(SAMPLES)})[:3]
    record = Record(str(tuned))
    fact = choice_of_owners(record, owners, sums_of_owners(record, owners))
    run = alone(tmp_path, [n for n in range(SAMPLES) if owner_of(n) in owners], additive, policy)
    assert fact == served(run)[0]


def test_first_rows_do_not_depend_on_how_they_come() -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    keys = [bytes(key) for key in generator.integers(0, 256, (40, 16), dtype=np.uint8)]
    values, labels = generator.integers(-9, 9, (40, 5)).astype(np.int16), generator.integers(0, 3, 40)
    order = sorted(range(40), key=keys.__getitem__)[:7]
    for seed in range(4):
        shuffled = np.random.default_rng(seed).permutation(40)
        parts = np.array_split(shuffled, seed + 1)
        several = (([keys[at] for at in part], values[part], labels[part]) for part in parts)
        found, classes = first_rows(several, 7)
        assert np.array_equal(found, values[order])
        assert classes.tolist() == labels[order].tolist()

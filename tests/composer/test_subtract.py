"""An additive run: its model is a function of exact sums, so that a picture leaves by a subtraction.

Law 2 to the bit: whatever was forgotten in whatever way, the model is that of a run that never saw it.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folder import computed_digest, copy_run, files, flip_a_byte, holders, kinds, plain_forget, shard_of, state_of
from plain import plain_train
from tiny import SAMPLES, sample_id, write_parquet

from taft_ray.answers import Certificate
from taft_ray.composer import forgetting
from taft_ray.composer.composer import Composer
from taft_ray.composer.rewrite import rewrite
from taft_ray.composer.selection import Selection
from taft_ray.data import sample_key
from taft_ray.errors import UsageError
from taft_ray.plans.facts import Composed
from taft_ray.plans.solver_options import idle
from taft_ray.plans.state import DROPPED, EMPTY, TRAINED
from taft_ray.proof.verify_run import verify
from taft_ray.run.rows import read_terms, terms_of
from taft_ray.run.snapshots import load_arrays
from taft_ray.storage import Store
from taft_ray.storage import rundir as names
from taft_ray.sums import Totals

FEATURES = 48


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, parquet: Path, additive: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("additive") / "run"
    plain_train(run, additive(parquet))
    return run


@pytest.fixture(scope="module")
def never_seen(
    tmp_path_factory: pytest.TempPathFactory, additive: Callable[..., Any]
) -> Callable[[Sequence[int]], str]:
    """The digest of a run on the data without these samples."""
    known: dict[tuple[int, ...], str] = {}

    def train(gone: Sequence[int]) -> str:
        key = tuple(sorted(gone))
        if key not in known:
            folder = tmp_path_factory.mktemp("never")
            data = write_parquet(folder / "data", [n for n in range(SAMPLES) if n not in key])
            plain_train(folder / "run", additive(data, shards=2))
            known[key] = str(computed_digest(folder / "run"))
        return known[key]

    return train


def test_digest_does_not_depend_on_shards_lanes_or_order(
    trained: Path, tmp_path: Path, parquet: Path, additive: Callable[..., Any]
) -> None:
    expected = computed_digest(trained)
    for number, (shards, lanes, together) in enumerate([(1, 1, 0), (7, 1, 64), (SAMPLES, 3, 0)]):
        run = tmp_path / str(number)
        plain_train(run, additive(parquet, shards=shards), lanes=lanes, together=together)
        assert computed_digest(run) == expected, (shards, lanes)
    backwards = write_parquet(tmp_path / "data", list(range(SAMPLES))[::-1])
    plain_train(tmp_path / "backwards", additive(backwards))
    assert computed_digest(tmp_path / "backwards") == expected


def test_options_that_are_refused_change_no_bit(
    trained: Path, tmp_path: Path, parquet: Path, additive: Callable[..., Any]
) -> None:
    """Fields that `train` says mean nothing to an additive run, changed all at once."""
    changes: dict[str, Any] = {
        "last_blocks": 2, "trainable": "head", "reset": True, "cls_token": True, "loss": "mse", "alpha": 2.0, "penalty": 0.5,
        "epsilon": 0.5, "joint_penalty": 0.5, "cache_dtype": "bfloat16", "constants_gib": 0.5, "tolerance": 0.5,
        "max_iterations": 1, "epochs": 1, "batch_size": 5, "learning_rate": 0.5, "milestones": (1,), "slices": 3, "radius": 0.5,
        "fit_precision": "bfloat16",
    }  # fmt: skip
    assert changes.keys() == idle("additive") - {"compose", "weighting", "beside", "privacy"}, "refused"
    plain_train(tmp_path / "run", additive(parquet, **changes))
    assert computed_digest(tmp_path / "run") == computed_digest(trained)


def test_sums_are_those_of_the_rows(trained: Path) -> None:
    composer = Composer(str(trained))
    totals = Totals()
    for shard in composer.snapshot().in_model:
        totals.add(read_terms(composer.record.store, shard.in_sums), 1)
    snapshot = load_arrays(composer.record.store, names.composed_key(str(composer.composed_digest())))
    assert snapshot.keys() == totals.totals.keys()
    for name, value in snapshot.items():
        assert np.array_equal(value, totals.totals[name])
    assert snapshot["additive/counts"].sum() == SAMPLES


@pytest.mark.parametrize("count", [1, 10, 25])
def test_forget_equals_never_seen(
    trained: Path, count: int, copy_of: Callable[..., Path], never_seen: Callable[[Sequence[int]], str]
) -> None:
    run, gone = copy_of(trained), list(range(3, 3 + count))
    told = plain_forget(run, [sample_id(n) for n in gone], "subtract")
    assert told["composed_after"] == computed_digest(run) == never_seen(gone)
    assert told["retrained"] == []
    assert "learn about the samples that left" in told["does_not_cover"][-1]
    assert any(one["key"].startswith("deltas/") for one in told["objects_removed"])
    assert "0 deltas" not in str(Certificate.from_json(told))
    assert {shard["state"] for shard in told["shards_after"]} == {TRAINED}
    assert all(shard.state == TRAINED for shard in state_of(run).shards.values())
    assert [step["step"] for step in told["steps"]] == ["requested", "dropped", "rewritten", "purged"]
    assert not [name for n in gone for name in holders(run, sample_key(sample_id(n), 0))]
    checked = verify(str(run))
    assert checked["problems"] == []
    assert checked["forgotten_samples"] == count


def test_one_after_the_other_and_together_are_the_same(
    trained: Path, copy_of: Callable[..., Path], never_seen: Callable[[Sequence[int]], str]
) -> None:
    run = copy_of(trained)
    for n in (5, 3, 4):
        plain_forget(run, [sample_id(n)], "subtract")
    assert computed_digest(run) == never_seen([3, 4, 5])
    assert kinds(run).count("trained") == kinds(trained).count("trained"), "nothing was fitted"


def test_whole_shard_leaves_by_subtraction(
    trained: Path, copy_of: Callable[..., Path], never_seen: Callable[[Sequence[int]], str]
) -> None:
    run = copy_of(trained)
    shards = len(state_of(run).shards)
    gone = [n for n in range(SAMPLES) if shard_of(sample_id(n), shards) == 1]
    told = plain_forget(run, [sample_id(n) for n in gone], "subtract")
    assert told["composed_after"] == computed_digest(run) == never_seen(gone)
    assert state_of(run).shards[1].state == EMPTY
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("mode", ["drop", "retrain"])
def test_other_modes_stand(mode: str, trained: Path, copy_of: Callable[..., Path], never_seen: Any) -> None:
    run, gone = copy_of(trained), [3]
    shard = shard_of(sample_id(3), len(state_of(run).shards))
    told = plain_forget(run, [sample_id(3)], mode)
    if mode == "drop":
        assert state_of(run).shards[shard].state == DROPPED
        gone = [n for n in range(SAMPLES) if shard_of(sample_id(n), len(state_of(run).shards)) == shard]
    assert told["composed_after"] == computed_digest(run) == never_seen(gone)
    assert verify(str(run), retrain=True)["problems"] == []


def test_subtraction_in_a_dropped_shard_leaves_it_dropped(
    trained: Path, copy_of: Callable[..., Path], never_seen: Callable[[Sequence[int]], str]
) -> None:
    run = copy_of(trained)
    shards = len(state_of(run).shards)
    first, second, *_ = members = [n for n in range(SAMPLES) if shard_of(sample_id(n), shards) == 1]
    plain_forget(run, [sample_id(first)], "drop")
    told = plain_forget(run, [sample_id(second)], "subtract")
    assert state_of(run).shards[1].state == DROPPED
    assert told["composed_after"] == computed_digest(run) == never_seen(members)
    assert verify(str(run))["problems"] == []


def test_cold_forget_reads_no_row_of_another_shard(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(trained)
    touched = shard_of(sample_id(3), len(state_of(run).shards))
    for part in files(run, "cache"):
        if f"shard={touched:05d}" not in str(part):
            part.unlink()
    told = plain_forget(run, [sample_id(3)], "subtract")
    whole = Path(shutil.copytree(trained, run.parent / "whole"))
    assert told["composed_after"] == plain_forget(whole, [sample_id(3)], "subtract")["composed_after"]


def test_damaged_snapshot_is_summed_anew(
    trained: Path, copy_of: Callable[..., Path], never_seen: Callable[[Sequence[int]], str]
) -> None:
    run = copy_of(trained)
    for snapshot in files(run, "composed"):
        flip_a_byte(snapshot)
    assert plain_forget(run, [sample_id(3)], "subtract")["composed_after"] == never_seen([3])
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("folder", ["cache", "deltas", "composed"])
def test_verify_finds_a_changed_byte(folder: str, trained: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(trained)
    plain_forget(run, [sample_id(3)], "subtract")
    assert verify(str(run))["problems"] == []
    flip_a_byte(files(run, folder)[0])
    assert verify(str(run))["problems"]


def test_forged_sums_are_found(trained: Path, copy_of: Callable[..., Path]) -> None:
    """A snapshot that is whole, and of other rows."""
    from taft_ray.run.snapshots import save_snapshot

    run = copy_of(trained)
    store, (there,) = Store(str(run)), files(run, "composed")
    arrays = load_arrays(store, f"composed/{there.name}")
    row = np.zeros((1, FEATURES), np.int16)
    row[0, 0] = 5
    other = {name: value + terms_of(row, np.array([0]), 3)[name] for name, value in arrays.items()}
    there.unlink()
    save_snapshot(store, other)
    assert any("not what the deltas in the model compose to" in problem for problem in verify(str(run))["problems"])


def test_digest_in_the_ledger_that_is_not_that_of_the_rows_is_found(
    trained: Path, copy_of: Callable[..., Path]
) -> None:
    run = copy_of(trained)
    composer = Composer(str(run))
    state = composer.snapshot()
    composer.commit(Composed("additive", "0" * 64, 1.0, len(state.in_model), state.members), "composed/forged")
    assert any("not that of their rows" in problem for problem in verify(str(run))["problems"])


def test_two_composers_subtract_and_both_are_level(
    trained: Path, copy_of: Callable[..., Path], never_seen: Callable[[Sequence[int]], str]
) -> None:
    run = copy_of(trained)
    first, second = Composer(str(run)), Composer(str(run))
    assert first.composition.computed_digest() == second.composition.computed_digest()
    for n, composer in ((3, first), (4, second), (5, first)):
        asked = composer.request_forget(Selection(ids=(sample_id(n),)), "subtract")
        composer.resume_forget(asked["request"])
        composer.conclude_forget(asked["request"], {})
    for composer in (first, second):
        composer.record.refresh()
        assert composer.composition.computed_digest() == never_seen([3, 4, 5])
    assert verify(str(run))["problems"] == []


def test_composer_that_was_overtaken_by_another_and_a_drop_is_level(
    trained: Path, copy_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one has written a subtraction and not committed it, another commits the same, and drops the shard."""
    run = copy_of(trained)
    first, calls = Composer(str(run)), []
    asked = first.request_forget(Selection(ids=(sample_id(3),)), "subtract")
    shard = shard_of(sample_id(3), len(state_of(run).shards))

    def overtaken(*args: Any) -> Any:
        made = rewrite(*args)
        if not calls:
            calls.append(made)
            plain_forget(run, [sample_id(3)], "subtract")
            plain_forget(run, [], "drop", shards=(shard,))
        return made

    monkeypatch.setattr(forgetting, "rewrite", overtaken)
    first.resume_forget(asked["request"])
    assert calls
    first.record.refresh()
    assert first.composition.computed_digest() == computed_digest(run)


def test_older_copy_of_the_folder_forgets_again(
    trained: Path, tmp_path: Path, never_seen: Callable[[Sequence[int]], str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "runs" / "run"))
    older = Path(shutil.copytree(run, tmp_path / "older"))
    plain_forget(run, [sample_id(3)], "subtract")
    shutil.rmtree(run)
    shutil.copytree(older, run)
    composer = Composer(str(run))
    composer.recover()
    for request in composer.due_requests():
        composer.resume_forget(request)
        composer.conclude_forget(request, {})
    assert computed_digest(run) == never_seen([3])
    assert verify(str(run))["problems"] == []


def test_deadline_gathers_subtractions(
    trained: Path, copy_of: Callable[..., Path], never_seen: Callable[[Sequence[int]], str]
) -> None:
    run, now = copy_of(trained), [1_000_000_000.0]
    composer = Composer(str(run), clock=lambda: now[0])
    before = composer.composed_digest()
    for n in (3, 4):
        asked = composer.request_forget(Selection(ids=(sample_id(n),)), "subtract", now[0] + 30 * 86400)
        assert asked["waiting"]
    assert composer.composed_digest() == before, "a promise until it is due"
    now[0] += 30 * 86400
    due = composer.due_requests()
    assert len(due) == 2
    for request in due:
        composer.resume_forget(request)
    told = [composer.conclude_forget(request, {"carried_out_with": due}) for request in due]
    assert told[-1]["composed_after"] == computed_digest(run) == never_seen([3, 4])


def test_on_s3_as_on_a_disk(trained: Path, s3_uri: str, never_seen: Callable[[Sequence[int]], str]) -> None:
    copy_run(trained, f"{s3_uri}/run")
    told = plain_forget(f"{s3_uri}/run", [sample_id(n) for n in range(3, 13)], "subtract")
    assert told["composed_after"] == computed_digest(f"{s3_uri}/run") == never_seen(range(3, 13))
    assert verify(f"{s3_uri}/run")["problems"] == []


def test_modes_that_a_run_cannot_do_are_refused(
    trained: Path, copy_of: Callable[..., Path], parquet: Path, tmp_path: Path, spec_of: Any
) -> None:
    run = copy_of(trained)
    with pytest.raises(UsageError, match="use subtract"):
        plain_forget(run, [sample_id(3)], "resolve")
    plain_train(tmp_path / "ridge", spec_of(parquet, trainable="head"))
    with pytest.raises(UsageError, match="--solver additive"):
        plain_forget(tmp_path / "ridge", [sample_id(3)], "subtract")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"features": 0}, "features >= 1"),
        ({"site_blocks": 0}, "site_blocks"),
        ({"views": 0}, "set --views"),
        ({"views": 5}, "set --views"),
        ({"views": True}, "set --views"),
        ({"views": 1.5}, "set --views"),
        ({"weighting": "samples"}, "leave --weighting out"),
        ({"compose": "mean"}, "compose"),
        ({"beside": "gram"}, "--compose additive"),
        ({"solver": "ridge", "beside": "gram"}, "--compose additive"),
        ({"solver": "ridge", "compose": "additive", "beside": "additive"}, "beside"),
        ({"solver": "ridge", "compose": "additive", "weighting": "samples"}, "leave --weighting out"),
    ],
)
def test_impossible_specs_are_refused(
    changes: dict[str, Any], said: str, parquet: Path, additive: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match=said):
        additive(parquet, **changes)


def test_more_features_than_the_sites_have_are_refused_before_a_run_is_made(
    parquet: Path, tmp_path: Path, additive: Callable[..., Any]
) -> None:
    from taft_ray.verbs.pinned import pinned

    with pytest.raises(UsageError, match="as many numbers as the sites have"):
        pinned(Store(str(tmp_path / "run")), additive(parquet, features=10**6))


def test_spec_of_an_earlier_run_is_unchanged(spec_of: Callable[..., Any], parquet: Path) -> None:
    assert not {"features", "site_blocks", "views"} & spec_of(parquet).to_json().keys()


def test_spec_of_an_additive_run_always_has_its_sites(parquet: Path, additive: Callable[..., Any]) -> None:
    spec = additive(parquet)
    assert {"features", "site_blocks"} <= spec.to_json().keys()
    assert "views" not in spec.to_json()  # as before there were views
    assert type(spec).from_json(spec.to_json()) == spec
    assert spec.compose == "additive"

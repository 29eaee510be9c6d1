"""Runs whose shards are composed jointly: what is exact for the other compositions is exact for this one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import composed_without, delta_digests, plain_forget, shard_of, state_of
from tiny import SHARDS, sample_id

from taft_ray.composer.composer import Composer
from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.run.spec import run_spec
from taft_ray.run.sums import snapshots_of, sums_of
from taft_ray.storage import Store
from taft_ray.storage import rundir as names
from taft_ray.verbs.export import export
from taft_ray.verbs.report import gather
from taft_ray.verbs.train import train

Trained = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def joint(train_plainly: Any, parquet: Path) -> Trained:
    return train_plainly(parquet, lanes=2, compose="joint")


def test_retrain_equals_a_run_that_never_had_the_samples(
    joint: Trained, train_plainly: Any, without_forgotten: Path, copy_of: Any, forgotten_ids: list[str]
) -> None:
    never_seen, answer = train_plainly(without_forgotten, lanes=1, compose="joint")
    run = copy_of(joint[0])
    certificate = plain_forget(run, forgotten_ids, "retrain")
    assert delta_digests(run) == delta_digests(never_seen)
    assert certificate["composition"] == "joint"
    assert certificate["composed_before"] == joint[1]["composed"]
    assert certificate["composed_after"] == answer["composed"]


@pytest.mark.parametrize("mode", ["joint", "mean"])
def test_drop_equals_composing_without_the_shard(joint: Trained, copy_of: Any, mode: str) -> None:
    run = copy_of(joint[0])
    plain_forget(run, [sample_id(0)], "drop")
    expected = composed_without(joint[0], {shard_of(sample_id(0), SHARDS)}, mode)
    assert Composer(str(run)).compose(mode)["digest"] == expected
    # the model that `verify` composes from storage alone
    store = Store(str(run))
    assert names.composed_key(expected) in snapshots_of(run_spec(store), {False: sums_of(store, state_of(run))})


def test_it_is_another_model_than_the_mean(joint: Trained, ridge: Trained, copy_of: Any) -> None:
    composer = Composer(str(copy_of(joint[0])))
    assert composer.compose("joint")["digest"] != composer.compose("mean")["digest"]
    # the deltas are those of a run that keeps other statistics
    assert composer.compose("mean")["digest"] == composed_without(ridge[0], set(), "mean")


def test_its_penalty_is_the_runs_own(joint: Trained, train_plainly: Any, parquet: Path, copy_of: Any) -> None:
    run, answer = train_plainly(parquet, lanes=2, compose="joint", joint_penalty=0.5)
    assert delta_digests(run) == delta_digests(joint[0])
    assert answer["composed"] != joint[1]["composed"]
    spec, sums = run_spec(Store(str(run))), {False: sums_of(Store(str(run)), state_of(run))}
    assert snapshots_of(spec, sums).keys() == {names.composed_key(answer["composed"]), *snapshots_of(spec, sums)}
    assert answer["composed"] == Composer(str(copy_of(run))).compose("joint")["digest"]


def test_a_report_shows_no_composition_from_before_a_forget(joint: Trained, copy_of: Any) -> None:
    run = copy_of(joint[0])
    Composer(str(run)).compose("mean")

    def modes() -> list[str]:
        store = Store(str(run))
        return sorted(row["mode"] for row in gather(store, run_spec(store), state_of(run))["composition"])

    assert modes() == ["joint", "mean"]
    plain_forget(run, [sample_id(0)], "drop")
    assert modes() == ["joint"]
    Composer(str(run)).compose("mean")
    assert modes() == ["joint", "mean"]


def test_only_what_was_kept_can_be_composed(joint: Trained, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"keeps no statistics for it.*--compose gram"):
        export(str(joint[0]), str(tmp_path / "model.pt2"), "gram")
    assert export(str(joint[0]), str(tmp_path / "model.pt2"))["composed"] == joint[1]["composed"]


def test_more_than_the_last_block_is_refused_before_anything_is_written(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    with pytest.raises(UnsupportedModel, match=r"last block behind a class token.*--compose gram"):
        train(str(tmp_path / "run"), spec_of(parquet, compose="joint", last_blocks=2))
    assert not (tmp_path / "run").exists()

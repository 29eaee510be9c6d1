"""The audit recovers what a run's releases give away, knows when they do not, and changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import here
from folder import files
from plain import plain_train

import taft_ray as tr
from taft_ray.errors import UsageError
from taft_ray.verbs.tune import tune


@pytest.fixture(scope="module")
def additive(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("reconstruct") / "run"
    plain_train(run, spec_of(parquet, solver="additive", features=48))
    return run


def by_way(answer: tr.answers.Reconstruction) -> dict[tuple[str, int, str], tr.answers.ReconstructionRisk]:
    return {(one.way, one.batch, one.known): one for one in answer.attacks}


def test_a_subtraction_gives_the_sample_away_and_a_batch_or_noise_does_not(additive: Path, test_parquet: Path) -> None:
    before = {path: path.read_bytes() for path in files(additive)}
    answer = tr.Run(additive).audit_reconstruction(test_parquet, picks=6)
    assert {path: path.read_bytes() for path in files(additive)} == before, "nothing is written"
    found = by_way(answer)
    own = found["subtract", 1, "own sums"]
    assert own.cosine > 0.999
    assert (own.first, own.median_rank, own.samples) == (1.0, 1.0, 6)
    assert found["gathered", 100, "own sums"].cosine < 0.6
    assert found["gathered", 10, "own sums"].cosine < own.cosine
    assert found["noisy sums", 1, "own sums"].first < 0.5
    public = found["subtract", 1, "public data"]
    (drop,) = [one for one in answer.attacks if (one.way, one.known) == ("drop", "own sums")]
    assert drop.cosine < own.cosine
    assert drop.first < own.first
    assert found["noisy sums", 1, "public data"].cosine < public.cosine < own.cosine
    assert (answer.epsilon, answer.delta, answer.left_out) == (8.0, 1e-5, ())


def test_a_tuned_run_is_attacked_by_the_numbers_that_its_model_uses(
    additive: Path, copy_of: Callable[..., Path]
) -> None:
    run = copy_of(additive)
    tune(str(run), sizes=(24,), weights=(0.25,))
    found = by_way(tr.Run(run).audit_reconstruction(picks=3))
    assert found["subtract", 1, "own sums"].cosine > 0.999
    assert {known for _, _, known in found} == {"own sums"}


def test_a_retrain_by_ridge_gives_the_sample_away(
    tmp_path: Path, parquet: Path, test_parquet: Path, spec_of: Callable[..., Any]
) -> None:
    plain_train(tmp_path / "run", spec_of(parquet, shards=2, compose="mean", tolerance=1e-6, trainable="head"))
    answer = tr.Run(tmp_path / "run").audit_reconstruction(test_parquet, picks=4)
    found = by_way(answer)
    own = found["retrain", 1, "own pictures"]
    assert own.cosine > 0.99
    assert own.first == 1.0
    gathered = found["retrain, gathered", 10, "own pictures"]
    assert gathered.cosine < 0.9
    assert gathered.first < own.first
    (drop,) = [one for one in answer.attacks if (one.way, one.known) == ("drop of Δw", "own pictures")]
    assert drop.first < gathered.first
    assert ("retrain", 1, "public data") in found
    assert answer.epsilon is None


def test_a_run_of_two_tiers_is_attacked_by_both(tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]) -> None:
    spec = spec_of(parquet, shards=2, compose="additive", features=48, trainable="head", tolerance=1e-6)
    plain_train(tmp_path / "run", spec)
    ways = {one.way for one in tr.Run(tmp_path / "run").audit_reconstruction(picks=2).attacks}
    assert {"subtract", "gathered", "drop", "noisy sums", "retrain", "retrain, gathered", "drop of Δw"} == ways


def test_command_prints_a_table_and_keeps_it_where_it_is_to(additive: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(additive)
    told = here("audit", run, "--reconstruct", "--picks", "2", "--record")
    assert told.code == 0, told.err
    for word in (
        "median rank",
        "noisy sums",
        "own sums",
        "the run is unchanged",
        "Recorded as outcomes/audit-reconstruct-",
    ):
        assert word in told.out
    (outcome,) = tr.Run(run).status().outcomes
    assert (outcome.verb, outcome.ok, outcome.since) == ("audit-reconstruct", None, 0)
    assert tr.Run(run).verify().problems == ()
    here("audit", additive, "--reconstruct", "--data", "x").complains(2, "--data: --reconstruct forgets samples")
    here("audit", additive, "--picks", "2").complains(2, "--picks: it needs --reconstruct")
    here("audit", additive, "--reconstruct", "--picks", "0").complains(2, "expected 1 or more")


def test_what_cannot_be_attacked_is_told(tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]) -> None:
    plain_train(tmp_path / "run", spec_of(parquet, shards=1, trainable="head", solver="adam", compose="mean", epochs=1))
    with pytest.raises(UsageError, match="the attack needs the optimum of ridge, and the solver is adam"):
        tr.Run(tmp_path / "run").audit_reconstruction()


def test_the_same_attack_has_the_same_numbers(additive: Path) -> None:
    first, second = (tr.Run(additive).audit_reconstruction(picks=2) for _ in range(2))
    assert np.allclose([one.cosine for one in first.attacks], [one.cosine for one in second.attacks], atol=1e-9)

"""The audit of sampled batches: it convicts noise that is too small, sums without clipping and batches with everybody, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import here
from plain import plain_train
from seeded_noise import noises
from tiny import CLASSES, MODEL, SIZE

from taft_ray.additive import Projection, RowsModel, sites_of
from taft_ray.fitting import PrivateRecipe, clipping, private
from taft_ray.plans.privacy import Privacy
from taft_ray.privacy import BatchStream, epsilon_of_sampled
from taft_ray.privacy.lower_bounds import detects_any_noise, epsilon_of_one_run
from taft_ray.proof import privacy_audit
from taft_ray.proof.privacy_audit import many_runs, mu_of_steps, one_run
from taft_ray.tangent import Delta
from taft_ray.workers.canaries import Canaries, everybody, random_tokens

CLAIM = Privacy(epsilon=3.0, delta=1e-5, steps=10, sampling_rate=0.3)
SMALL = Privacy(epsilon=1.0, delta=1e-5, steps=50, sampling_rate=0.02)


def head_on_rows(claim: Privacy, count: int = 1, size: int = 16) -> Canaries:
    """Canaries of a head of two classes on rows, by the recipe that the claim asks for."""
    import timm

    network, random = timm.create_model(MODEL, img_size=SIZE).eval(), torch.Generator().manual_seed(0)
    tm = RowsModel(network, Projection(sites_of(network, SIZE, size=size)), 2)
    recipe = PrivateRecipe(
        steps=claim.steps, learning_rate=1.0, clip=1.0, noise_multiplier=claim.noise_multiplier, divisor=100
    )
    labels = torch.randint(2, (count,), generator=random)
    return Canaries(tm, random_tokens(tm, count, SIZE, random), labels, recipe, rate=claim.sampling_rate)


@pytest.mark.parametrize(("times", "convicted"), [(1.0, False), (3.0, True)])
def test_many_runs_refute_noise_that_is_far_too_small_and_no_other(times: float, convicted: bool) -> None:
    found = many_runs(head_on_rows(CLAIM), CLAIM, 0.01, 40, noises=noises(times))
    assert (found["mu"] > mu_of_steps(CLAIM)) == (found["epsilon"] > 3.0) == convicted
    sigma = CLAIM.steps**0.5 / found["mu"]
    assert found["epsilon"] == epsilon_of_sampled(sigma, 0.3, 10, 1e-5)
    assert 1 < found["detects"] < 3


def test_gradients_that_are_not_clipped_are_convicted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Whole(clipping.ClippedSum):
        def __init__(self, zero: Delta, clip: float, apart: bool = False) -> None:
            super().__init__(zero, clip, apart)
            self.clip = 1e6  # and the grid stays

    canaries = head_on_rows(CLAIM)
    assert many_runs(canaries, CLAIM, 0.01, 40, noises=noises())["epsilon"] < 3.0
    monkeypatch.setattr(private, "ClippedSum", Whole)
    assert many_runs(canaries, CLAIM, 0.01, 40, noises=noises())["epsilon"] > 3.0


@pytest.mark.parametrize(("batches", "convicted"), [(BatchStream(bytes(32)), False), (everybody, True)])
def test_one_run_refutes_batches_with_everybody_and_none_at_the_rate(batches: Any, convicted: bool) -> None:
    canaries = head_on_rows(SMALL, 300, size=600)
    coins = np.random.default_rng(0).random(300) < 0.5
    found = one_run(canaries, SMALL, 0.01, noises(), coins, batches)
    assert found["epsilon"] == found["epsilon_of_any_noise"]
    assert (found["epsilon"] > 1.0) == convicted


def test_factor_that_would_be_noticed_is_one_that_the_bound_refutes() -> None:
    factor = detects_any_noise(0.3, 1.0, 60, 500, 1e-5, 0.01)
    assert factor is not None
    assert 1 < factor < 30
    assert detects_any_noise(0.3, 1.0, 4, 500, 1e-5, 0.01) is None, "too few guesses"
    assert epsilon_of_one_run(60, 60, 500, 1e-5, 0.01) > 1.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("audited") / "run"
    privacy = Privacy(epsilon=8.0, delta=1e-4, steps=2, sampling_rate=0.3)
    options = {"solver": "dp-additive", "features": 48, "compose": "mean", "loss": "ce", "classes": CLASSES}
    plain_train(run, spec_of(parquet, privacy=privacy, **options))
    return run


def test_command_does_not_convict_an_honest_run_and_convicts_half_of_the_noise(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("audit", trained, "--privacy", "--runs", 150, "--level", 1e-4, "--canaries", 40)
    answer = here(*asked, "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["ok"], answer.json["epsilon"], answer.json["sampling_rate"]) == (True, 8.0, 0.3)
    assert answer.json["many_runs"]["epsilon"] < 8.0
    monkeypatch.setattr(privacy_audit, "fresh_noise", noises(2.0))
    answer = here(*asked)
    assert answer.code == 1, answer.err
    assert "2 steps on batches at rate 0.3" in answer.out
    assert answer.out.startswith("A fit gives away more than ε = 8")

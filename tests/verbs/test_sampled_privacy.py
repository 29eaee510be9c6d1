"""A private run on sampled batches through the library: trained, told of, forgotten from, and made again by its keys."""

from pathlib import Path

import pytest
from folder import shard_of, state_of
from tiny import CLASSES, SHARDS, sample_id

import taft_ray as tr
from taft_ray.answers import Certificate
from taft_ray.errors import UsageError
from taft_ray.privacy import epsilon_of_sampled, mu_of

EPSILON, DELTA, RATE, STEPS = 3.0, 1e-4, 0.2, 5


def test_train_privacy_forget_verify(tmp_path: Path, ray_session: None, parquet: Path, weights: Path) -> None:
    options = {
        "model": "test_vit", "weights": str(weights), "image_size": 32, "shards": SHARDS, "trainable": "norm", "device": "cpu",
        "classes": CLASSES, "private": True, "epsilon": EPSILON, "delta": DELTA, "steps": STEPS,
    }  # fmt: skip
    run = tr.Run(tmp_path / "run")
    with pytest.raises(UsageError, match="set --sampling-rate"):
        run.train(parquet, **options, sampling_rate=1.0)
    assert not (tmp_path / "run").exists()
    trained = run.train(parquet, **options, sampling_rate=RATE, lanes=1)
    assert {shard.state for shard in trained.shards} == {"trained"}
    told = run.privacy()
    assert (told.epsilon, told.sampling_rate, told.steps) == (EPSILON, RATE, STEPS)
    sigma = told.noise_multiplier
    assert 0.999 * EPSILON < epsilon_of_sampled(sigma, RATE, STEPS, DELTA) <= EPSILON
    estimate = run.estimate([sample_id(0)], mode="retrain")
    certificate = run.forget([sample_id(0)], mode="retrain")
    assert isinstance(certificate, Certificate)
    shard = shard_of(sample_id(0), SHARDS)
    assert [one.sampling_rate for one in state_of(run.uri).reservations[shard]] == [RATE, RATE]
    both = epsilon_of_sampled(sigma, RATE, 2 * STEPS, DELTA)
    assert certificate.privacy is not None
    assert estimate.privacy is not None
    for one in (certificate.privacy, estimate.privacy):
        assert one["neighbours"][0]["epsilon_after"] == pytest.approx(both, rel=1e-9)
    again = run.privacy()
    assert again.epsilon == again.shards[shard].epsilon == pytest.approx(both, rel=1e-9)
    assert again.shards[shard].mu == mu_of(again.epsilon, DELTA)
    verified = run.verify(retrain=True)
    assert verified.problems == ()
    assert verified.checks["shards trained again"] == SHARDS

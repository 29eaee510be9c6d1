"""Probabilities that logits stand for: those whose expected loss the logits minimise."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from taft_ray.fitting.loss import Loss

LOSSES = [Loss(), Loss(kappa=3.0, alpha=4.0), Loss(kappa=10.0, alpha=0.5), Loss(kind="mse"), Loss(kind="ce")]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.kind}-{loss.kappa}-{loss.alpha}")
def test_probabilities_come_back_from_the_logits_that_are_best_for_them(loss: Loss) -> None:
    random = np.random.default_rng(0)
    for truth in random.dirichlet(np.ones(4), 5):
        of_class = torch.from_numpy(truth)

        def expected(logits: np.ndarray, weights: torch.Tensor = of_class) -> float:
            rows = torch.from_numpy(logits).expand(4, 4)
            return float((weights * loss.per_sample(rows, torch.arange(4))).sum())

        best = minimize(expected, np.zeros(4), tol=1e-12).x
        got = loss.probabilities(torch.from_numpy(best)[None])[0].numpy()
        assert got == pytest.approx(truth, abs=1e-4)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.kind}-{loss.kappa}-{loss.alpha}")
def test_any_logits_give_a_distribution_in_their_order(loss: Loss) -> None:
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 20, (200, 7)))
    got = loss.probabilities(logits)
    assert got.min() >= 0
    assert got.sum(-1).numpy() == pytest.approx(np.ones(200))
    largest = got.gather(-1, logits.argmax(-1, keepdim=True))
    assert (largest == got.max(-1, keepdim=True).values).all()


def test_what_is_off_the_simplex_goes_to_its_nearest_point() -> None:
    values = np.random.default_rng(2).normal(0, 1, (20, 5))
    got = Loss(kind="mse").probabilities(torch.from_numpy(values)).numpy()
    for value, point in zip(values, got, strict=True):
        nearest = minimize(
            lambda p, v=value: ((p - v) ** 2).sum(), np.full(5, 0.2), bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1}, tol=1e-12,
        ).x  # fmt: skip
        assert point == pytest.approx(nearest, abs=1e-5)

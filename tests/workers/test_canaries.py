"""Canaries: what one of them adds to a release, exactly, whatever the model, its Δw and the unit."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from tiny import MODEL, SIZE

from taft_ray.additive import Projection, RowsModel, sites_of
from taft_ray.errors import UsageError
from taft_ray.fitting import PrivateRecipe
from taft_ray.tangent import TangentModel, linearize
from taft_ray.workers.canaries import FAULT, PER_OWNER, Canaries, LinearLoss, most_canaries, random_tokens

RECIPE = PrivateRecipe(steps=4, learning_rate=3.0, clip=0.7, noise_multiplier=2.0, divisor=3)
MU = math.sqrt(4) / 2.0


def rows_model(classes: int = 2, size: int = 16) -> RowsModel:
    network = timm.create_model(MODEL, img_size=SIZE).eval()
    return RowsModel(network, Projection(sites_of(network, SIZE, size=size)), classes)


def tangent_model(**options: Any) -> TangentModel:
    return linearize(MODEL, num_classes=3, tangent_only=True, **options)


def no_noise(step: int, count: int, scale: float) -> np.ndarray:
    return np.zeros(count, np.int64)


MODELS: dict[str, Callable[[], TangentModel]] = {
    "rows": rows_model,
    "rows of five classes": lambda: rows_model(5, 48),
    "head": lambda: tangent_model(trainable="head"),
    "last block": tangent_model,
    "norms of two blocks": lambda: tangent_model(trainable="norm", last_blocks=2),
}


@pytest.mark.parametrize(
    ("name", "of_owners"), [*((name, False) for name in MODELS), ("rows", True), ("last block", True)]
)
def test_canary_moves_its_score_by_mu_and_others_by_their_products(name: str, of_owners: bool) -> None:
    """Without noise: every canary counts as C·u at each step, also where Δw has moved far."""
    canaries = Canaries.random(MODELS[name](), 5, SIZE, RECIPE, of_owners=of_owners)
    assert len(canaries) == 5
    assert canaries.mu == pytest.approx(MU)
    products = (canaries.gradients @ canaries.gradients.T).double().numpy()
    assert np.diag(products) == pytest.approx(np.ones(5), abs=1e-5)
    for chosen in ([], [0], [1, 4], [0, 1, 2, 3, 4]):
        found = canaries.scores(np.array(chosen, int), no_noise)
        assert found == pytest.approx(MU * products[:, chosen].sum(axis=1), abs=2e-4)
    assert canaries.scores(np.array([3]), no_noise, slice(3, 4)) == pytest.approx([MU], abs=1e-4)


def test_score_of_noise_alone_is_standard_normal() -> None:
    canaries = Canaries.random(rows_model(), 1, SIZE, RECIPE)
    random = np.random.default_rng(0)

    def noise(step: int, count: int, scale: float) -> np.ndarray:
        return np.rint(scale * random.normal(size=count)).astype(np.int64)

    found = np.concatenate([canaries.scores(np.array([], int), noise) for _ in range(400)])
    assert found.mean() == pytest.approx(0.0, abs=4 / 20)
    assert found.std() == pytest.approx(1.0, abs=4 / math.sqrt(800))


def test_expectation_is_the_regression_of_coins_on_scores() -> None:
    """Against the covariances that all coins have, counted out."""
    canaries = Canaries.random(rows_model(3, 48), 6, SIZE, RECIPE)
    products = (canaries.gradients @ canaries.gradients.T).double().numpy()
    coins = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    means = MU * coins @ products
    both = (coins - 0.5).T @ (means - means.mean(axis=0)) / len(coins)
    spread = np.cov(means.T, bias=True) + products / FAULT**2
    scores = np.random.default_rng(1).normal(size=6) + MU / 2
    expected = both @ np.linalg.solve(spread, scores - means.mean(axis=0))
    assert canaries.expected(scores) == pytest.approx(expected, abs=1e-4)


def test_linear_loss_has_the_same_slope_everywhere() -> None:
    loss, labels = LinearLoss(slope=2.5), torch.tensor([0, 2])
    logits = torch.randn(2, 3, requires_grad=True)
    value = 2.5 * (logits.mean(dim=1) - logits[torch.arange(2), labels]).sum()
    (expected,) = torch.autograd.grad(value, logits)
    assert torch.allclose(loss.residual(logits.detach() * 100, labels), expected)


def test_made_up_rows_have_length_one_and_tokens_the_size_of_real_ones() -> None:
    random = torch.Generator().manual_seed(0)
    rows = random_tokens(rows_model(), 20, SIZE, random)
    assert rows.shape == (20, 1, 16)
    lengths = torch.linalg.vector_norm(rows.double() * 2.0**-15, dim=2)
    assert float(lengths.max()) <= 1
    assert float(lengths.min()) > 0.999
    tm = tangent_model()
    tokens, real = random_tokens(tm, 8, SIZE, random), tm.prefix(torch.zeros(1, 3, SIZE, SIZE))
    assert tokens.shape == (8, *real.shape[1:])
    assert float(tokens.std()) == pytest.approx(float(real.std()), rel=0.1)


def test_canaries_are_few_where_a_model_is_small_or_large() -> None:
    assert most_canaries(rows_model()) == (8, 2**30 // (4 * 34))
    tm = tangent_model()
    count = tm.zero_delta().numel()
    assert most_canaries(tm) == (min(count // 4, 2**28 // count), 2**28 // count)


def test_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="two classes"):
        Canaries.random(rows_model(1), 2, SIZE, RECIPE)


def test_canary_of_an_owner_is_several_pictures() -> None:
    tm, random = rows_model(), torch.Generator().manual_seed(0)
    tokens, labels = random_tokens(tm, 2 * PER_OWNER, SIZE, random), torch.tensor([0, 1, 0, 1, 1, 1])
    canaries = Canaries(tm, tokens, labels, RECIPE, of_owners=True)
    slopes = LinearLoss().residual(torch.zeros(6, 2), labels)
    together = tm.vjp(tm.prepare(tokens[:PER_OWNER]), slopes[:PER_OWNER])
    flat = torch.cat([value.flatten() for value in together.values()])
    assert torch.allclose(canaries.gradients[0], flat / flat.norm(), atol=1e-6)


@pytest.mark.parametrize(("name", "of_owners"), [("rows", False), ("rows", True), ("last block", False)])
def test_canary_on_sampled_batches_moves_its_score_by_the_batches_that_it_is_in(name: str, of_owners: bool) -> None:
    canaries = Canaries.random(MODELS[name](), 5, SIZE, RECIPE, of_owners=of_owners, rate=0.3)
    products = (canaries.gradients @ canaries.gradients.T).double().numpy()
    everywhere = canaries.scores(np.array([1, 4]), no_noise)
    assert everywhere == pytest.approx(MU * products[:, [1, 4]].sum(axis=1), abs=2e-4)
    steps = [{0, 1}, {1}, set(), {1}]  # of the units of this fit: canaries 1 and 4
    found = canaries.scores(
        np.array([1, 4]), no_noise, batches=lambda step, units, rate: np.isin(np.arange(units), list(steps[step]))
    )
    assert found == pytest.approx(MU * (products[:, 1] / 4 + products[:, 4] * 3 / 4), abs=2e-4)

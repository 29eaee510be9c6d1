"""A head on rows, fitted privately: the plain float64 descent, and whitening that folds into it."""

import dataclasses

import numpy as np
import pytest
import torch

from taft_ray.additive import HeadOnRows, Whitened, to_rows, whitening_of
from taft_ray.additive.grid import from_rows
from taft_ray.additive.linear import BIAS, WEIGHT
from taft_ray.errors import DataError, UsageError
from taft_ray.fitting import Loss, PrivateRecipe, private_descent
from taft_ray.fitting.clipping import grid_unit, margin
from taft_ray.privacy import GaussianStream
from taft_ray.tangent import Delta, Prepared

K, S = 5, 40
RECIPE = PrivateRecipe(steps=12, learning_rate=6.0, clip=2.0, noise_multiplier=3.0, divisor=300)
HEAD = HeadOnRows(S, K)


def silent(step: int, count: int, scale: float) -> np.ndarray:
    return np.zeros(count, np.int64)


def stream() -> GaussianStream:
    return GaussianStream(bytes(range(32)))


def made(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that say something of their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n)
    centres = rng.standard_normal((K, S))
    values = 0.7 * centres[labels] + rng.standard_normal((n, S))
    return to_rows(torch.from_numpy(values / np.sqrt(2 * S))), labels


def prepared(rows: np.ndarray) -> Prepared:
    return HEAD.prepare(torch.from_numpy(rows)[:, None])


def fitted(rows: np.ndarray, labels: np.ndarray, recipe: PrivateRecipe, noise=silent, units=None) -> np.ndarray:
    """(K, S + 1): W and b."""
    of = None if units is None else torch.from_numpy(units)
    made = private_descent(HEAD, prepared(rows), torch.from_numpy(labels), Loss(kind="ce"), recipe, noise, units=of)
    return torch.cat([made.delta[WEIGHT], made.delta[BIAS][:, None]], dim=1).numpy()


def per_sample(rows: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n, K, S + 1): autograd's gradients of the cross-entropy, one picture at a time."""
    values = torch.from_numpy(np.hstack([from_rows(rows), np.ones((len(rows), 1))]))
    found = []
    for value, label in zip(values, labels.tolist(), strict=True):
        weight = torch.from_numpy(weights).requires_grad_()
        loss = torch.nn.functional.cross_entropy((weight @ value)[None], torch.tensor([label]))
        (gradient,) = torch.autograd.grad(loss, weight)
        found.append(gradient.numpy())
    return np.stack(found)


def oracle(rows: np.ndarray, labels: np.ndarray, recipe: PrivateRecipe, noise=silent, units=None) -> np.ndarray:
    """The equation of `fitting.private`, picture by picture in float64, with the same noise."""
    weights = np.zeros((K, S + 1))
    unit, sensitivity = grid_unit(recipe.clip), recipe.clip * (1 + margin(weights.size))
    of = np.arange(len(rows)) if units is None else units
    for step in range(recipe.steps):
        gradients = per_sample(rows, labels, weights)
        total = np.zeros_like(weights)
        for number in np.unique(of):
            gradient = gradients[of == number].sum(0)
            total += gradient * min(1.0, recipe.clip / np.linalg.norm(gradient))
        drawn = noise(step, weights.size, recipe.noise_multiplier * sensitivity / unit) * unit
        of_bias, of_weight = (
            (drawn[:K], drawn[K:]) if list(HEAD.zero_delta()) == [BIAS, WEIGHT] else (drawn[-K:], drawn[:-K])
        )
        total += np.hstack([of_weight.reshape(K, S), of_bias[:, None]])
        weights = weights - recipe.learning_rate / recipe.divisor * total
    return weights


@pytest.mark.parametrize("clip", [2.0, 0.4])
@pytest.mark.parametrize("owners", [False, True])
@pytest.mark.parametrize("noise", [silent, stream()])
def test_a_head_on_rows_descends_as_its_equation_says(clip: float, owners: bool, noise):
    rows, labels = made(60)
    units = np.random.default_rng(1).integers(0, 20, len(rows)) if owners else None
    recipe = dataclasses.replace(RECIPE, clip=clip, steps=5)
    assert fitted(rows, labels, recipe, noise, units) == pytest.approx(
        oracle(rows, labels, recipe, noise, units), abs=1e-4
    )


def test_a_clip_of_two_clips_no_row():
    """|r|·√(|a|² + 1) is at most 2 for rows of length one at most."""
    rows, labels = made()
    weights = 50 * np.random.default_rng(3).standard_normal((K, S + 1))
    assert np.linalg.norm(per_sample(rows, labels, weights), axis=(1, 2)).max() <= 2


def test_it_learns_through_noise():
    rows, labels = made(3000)
    found = fitted(rows, labels, dataclasses.replace(RECIPE, divisor=3000, steps=40), stream())
    answers = from_rows(rows) @ found[:, :-1].T + found[:, -1]
    assert (answers.argmax(1) == labels).mean() > 0.8


def test_a_head_on_whitened_rows_is_one_on_rows():
    """W·(M·a) = (W·M)·a: what is fitted on whitened rows needs no whitening any more."""
    rows, _ = made(7)
    random = torch.Generator().manual_seed(0)
    half = torch.randn(S, S, generator=random, dtype=torch.float64)
    matrix = half @ half.T / S
    pictures = prepared(rows)
    whitened = Whitened(pictures, matrix)
    delta = Delta({BIAS: torch.randn(K, generator=random), WEIGHT: torch.randn(K, S, generator=random)})
    expected = HEAD.logits(whitened[slice(0, 7)], delta)
    assert torch.allclose(HEAD.logits(pictures, whitened.back(delta)), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(whitened.whole(), Prepared)
    assert len(whitened.whole()) == len(whitened) == 7


def test_whitening_makes_public_rows_white_and_as_long_as_rows_are():
    rng = np.random.default_rng(0)
    scales = np.logspace(0, -1.5, S)
    public = to_rows(torch.from_numpy(rng.standard_normal((4000, S)) * scales / 3))
    values = from_rows(public) @ whitening_of(public, ridge=1e-3)
    eigenvalues = np.linalg.eigvalsh(values.T @ values / len(values))
    plain = np.linalg.eigvalsh(from_rows(public).T @ from_rows(public))
    assert eigenvalues.max() / eigenvalues.min() < 3 < 50 < plain.max() / plain.min()
    assert np.linalg.norm(values, axis=1).mean() == pytest.approx(1, abs=1e-9)


def test_whitening_by_nothing_is_refused():
    with pytest.raises(UsageError, match="public rows"):
        whitening_of(np.zeros((0, S), np.int16))
    with pytest.raises(UsageError, match="ridge"):
        whitening_of(made(5)[0], ridge=0.0)
    with pytest.raises(DataError, match="zero"):
        whitening_of(np.zeros((3, S), np.int16))

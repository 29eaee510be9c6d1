"""Private descent on rows: bounded sensitivity whatever the rows are, the plain float64 descent where nothing is clipped, equal bits."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from taft_ray.additive import descend, to_rows
from taft_ray.additive.grid import from_rows
from taft_ray.additive.private import grid_unit, margin
from taft_ray.errors import DataError, UsageError
from taft_ray.fitting.private import PrivateRecipe
from taft_ray.privacy import GaussianStream

K = 5
RECIPE = PrivateRecipe(steps=12, learning_rate=6.0, clip=2.0, noise_multiplier=3.0, divisor=300)


def silent(step: int, count: int, scale: float) -> np.ndarray:
    return np.zeros(count, np.int64)


def stream() -> GaussianStream:
    return GaussianStream(bytes(range(32)))


def made(n: int = 300, size: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that say something of their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n)
    centres = rng.standard_normal((K, size))
    values = 0.7 * centres[labels] + rng.standard_normal((n, size))
    return to_rows(torch.from_numpy(values / np.sqrt(2 * size))), labels


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


def oracle(
    rows: np.ndarray, labels: np.ndarray, recipe: PrivateRecipe, units: np.ndarray | None = None, noise=silent
) -> np.ndarray:
    """The equation of the module, picture by picture in float64, with the same noise."""
    weights = np.zeros((K, rows.shape[1] + 1))
    unit = grid_unit(recipe.clip)
    sensitivity = recipe.clip * (1 + margin(weights.size))
    of = np.arange(len(rows)) if units is None else units
    for step in range(recipe.steps):
        gradients = per_sample(rows, labels, weights)
        total = np.zeros_like(weights)
        for number in np.unique(of):
            gradient = gradients[of == number].sum(0)
            total += gradient * min(1.0, recipe.clip / np.linalg.norm(gradient))
        drawn = noise(step, weights.size, recipe.noise_multiplier * sensitivity / unit) * unit
        weights = weights - recipe.learning_rate / recipe.divisor * (total + drawn.reshape(weights.shape))
    return weights


def whole(found) -> np.ndarray:
    return np.hstack([found.coefficients, found.intercept[:, None]])


@pytest.mark.parametrize("clip", [2.0, 0.4])
@pytest.mark.parametrize("owners", [False, True])
@pytest.mark.parametrize("noise", [silent, stream()])
def test_it_is_the_equation_of_the_docstring(clip: float, owners: bool, noise):
    rows, labels = made(60)
    units = np.random.default_rng(1).integers(0, 20, len(rows)) if owners else None
    recipe = dataclasses.replace(RECIPE, clip=clip, steps=5)
    found = descend(rows, labels, K, recipe, noise, units=units)
    assert whole(found) == pytest.approx(oracle(rows, labels, recipe, units, noise), abs=2e-5)
    assert found.nonfinite == 0


def integers(rows, labels, weights, clip, units=None) -> np.ndarray:
    """The whole numbers of the second step, after a first step of noise alone that puts it at these weights."""
    unit, seen = grid_unit(clip), []
    recipe = dataclasses.replace(RECIPE, steps=2, clip=clip, learning_rate=1.0, divisor=1)
    first = []

    def noise(step: int, count: int, scale: float) -> np.ndarray:
        if step == 0:
            return np.rint(-weights.ravel() / unit).astype(np.int64) - first[0]
        return np.zeros(count, np.int64)

    def recorder(step: int, count: int, scale: float) -> np.ndarray:
        seen.append(step)
        return np.zeros(count, np.int64)

    one = descend(rows, labels, K, dataclasses.replace(recipe, steps=1), recorder, units=units)
    first.append(np.rint(-whole(one).ravel() / unit).astype(np.int64))
    two = descend(rows, labels, K, recipe, noise, units=units)
    at = np.rint(weights / unit) * unit
    return np.rint((at - whole(two)) / unit)


def adversaries(size: int) -> dict[str, np.ndarray]:
    """Rows at the ends of what is allowed, and beyond."""
    rng = np.random.default_rng(5)
    along = np.zeros(size)
    along[0] = 1.0
    return {
        "a row": rng.standard_normal(size) / math.sqrt(size),
        "longest": along,
        "zero": np.zeros(size),
        "beyond": 1e6 * rng.standard_normal(size),
        "huge": np.full(size, 1e200),
        "inf": np.full(size, np.inf),
        "nan": np.full(size, np.nan),
    }


@pytest.mark.parametrize("clip", [2.0, 0.3])
@pytest.mark.parametrize("name", list(adversaries(3)))
@pytest.mark.parametrize("owners", [False, True])
def test_a_unit_that_is_zeroed_out_changes_the_sum_by_the_sensitivity_at_most(clip: float, name: str, owners: bool):
    size = 30
    rows, labels = made(200, size)
    values = from_rows(rows)
    weights = 5 * np.random.default_rng(2).standard_normal((K, size + 1))
    units = np.arange(200) // 4 if owners else None
    theirs = slice(8, 12) if owners else slice(8, 9)
    values[theirs] = adversaries(size)[name]
    with_it = integers(values, labels, weights, clip, units)
    gone = values.copy()
    gone[theirs] = np.nan  # counts as zero
    without = integers(gone, labels, weights, clip, units)
    changed = np.linalg.norm(with_it - without)
    most = clip * (1 + margin(weights.size)) / grid_unit(clip)
    assert changed <= most
    if name == "beyond":
        assert changed > 0.99 * most, "a bound that nothing comes near would hide an error"


def test_without_clipping_the_bound_is_broken():
    """The mutant that the test above has to catch."""
    rows, labels = made(50, 30)
    values = from_rows(rows)
    values[7] = adversaries(30)["beyond"]
    gone = values.copy()
    gone[7] = np.nan
    weights = np.ones((K, 31))
    loose = [integers(each, labels, weights, 1e9) * grid_unit(1e9) for each in (values, gone)]
    assert np.linalg.norm(loose[0] - loose[1]) > 100 * 0.3


def test_a_clip_of_two_clips_no_row():
    rows, labels = made()
    weights = 50 * np.random.default_rng(3).standard_normal((K, rows.shape[1] + 1))
    assert np.linalg.norm(per_sample(rows, labels, weights), axis=(1, 2)).max() <= 2


def test_gradients_that_are_not_finite_count_as_zero_and_are_counted():
    rows, labels = made()
    values = from_rows(rows)
    values[3], values[8] = np.nan, np.inf
    fine = np.delete(values, [3, 8], axis=0), np.delete(labels, [3, 8])
    found = descend(values, labels, K, RECIPE, silent)
    assert found.nonfinite == 2 * RECIPE.steps
    assert np.isfinite(whole(found)).all()
    assert whole(found) == pytest.approx(whole(descend(*fine, K, RECIPE, silent)), abs=1e-6)


def test_equal_bits_whatever_the_threads_and_the_order_of_whole_blocks():
    rows, labels = made(9000, 64)
    there = descend(rows, labels, K, dataclasses.replace(RECIPE, steps=2), stream())
    with threadpool_limits(2):
        again = descend(rows, labels, K, dataclasses.replace(RECIPE, steps=2), stream())
    assert (whole(there) == whole(again)).all()
    turned = np.r_[4096:8192, 0:4096, 8192:9000]
    swapped = descend(rows[turned], labels[turned], K, dataclasses.replace(RECIPE, steps=2), stream())
    assert (whole(there) == whole(swapped)).all()


def test_int16_rows_and_their_values_are_the_same():
    rows, labels = made()
    one, two = (descend(each, labels, K, RECIPE, stream()) for each in (rows, from_rows(rows)))
    assert (whole(one) == whole(two)).all()


def test_noise_is_called_once_per_step_with_the_scale_of_the_sensitivity_even_for_no_rows():
    called = []

    def noise(step: int, count: int, scale: float) -> np.ndarray:
        called.append((step, count, scale))
        return np.zeros(count, np.int64)

    found = descend(np.zeros((0, 40), np.int16), np.zeros(0, np.int64), K, RECIPE, noise)
    scale = 3.0 * 2.0 * (1 + margin(K * 41)) / grid_unit(2.0)
    assert called == [(step, K * 41, scale) for step in range(RECIPE.steps)]
    assert found.sensitivity == 2.0 * (1 + margin(K * 41))
    assert not whole(found).any()


def test_the_margin_is_small():
    assert margin(10 * 2049) < 1e-4
    assert margin(1000 * 8193) < 1e-3


def test_it_learns():
    rows, labels = made(3000)
    found = descend(rows, labels, K, dataclasses.replace(RECIPE, divisor=3000, steps=40), stream())
    answers = from_rows(rows) @ found.coefficients.T + found.intercept
    assert (answers.argmax(1) == labels).mean() > 0.8


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (np.zeros((3, 2), np.int32), np.zeros(3, np.int64)),
        (np.zeros(3, np.int16), np.zeros(3, np.int64)),
        (np.zeros((3, 2), np.int16), np.zeros(2, np.int64)),
        (np.zeros((3, 2), np.int16), np.zeros(3)),
        (np.zeros((3, 2), np.int16), np.full(3, K)),
        (np.zeros((3, 2), np.int16), np.full(3, -1)),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(rows, labels):
    with pytest.raises(DataError, match="expected"):
        descend(rows, labels, K, RECIPE, silent)


def test_noise_of_another_shape_is_refused():
    rows, labels = made(10)
    with pytest.raises(UsageError, match="noise"):
        descend(rows, labels, K, RECIPE, lambda step, count, scale: np.zeros(count))
    with pytest.raises(UsageError, match="noise"):
        descend(rows, labels, K, RECIPE, lambda step, count, scale: np.zeros(1, np.int64))


def test_a_head_on_whitened_rows_is_one_on_rows() -> None:
    """W·(M·a) = (W·M)·a: what is fitted on whitened rows needs no whitening any more."""
    import torch

    from taft_ray.additive.linear import BIAS, WEIGHT, Whitened
    from taft_ray.tangent import Delta, Prepared

    random = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 5, generator=random)
    half = torch.randn(5, 5, generator=random, dtype=torch.float64)
    matrix = half @ half.T
    pictures = Prepared(torch.zeros(7, 3), {"rows": rows}, 0)
    whitened = Whitened(pictures, matrix)
    delta = Delta({BIAS: torch.randn(3, generator=random), WEIGHT: torch.randn(3, 5, generator=random)})
    expected = whitened[slice(0, 7)].saved["rows"] @ delta[WEIGHT].T + delta[BIAS]
    back = whitened.back(delta)
    assert torch.allclose(rows @ back[WEIGHT].T + back[BIAS], expected, rtol=1e-4, atol=1e-4)
    assert isinstance(Whitened.of(pictures, matrix), Prepared)
    assert len(Whitened.of(pictures, matrix)) == 7

"""Private descent on Poisson batches: the clipped gradients of who is in the batch, written out, and nothing of anybody else."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import BY_ID, CLASSES, build, images
from dense import flat, jacobian
from torch import Tensor

from taft_ray.additive.linear import BIAS, WEIGHT, Whitened
from taft_ray.errors import UsageError
from taft_ray.fitting import Loss, PrivateRecipe, Sampling, margin, private_descent
from taft_ray.fitting.clipping import grid_unit
from taft_ray.fitting.private import Batches, PrivateStep
from taft_ray.privacy import BatchStream, GaussianStream
from taft_ray.tangent import Prepared, Recomputed, TangentModel, linearize
from taft_ray.tangent.gradient_passes import SampledPasses

CE = Loss(kind="ce")
COUNT, STEPS, RATE = 9, 4, 0.4
OWNERS = torch.tensor([4, 0, 4, 2, 4, 2, 9, 9, 0])
SEED = bytes(range(32))


def recipe(**changes: Any) -> PrivateRecipe:
    settings: dict[str, Any] = {
        "steps": STEPS,
        "learning_rate": 0.5,
        "clip": 0.3,
        "noise_multiplier": 2.0,
        "divisor": 7,
    }
    return PrivateRecipe(**{**settings, **changes})


def silent(step: int, count: int, scale: float) -> np.ndarray:
    return np.zeros(count, np.int64)


def sampling(batches: Batches | None = None, rate: float = RATE) -> Sampling:
    return Sampling(rate=rate, batches=batches or BatchStream(SEED))


def of_sets(*sets: set[int]) -> Batches:
    """These units in the batches of the steps."""
    return lambda step, units, rate: np.isin(np.arange(units), list(sets[step]))


def given(case: str = "vit", count: int = COUNT, **options: Any) -> tuple[TangentModel, Tensor, Tensor]:
    """(tangent model in float64, tokens, labels)."""
    tm = linearize(build(BY_ID[case]), **options)
    labels = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(7))
    return tm, tm.prefix(images(BY_ID[case], count=count, seed=8)), labels


def written_out(
    tm: TangentModel, tokens: Tensor, labels: Tensor, to: PrivateRecipe, units: Tensor, batches: Batches, rate: float
) -> Tensor:
    """Δw (P,) without noise, by autograd on the dense Jacobian: a step over who is in its batch, divided by q·n."""
    jac = jacobian(tm, tm.prepare(tokens)).view(len(labels), tm.num_classes, -1)
    delta, names = torch.zeros(jac.shape[-1], dtype=tm.dtype), units.unique()
    for step in range(to.steps):
        total = torch.zeros_like(delta)
        for unit in names[torch.from_numpy(batches(step, len(names), rate))]:
            leaf = delta.clone().requires_grad_()
            mine = units == unit
            CE.per_sample(jac[mine] @ leaf, labels[mine]).sum().backward()
            assert leaf.grad is not None
            total += leaf.grad * min(1.0, to.clip / float(leaf.grad.norm()))
        delta = delta - to.learning_rate * total / (rate * to.divisor)
    return delta


@pytest.mark.parametrize("units", [None, OWNERS], ids=["samples", "owners"])
@pytest.mark.parametrize("rate", [RATE, 0.97])
@pytest.mark.parametrize(
    ("case", "options"),
    [("vit", {}), ("vit", {"trainable": "bitfit"}), ("vit", {"last_blocks": 2}), ("deit-distilled", {})],
    ids=str,
)
def test_steps_are_those_of_the_clipped_gradients_of_the_batch_written_out(
    case: str, options: dict[str, Any], units: Tensor | None, rate: float
) -> None:
    tm, tokens, labels = given(case, **options)
    of = torch.arange(COUNT) if units is None else units
    expected = written_out(tm, tokens, labels, recipe(), of, BatchStream(SEED), rate)
    got = private_descent(
        tm, tm.prepare(tokens), labels, CE, recipe(), silent, units=units, sampling=sampling(rate=rate)
    )
    assert float(expected.norm()) > 0
    assert float((flat(got.delta) - expected).norm()) <= 1e-5 * float(expected.norm())
    assert got.nonfinite == 0


@pytest.mark.parametrize("prepare", ["whole", "recomputed"])
def test_given_sets_are_the_batches_whatever_keeps_the_pictures(prepare: str) -> None:
    tm, tokens, labels = given(last_blocks=2)
    batches = of_sets({0, 8}, set(), {3}, set(range(COUNT)))
    pictures = tm.prepare(tokens) if prepare == "whole" else Recomputed(tm, tokens, torch.arange(COUNT))
    expected = written_out(tm, tokens, labels, recipe(), torch.arange(COUNT), batches, RATE)
    got = private_descent(tm, pictures, labels, CE, recipe(), silent, sampling=sampling(batches))
    assert float((flat(got.delta) - expected).norm()) <= 1e-5 * float(expected.norm())


def test_nobody_else_is_read() -> None:
    """Pictures that would spoil any sum, and are in no batch."""
    tm, tokens, labels = given()
    batches = of_sets({0, 2}, {5}, {0}, {2, 5})
    expected = private_descent(tm, tm.prepare(tokens), labels, CE, recipe(), silent, sampling=sampling(batches))
    others = tokens.clone()
    others[[1, 3, 4, 6, 7, 8]] = math.nan
    got = private_descent(tm, tm.prepare(others), labels, CE, recipe(), silent, sampling=sampling(batches))
    assert torch.equal(flat(got.delta), flat(expected.delta))
    assert got.nonfinite == 0
    spoiled = private_descent(
        tm, tm.prepare(others), labels, CE, recipe(), silent, sampling=sampling(of_sets({1}, {0}, {1, 3}, set()))
    )
    assert spoiled.nonfinite == 3


def test_all_of_an_owner_s_pictures_are_in_a_batch_or_none() -> None:
    tm, tokens, _ = given()
    passes = SampledPasses(tm, tm.prepare(tokens), OWNERS)
    assert passes.count == 4
    owners = torch.tensor([0, 2, 4, 9])
    for number in range(1 << 4):
        chosen = torch.tensor([bool(number >> bit & 1) for bit in range(4)])
        found = passes.of(chosen)
        if not number:
            assert found is None
            continue
        assert found is not None
        index = torch.cat([block.index for block in found._plan])
        assert sorted(index.tolist()) == torch.isin(OWNERS, owners[chosen]).nonzero()[:, 0].tolist()
        for block in found._plan:
            assert all(len(OWNERS[unit].unique()) == 1 for unit in block.index.split(block.size))


class Drawn:
    """Noise and batches of a key, which keep what they were asked for."""

    def __init__(self, seed: bytes = SEED) -> None:
        self._noise, self._batches = GaussianStream(seed), BatchStream(seed)
        self.asked: list[tuple[str, int, int, float]] = []
        self.sum: Any = 0

    def noise(self, step: int, count: int, scale: float) -> np.ndarray:
        self.asked.append(("noise", step, count, scale))
        drawn = self._noise(step, count, scale)
        self.sum = self.sum + drawn
        return drawn

    def batches(self, step: int, units: int, rate: float) -> np.ndarray:
        self.asked.append(("batch", step, units, rate))
        return self._batches(step, units, rate)


@pytest.mark.parametrize("nobody", ["no pictures", "empty batches"])
def test_a_batch_of_nobody_adds_noise_and_moves(nobody: str) -> None:
    tm, tokens, labels = given()
    count = 0 if nobody == "no pictures" else COUNT
    drawn, to = Drawn(), recipe()
    got = private_descent(
        tm, tm.prepare(tokens)[:count], labels[:count], CE, to, drawn.noise,
        sampling=sampling(of_sets(*[set()] * STEPS)),
    )  # fmt: skip
    size = tm.zero_delta().numel()
    scale = 2.0 * 0.3 * (1 + margin(size)) / grid_unit(0.3)
    assert drawn.asked == [("noise", step, size, pytest.approx(scale, rel=1e-12)) for step in range(STEPS)]
    expected = -torch.from_numpy(drawn.sum).double() * grid_unit(0.3) * to.learning_rate / (RATE * to.divisor)
    torch.testing.assert_close(flat(got.delta), expected, rtol=1e-12, atol=0)
    assert float(expected.norm()) > 0


@pytest.mark.parametrize("units", [None, OWNERS], ids=["samples", "owners"])
def test_batches_are_asked_for_by_step_with_the_number_of_units(units: Tensor | None) -> None:
    tm, tokens, labels = given()
    drawn = Drawn()
    private_descent(
        tm, tm.prepare(tokens), labels, CE, recipe(), drawn.noise, units=units, sampling=sampling(drawn.batches)
    )
    asked = [one for one in drawn.asked if one[0] == "batch"]
    assert asked == [("batch", step, COUNT if units is None else 4, RATE) for step in range(STEPS)]


def test_same_key_same_bits_and_another_key_other_batches() -> None:
    tm, tokens, labels = given()

    def made(seed: bytes, noise: Callable[..., np.ndarray] = silent) -> Tensor:
        found = private_descent(
            tm, tm.prepare(tokens), labels, CE, recipe(), noise, sampling=sampling(BatchStream(seed))
        )
        return flat(found.delta)

    assert torch.equal(made(SEED), made(SEED))
    assert torch.equal(made(SEED, GaussianStream(SEED)), made(SEED, GaussianStream(SEED)))
    assert not torch.equal(made(SEED), made(bytes(32)))


@pytest.mark.parametrize("owned", [False, True])
def test_a_unit_that_is_not_in_the_batch_leaves_the_rounding_of_others_as_it_is(owned: bool) -> None:
    """Integers of a batch with a unit, less those without it, are its own, but for last bits by a pass of other pictures."""
    tm, tokens, labels = given(count=70)
    tm, tokens = tm.to(torch.float32), tokens.float()
    units = torch.arange(70) // 5 if owned else None
    everyone = set(range(14 if owned else 70))

    def integers(chosen: set[int]) -> Tensor:
        step = PrivateStep(
            tm, tm.prepare(tokens), labels, CE, recipe(), silent, units=units, sampling=sampling(of_sets(chosen))
        )
        step()
        return step.sum.integers()

    whole, bound = integers(everyone), 0.3 / grid_unit(0.3) * (1 + margin(tm.zero_delta().numel()))
    for gone in (0, 7, len(everyone) - 1):
        without = integers(everyone - {gone})
        assert int((whole - without - integers({gone})).abs().max()) <= 70  # a step of the grid per picture
        assert float((whole - without).double().norm()) <= bound


def test_a_head_on_rows_is_fitted_on_its_batches() -> None:
    """Rows as of dp-additive, whitened or not, against the softmax's gradients in numpy."""
    import timm
    from tiny import MODEL, SIZE

    from taft_ray.additive import Projection, RowsModel, sites_of

    network = timm.create_model(MODEL, img_size=SIZE).eval()
    tm = RowsModel(network, Projection(sites_of(network, SIZE, size=16)), 3)
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.integers(-9000, 9000, (40, 1, 16)).astype(np.int16))
    labels, to = torch.from_numpy(rng.integers(0, 3, 40)), recipe(clip=0.1, learning_rate=2.0)
    half = torch.from_numpy(rng.standard_normal((16, 16)))
    prepared = tm.prepare(rows)
    for pictures in (prepared, Whitened(prepared, half @ half.T)):
        got = private_descent(tm, pictures, labels, CE, to, silent, sampling=sampling())
        values = pictures[slice(0, 40)].saved["rows"].double().numpy()
        wide = np.hstack([values, np.ones((40, 1))])
        weights = np.zeros((3, 17))
        for step in range(STEPS):
            total = np.zeros_like(weights)
            for number in np.flatnonzero(BatchStream(SEED)(step, 40, RATE)):
                logits = weights @ wide[number]
                residual = np.exp(logits) / np.exp(logits).sum() - np.eye(3)[labels[number]]
                gradient = np.outer(residual, wide[number])
                total += gradient * min(1.0, 0.1 / np.linalg.norm(gradient))
            weights -= to.learning_rate / (RATE * to.divisor) * total
        found = np.hstack([got.delta[WEIGHT].numpy(), got.delta[BIAS].numpy()[:, None]])
        assert isinstance(prepared, Prepared)
        assert np.linalg.norm(found - weights) <= 1e-5 * np.linalg.norm(weights)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_rates_that_mean_nothing_are_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="full batches"):
        sampling(rate=rate)


def test_batches_of_another_form_are_refused() -> None:
    tm, tokens, labels = given()
    for wrong in (
        lambda step, units, rate: np.ones(units - 1, bool),
        lambda step, units, rate: np.ones(units),
        lambda step, units, rate: np.arange(3),
    ):
        with pytest.raises(UsageError, match="expected a batch"):
            private_descent(tm, tm.prepare(tokens), labels, CE, recipe(), silent, sampling=sampling(wrong))

"""Private descent against clipped gradients written out, its sensitivity on hostile pictures, and what it refuses."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import BY_ID, CLASSES, build, images, random_like
from dense import flat, jacobian
from torch import Tensor

from taft_ray.errors import DataError, UnsupportedModel, UsageError
from taft_ray.fitting import Loss, PrivateRecipe, clipping, margin, private_descent
from taft_ray.fitting.clipping import GRID, ClippedSum, grid_unit
from taft_ray.fitting.private import PrivateStep
from taft_ray.tangent import Pictures, Recomputed, TangentModel, gradient_passes, linearize
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.gradient_passes import Block
from taft_ray.tangent.trained import Entry
from taft_ray.tangent.unit_gradients import BLOCK, Inputs, Layout, UnitGradients

CE = Loss(kind="ce")
PASSES, KEPT = 0, 1 << 40  # budgets
BOTH = pytest.mark.parametrize("budget", [PASSES, KEPT], ids=["passes", "kept"])
COUNT = 6
OWNERS = torch.tensor([4, 0, 4, 2, 4, 2])


def recipe(**changes: Any) -> PrivateRecipe:
    settings: dict[str, Any] = {"steps": 3, "learning_rate": 0.5, "clip": 1.0, "noise_multiplier": 2.0, "divisor": 9}
    return PrivateRecipe(**{**settings, **changes})


def silent(step: int, count: int, scale: float) -> np.ndarray:
    return np.zeros(count, np.int64)


class Recorded:
    """Seeded noise that keeps what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, float]] = []
        self.sum = 0

    def __call__(self, step: int, count: int, scale: float) -> np.ndarray:
        self.calls.append((step, count, scale))
        drawn = np.rint(np.random.default_rng(step).standard_normal(count) * scale).astype(np.int64)
        self.sum = self.sum + drawn
        return drawn


def given(case: str = "vit", count: int = COUNT, **options: Any) -> tuple[TangentModel, Tensor, Tensor]:
    """(tangent model in float64, tokens, labels)."""
    tm = linearize(build(BY_ID[case]), **options)
    labels = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(7))
    return tm, tm.prefix(images(BY_ID[case], count=count, seed=8)), labels


def single(count: int, **options: Any) -> tuple[TangentModel, Tensor, Tensor]:
    """The same in float32, as it is used."""
    tm, tokens, labels = given(count=count, **options)
    return copy.deepcopy(tm).to(torch.float32), tokens.float(), labels


def written_out(
    tm: TangentModel, tokens: Tensor, labels: Tensor, loss: Loss, to: PrivateRecipe, units: Tensor
) -> Tensor:
    """Δw (P,) without noise: autograd's gradients of units from the dense Jacobian, clipped, summed and divided one by one."""
    jac = jacobian(tm, tm.prepare(tokens)).view(len(labels), tm.num_classes, -1)
    delta = torch.zeros(jac.shape[-1], dtype=tm.dtype)
    for _ in range(to.steps):
        total = torch.zeros_like(delta)
        for unit in units.unique():
            leaf = delta.clone().requires_grad_()
            mine = units == unit
            loss.per_sample(jac[mine] @ leaf, labels[mine]).sum().backward()
            assert leaf.grad is not None
            total += leaf.grad * min(1.0, to.clip / float(leaf.grad.norm()))
        delta = delta - to.learning_rate * total / to.divisor
    return delta


@BOTH
@pytest.mark.parametrize("loss", [CE, Loss(kappa=3.0, alpha=2.0), Loss(kind="mse")], ids=lambda loss: loss.kind)
def test_without_noise_and_clip_it_is_gradient_descent_on_the_tangent_term(loss: Loss, budget: int) -> None:
    """By autograd through the tangent pass; the divisor is the given one and not the number of pictures."""
    tm, tokens, labels = given()
    prepared, to = tm.prepare(tokens), recipe(clip=1e4, learning_rate=0.02)
    leaves = {name: value.requires_grad_() for name, value in tm.zero_delta().items()}
    for _ in range(to.steps):
        tm.zero_grad()
        loss.per_sample(tm.tangent(prepared, leaves), labels).sum().backward()
        with torch.no_grad():
            for leaf in leaves.values():
                if leaf.grad is not None:
                    leaf -= to.learning_rate / to.divisor * leaf.grad
                    leaf.grad = None
    expected = Delta({name: leaf.detach() for name, leaf in leaves.items()})
    got = private_descent(tm, prepared, labels, loss, to, silent, budget=budget)
    grid = to.steps * to.learning_rate / to.divisor * grid_unit(to.clip) * math.sqrt(expected.numel())
    assert float((got.delta - expected).norm()) <= grid + 1e-6 * float(expected.norm())
    assert grid < 1e-3 * float(expected.norm())


@BOTH
@pytest.mark.parametrize("units", [None, OWNERS], ids=["samples", "owners"])
@pytest.mark.parametrize(
    ("case", "options"),
    [
        *(("vit", {"trainable": trainable}) for trainable in ("full", "bitfit", "norm", "head")),
        ("vit", {"cls_token": True}),
        ("vit", {"last_blocks": 2}),
        ("vit", {"last_blocks": 2, "trainable": "bitfit"}),
        ("deit-distilled", {}),
    ],
    ids=str,
)
def test_steps_are_those_of_clipped_gradients_written_out(
    case: str, options: dict[str, Any], units: Tensor | None, budget: int
) -> None:
    tm, tokens, labels = given(case, **options)
    to = recipe(clip=0.7 * _median_norm(tm, tokens, labels))
    expected = written_out(tm, tokens, labels, CE, to, torch.arange(COUNT) if units is None else units)
    got = private_descent(tm, tm.prepare(tokens), labels, CE, to, silent, units=units, budget=budget)
    assert float((flat(got.delta) - expected).norm()) <= 1e-5 * float(expected.norm())
    assert got.nonfinite == 0


def _median_norm(tm: TangentModel, tokens: Tensor, labels: Tensor) -> float:
    jac = jacobian(tm, tm.prepare(tokens)).view(len(labels), tm.num_classes, -1)
    residual = CE.residual(jac.new_zeros(jac.shape[:2]), labels)
    return float(torch.einsum("bk,bkp->bp", residual, jac).norm(dim=1).median())


@BOTH
def test_owners_of_more_pictures_than_a_block_are_clipped_whole(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners of 30, 15 and 1 pictures: written out (for passes in pieces), by products of rows, and as one row."""
    monkeypatch.setattr(clipping, "BLOCK", 20)
    monkeypatch.setattr(gradient_passes, "PASS", 16)
    tm, tokens, labels = given(count=46, trainable="norm")
    units = torch.tensor([0] * 30 + [1] * 15 + [2])[torch.randperm(46, generator=torch.Generator().manual_seed(0))]
    to = recipe(clip=0.8, steps=2)
    expected = written_out(tm, tokens, labels, CE, to, units)
    got = private_descent(tm, tm.prepare(tokens), labels, CE, to, silent, units=units, budget=budget)
    assert float((flat(got.delta) - expected).norm()) <= 1e-5 * float(expected.norm())


# --- sensitivity

HOSTILE: dict[str, Callable[[Tensor], Tensor]] = {
    "usual": lambda tokens: tokens,
    "huge": lambda tokens: tokens * 1e18,
    "overflowing": lambda tokens: tokens * 3e37,
    "tiny": lambda tokens: tokens * 1e-30,
    "constant": lambda tokens: torch.ones_like(tokens),
    "infinite": lambda tokens: torch.full_like(tokens, math.inf),
    "one value NaN": lambda tokens: torch.where(torch.arange(tokens.shape[-1]) == 3, math.nan, tokens),
}


def integers(
    tm: TangentModel, pictures: Pictures, labels: Tensor, clip: float, units: Tensor | None, budget: int, steps: int = 1
) -> tuple[Tensor, int]:
    """The integers of the last of some steps, before noise, and what was not finite."""
    step = PrivateStep(
        tm, pictures, labels, CE, recipe(clip=clip, learning_rate=5.0), silent, units=units, budget=budget
    )
    for _ in range(steps):
        step()
    return step.sum.integers(), step.sum.nonfinite


@BOTH
@pytest.mark.parametrize(
    ("options", "owned", "clip"),
    [
        ({}, False, 1e-6),
        ({}, False, 0.3),
        ({}, False, 1e5),
        ({}, True, 0.3),
        ({"last_blocks": 2}, False, 0.3),
        ({"trainable": "bitfit"}, True, 0.3),
    ],
    ids=str,
)
def test_a_unit_changes_the_integers_by_at_most_the_sensitivity(
    options: dict[str, Any], owned: bool, clip: float, budget: int
) -> None:
    """Hostile pictures among 70 usual ones; a neighbour has one unit zeroed out, which a picture of NaN alone is."""
    tm, tokens, labels = single(70, **options)
    units = torch.arange(70) // 7 if owned else None
    for place, change in enumerate(HOSTILE.values()):
        tokens[8 * place + 2] = change(tokens[8 * place + 2])
    bound = clip * (1 + margin(tm.zero_delta().numel())) / grid_unit(clip)
    whole, _ = integers(tm, tm.prepare(tokens), labels, clip, units, budget)
    largest = 0.0
    for place in range(len(HOSTILE)):
        without = tokens.clone()
        without[(units == units[8 * place + 2]) if units is not None else [8 * place + 2]] = math.nan
        other, dead = integers(tm, tm.prepare(without), labels, clip, units, budget)
        change = float((whole - other).double().norm())
        assert change <= bound
        assert dead >= 1
        largest = max(largest, change)
    if clip < 1:
        assert largest >= 0.99 * bound  # what is large is clipped, and not made smaller than it need be


def test_units_that_are_summed_apart_do_not_see_each_other() -> None:
    """Adding or removing a unit changes the integers by its own, up to the last bits that a pass of other pictures gives."""
    tm, tokens, labels = single(300)

    def of(index: list[int], apart: bool) -> Tensor:
        pictures = tm.prepare(tokens[index])
        made = PrivateStep(tm, pictures, labels[index], CE, recipe(clip=0.3), silent, apart=apart)
        made()
        return made.sum.integers()

    everyone = list(range(300))
    whole = of(everyone, apart=True)
    bound = 0.3 / grid_unit(0.3) * (1 + margin(tm.zero_delta().numel()))
    for gone in (0, 150, 299):
        without = of([n for n in everyone if n != gone], apart=True)
        assert int((whole - without - of([gone], apart=True)).abs().max()) <= 300  # a step of the grid per picture
        assert float((whole - without).double().norm()) <= bound
    together = of(everyone, apart=False)
    assert not torch.equal(whole, together)
    assert float((whole - together).double().norm()) < 0.01 * bound


@BOTH
@pytest.mark.parametrize("name", ["infinite", "one value NaN", "overflowing"])
def test_what_is_not_finite_counts_as_zero_and_touches_no_other(name: str, budget: int) -> None:
    tm, tokens, labels = single(5)
    expected, dead = integers(tm, tm.prepare(tokens[:4]), labels[:4], 0.5, None, budget, steps=3)
    assert dead == 0
    tokens[4] = HOSTILE[name](tokens[4])
    got, dead = integers(tm, tm.prepare(tokens), labels, 0.5, None, budget, steps=3)
    assert dead == 3  # once a step
    assert float((got - expected).double().norm()) <= margin(tm.zero_delta().numel()) * 0.5 / grid_unit(0.5) * 3
    owners = torch.tensor([0, 1, 2, 3, 3])
    got, dead = integers(tm, tm.prepare(tokens), labels, 0.5, owners, budget, steps=3)
    assert dead == 3
    fewer, _ = integers(tm, tm.prepare(tokens[:3]), labels[:3], 0.5, None, budget, steps=3)
    assert float((got - fewer).double().norm()) <= margin(tm.zero_delta().numel()) * 0.5 / grid_unit(0.5) * 3


@pytest.mark.parametrize("bad", [None, 0, 1])
def test_one_piece_that_is_not_finite_is_enough(bad: int | None) -> None:
    """A unit that comes in two pieces; an input is finite, but too large for products of it."""
    layout = Layout([(Entry("w", None, 0, 2, 1, False), (1, 1, 2))], {})
    total = ClippedSum(Delta({"w": torch.zeros(2, 3)}), 1.0)
    for piece in range(2):
        inputs, back = torch.ones(2, 1, 1, 3), torch.ones(2, 2)
        if piece == bad:
            inputs[1] = 1e20
        gradients = UnitGradients(Inputs(layout, [inputs], 2, 2, back.device), back)
        total.add(Block(torch.arange(2), 2, first=piece == 0, last=piece == 1), gradients, layout)
    assert total.nonfinite == (bad is not None)
    expected = (
        0.0 if bad is not None else (1 - 2.0**-20) / grid_unit(1.0) / 6**0.5
    )  # four times (1, 1) ⊗ (1, 1, 1), clipped
    assert total.integers().tolist() == [pytest.approx(expected, rel=1e-6)] * 6


@pytest.mark.parametrize("seed", range(2))
def test_the_margin_covers_sums_of_numbers_that_round_badly(seed: int) -> None:
    """Pictures in opposite pairs among ones of all sizes, in float32, against the sum in float64 of the same factors."""
    tm, tokens, labels = single(BLOCK)
    generator = torch.Generator().manual_seed(seed)
    sizes, half = 10 ** (12 * torch.rand(BLOCK, generator=generator) - 6), BLOCK // 2
    clip = 1.0
    step = PrivateStep(tm, tm.prepare(tokens), labels, CE, recipe(clip=clip), silent, budget=KEPT)
    assert step.passes is not None
    with torch.no_grad():
        for block, gradients in step.passes(step.delta, lambda logits, numbers: random_like(logits, seed)):
            gradients.back *= sizes[:, None]
            gradients.back[half:] = -gradients.back[:half] * (1 + 2.0**-20)
            for values in gradients.inputs.tensors:
                values[half:] = values[:half]
            step.sum.add(block, gradients, step.passes.layout)
            exact = torch.zeros(len(step.values), dtype=torch.float64)
            wide = copy.copy(gradients)
            wide.back = gradients.back.double()
            wide.inputs = copy.copy(gradients.inputs)
            wide.inputs.tensors = [values.double() for values in gradients.inputs.tensors]
            for unit in range(BLOCK):
                one = {name: value.double() for name, value in tm.zero_delta().items()}
                wide.write(unit, one, first=True)
                gradient = flat(Delta(one))
                exact += gradient * min(1.0, clip / float(gradient.norm()))
    error = float((step.sum.integers().double() * grid_unit(clip) - exact).norm())
    assert 0 < error <= margin(len(exact)) * clip


def test_margin_is_small_and_grows_with_the_parameters_alone() -> None:
    assert 0 < margin(1) < margin(86_000_000) < 1e-2
    for clip in (1e-12, 0.3, 0.5, 1.0, 3.0, 1e12):
        assert GRID / 2 < grid_unit(clip) / clip <= GRID
        assert math.frexp(grid_unit(clip))[0] == 0.5


# --- noise and bits


@BOTH
@pytest.mark.parametrize("count", [0, COUNT])
def test_noise_is_drawn_once_a_step_for_all_parameters(count: int, budget: int) -> None:
    tm, tokens, labels = given()
    noise, to, done = Recorded(), recipe(clip=0.3, noise_multiplier=5.0), []
    got = private_descent(
        tm, tm.prepare(tokens)[:count], labels[:count], CE, to, noise, budget=budget,
        progress=lambda step, steps: done.append((step, steps)),
    )  # fmt: skip
    size = tm.zero_delta().numel()
    scale = 5.0 * 0.3 * (1 + margin(size)) / grid_unit(0.3)
    assert noise.calls == [(step, size, pytest.approx(scale, rel=1e-12)) for step in range(3)]
    assert got.sensitivity == pytest.approx(0.3 * (1 + margin(size)), rel=1e-12)
    assert got.steps == 3
    assert done == [(1, 3), (2, 3), (3, 3)]
    if count == 0:  # nothing but noise
        expected = -torch.from_numpy(noise.sum).double() * grid_unit(0.3) * to.learning_rate / to.divisor
        torch.testing.assert_close(flat(got.delta), expected, rtol=1e-12, atol=0)


@BOTH
def test_same_arguments_give_the_same_bits_and_both_paths_the_same_values(budget: int) -> None:
    tm, tokens, labels = single(70)
    found = [
        private_descent(tm, tm.prepare(tokens), labels, CE, recipe(clip=0.3), Recorded(), units=units, budget=where)
        for units in (None, torch.arange(70))
        for where in (budget, budget, PASSES)
    ]
    first = found[0].delta
    for other in found:
        assert float((other.delta - first).norm()) <= 1e-5 * float(first.norm())
    for again in (found[1], found[3], found[4]):
        assert all(torch.equal(value, first[name]) for name, value in again.delta.items())


@BOTH
@pytest.mark.parametrize("units", [None, OWNERS], ids=["samples", "owners"])
def test_pictures_that_are_prepared_when_asked_give_the_same(units: Tensor | None, budget: int) -> None:
    tm, tokens, labels = given(last_blocks=2 if budget == PASSES else 1)
    to = recipe(clip=0.3)
    expected = private_descent(tm, tm.prepare(tokens), labels, CE, to, Recorded(), units=units, budget=budget)
    rows = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = torch.zeros_like(tokens)
    shuffled[rows] = tokens
    got = private_descent(
        tm, Recomputed(tm, shuffled, rows), labels, CE, to, Recorded(), units=units, budget=budget
    )  # fmt: skip
    assert float((got.delta - expected.delta).norm()) <= 1e-7 * float(expected.delta.norm())


# --- refusals


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0}, {"divisor": 0}, {"divisor": -3}, {"clip": 0.0}, {"clip": math.nan}, {"clip": math.inf}, {"clip": -1.0},
        {"clip": 1e-13}, {"noise_multiplier": 0.0}, {"noise_multiplier": math.nan}, {"noise_multiplier": math.inf},
        {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"learning_rate": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_recipes_that_mean_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        recipe(**changes)


def test_products_in_less_than_float32_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tm, tokens, labels = single(4)
    prepared = tm.prepare(tokens)

    def refused(what: str, model: TangentModel = tm) -> None:
        noise = Recorded()
        with pytest.raises(UsageError, match=what):
            private_descent(model, prepared, labels, CE, recipe(), noise)
        assert noise.calls == []

    for dtype in (torch.bfloat16, torch.float16):
        refused("float32", copy.deepcopy(tm).to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        refused("autocast")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    refused("matmul_precision")
    monkeypatch.undo()
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        refused("allow_tf32")
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    private_descent(tm, prepared, labels, CE, recipe(), Recorded())


def test_wrong_arguments_are_refused() -> None:
    tm, tokens, labels = given()
    prepared = tm.prepare(tokens)
    with pytest.raises(DataError, match="outside"):
        private_descent(tm, prepared, labels + CLASSES, CE, recipe(), silent)
    with pytest.raises(UsageError, match="5 labels"):
        private_descent(tm, prepared, labels[:5], CE, recipe(), silent)
    with pytest.raises(UsageError, match="7 units"):
        private_descent(tm, prepared, labels, CE, recipe(), silent, units=torch.arange(7))
    with pytest.raises(UsageError, match="float64"):
        private_descent(tm, prepared, labels, CE, recipe(), lambda step, count, scale: np.zeros(count))
    with pytest.raises(UsageError, match="int64"):
        private_descent(tm, prepared, labels, CE, recipe(), lambda step, count, scale: np.zeros(1, np.int64))
    other = linearize(build(BY_ID["resnet-basic"]))
    pictures = other.prepare(other.prefix(images(BY_ID["resnet-basic"], count=2)))
    with pytest.raises(UnsupportedModel, match="private fit"):
        private_descent(other, pictures, labels[:2], CE, recipe(), silent)


@pytest.mark.parametrize("loss", [CE, Loss(kappa=3.0, alpha=2.0), Loss(kind="mse")], ids=lambda loss: loss.kind)
def test_residuals_are_the_derivatives_of_the_loss(loss: Loss) -> None:
    logits = random_like(torch.zeros(7, CLASSES, dtype=torch.float64)).requires_grad_()
    labels = torch.arange(7) % CLASSES
    (expected,) = torch.autograd.grad(loss.per_sample(logits, labels).sum(), logits)
    torch.testing.assert_close(loss.residual(logits, labels).detach(), expected)

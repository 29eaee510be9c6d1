"""The fast passes against timm's own forward under torch.func, in float64, over all cases and options."""

import itertools
from typing import Any

import pytest
import torch
from cases import CASES, Case, Reference, build, images, random_delta, random_like, relative

from taft_ray.tangent import TangentModel, linearize

Options = dict[str, Any]

DEPTHS: list[Options] = [{"last_blocks": 1}, {"last_blocks": 2}, {"last_blocks": "all"}]
BASIC: list[Options] = [*DEPTHS, *({**depth, "cls_token": True} for depth in DEPTHS)]
THIN: list[Options] = [{"last_blocks": 1}, {"last_blocks": 2, "cls_token": True}, {"last_blocks": "all"}]
THIN += [{"last_blocks": 1, "trainable": "bitfit"}, {"last_blocks": 1, "reset": True}]
MIXED: list[Options] = [{"last_blocks": 1}, {"last_blocks": 2, "cls_token": True}, {"last_blocks": "all"}]
SELECTED: list[Options] = [
    *BASIC,
    {"last_blocks": 0},
    {"last_blocks": 1, "trainable": "bitfit"},
    {"last_blocks": 2, "trainable": "bitfit"},
    {"last_blocks": 1, "trainable": "norm"},
    {"last_blocks": 2, "trainable": "norm", "cls_token": True},
    {"last_blocks": 1, "trainable": "head"},
    {"last_blocks": 1, "trainable": "head", "cls_token": True},
    {"last_blocks": 1, "reset": True},
    {"last_blocks": "all", "reset": True, "cls_token": True, "num_classes": 7, "trainable": "bitfit"},
    {"last_blocks": 1, "num_classes": 7},
]
EVERY: list[Options] = [
    {"last_blocks": depth, "trainable": trainable, "reset": reset, "cls_token": token, "num_classes": classes}
    for depth, trainable, reset, token, classes in itertools.product(
        (1, 2, "all"), ("full", "bitfit", "norm", "head"), (False, True), (False, True), (None, 7)
    )
]


def is_possible(case: Case, options: Options) -> bool:
    if options.get("cls_token") and not case.class_token:
        return False
    if case.thin and len(options) < 5 and options not in THIN:  # all of them in the slow test of combinations
        return False
    return not (options.get("reset") and case.batch_norm)


def pairs(options: list[Options]) -> list[Any]:
    return [
        pytest.param(case, option, id="-".join([case.id, *(f"{key}={value}" for key, value in option.items())]))
        for case in CASES
        for option in options
        if is_possible(case, option)
    ]


def linearized(case: Case, options: Options) -> tuple[TangentModel, Reference]:
    """The tangent model and the oracle on the same pictures."""
    tm = linearize(build(case), **options)
    return tm, Reference(build(case), tm, images(case))


def check_jvp(case: Case, options: Options) -> None:
    tm, reference = linearized(case, options)
    delta = random_delta(tm)
    primal, tangent = tm.jvp(tm.prepare(tm.prefix(images(case))), delta)
    expected_primal, expected_tangent = reference.jvp(delta)
    assert relative(primal, expected_primal) < case.tolerance
    assert relative(tangent, expected_tangent) < case.tolerance


@pytest.mark.parametrize(("case", "options"), pairs(SELECTED))
def test_jvp_parity(case: Case, options: Options):
    check_jvp(case, options)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_jvp_parity_of_every_combination(case: Case):
    for options in EVERY:
        if is_possible(case, options):
            check_jvp(case, options)


@pytest.mark.parametrize(("case", "options"), pairs(DEPTHS[:1]))
def test_jvp_parity_one_parameter_at_a_time(case: Case, options: Options):
    """A term that is small in a sum over all parameters cannot hide."""
    tm, reference = linearized(case, options)
    prepared = tm.prepare(tm.prefix(images(case)))
    delta, zero = random_delta(tm), tm.zero_delta()
    for name in delta:
        expected = reference.jvp({**zero, name: delta[name]})[1]
        for single in ({**zero, name: delta[name]}, {name: delta[name]}):  # an absent name is zero, too
            error = float((tm.tangent(prepared, single) - expected).abs().max())
            assert error < case.tolerance * (1 + float(expected.abs().max())), name


@pytest.mark.parametrize(("case", "options"), pairs(BASIC))
def test_vjp_is_the_adjoint_and_matches_reverse_mode(case: Case, options: Options):
    tm, reference = linearized(case, options)
    prepared = tm.prepare(tm.prefix(images(case)))
    delta = random_delta(tm)
    tangent = tm.tangent(prepared, delta)
    cotangent = random_like(tangent)
    gradient = tm.vjp(prepared, cotangent)
    assert list(gradient) == list(tm.zero_delta())
    inner = float((cotangent * tangent).sum())
    assert abs(float(gradient.dot(delta)) - inner) < case.tolerance * float(cotangent.norm() * tangent.norm())

    leaves = {name: value.clone().requires_grad_() for name, value in reference.trained.items()}
    expected = torch.autograd.grad(reference(leaves), list(leaves.values()), cotangent)
    size = max(float(value.abs().max()) for value in expected)
    for name, value in zip(leaves, expected, strict=True):
        assert float((gradient[name] - value).abs().max()) < case.tolerance * size, name


@pytest.mark.parametrize(("case", "options"), pairs([{"last_blocks": 1}, {"last_blocks": "all", "cls_token": True}]))
def test_finite_differences_of_the_real_network(case: Case, options: Options):
    tm, reference = linearized(case, options)
    delta = random_delta(tm)
    tangent = tm.tangent(tm.prepare(tm.prefix(images(case))), delta)
    step = 1e-6
    ahead, behind = (
        reference({name: value + sign * step * delta[name] for name, value in reference.trained.items()})
        for sign in (1, -1)
    )
    assert relative((ahead - behind) / (2 * step), tangent) < max(1e-6, 1e4 * case.tolerance)


@pytest.mark.parametrize(("case", "options"), pairs(MIXED))
def test_linearity(case: Case, options: Options):
    tm = linearize(build(case), **options)
    prepared = tm.prepare(tm.prefix(images(case)))
    a, b = random_delta(tm, seed=10), random_delta(tm, seed=11)
    expected = 0.7 * tm.tangent(prepared, a) - 1.9 * tm.tangent(prepared, b)
    assert relative(tm.tangent(prepared, 0.7 * a - 1.9 * b), expected) < case.tolerance
    assert not tm.tangent(prepared, tm.zero_delta()).any()


@pytest.mark.parametrize(("case", "options"), pairs(MIXED))
def test_jvp_is_differentiable_in_delta(case: Case, options: Options):
    """∂/∂Δ ½‖JΔ‖² = JᵀJΔ."""
    tm = linearize(build(case), **options)
    prepared = tm.prepare(tm.prefix(images(case)))
    leaves = {name: value.requires_grad_() for name, value in random_delta(tm).items()}
    _, tangent = tm.jvp(prepared, leaves)
    gradient = torch.autograd.grad(tangent.square().sum() / 2, list(leaves.values()), allow_unused=True)
    expected = tm.vjp(prepared, tangent.detach())
    for (name, leaf), value in zip(leaves.items(), gradient, strict=True):
        torch.testing.assert_close(torch.zeros_like(leaf) if value is None else value, expected[name])


@pytest.mark.parametrize(("case", "options"), pairs(MIXED))
def test_prepared_selects_pictures(case: Case, options: Options):
    tm = linearize(build(case), **options)
    tokens = tm.prefix(images(case, count=5))
    prepared, delta = tm.prepare(tokens), random_delta(tm)
    assert len(prepared) == 5
    for index in (torch.tensor([3, 0, 3]), slice(1, 4), torch.tensor([2])):
        chosen, expected = prepared[index], tm.prepare(tokens[index])
        assert len(chosen) == len(tokens[index])
        for got, wanted in zip(tm.jvp(chosen, delta), tm.jvp(expected, delta), strict=True):
            assert relative(got, wanted) < case.tolerance
        assert chosen.saved.keys() == expected.saved.keys()
        for name, value in expected.saved.items():
            torch.testing.assert_close(chosen.saved[name], value, msg=lambda text, name=name: f"{name}: {text}")
    nobody = prepared[torch.tensor([], dtype=torch.long)]
    assert tm.tangent(nobody, delta).shape == (0, tm.num_classes)


@pytest.mark.parametrize(("case", "options"), pairs([{"last_blocks": 1}, {"last_blocks": "all", "cls_token": True}]))
def test_serving_path(case: Case, options: Options):
    tm, reference = linearized(case, options)
    pictures, delta = images(case), random_delta(tm)
    primal, tangent = tm.jvp(tm.prepare(tm.prefix(pictures)), delta)
    assert torch.equal(tm(pictures, delta), primal + tangent)
    assert relative(tm(pictures, tm.zero_delta()), reference({})) < case.tolerance
    if tm.class_token is None:
        with torch.no_grad():
            assert relative(tm(pictures, tm.zero_delta()), build(case)(pictures)) < case.tolerance


@pytest.mark.parametrize(("case", "options"), pairs([{"last_blocks": 1}, {"last_blocks": 2, "cls_token": True}]))
def test_single_precision(case: Case, options: Options):
    """.to() moves the model, what was prepared, and deltas; tokens may be stored in half precision."""
    tm = linearize(build(case), **options)
    tokens, delta = tm.prefix(images(case)), random_delta(tm)
    primal, tangent = tm.jvp(tm.prepare(tokens), delta)
    moved = tm.prepare(tokens).to(torch.float32)
    assert moved.primal.dtype == torch.float32
    assert {value.dtype for value in moved.saved.values()} <= {torch.float32}
    tm.to(torch.float32)
    assert tm.dtype == tm.zero_delta()[next(iter(delta))].dtype == torch.float32
    for prepared, tolerance in ((moved, 1e-3), (tm.prepare(tokens), 1e-3), (tm.prepare(tokens.half()), 0.1)):
        for got, expected in zip(tm.jvp(prepared, delta.to(torch.float32)), (primal, tangent), strict=True):
            assert got.dtype == torch.float32
            assert relative(got.double(), expected) < tolerance


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees():
    for case in CASES:
        tm = linearize(build(case))
        tokens, delta = tm.prefix(images(case)), random_delta(tm)
        expected = tm.jvp(tm.prepare(tokens), delta)
        tm.to("cuda")
        for got, wanted in zip(tm.jvp(tm.prepare(tokens), delta.to("cuda")), expected, strict=True):
            assert relative(got.cpu(), wanted) < 10 * case.tolerance, case.id

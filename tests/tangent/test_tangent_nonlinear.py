"""The non-linear network at moved weights against timm's own forward, in float64: values and gradients."""

from typing import Any

import pytest
import torch
from cases import BY_ID, CASES, Case, Reference, build, images, random_delta, random_like, relative

from taft_ray.tangent import linearize

SCALE = 0.3  # of Δ: large enough that the linearisation is far off
OPTIONS: list[dict[str, Any]] = [
    {"last_blocks": 1, "cls_token": True},
    {"last_blocks": 1, "reset": True, "num_classes": 7},
    {"last_blocks": 1, "trainable": "bitfit"},
    {"last_blocks": 1, "trainable": "head"},
    {"last_blocks": 2, "cls_token": True},
    {"last_blocks": "all"},
]
CHOSEN = [pytest.param(case, {"last_blocks": 1}, id=case.id) for case in CASES] + [
    pytest.param(BY_ID[name], option, id="-".join([name, *(f"{key}={value}" for key, value in option.items())]))
    for name in ("vit", "dinov2-registers", "deit-distilled", "vit-avg")
    for option in OPTIONS
]


@pytest.mark.parametrize(("case", "options"), CHOSEN)
def test_value_and_gradient_are_those_of_the_whole_network(case: Case, options: dict[str, Any]):
    tm = linearize(build(case), **options)
    reference = Reference(build(case), tm, images(case))
    delta = random_delta(tm, scale=SCALE)
    leaves = {name: value.clone().requires_grad_() for name, value in delta.items()}
    got = tm.nonlinear(tm.prefix(images(case)), leaves)
    moved = {name: (reference.trained[name] + value).requires_grad_() for name, value in delta.items()}
    expected = reference(moved)
    assert relative(got.detach(), expected.detach()) < case.tolerance
    cotangent = random_like(expected)
    gradients = torch.autograd.grad(got, list(leaves.values()), cotangent)
    references = torch.autograd.grad(expected, list(moved.values()), cotangent)
    size = max(float(value.abs().max()) for value in references)
    for name, value, wanted in zip(leaves, gradients, references, strict=True):
        assert float((value - wanted).abs().max()) < case.tolerance * size, name


@pytest.mark.parametrize("name", ["vit", "vit-avg", "resnet-basic"])
def test_it_is_what_is_linearised(name: str):
    """f_{w+tΔ} = f_w + t·J·Δ + O(t²), and away from w it is another function."""
    case = BY_ID[name]
    tm = linearize(build(case))
    tokens, delta = tm.prefix(images(case)), random_delta(tm)
    primal, tangent = tm.jvp(tm.prepare(tokens), delta)
    assert relative(tm.nonlinear(tokens, {}), primal) < case.tolerance
    assert relative(tm.nonlinear(tokens, tm.zero_delta()), primal) < case.tolerance
    step = 1e-6
    ahead, behind = (tm.nonlinear(tokens, delta * sign) for sign in (step, -step))
    assert relative((ahead - behind) / (2 * step), tangent) < 1e-6
    assert relative(tm.nonlinear(tokens, delta), primal + tangent) > 1e-2


def test_the_base_stays_where_it_is():
    case = BY_ID["vit"]
    tm = linearize(build(case), cls_token=True)
    before = {name: value.clone() for name, value in tm.base.items()}
    tm.nonlinear(tm.prefix(images(case)), random_delta(tm))
    assert all(torch.equal(tm.base[name], value) for name, value in before.items())

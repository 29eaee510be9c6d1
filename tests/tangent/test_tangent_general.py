"""The general cut against timm's own forward under torch.func, in float64, family by family."""

import copy
import itertools
import re
from pathlib import Path

import pytest
import timm
import torch
from cases import BY_ID, Case, Reference, build, images, random_delta, random_like, relative
from families import FAMILIES, GENERAL, page
from torch import nn

from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.tangent import between, linearize
from taft_ray.tangent.network import units_of
from taft_ray.tangent.rules import Fallback

EVERY_CASE = pytest.mark.parametrize("case", GENERAL, ids=lambda case: case.id)
GENERAL_BY_ID = {case.id: case for case in GENERAL}
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "models.md"


def tolerance(case: Case) -> float:
    return max(case.tolerance, 1e-9)


@EVERY_CASE
@pytest.mark.parametrize("last_blocks", [1, "all"])
def test_parity(case: Case, last_blocks: int | str):
    """prefix∘suffix is the network; its jvp, its vjp and the network at moved weights are timm's."""
    model, pictures = build(case), images(case, count=2)
    tm = linearize(model, last_blocks=last_blocks)
    reference = Reference(model, tm, pictures)
    delta = random_delta(tm, scale=0.1)
    tokens = tm.prefix(pictures)
    kept = tokens.clone()
    primal, tangent = tm.jvp(prepared := tm.prepare(tokens), delta)
    expected_primal, expected_tangent = reference.jvp(delta)
    assert relative(primal, expected_primal) < tolerance(case)
    assert relative(tangent, expected_tangent) < tolerance(case)
    with torch.no_grad():
        assert relative(primal, model(pictures)) < tolerance(case)
    moved = reference({name: value + delta[name] for name, value in reference.trained.items()})
    assert relative(tm.nonlinear(tokens, delta), moved) < tolerance(case)
    assert torch.equal(tm(pictures, delta), primal + tangent)
    assert torch.equal(tokens, kept), "a unit wrote over the tokens"

    cotangent = random_like(tangent)
    gradient = tm.vjp(prepared, cotangent)
    leaves = {name: value.clone().requires_grad_() for name, value in reference.trained.items()}
    expected = torch.autograd.grad(reference(leaves), list(leaves.values()), cotangent, allow_unused=True)
    size = max(float(value.abs().max()) for value in expected if value is not None)
    for name, value in zip(leaves, expected, strict=True):
        wanted = torch.zeros_like(leaves[name]) if value is None else value
        assert float((gradient[name] - wanted).abs().max()) < tolerance(case) * size, name


@EVERY_CASE
def test_parity_of_options(case: Case):
    every = [{"last_blocks": 0}, *({"trainable": trainable} for trainable in ("bitfit", "norm", "head"))]
    every += [{"last_blocks": 2, "num_classes": 7}, *([] if case.batch_norm else [{"reset": True}])]
    for options in every:
        tm = linearize(build(case), **options)
        reference = Reference(build(case), tm, images(case, count=2))
        delta = random_delta(tm, scale=0.1)
        got = tm.jvp(tm.prepare(tm.prefix(images(case, count=2))), delta)
        for ours, expected in zip(got, reference.jvp(delta), strict=True):
            assert relative(ours, expected) < tolerance(case), options


@EVERY_CASE
def test_between_two_cuts(case: Case):
    network, pictures = build(case), images(case, count=2)
    early, late = (linearize(network, last_blocks=last).prefix(pictures) for last in ("all", 1))
    with torch.no_grad():
        assert relative(between(network, "all", 1)(early), late) < 1e-12
    assert early.ndim in (3, 4), "what a run's cache takes"
    assert late.ndim in (3, 4)


@EVERY_CASE
def test_trained_modules_grow_with_the_units(case: Case):
    model = build(case)
    names = units_of(model).names
    depths = [set(linearize(model, last_blocks=last).zero_delta()) for last in range(len(names) + 1)]
    for first, (smaller, larger) in enumerate(itertools.pairwise(depths), start=1):
        assert smaller < larger
        unit = names[len(names) - first]
        inside = {f"{unit}.{name}" for name, _ in model.get_submodule(unit).named_parameters()}
        assert inside <= larger
        assert not inside & smaller


@EVERY_CASE
def test_a_linear_classifier_has_gram_statistics(case: Case):
    tm = linearize(build(case))
    gram = tm.gram(tm.prepare(tm.prefix(images(case, count=2))))
    # the classifier of ResNetV2 is a convolution; the others have two heads, whose outputs are averaged
    without = case.id in ("resnet-v2", "levit", "repvit")
    assert any(key.startswith(f"{tm._cut.heads[0]}.") for key in gram) != without


def test_last_units_are_followed_by_rules():
    tm = linearize(build(GENERAL_BY_ID["swin"]))
    assert [rule.name for rule in tm._cut.suffix.rules if isinstance(rule, Fallback)] == [
        "layers.2",
        "head.global_pool",
    ]


# --- what is refused


class _Passing(nn.Module):
    """A network of three blocks, with ``passed`` beside the tensor from one to the next."""

    num_classes = 5

    def __init__(self, passed: str) -> None:
        super().__init__()
        self.passed = passed
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(3))
        self.head = nn.Linear(4, 5)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)[:, :4]
        first = x
        for block in self.blocks:
            x = block(x)
            if self.passed == "first tensor":
                x = x + first
            if self.passed == "block twice":
                x = block(x)
            if self.passed == "control flow" and x.sum() > 0:
                x = -x
        return self.head(x)


@pytest.mark.parametrize(
    ("passed", "reason"),
    [
        ("first tensor", r"blocks\.1 \(Sequential\) needs 2 values"),
        ("block twice", r"blocks\.0 \(Sequential\) is called 2 times, not once"),
        ("control flow", r"its forward pass cannot be followed \(TraceError: .*control flow"),
    ],
)
def test_module_in_the_way_is_named(passed: str, reason: str):
    with pytest.raises(UnsupportedModel, match=rf"^_Passing cannot be linearised: {reason}.*docs/reference/models.md"):
        linearize(_Passing(passed))
    assert linearize(_Passing("nothing")).num_classes == 5


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("xcit_nano_12_p16_224", r"blocks\.0 \(XCABlock\) needs 3 values"),
        ("pit_ti_224", r"transformers\.0 \(Transformer\) returns several values"),
        ("inception_v3", "it has no numbered blocks or stages"),
    ],
)
def test_family_that_cannot_be_cut_is_refused(name: str, reason: str):
    with pytest.raises(
        UnsupportedModel, match=rf"cannot be linearised: {reason}.*Supported: .*docs/reference/models.md"
    ):
        linearize(timm.create_model(name))


def test_tokens_that_are_no_tensor_are_refused():
    """A unit's return value is seen in its code where that can be followed, else in the first pictures."""

    class Two(nn.Sequential):
        def forward(self, x):  # type: ignore[override]
            return [x, x] if float(x.sum()) < 9e9 else x

    network = _Passing("nothing")
    network.blocks[1] = Two()
    network.blocks[1].scale = nn.Linear(1, 1)
    with pytest.raises(UnsupportedModel, match=r"blocks\.2 takes a list and not one tensor with a row per picture"):
        linearize(network).prefix(torch.zeros(2, 3, 2, 2))


@pytest.mark.parametrize("id", ["swin", "mixer", "efficientnet"])
def test_no_pooling_and_no_head_are_refused(id: str):
    case = GENERAL_BY_ID[id]
    model = copy.deepcopy(build(case))
    model.reset_classifier(0)  # type: ignore[operator]  # every timm model has it
    with pytest.raises(UnsupportedModel, match="has no classification head; set num_classes"):
        linearize(model)
    assert linearize(model, num_classes=4).num_classes == 4
    model.reset_classifier(5, "")  # type: ignore[operator]
    with pytest.raises(UnsupportedModel, match="global_pool='' gives no single vector"):
        linearize(model)


def test_more_units_than_there_are():
    with pytest.raises(
        UsageError, match=r'expected "all" or 0\.\.3 \(this model has 3 units, layers\.0 to layers\.2\)'
    ):
        linearize(build(GENERAL_BY_ID["swin"]), last_blocks=4)


@pytest.mark.parametrize("id", ["levit", "tiny-vit"])
def test_a_cache_of_parameters_does_not_hide_that_they_move(id: str):
    """LeViT keeps its attention biases once they were read; a linearised copy must not."""
    case = GENERAL_BY_ID[id]
    model = copy.deepcopy(build(case))
    with torch.no_grad():
        model(images(case))
        for name, parameter in model.named_parameters():
            if "attention_biases" in name:
                parameter.add_(1.0 + torch.arange(parameter.shape[1], dtype=parameter.dtype) % 3)
    tm = linearize(model, last_blocks="all")
    delta = {name: value for name, value in random_delta(tm).items() if "attention_biases" in name}
    expected_primal, expected = Reference(model, tm, images(case)).jvp({**tm.zero_delta(), **delta})
    prepared = tm.prepare(tm.prefix(images(case)))
    for _ in range(2):
        assert relative(tm.tangent(prepared, delta), expected) < 1e-9
    assert relative(prepared.primal, expected_primal) < 1e-9


# --- the page


def test_page_is_what_the_tests_cover():
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "run: python tests/support/families.py > docs/reference/models.md"
    )


def test_names_of_the_page_are_timm_names():
    for family in FAMILIES:
        for pattern in family.names.split(", "):
            assert timm.list_models(pattern), pattern


def test_every_family_has_a_case():
    covered = {case.id for case in (*GENERAL, *BY_ID.values())}
    assert all(family.cases for family in FAMILIES)
    assert {case.id for family in FAMILIES for case in family.cases} <= covered
    assert not re.search(r"\| *\|", PAGE.read_text(encoding="utf-8")), "no empty cell"

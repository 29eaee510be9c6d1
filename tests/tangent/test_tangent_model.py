"""linearize: names, refusals, seeds, what is kept for a picture."""

import copy
from collections.abc import Iterator
from typing import Any, cast

import pytest
import timm
import timm.layers
import torch
from cases import BY_ID, CASES, Case, build, images, random_delta, relative
from torch import nn

from taft_ray.errors import DeltaMismatch, UnsupportedModel, UsageError
from taft_ray.tangent import Delta, TangentModel, between, concatenate, linearize
from taft_ray.tangent.blocks import Residual
from taft_ray.tangent.elementwise import is_elementwise, slope
from taft_ray.tangent.options import TRAINABLE
from taft_ray.tangent.readout import ReadoutAttention
from taft_ray.tangent.rotary_readout import KeyReadout, PlacedReadout
from taft_ray.tangent.rule import Rule
from taft_ray.tangent.rules import Fallback, Sequence

VIT = BY_ID["vit"]
BLOCK = (
    "attn.proj.bias", "attn.proj.weight", "attn.qkv.bias", "attn.qkv.weight", "mlp.fc1.bias", "mlp.fc1.weight",
    "mlp.fc2.bias", "mlp.fc2.weight", "norm1.bias", "norm1.weight", "norm2.bias", "norm2.weight",
)  # fmt: skip
HEAD = ("head.bias", "head.weight")
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def rules_of(tm: TangentModel) -> Iterator[Rule]:
    waiting: list[Rule] = [tm._cut.suffix]
    while waiting:
        rule = waiting.pop()
        yield rule
        if isinstance(rule, Sequence):
            waiting += rule.rules
        if isinstance(rule, Residual):
            waiting += [rule.attend, rule.feed]


def short_cuts(tm: TangentModel) -> int:
    return sum(isinstance(rule, (ReadoutAttention, PlacedReadout)) for rule in rules_of(tm))


# --- names


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ("full", [*(f"blocks.2.{name}" for name in BLOCK), "norm.bias", "norm.weight", *HEAD]),
        ("bitfit", [*(f"blocks.2.{name}" for name in BLOCK if name.endswith("bias")), "norm.bias", *HEAD]),
        ("norm", [*(f"blocks.2.{name}" for name in BLOCK if "norm" in name), "norm.bias", "norm.weight", *HEAD]),
        ("head", list(HEAD)),
    ],
)
def test_trained_names(trainable: str, expected: list[str]):
    assert list(linearize(build(VIT), trainable=trainable).zero_delta()) == sorted(expected)
    with_token = linearize(build(VIT), trainable=trainable, cls_token=True)
    assert list(with_token.zero_delta()) == sorted([*expected, "cls_token"])


def test_unit_names():
    """The units of last_blocks, family by family."""

    def units(id: str, **options: Any) -> set[str]:
        return {name.split(".")[0] for name in linearize(build(BY_ID[id]), **options).zero_delta()}

    assert units("vit", last_blocks=0) == {"norm", "head"}
    assert units("vit", last_blocks="all") == {"blocks", "norm", "head"}
    assert units("vit-avg") == {"blocks", "fc_norm", "head"}
    assert units("siglip-map") == {"blocks", "norm", "attn_pool", "head"}
    assert units("deit-distilled") == {"blocks", "norm", "head", "head_dist"}
    assert units("resnet-basic", last_blocks=2) == {"layer3", "layer4", "fc"}
    assert units("resnet-basic", last_blocks="all") == {"layer1", "layer2", "layer3", "layer4", "fc"}
    assert set(linearize(build(BY_ID["convnext"]), trainable="head").zero_delta()) == {"head.fc.weight", "head.fc.bias"}
    assert not any("patch_embed" in name or "pos_embed" in name for name in linearize(build(VIT), "all").base)


@EVERY_CASE
def test_base_is_the_models_own(case: Case):
    model = build(case)
    own = dict(model.named_parameters())
    for depth in (0, 1, "all"):
        tm = linearize(model, last_blocks=depth)
        assert set(tm.zero_delta()) == set(tm.base) <= set(own)
        for name, value in tm.base.items():
            assert torch.equal(value, own[name])
            assert not value.requires_grad
            assert tm.zero_delta()[name].shape == value.shape
            assert tm.zero_delta()[name].dtype == value.dtype
    smaller = [set(linearize(model, trainable=trainable).zero_delta()) for trainable in TRAINABLE]
    assert all(names < smaller[0] for names in smaller[1:])
    assert smaller[3] <= smaller[1]
    assert smaller[3] <= smaller[2]


@EVERY_CASE
def test_model_passed_in_is_unchanged(case: Case):
    model = copy.deepcopy(build(case)).train()
    flags = [getattr(module, "fused_attn", None) for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"reset": not case.batch_norm, "cls_token": case.class_token, "num_classes": 9}
    tm = linearize(model, last_blocks=1, **options)
    tm(images(case), random_delta(tm))
    assert model.training
    assert model.num_classes == build(case).num_classes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [getattr(module, "fused_attn", None) for module in model.modules()] == flags
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_passes_leave_the_base_alone():
    tm = linearize(build(VIT), last_blocks=2, cls_token=True)
    before = {name: value.clone() for name, value in tm.state_dict().items()}
    prepared = tm.prepare(tm.prefix(images(VIT)))
    tm.vjp(prepared, tm.tangent(prepared, random_delta(tm)))
    tm.gram(prepared)
    assert all(torch.equal(value, before[name]) for name, value in tm.state_dict().items())


# --- the short cut


@EVERY_CASE
def test_short_cut_is_used_where_it_should_be(case: Case):
    """Class-token pooling, scores linear in the keys' input: the last block, however many are trained; anything else: none."""
    assert short_cuts(linearize(build(case))) == case.short_cut
    assert short_cuts(linearize(build(case), cls_token=case.class_token)) == case.short_cut
    assert short_cuts(linearize(build(case), last_blocks=2)) == case.short_cut
    assert short_cuts(linearize(build(case), last_blocks=0)) == 0


@pytest.mark.parametrize("case", [case for case in CASES if case.short_cut], ids=lambda case: case.id)
def test_short_cut_keeps_no_keys_or_values(case: Case):
    tm = linearize(build(case))
    tokens = tm.prefix(images(case))
    prepared = tm.prepare(tokens)
    count, width = tokens.shape[1:]
    forms_keys = any(isinstance(rule, KeyReadout) for rule in rules_of(tm))
    for name, value in prepared.saved.items():
        assert not name.endswith(("attn.v", "qkv.input")), name
        if ".attn.k" in name:
            assert forms_keys, name
            continue
        assert len(value) == len(tokens)
        if name.endswith("attn.n"):
            assert value.shape == (len(tokens), count, width)
        elif name.endswith("attn.p"):
            assert value.shape[-1] == count
        elif name.endswith("attn.s"):
            assert value.shape == (len(tokens), count, 1)
        else:
            assert value.ndim < 3 or value.shape[1] <= 2, f"{name} keeps {tuple(value.shape)}: a row a token"
    general = linearize(build(case), last_blocks=2)
    assert prepared.nbytes() < general.prepare(general.prefix(images(case))).nbytes()


def test_block_that_all_tokens_pass_keeps_nothing_that_follows_from_the_rest():
    """A norm keeps n and s and not γn + β; an activation keeps its input and neither its slope nor its output."""
    case = BY_ID["vit"]
    tm = linearize(build(case), last_blocks=2)
    tokens = tm.prefix(images(case))
    kept = {
        name.removeprefix("blocks.1."): value for name, value in tm.prepare(tokens).saved.items() if "blocks.1." in name
    }
    count, width = tokens.shape[1:]
    heads = cast(int, tm.network.get_submodule("blocks.1.attn").num_heads)
    sizes = {"norm1.n": width, "norm2.n": width, "norm1.s": 1, "norm2.s": 1, "attn.proj.input": width}
    sizes |= {"attn.q": width, "attn.k": width, "attn.v": width, "attn.p": heads * count, "mlp.act.input": 4 * width}
    assert {name: value.numel() // (len(tokens) * count) for name, value in kept.items()} == sizes


@EVERY_CASE
def test_no_fallback_where_there_is_a_rule(case: Case):
    """A closed rule for each layer of a plain vision transformer: torch.func.jvp is not the main path."""
    if case.id == "vit-swiglu-of-celu" or (not case.short_cut and case.height is None):
        return
    for depth in (1, "all"):
        assert not [rule.name for rule in rules_of(linearize(build(case), depth)) if isinstance(rule, Fallback)]


def test_concatenate():
    tm = linearize(build(VIT))
    tokens, delta = tm.prefix(images(VIT, count=5)), random_delta(tm)
    whole = tm.prepare(tokens)
    joined = concatenate([tm.prepare(tokens[:2]), tm.prepare(tokens[2:])])
    assert len(joined) == 5
    assert relative(tm.tangent(joined, delta), tm.tangent(whole, delta)) < 1e-12


# --- seeds


def values_of(tm: TangentModel) -> dict[str, torch.Tensor]:
    return dict(tm.base)


def test_seed_determinism():
    """New values depend on the seed and the parameter's name: not on the global generator, not on what else is trained."""
    options = {"reset": True, "cls_token": True, "num_classes": 7}
    torch.manual_seed(1)
    first = values_of(linearize(build(VIT), seed=5, **options))
    torch.manual_seed(2)
    again = values_of(linearize(build(VIT), seed=5, **options))
    other = values_of(linearize(build(VIT), seed=6, **options))
    deeper = values_of(linearize(build(VIT), "all", seed=5, **options))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], deeper[name]) for name in first)
    random = {name for name in first if not torch.equal(first[name], other[name])}
    assert random == {name for name in first if name.endswith("weight") and "norm" not in name} | {"cls_token"}


def test_reset_makes_new_layers_and_keeps_the_prefix():
    model = build(BY_ID["dinov2"])
    tm = linearize(model, reset=True)
    own = dict(model.named_parameters())
    for name, value in tm.base.items():
        assert not torch.equal(value, own[name]), name
    assert all(torch.equal(value, own[name]) for name, value in tm.network.named_parameters() if name not in tm.base)
    assert tm.base["norm.weight"].eq(1).all()
    assert tm.base["head.bias"].eq(0).all()
    assert tm.base["blocks.2.ls1.gamma"].eq(cast(float, model.get_submodule("blocks.2.ls1").init_values)).all()


def test_num_classes_makes_a_new_head_only():
    model = build(VIT)
    tm = linearize(model, num_classes=7, seed=3)
    own = dict(model.named_parameters())
    assert tm.num_classes == 7
    assert tm.base["head.weight"].shape == (7, 24)
    assert sorted(name for name, value in tm.base.items() if value.shape != own[name].shape) == list(HEAD)
    assert all(torch.equal(value, own[name]) for name, value in tm.base.items() if name not in HEAD)
    assert tm(images(VIT), tm.zero_delta()).shape == (3, 7)


def test_reset_of_every_family():
    """Every parameter kind there is can be re-initialised, and the result is finite."""
    for case in CASES:
        if not case.batch_norm:
            tm = linearize(build(case), last_blocks="all", reset=True)
            assert tm(images(case), random_delta(tm)).isfinite().all(), case.id


def test_reset_of_scalar_parameters():
    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.temperature

    model = copy.deepcopy(build(VIT))
    model.get_submodule("blocks.2.mlp").act = Scalar().double()
    tm = linearize(model, reset=True)
    assert tm.base["blocks.2.mlp.act.temperature"].shape == ()
    assert tm(images(VIT), random_delta(tm)).isfinite().all()


# --- a name instead of a module


def test_model_by_name():
    torch.manual_seed(0)
    tm = linearize("test_vit", num_classes=3)
    assert tm.num_classes == 3
    assert tm.dtype == torch.float32
    assert short_cuts(tm) == 1


@pytest.mark.parametrize("name", ["no_such_model", "", "vit_tiny_patch16_224.no_such_weights", "hf-hub:nobody/nothing"])
def test_unknown_name_is_refused(name: str):
    with pytest.raises(UnsupportedModel, match="timm"):
        linearize(name, pretrained=True)


# --- refusals


def _twins() -> nn.Module:
    return timm.create_model("twins_svt_small", embed_dims=(8, 8, 8, 8), num_heads=(1, 1, 1, 1), depths=(1, 1, 1, 1))


@pytest.mark.parametrize(("make", "family"), [(_twins, "Twins"), (nn.Identity, "Identity")])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_unsupported_family_is_refused(make, family: str, num_classes: int | None):
    with pytest.raises(UnsupportedModel, match=rf"^{family} cannot be linearised.*Supported: .*VisionTransformer"):
        linearize(make(), num_classes=num_classes)


@pytest.mark.parametrize("id", ["vit", "deit-distilled", "resnet-basic", "convnext"])
def test_model_without_a_head(id: str):
    model = copy.deepcopy(build(BY_ID[id]))
    model.reset_classifier(0)  # type: ignore[operator]  # every timm model has it
    with pytest.raises(UnsupportedModel, match="has no classification head; set num_classes"):
        linearize(model)
    assert linearize(model, num_classes=4).num_classes == 4


@pytest.mark.parametrize("id", ["vit", "resnet-basic", "convnext", "convnext-norm-first-max-pool", "eva02-avg", "beit"])
def test_no_pooling_is_refused(id: str):
    case = BY_ID[id]
    model = timm.create_model(case.model, **{**case.kwargs, "global_pool": ""})
    with pytest.raises(UnsupportedModel, match="global_pool='' gives no single vector"):
        linearize(model)


def test_reset_with_batch_norm_is_refused():
    model = build(BY_ID["resnet-basic"])
    with pytest.raises(UnsupportedModel, match=r"reset=True cannot re-initialise layer4.*use reset=False"):
        linearize(model, reset=True)
    assert linearize(model, last_blocks=0, reset=True).num_classes == model.num_classes


@pytest.mark.parametrize("id", [case.id for case in CASES if not case.class_token])
def test_class_token_where_there_is_none_is_refused(id: str):
    with pytest.raises(UsageError, match="has no class token"):
        linearize(build(BY_ID[id]), cls_token=True)


def test_class_token_behind_the_last_block_is_refused():
    with pytest.raises(UsageError, match="has no class token in front of its last 0 blocks"):
        linearize(build(VIT), last_blocks=0, cls_token=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last_blocks": 4}, r"last_blocks=4: expected \"all\" or 0..3 \(this model has 3 blocks\)"),
        ({"last_blocks": -1}, "last_blocks=-1"),
        ({"last_blocks": "some"}, "last_blocks='some'"),
        ({"last_blocks": 1.0}, "last_blocks=1.0"),
        ({"last_blocks": True}, "last_blocks=True"),
        ({"trainable": "everything"}, "trainable='everything': expected one of full, bitfit, norm, head"),
        ({"num_classes": 0}, "num_classes=0: expected at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        linearize(build(VIT), **options)
    assert caught.value.exit_code == 2


def test_delta_of_another_linearisation_is_refused():
    tm, other = linearize(build(VIT)), linearize(build(VIT), last_blocks=2)
    prepared = tm.prepare(tm.prefix(images(VIT)))
    with pytest.raises(DeltaMismatch, match=r"unexpected .*blocks\.1"):
        tm.jvp(prepared, random_delta(other))
    with pytest.raises(DeltaMismatch, match=r"missing .*blocks\.1"):
        other.jvp(other.prepare(other.prefix(images(VIT))), random_delta(tm))
    wrong_shape = {**tm.zero_delta(), "head.bias": torch.zeros(6, dtype=torch.float64)}
    with pytest.raises(DeltaMismatch, match=r"head\.bias is \(6,\), expected \(5,\)"):
        tm(images(VIT), wrong_shape)


# --- Gram statistics


def linear_inputs_by_hooks(tm: TangentModel, case: Case, name: str) -> torch.Tensor:
    """(B, T, D) or (B, D): what timm's own forward feeds into a layer."""
    seen = []
    handle = tm.network.get_submodule(name).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tm.network(images(case))
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("depth", [1, 2])
def test_gram_matrices_are_those_of_the_layers_inputs(depth: int):
    tm = linearize(build(VIT), last_blocks=depth)
    gram = tm.gram(tm.prepare(tm.prefix(images(VIT))))
    layers = [f"blocks.{i}.{part}" for i in range(3 - depth, 3) for part in ("attn.proj", "mlp.fc1", "mlp.fc2")] + [
        "head"
    ]
    for layer in layers:
        rows = dict(tm.base)[f"{layer}.weight"].shape[0]
        x = linear_inputs_by_hooks(tm, VIT, layer)
        if layer.startswith("blocks.2"):
            x = x[:, :1]  # only the class token leaves the last block
        x = x.reshape(-1, x.shape[-1])
        x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        torch.testing.assert_close(gram[f"{layer}.weight|{layer}.bias|0:{rows}"], x.T @ x)
    if depth == 2:
        assert "blocks.1.attn.qkv.weight|blocks.1.attn.qkv.bias|0:72" in gram


def test_short_cut_has_gram_matrices_of_query_and_value_rows():
    tm = linearize(build(VIT))
    gram = tm.gram(tm.prepare(tm.prefix(images(VIT))))
    names = [key.split("|")[2] for key in gram if "qkv" in key]
    assert names == ["0:24", "48:56", "56:64", "64:72"]  # three heads of width 8; the keys' rows have no single input
    x = linear_inputs_by_hooks(tm, VIT, "blocks.2.attn.qkv")
    query = torch.cat([x[:, 0], torch.ones(3, 1, dtype=x.dtype)], dim=1)
    torch.testing.assert_close(gram["blocks.2.attn.qkv.weight|blocks.2.attn.qkv.bias|0:24"], query.T @ query)
    q, k, _ = tm.network.get_submodule("blocks.2.attn.qkv")(x).reshape(3, -1, 3, 3, 8).permute(2, 0, 3, 1, 4)
    attention = (q[:, :, :1] @ k.transpose(-2, -1) * 8**-0.5).softmax(-1)  # (B, H, 1, T)
    value = torch.cat([attention[:, 1, 0, None] @ x, torch.ones(3, 1, 1, dtype=x.dtype)], dim=2)[:, 0]
    torch.testing.assert_close(gram["blocks.2.attn.qkv.weight|blocks.2.attn.qkv.bias|56:64"], value.T @ value)


@EVERY_CASE
def test_gram_matrices_add_up_over_pictures(case: Case):
    tm = linearize(build(case), last_blocks=2)
    tokens = tm.prefix(images(case, count=5))
    whole, first, second = (tm.gram(tm.prepare(part)) for part in (tokens, tokens[:2], tokens[2:]))
    trained = tm.zero_delta()
    assert any("head" in key or "fc" in key for key in whole), "the classifier is linear in every supported family"
    for key, matrix in whole.items():
        weight, bias, _ = key.split("|")
        assert weight in trained
        assert len(matrix) == trained[weight].shape[1] + bool(bias)
        assert matrix.dtype == torch.float64
        assert torch.equal(matrix, matrix.T)
        torch.testing.assert_close(matrix, first[key] + second[key])


def test_gram_of_what_is_trained_only():
    tm = linearize(build(VIT), trainable="bitfit")
    assert list(tm.gram(tm.prepare(tm.prefix(images(VIT))))) == ["head.weight|head.bias|0:5"]


# --- activations


ACTIVATIONS = [
    nn.GELU(), nn.GELU(approximate="tanh"), timm.layers.GELU(), timm.layers.GELUTanh(), timm.layers.QuickGELU(),
    nn.SiLU(), nn.SiLU(inplace=True), nn.ReLU(inplace=True), nn.Mish(), nn.Tanh(), nn.Sigmoid(), nn.Hardswish(),
    nn.ELU(), nn.Softplus(), nn.LeakyReLU(0.1),
]  # fmt: skip


@pytest.mark.parametrize("module", ACTIVATIONS, ids=repr)
def test_slope_of_activations(module: nn.Module):
    """Against central differences, near zero and far out; the input is not overwritten."""
    assert is_elementwise(module)
    x = torch.tensor([-40.0, -7.0, -1.3, -1e-3, 1e-9, 1e-3, 0.7, 2.1, 9.0, 40.0], dtype=torch.float64)
    before, step = x.clone(), 1e-6
    got = slope(module, x)
    assert torch.equal(x, before)
    assert not got.requires_grad
    expected = (module(x + step) - module(x - step)) / (2 * step)
    away = (x.abs() > step) | got.isclose(expected)  # a difference across a kink at zero means nothing
    torch.testing.assert_close(got[away], expected[away], atol=1e-6, rtol=1e-6)
    assert x.grad is None


def test_slope_of_gelu_at_zero():
    zero = torch.zeros(3)
    assert slope(nn.GELU(), zero).eq(0.5).all()
    assert not is_elementwise(nn.Softmax(-1))
    assert not is_elementwise(nn.PReLU())  # it has parameters


def test_gated_mlp_with_in_place_activation():
    model = copy.deepcopy(build(BY_ID["dinov2-swiglu"]))
    mlp = cast(Any, model.get_submodule("blocks.2.mlp"))
    mlp.act = nn.SiLU(inplace=True)
    plain = linearize(build(BY_ID["dinov2-swiglu"]))
    tm, case = linearize(model), BY_ID["dinov2-swiglu"]
    delta = random_delta(tm)
    assert relative(tm(images(case), delta), plain(images(case), delta)) < 1e-12
    assert mlp.act.inplace  # the network that was given stays as it is


# --- Delta


def test_delta_is_a_vector_space():
    tm = linearize(build(VIT))
    a, b = random_delta(tm, seed=1), random_delta(tm, seed=2)
    assert isinstance(a + b, Delta)
    for name in a:
        assert torch.equal((2 * a - b / 4)[name], 2 * a[name] - b[name] / 4)
        assert torch.equal((-a)[name], -a[name])
    flat = torch.cat([value.flatten() for value in a.values()])
    assert float(a.norm()) == pytest.approx(float(flat.norm()), rel=1e-12)
    assert float(a.dot(b)) == pytest.approx(float(sum((a[name] * b[name]).sum() for name in a)), rel=1e-9)
    assert a.numel() == len(flat)
    assert list(Delta(dict(reversed(list(a.items()))))) == list(a)  # the order of names never matters
    assert {value.dtype for value in a.to(torch.float32).values()} == {torch.float32}


def test_delta_mismatch():
    a, b = Delta({"x": torch.ones(2), "y": torch.ones(1)}), Delta({"x": torch.ones(2), "z": torch.ones(1)})
    for operation in (lambda: a + b, lambda: a - b, lambda: a.dot(b)):
        with pytest.raises(DeltaMismatch, match=r"missing \['y'\], unexpected \['z'\]"):
            operation()
    with pytest.raises(DeltaMismatch, match=r"x is \(3,\), expected \(2,\)"):
        _ = a + Delta({"x": torch.ones(3), "y": torch.ones(1)})


@pytest.mark.parametrize(
    "id", ["vit", "resnet-basic", "convnext", "rope-mixed-token", "eva02-avg", "beit-shared-token"]
)
def test_between_two_cuts_lies_what_one_prefix_has_and_the_other_lacks(id: str):
    case = BY_ID[id]
    network = build(case)
    pictures = images(case, count=2, seed=3)
    for outer, inner in ((2, 1), (1, 1), (1, 0), ("all", 1)):
        early, late = (linearize(network, last_blocks=last).prefix(pictures) for last in (outer, inner))
        with torch.no_grad():
            assert relative(between(network, outer, inner)(early), late) < 1e-12
    with pytest.raises(UsageError, match="last_blocks=2 needs tokens from before the last 1"):
        between(network, 1, 2)
    with pytest.raises(UnsupportedModel, match="Linear cannot be linearised"):
        between(nn.Linear(2, 2), 1, 1)

"""EVA, BEiT and attention pooling: which rule does what, what is trained, what is refused, what Gram matrices are of."""

import copy
from typing import Any, cast

import pytest
import torch
from cases import BY_ID, Case, Reference, build, images, random_delta, relative
from timm.layers import RmsNormFp32
from torch import nn

from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.tangent import TangentModel, linearize
from taft_ray.tangent.attention_pool import LatentPool
from taft_ray.tangent.blocks import Residual
from taft_ray.tangent.place_scores import place_scores
from taft_ray.tangent.rotary_readout import AxialReadout, KeyReadout
from taft_ray.tangent.rotation import Rotation


def readout_of(id: str) -> object:
    block = linearize(build(BY_ID[id]))._cut.suffix.rules[0]
    assert isinstance(block, Residual)
    return block.attend.rules[0]  # type: ignore[attr-defined]  # a Sequence


@pytest.mark.parametrize(
    ("id", "kind"),
    [
        ("eva02-clip", AxialReadout),
        ("rope-token", AxialReadout),
        ("mrope-token", AxialReadout),
        ("dinov3-token", AxialReadout),
        ("rope-mixed-token", KeyReadout),
        ("sapiens2", KeyReadout),
        ("no-rope-grouped", KeyReadout),
    ],
)
def test_keys_are_formed_only_where_they_must(id: str, kind: type) -> None:
    assert type(readout_of(id)) is kind


@pytest.mark.parametrize("id", ["rope-token", "mrope-token", "dinov3-token", "rope-mixed-token"])
def test_turning_is_orthogonal_and_prefix_tokens_stay(id: str) -> None:
    rotation = linearize(build(BY_ID[id]), 2)._cut.suffix.rules[0].attend.rules[0].rotation  # type: ignore[attr-defined]
    assert isinstance(rotation, Rotation)
    x = torch.randn(2, 3, rotation.tokens, 8, dtype=torch.float64)
    turned = rotation.turn(x)
    assert rotation.tokens == rotation.prefix + 6
    assert torch.equal(turned[:, :, : rotation.prefix], x[:, :, : rotation.prefix])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    assert relative(turned[:, :, rotation.prefix :], x[:, :, rotation.prefix :]) > 1e-2


def test_place_scores_are_twice_differentiable() -> None:
    tokens = (slice(0, 1), slice(1, 4, 2), slice(2, 5, 2))
    generator = torch.Generator().manual_seed(0)
    z, n = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((2, 3, 3, 4), (3, 5, 4)))
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: place_scores(z, n, tokens), (z,))
    assert torch.autograd.gradgradcheck(lambda z: place_scores(z, n, tokens).square(), (z,))
    which = torch.tensor([0, 1, 2, 1, 2])
    torch.testing.assert_close(place_scores(z, n, tokens), torch.einsum("qbtd,btd->bqt", z[:, :, which], n))


# --- what is trained


def test_what_lies_outside_the_blocks_is_frozen() -> None:
    both = linearize(build(BY_ID["beit-both-biases"]), "all").zero_delta()
    assert sum(name.endswith("relative_position_bias_table") for name in both) == 3
    assert not any(name.startswith("rel_pos_bias") for name in both)
    mixed = linearize(build(BY_ID["rope-mixed-token"]), "all")
    assert any(name.startswith("rope.") for name, _ in mixed.network.named_parameters())
    assert not any(name.startswith("rope.") for name in mixed.zero_delta())


def test_biases_are_those_that_timm_has() -> None:
    def biases(id: str) -> set[str]:
        names = linearize(build(BY_ID[id]), trainable="bitfit").zero_delta()
        return {name.removeprefix("blocks.2.attn.") for name in names if ".attn." in name}

    assert biases("eva02-token") == {"q_bias", "v_bias", "proj.bias"}
    assert biases("eva02-clip") == {"q_proj.bias", "v_proj.bias", "norm.bias", "proj.bias"}
    assert biases("rope-grouped") == {"q_proj.bias", "k_proj.bias", "v_proj.bias", "proj.bias"}


def test_reset_takes_a_blocks_own_initial_values() -> None:
    tm = linearize(build(BY_ID["beitv2-token"]), reset=True)
    block = tm.network.get_submodule("blocks.2")
    assert tm.base["blocks.2.gamma_1"].eq(float(block.init_values)).all()  # type: ignore[arg-type]  # timm's own
    assert tm.base["blocks.2.gamma_2"].eq(float(block.init_values)).all()  # type: ignore[arg-type]  # timm's own
    assert tm.base["blocks.2.attn.relative_position_bias_table"].eq(0).all()


# --- attention pooling


@pytest.mark.parametrize("options", [{}, {"latent_len": 3, "pool_type": "avg"}, {"qk_norm": True}, {"q_proj": False}])
@pytest.mark.parametrize("without", ["nothing", "mlp", "bias"])
def test_every_attention_pool_is_exact(options: dict, without: str) -> None:
    """As the pool of a network that has another; keys with a norm go through the fallback."""
    from timm.layers import AttentionPoolLatent

    case = BY_ID["siglip-map"]
    network = copy.deepcopy(build(case))
    less = {"out_features": 0} if without == "mlp" else {"qkv_bias": False} if without == "bias" else {}
    torch.manual_seed(5)
    pool = AttentionPoolLatent(24, num_heads=3, norm_layer=nn.LayerNorm, **less, **options).double().eval()
    network.attn_pool = pool
    for depth in (0, 1):
        tm = linearize(network, depth)
        rule = tm._cut.suffix.rules[-3].rules[-1]  # type: ignore[attr-defined]  # a Sequence
        assert isinstance(rule, LatentPool) is not bool(options.get("qk_norm"))
        reference, delta = Reference(network, tm, images(case)), random_delta(tm)
        prepared = tm.prepare(tm.prefix(images(case)))
        expected = reference.jvp(delta)[1]
        assert relative(tm.tangent(prepared, delta), expected) < 1e-10
        for name in (name for name in delta if name.startswith("attn_pool")):
            expected = reference.jvp({**tm.zero_delta(), name: delta[name]})[1]
            got = tm.tangent(prepared, {name: delta[name]})
            assert float((got - expected).abs().max()) < 1e-10 * (1 + float(expected.abs().max())), name


# --- Gram statistics


def seen_by(tm: TangentModel, case: Case, layer: str) -> torch.Tensor:
    """The input that timm's own forward feeds into a layer."""
    seen = []
    handle = tm.network.get_submodule(layer).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tm.network(images(case))
    handle.remove()
    return seen[0]


def gram_of(x: torch.Tensor, *, bias: bool) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1])
    rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1) if bias else rows
    return rows.T @ rows


@pytest.mark.parametrize("id", ["eva02-avg-inner-norms", "beit", "sapiens2-avg"])
def test_every_trained_layer_has_a_gram_matrix(id: str) -> None:
    """Where all tokens are read: of each linear layer the matrix of what timm feeds into it."""
    case = BY_ID[id]
    tm = linearize(build(case))
    gram = tm.gram(tm.prepare(tm.prefix(images(case))))
    layers = [name for name, module in tm.network.named_modules() if isinstance(module, nn.Linear)]
    layers = [name for name in layers if f"{name}.weight" in tm.zero_delta()]
    assert len(layers) > 3
    for layer in layers:
        x, found = seen_by(tm, case, layer) if ".qkv" not in layer else None, []
        for key, matrix in gram.items():
            weight, bias, _ = key.split("|")
            if weight == f"{layer}.weight":
                found.append(matrix)
                if x is not None:
                    torch.testing.assert_close(matrix, gram_of(x, bias=bool(bias)))
        assert found, layer


@pytest.mark.parametrize("id", ["eva02-clip", "rope-mixed-token", "beitv2-token"])
def test_short_cut_has_gram_matrices_of_queries_values_and_all_behind(id: str) -> None:
    case = BY_ID[id]
    tm = linearize(build(case))
    gram = tm.gram(tm.prepare(tm.prefix(images(case))))
    behind = [name for name in gram if ".attn." in name and ".proj." not in name]
    assert len(behind) == 1 + 3  # the queries, and the values of three heads
    norm = seen_by(tm, case, "blocks.2.attn")[:, 0]
    weight, bias, _ = behind[0].split("|")
    torch.testing.assert_close(gram[behind[0]], gram_of(norm, bias=bool(bias)), msg=weight)
    x = seen_by(tm, case, "blocks.2.attn.proj")[:, 0]
    torch.testing.assert_close(gram["blocks.2.attn.proj.weight|blocks.2.attn.proj.bias|0:24"], gram_of(x, bias=True))


# --- refusals and what has no closed rule


@pytest.mark.parametrize("id", ["eva02-avg", "dinov3-avg"])
def test_pictures_of_another_size_are_refused(id: str) -> None:
    """Angles belong to a size; DINOv3's timm model would take any."""
    tm = linearize(build(BY_ID[id]))
    with pytest.raises(UsageError, match=r"pictures of 48×48 pixels.*those of 32×48; create it with the img_size"):
        tm.prefix(torch.zeros(1, 3, 48, 48, dtype=torch.float64))


@pytest.mark.parametrize("id", ["eva02-token", "eva02-avg"])
def test_gated_attention_is_refused(id: str) -> None:
    network = copy.deepcopy(build(BY_ID[id]))
    cast(Any, network.get_submodule("blocks.2.attn")).gate = nn.Linear(24, 24).double()
    with pytest.raises(UnsupportedModel, match=r"blocks\.2\.attn gates its output"):
        linearize(network)


def test_another_kind_of_block_is_refused() -> None:
    for id in ("eva02-avg", "beit"):
        network = copy.deepcopy(build(BY_ID[id]))
        network.blocks[2] = nn.Identity()  # type: ignore[index,operator]  # timm's own
        with pytest.raises(UnsupportedModel, match=r"blocks\.2 is a Identity; expected"):
            linearize(network)


@pytest.mark.parametrize("id", ["eva02-token", "eva02-avg", "beitv2-token"])
def test_a_norm_without_a_rule_is_exact(id: str) -> None:
    case, network = BY_ID[id], copy.deepcopy(build(BY_ID[id]))
    for index in (1, 2):
        norm = RmsNormFp32(24).double()
        nn.init.normal_(norm.weight)
        network.get_submodule(f"blocks.{index}").norm1 = norm
    settings: list[dict[str, Any]] = [{}, {"last_blocks": 2}, {"cls_token": True}]
    for options in settings:
        tm = linearize(network, **options)
        reference, delta = Reference(network, tm, images(case)), random_delta(tm)
        tangent = tm.tangent(tm.prepare(tm.prefix(images(case))), delta)
        assert relative(tangent, reference.jvp(delta)[1]) < 1e-5  # timm computes that norm in float32

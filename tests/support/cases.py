"""Small timm networks of every supported family, with no term zero, and the oracle they are compared with.

Legend: B batch, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import timm
import torch
from timm.layers import GluMlp, RmsNorm, SwiGLU
from timm.models.vision_transformer import DiffParallelScalingBlock, ParallelThingsBlock, ResPostBlock
from torch import Tensor, nn

from taft_ray.tangent import Delta, TangentModel

CLASSES = 5


@dataclass(frozen=True)
class Case:
    """A timm architecture, made small by ``kwargs``."""

    id: str
    model: str
    image_size: int = 32
    kwargs: dict[str, Any] = field(default_factory=dict, hash=False)
    height: int | None = None  # that of a square picture by default
    short_cut: bool = False  # the last block under class-token pooling runs without keys and values
    placed: bool = False  # in it keys are turned or normalised, so that the Jacobian's rows do not come apart
    thin: bool = False  # tested with few of the options: what it has is tested with all in another case
    class_token: bool = False  # there is one in front of the last blocks
    batch_norm: bool = False
    make: Callable[..., nn.Module] | None = None  # where timm's name fixes the widths; else it is made by its name
    tolerance: float = 1e-10  # measured: 1e-15


def _vit(
    id: str,
    model: str,
    *,
    image_size: int = 32,
    short_cut: bool = False,
    class_token: bool = True,
    tolerance: float = 1e-10,
    **kwargs: Any,
) -> Case:
    shape = {"img_size": image_size, "embed_dim": 24, "depth": 3, "num_heads": 3, **kwargs}
    return Case(id, model, image_size, shape, short_cut=short_cut, class_token=class_token, tolerance=tolerance)


def _eva(
    id: str,
    model: str,
    *,
    short_cut: bool = False,
    placed: bool = False,
    class_token: bool = True,
    thin: bool = False,
    **kwargs: Any,
) -> Case:
    """Pictures are wide, so that rows are not columns."""
    shape = {"img_size": (32, 48), "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 3, **kwargs}
    return Case(id, model, 48, shape, height=32, short_cut=short_cut, placed=placed, class_token=class_token, thin=thin)


def _resnet(id: str, model: str, **kwargs: Any) -> Case:
    return Case(id, model, 64, {"layers": (1, 1, 1, 2), "channels": (8, 12, 16, 24), **kwargs}, batch_norm=True)


def _convnext(id: str, model: str, **kwargs: Any) -> Case:
    return Case(id, model, 64, {"depths": (1, 1, 1, 2), "dims": (8, 12, 16, 24), **kwargs})


_NORMED_GLU: dict[str, Any] = {"swiglu_mlp": True, "scale_mlp": True, "qkv_bias": False}
_POST_NORM: dict[str, Any] = {"mlp_ratio": 2.0, "use_rot_pos_emb": True, "swiglu_mlp": True, "scale_mlp": True}
_GROUPED: dict[str, Any] = {"embed_dim": 32, "num_heads": 4, "num_kv_heads": 2, "qkv_fused": False}
_NO_ROPE: dict[str, Any] = {"use_rot_pos_emb": False, "use_abs_pos_emb": True}
_MROPE: dict[str, Any] = {"rope_type": "mrope", "rope_mrope_section": (2, 1, 1), "rope_grid_indexing": "ij"}
_SHARED: dict[str, Any] = {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "init_values": None}

CASES = [
    # the short cut: class-token pooling, the last block alone
    _vit("vit", "vit_tiny_patch16_224", short_cut=True),
    _vit("vit-augreg", "vit_small_patch16_224.augreg_in21k", image_size=48, num_heads=4, short_cut=True),
    _vit("vit-patch8-49-tokens", "vit_base_patch8_224", image_size=56, depth=2, short_cut=True),
    _vit("vit-one-head", "vit_tiny_patch16_224", num_heads=1, short_cut=True),
    _vit("vit-no-qkv-bias", "vit_tiny_patch16_224", qkv_bias=False, short_cut=True),
    _vit("vit-no-bias-at-all", "vit_tiny_patch16_224", qkv_bias=False, proj_bias=False, short_cut=True),
    _vit("vit-scale-norm", "vit_tiny_patch16_224", scale_attn_norm=True, scale_mlp_norm=True, short_cut=True),
    _vit("vit-fc-norm-on-token", "vit_tiny_patch16_224", fc_norm=True, short_cut=True),
    _vit("vit-no-final-norm", "vit_tiny_patch16_224", final_norm=False, short_cut=True),
    _vit("vit-glu-gate-first", "vit_tiny_patch16_224", mlp_layer=partial(GluMlp, gate_last=False), short_cut=True),
    _vit("vit-hard-swish", "vit_tiny_patch16_224", act_layer="hard_swish", short_cut=True),
    _vit("vit-swiglu-unpacked", "vit_tiny_patch16_224", mlp_layer=SwiGLU, short_cut=True),
    _vit("vit-swiglu-of-celu", "vit_tiny_patch16_224", mlp_layer=SwiGLU, act_layer="celu", short_cut=True),
    _vit("deit", "deit_small_patch16_224", embed_dim=32, num_heads=2, short_cut=True),
    _vit("deit-distilled", "deit_tiny_distilled_patch16_224", short_cut=True),
    _vit("deit3", "deit3_small_patch16_224", short_cut=True),
    _vit("clip", "vit_base_patch32_clip_224", image_size=64, short_cut=True),
    _vit("clip-quickgelu", "vit_base_patch16_clip_quickgelu_224", short_cut=True),
    _vit("clip-tanh-gelu", "vit_base_patch16_clip_224", act_layer="gelu_tanh", short_cut=True),
    _vit("dinov2", "vit_small_patch14_dinov2", image_size=28, short_cut=True),
    _vit("dinov2-registers", "vit_small_patch14_reg4_dinov2", image_size=28, short_cut=True),
    _vit("dinov2-swiglu", "vit_giant_patch14_dinov2", image_size=28, mlp_ratio=4.0, short_cut=True),
    _vit("vit-rms-norm", "vit_tiny_patch16_224", norm_layer=RmsNorm, short_cut=True),
    # vision transformers whose last block needs every token, or has no closed rule
    _vit("vit-qk-norm", "vit_tiny_patch16_224", qk_norm=True),
    _vit("vit-avg", "vit_tiny_patch16_224", global_pool="avg"),
    _vit("vit-avg-with-prefix", "vit_tiny_patch16_224", global_pool="avg", pool_include_prefix=True),
    _vit("vit-max", "vit_tiny_patch16_224", global_pool="max"),
    _vit("vit-avgmax", "vit_tiny_patch16_224", global_pool="avgmax"),
    _vit("vit-prr", "vit_tiny_patch16_224", global_pool="prr"),
    _vit("vit-gap-name", "vit_base_patch16_gap_224", class_token=False),
    _vit("vit-registers-gap", "vit_medium_patch16_reg4_gap_256", class_token=False),
    _vit("siglip-map", "vit_base_patch16_siglip_224", class_token=False),
    _vit("siglip-gap", "vit_base_patch16_siglip_gap_224", image_size=48, class_token=False),
    _vit("parallel-scaling-xp", "vit_base_patch16_xp_224"),
    _vit("parallel-things", "vit_tiny_patch16_224", block_fn=ParallelThingsBlock),
    # timm computes the differential attention's λ in float32, and casts cotangents to it
    _vit("diff-parallel", "vit_tiny_patch16_224", block_fn=DiffParallelScalingBlock, num_heads=2, tolerance=1e-6),
    _vit("diff-attention", "vit_tiny_patch16_224", attn_layer="diff", num_heads=2, tolerance=1e-6),
    _vit("res-post-norm", "vit_base_patch16_rpn_224", class_token=False),
    _vit("res-post-norm-token", "vit_tiny_patch16_224", block_fn=ResPostBlock),
    _vit("siglip-map-with-token", "vit_tiny_patch16_224", global_pool="map"),
    # rotary positions and other kinds of EVA: the short cut
    _eva("eva-clip", "eva_giant_patch14_clip_224", mlp_ratio=2.0, short_cut=True, thin=True),
    _eva("eva02-clip", "eva02_base_patch16_clip_224", short_cut=True, placed=True),
    _eva("eva02-token", "eva02_tiny_patch14_224", global_pool="token", short_cut=True, placed=True, thin=True),
    _eva("eva-post-norm-token", "eva02_enormous_patch14_clip_224", mlp_ratio=2.0, short_cut=True, thin=True),
    _eva("eva-post-norm-rope", "eva02_enormous_patch14_clip_224", **_POST_NORM, short_cut=True, placed=True, thin=True),
    _eva("rope-token", "vit_small_patch16_rope_224", short_cut=True, placed=True),
    _eva("rope-mixed-token", "vit_small_patch16_rope_mixed_ape_224", short_cut=True, placed=True, thin=True),
    _eva("rope-grouped", "vit_small_patch16_rope_224", **_GROUPED, short_cut=True, placed=True, thin=True),
    _eva(
        "no-rope-grouped", "vit_small_patch16_rope_224", **_GROUPED, **_NO_ROPE, short_cut=True, placed=True, thin=True
    ),
    _eva("mrope-token", "vit_small_patch16_rope_224", **_MROPE, short_cut=True, placed=True, thin=True),
    _eva("dinov3-token", "vit_small_patch16_dinov3_qkvb", global_pool="token", short_cut=True, placed=True, thin=True),
    _eva("sapiens2", "vit_base_patch16_sapiens2", num_kv_heads=1, short_cut=True, placed=True, thin=True),
    # … and those of which every token is read
    _eva("eva02-avg", "eva02_tiny_patch14_224", thin=True),
    _eva("eva02-avg-inner-norms", "eva02_base_patch14_224", scale_attn_inner=True),
    _eva("eva-post-norm-avg", "eva02_enormous_patch14_clip_224", mlp_ratio=2.0, global_pool="avg", thin=True),
    _eva("dinov3-avg", "vit_small_patch16_dinov3", thin=True),
    _eva("rope-registers-gap", "vit_medium_patch16_rope_reg1_gap_256", class_token=False, thin=True),
    _eva("rope-mixed-max", "vit_small_patch16_rope_mixed_224", global_pool="max", thin=True),
    _eva("sapiens2-avg", "vit_base_patch16_sapiens2", num_kv_heads=1, global_pool="avg", thin=True),
    _eva("pe-core", "vit_pe_core_tiny_patch16_384", attn_pool_num_heads=2),
    # BEiT: scores have a trained bias
    _eva("beit", "beit_base_patch16_224", thin=True),
    _eva("beitv2-token", "beitv2_base_patch16_224", global_pool="token", short_cut=True),
    _eva("beit-shared-token", "beit_base_patch16_224", **_SHARED, global_pool="token", short_cut=True, thin=True),
    _eva("beit-both-biases", "beit_base_patch16_224", use_shared_rel_pos_bias=True, **_NORMED_GLU, thin=True),
    # convolutions: the fallback, stage by stage
    _resnet("resnet-basic", "resnet18"),
    _resnet("resnet-bottleneck", "resnet50"),
    _resnet("resnet-d-max-pool", "resnet26d", global_pool="max"),
    _resnet("resnet-avgmax-pool", "resnet18", global_pool="avgmax"),
    _resnet("resnet-squeeze-excite", "seresnet50"),
    Case("resnet-group-norm", "resnet50_gn", 64, {"layers": (1, 1, 1, 1), "channels": (32, 32, 32, 32)}),
    _convnext("convnext", "convnext_tiny"),
    _convnext("convnext-v2", "convnextv2_atto"),
    _convnext("convnext-conv-mlp", "convnext_atto"),
    _convnext("convnext-norm-first-max-pool", "convnext_tiny", head_norm_first=True, global_pool="max"),
    _convnext("convnext-hidden-head", "convnext_tiny", head_hidden_size=12),
]
BY_ID = {case.id: case for case in CASES}


def perturb(model: nn.Module, seed: int) -> nn.Module:
    """Make every parameter and statistic generic: no bias, gamma, embedding or mean is zero or one any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise.to(parameter) * 0.2)
        for name, buffer in model.named_buffers():
            noise = torch.rand(buffer.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_mean"):
                buffer.copy_(noise - 0.5)
            elif name.endswith("running_var"):
                buffer.copy_(noise + 0.5)
    return model


@cache
def build(case: Case) -> nn.Module:
    """The case's network in float64 and evaluation mode. Shared between tests: not to be changed."""
    torch.manual_seed(0)
    make = case.make or partial(timm.create_model, case.model, pretrained=False)
    model = make(num_classes=CLASSES, **case.kwargs)
    return perturb(model.double().eval(), seed=1)


def images(case: Case, count: int = 3, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        count, 3, case.height or case.image_size, case.image_size, generator=generator, dtype=torch.float64
    )


def random_delta(tm: TangentModel, seed: int = 3, scale: float = 1.0) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return tm.zero_delta().map(lambda t: scale * torch.randn(t.shape, generator=generator, dtype=t.dtype))


def random_like(values: Tensor, seed: int = 4) -> Tensor:
    return torch.randn(values.shape, generator=torch.Generator().manual_seed(seed), dtype=values.dtype)


class Reference:
    """timm's own forward from the picture to the logits, as a function of the trained parameters.

    Nothing of taft_ray's rules is in it: the network that was given to `linearize` (copied), its parameters replaced by
    ``torch.func.functional_call``, fused attention off. A trained class token replaces row 0 in front of the first
    trained block.
    """

    def __init__(self, network: nn.Module, tm: TangentModel, pictures: Tensor) -> None:
        self.network = copy.deepcopy(network).eval()
        if tm.num_classes != self.network.num_classes:
            self.network.reset_classifier(tm.num_classes)  # type: ignore[operator]
            self.network.double()
        self.network.requires_grad_(False)
        for module in self.network.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
            if hasattr(module, "attention_bias_cache"):  # made once from the parameters, which move here
                module.get_attention_biases = partial(_attention_biases, module)  # type: ignore[assignment]
        self.base = dict(tm.base)
        self.trained = {name: self.base[name] for name in tm.zero_delta()}
        self.pictures = pictures
        self.token_block = None
        if tm.class_token is not None:
            first = min(int(name.split(".")[1]) for name in self.base if name.startswith("blocks."))
            self.token_block = self.network.get_submodule(f"blocks.{first}")

    def __call__(self, trained: Mapping[str, Tensor]) -> Tensor:
        values = {**self.base, **trained}
        with ExitStack() as stack:
            if self.token_block is not None:
                token = values.pop("cls_token")

                def replace(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
                    tokens = inputs[0]
                    return (torch.cat([token.expand(len(tokens), -1, -1), tokens[:, 1:]], dim=1),)

                handle = self.token_block.register_forward_pre_hook(replace)
                stack.callback(handle.remove)
            return torch.func.functional_call(self.network, values, (self.pictures,))

    def jvp(self, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(f_w(x), J_w f(x)·Δ), each (B, K), by torch.func.jvp over the whole network."""
        primal, tangent, *_ = torch.func.jvp(self, (self.trained,), (dict(delta),))
        return primal, tangent


def _attention_biases(module: Any, device: torch.device) -> Tensor:
    return module.attention_biases[:, module.attention_bias_idxs]


def relative(got: Tensor, expected: Tensor) -> float:
    """max |got − expected| / max |expected|."""
    assert got.shape == expected.shape, (got.shape, expected.shape)
    assert bool(torch.isfinite(got).all())
    size = float(expected.abs().max())
    assert size > 0, "nothing to compare: the expected value is zero"
    return float((got - expected).abs().max()) / size

"""The families of docs/reference/models.md, each with the small networks that the parity tests cover it with."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cases import CASES, Case, build
from timm.layers import GatedMlp
from timm.models import ConvMixer, MetaFormer, MlpMixer, Nest, metaformer, mlp_mixer
from torch import nn

from taft_ray.tangent.network import units_of
from taft_ray.tangent.ordered import Ordered


@dataclass(frozen=True, kw_only=True)
class Family:
    """A row of the page."""

    title: str
    names: str  # timm's, as patterns
    cases: tuple[Case, ...]


def _general(id: str, model: str, image_size: int = 64, **kwargs: Any) -> Case:
    return Case(id, model, image_size, kwargs)


def _normed(id: str, model: str, image_size: int = 64, tolerance: float = 1e-9, **kwargs: Any) -> Case:
    return Case(id, model, image_size, kwargs, batch_norm=True, tolerance=tolerance)


def _made(id: str, make: Callable[..., nn.Module], image_size: int, batch_norm: bool = False, **kwargs: Any) -> Case:
    return Case(id, id, image_size, kwargs, make=make, batch_norm=batch_norm)


def _of(*models: str) -> tuple[Case, ...]:
    """The cases of the main list whose timm name begins so."""
    return tuple(case for case in CASES if case.model.startswith(models))


_SWIN: dict[str, Any] = {"img_size": 64, "embed_dim": 8, "depths": (1, 1, 2), "num_heads": (1, 2, 2), "window_size": 4}
_MIXER: dict[str, Any] = {"img_size": 32, "patch_size": 8, "num_blocks": 3, "embed_dim": 16}
_FOUR: dict[str, Any] = {"depths": (1, 1, 1, 2), "dims": (8, 8, 16, 16)}
_FOUR_LAYERS: dict[str, Any] = {"layers": (1, 1, 1, 2), "channels": (8, 8, 16, 16)}
_FOUR_EMBEDDED: dict[str, Any] = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 2)}
# the ids of the cases that are timm's Eva, whatever their model's name
_ROTARY = ("eva", "rope", "mrope", "no-rope", "dinov3", "sapiens2", "pe-core")
# PyTorch has the slope of a hard sigmoid in float32 precision
_HARD_SIGMOID = 1e-6

FAMILIES = [
    Family(
        title="Vision transformer: ViT, DeiT (distilled too), AugReg, CLIP, SigLIP, DINOv2",
        names="vit_*, deit_*, deit3_*, flexivit_*",
        cases=tuple(case for case in _of("vit_", "deit") if not case.id.startswith(_ROTARY)),
    ),
    Family(
        title="EVA-02, DINOv3, PE, RoPE-ViT, Sapiens2 ([positions](positions.md))",
        names="eva_*, eva02_*, vit_*_dinov3*, vit_pe_*, vit_*_rope_*, vit_*_sapiens2",
        cases=tuple(case for case in CASES if case.id.startswith(_ROTARY)),
    ),
    Family(title="BEiT, BEiT v2 ([positions](positions.md))", names="beit_*, beitv2_*", cases=_of("beit")),
    Family(title="ResNet", names="resnet*, resnext*, seresnet*, wide_resnet*, ecaresnet*", cases=_of("res", "seres")),
    Family(title="ConvNeXt, ConvNeXtV2", names="convnext_*, convnextv2_*", cases=_of("convnext")),
    Family(title="Swin", names="swin_*, swin_s3_*", cases=(_general("swin", "swin_tiny_patch4_window7_224", **_SWIN),)),
    Family(
        title="SwinV2",
        names="swinv2_*, swinv2_cr_*",
        cases=(
            _general("swin-v2", "swinv2_tiny_window8_256", **_SWIN),
            _general("swin-v2-cr", "swinv2_cr_tiny_ns_224", **_SWIN),
        ),
    ),
    Family(
        title="MLP-Mixer, gMLP, ResMLP",
        names="mixer_*, gmixer_*, gmlp_*, resmlp_*",
        cases=(
            _made("mixer", MlpMixer, 32, **_MIXER),
            _made(
                "gmlp", MlpMixer, 32, block_layer=mlp_mixer.SpatialGatingBlock, mlp_layer=GatedMlp, mlp_ratio=6, **_MIXER
            ),
            _made("resmlp", MlpMixer, 32, block_layer=mlp_mixer.ResBlock, norm_layer=mlp_mixer.Affine, mlp_ratio=4, **_MIXER),
        ),
    ),
    Family(
        title="MaxViT, CoAtNet",
        names="maxvit_*, maxxvit_*, coatnet_*, coatnext_*",
        cases=(
            _normed("maxvit", "test_maxvit", img_size=64),
            _normed("coatnet", "test_coatnet", img_size=64),
        ),
    ),
    Family(
        title="EfficientNet, MobileNetV2, MNASNet",
        names="efficientnet_*, efficientnetv2_*, tf_efficientnet*, mobilenetv2_*, mnasnet_*, tinynet_*",
        cases=(
            _normed("efficientnet", "test_efficientnet"),
            _general("efficientnet-group-norm", "test_efficientnet_gn"),
        ),
    ),
    Family(
        title="MobileNetV3, MobileNetV4",
        names="mobilenetv3_*, mobilenetv4_*, lcnet_*, fbnetv3_*, hardcorenas_*",
        cases=(
            _normed("mobilenet-v3", "lcnet_035", tolerance=_HARD_SIGMOID),
            _normed("mobilenet-v4", "mobilenetv4_conv_small_035"),
        ),
    ),
    Family(title="RegNet", names="regnetx_*, regnety_*", cases=(_normed("regnet", "regnetx_002"),)),
    Family(
        title="DenseNet",
        names="densenet*",
        cases=(_normed("densenet", "densenet121", growth_rate=4, block_config=(1, 1, 2, 1)),),
    ),
    Family(
        title="Hiera",
        names="hiera_*",
        cases=(_general("hiera", "hiera_tiny_224", img_size=64, embed_dim=8, stages=(1, 1, 1, 1)),),
    ),
    Family(
        title="CaiT",
        names="cait_*",
        cases=(_general("cait", "cait_xxs24_224", 32, img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2),),
    ),
    Family(
        title="PoolFormer, CAFormer and other MetaFormers",
        names="poolformer*, convformer_*, caformer_*",
        cases=(
            _made("poolformer", MetaFormer, 64, **_FOUR),
            _made("convformer", MetaFormer, 64, token_mixers=metaformer.SepConv, **_FOUR),
        ),
    ),
    Family(
        title="FastViT",
        names="fastvit_*",
        cases=(_normed("fastvit", "fastvit_t8", layers=(1, 1, 1, 2), embed_dims=(8, 8, 16, 16)),),
    ),
    Family(
        title="EdgeNeXt",
        names="edgenext_*",
        cases=(_general("edgenext", "edgenext_xx_small", heads=(2, 2, 2, 2), **_FOUR),),
    ),
    Family(title="LeViT", names="levit_*", cases=(_normed("levit", "levit_128s", img_size=64),)),
    Family(title="NFNet", names="nfnet_*, dm_nfnet_*, nf_resnet*", cases=(_general("nfnet", "test_nfnet"),)),
    Family(
        title="TinyViT",
        names="tiny_vit_*",
        cases=(
            _normed("tiny-vit", "tiny_vit_5m_224", num_heads=(1, 1, 2, 2), window_sizes=(4, 4, 2, 2), **_FOUR_EMBEDDED),
        ),
    ),
    Family(
        title="DaViT", names="davit_*", cases=(_general("davit", "davit_tiny", num_heads=(1, 1, 2, 2), **_FOUR_EMBEDDED),)
    ),
    Family(title="MambaOut", names="mambaout_*", cases=(_general("mambaout", "test_mambaout"),)),
    Family(
        title="ByobNet: RepVGG, MobileViT, BoTNet, HaloNet, …",
        names="repvgg_*, mobileone_*, mobilevit*, botnet*, halonet*, regnetz_*, gernet_*, *resnext26ts",
        cases=(_normed("byobnet", "test_byobnet"),),
    ),
    Family(
        title="ResNetV2, BiT", names="resnetv2_*", cases=(_normed("resnet-v2", "resnetv2_50", **_FOUR_LAYERS),)
    ),
    Family(
        title="Nested transformer",
        names="nest_*",
        cases=(_made("nest", Nest, 64, img_size=64, embed_dims=(8, 16, 16), num_heads=(1, 2, 2), depths=(1, 1, 1)),),
    ),
    Family(
        title="ConvMixer",
        names="convmixer_*",
        cases=(_made("convmixer", ConvMixer, 32, True, dim=16, depth=3, kernel_size=3),),
    ),
    Family(
        title="RepViT",
        names="repvit_*",
        cases=(_normed("repvit", "repvit_m0_9", embed_dim=(8, 8, 16, 16), depth=(1, 1, 1, 2)),),
    ),
    Family(
        title="ViT with relative positions",
        names="vit_relpos_*, vit_srelpos_*",
        cases=(
            _general("relpos", "vit_relpos_small_patch16_224", 32, img_size=32, embed_dim=16, depth=3, num_heads=2),
            _general("shared-relpos", "vit_srelpos_small_patch16_224", 32, img_size=32, embed_dim=16, depth=3, num_heads=2),
        ),
    ),
    Family(
        title="Sequencer",
        names="sequencer2d_*",
        cases=(
            _general(
                "sequencer", "sequencer2d_s", img_size=64, patch_sizes=(8, 1, 1, 1), embed_dims=(8, 8, 8, 8),
                hidden_sizes=(4, 4, 4, 4), layers=(1, 1, 1, 1),
            ),
        ),
    ),
]  # fmt: skip
GENERAL = [case for family in FAMILIES for case in family.cases if case not in CASES]

_HEAD = """# Models

<!-- Written by `python tests/support/families.py > docs/reference/models.md`; a test compares the two. -->

Any network of timm with an ordered list of blocks or stages can be linearised. `--last-blocks k`
trains the last k of them, with all that follows: what comes before is the frozen prefix. Every row
below is compared with timm's own network under `torch.func.jvp` and `torch.func.vjp`, in float64.

* **Unit**: what `--last-blocks` counts, by its name in timm.
* **Tangent**: *rules* are closed formulas (TAFT eqs. 5-12), tens of times faster than
  `torch.func.jvp`. The *general cut* takes each unit's tangent by `torch.func.jvp`, and the final
  norm's and the head's by rules.
* **`--reset`**: batch norms keep running statistics of the old weights, so that no unit with one
  can be reset.
* **`--cls-token`**: needs a class token in front of the last k blocks.

| Family | timm names | Unit | Tangent | `--reset` | `--cls-token` |
|---|---|---|---|---|---|
"""
_TAIL = """
The list has the networks that the tests cover. More may work, because the general cut looks at a
network's code and not at its name. It wants numbered modules, such as `blocks.0`, `blocks.1`, … or
`layer1`, `layer2`, … Each is called once and in order. One tensor goes from each to the next, and
nothing else beside it. A network without that is refused, and the message names the module in the
way. Parameters that belong to no module of their own stay frozen, such as the class token that CaiT
puts in behind its blocks.

Without `--weights` they come from the hub, when there is a network.
"""


def row(family: Family) -> str:
    units = [units_of(build(case)) for case in family.cases]
    stems = dict.fromkeys(f"`{re.sub(r'[0-9]+$', 'N', one.names[-1])}`" for one in units)
    tangents = dict.fromkeys("general cut" if isinstance(one, Ordered) else "rules" for one in units)
    normed = [case.batch_norm for case in family.cases]
    reset = "no" if all(normed) else "without batch norm" if any(normed) else "yes"
    token = "yes" if any(case.class_token for case in family.cases) else "no"
    names = ", ".join(f"`{name}`" for name in family.names.split(", "))
    return f"| {family.title} | {names} | {', '.join(stems)} | {', '.join(tangents)} | {reset} | {token} |\n"


def page() -> str:
    return _HEAD + "".join(map(row, FAMILIES)) + _TAIL


if __name__ == "__main__":
    print(page(), end="")

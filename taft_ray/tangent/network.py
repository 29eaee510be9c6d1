"""Where each model family is cut: a frozen prefix, and the suffix as a chain of rules.

The unit of ``last_blocks`` is a transformer block for vision transformers, and a stage for ResNet (``layer1``..``layer4``)
and ConvNeXt (``stages.0``..).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.layers import NormMlpClassifierHead
from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.tangent.blocks import Residual, block_rule
from taft_ray.tangent.pooling import pooling_rule
from taft_ray.tangent.rule import Rule, Saved, Saving
from taft_ray.tangent.rules import Fallback, Function, Linear, Sequence, rule_for

_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A model cut in two. ``units`` are the trained modules' names, ``heads`` those of the classifier alone."""

    prefix: Callable[[Tensor], Tensor]
    suffix: Sequence
    units: tuple[str, ...]
    heads: tuple[str, ...]
    class_token_rows: int | None  # rows of a class-token tangent at the suffix entrance; None: there is no class token
    first_rows_only: bool  # the suffix reads only those rows of a tangent (the short cut)


class TwoHeads(Rule):
    """Distilled DeiT at evaluation: the mean of the class token's head and the distillation token's."""

    def __init__(self, head: Linear, head_dist: Linear) -> None:
        super().__init__("")
        self.parts = (head, head_dist)

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        return (self.parts[0].primal(x[:, 0], saved) + self.parts[1].primal(x[:, 1], saved)) / 2

    def tangent(self, x_dot, saved, delta):
        tangents = [
            part.tangent(None if x_dot is None else x_dot[:, row], saved, delta) for row, part in enumerate(self.parts)
        ]
        present = [tangent for tangent in tangents if tangent is not None]
        return torch.stack(present).sum(0) / 2 if present else None

    def linear_inputs(self, saved: Saved, trained: frozenset[str]):
        for part in self.parts:
            yield from part.linear_inputs(saved, trained)


def _count(last_blocks: int | str, available: int, unit: str) -> int:
    count = available if last_blocks == "all" else last_blocks
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= available:
        raise UsageError(
            f'last_blocks={last_blocks!r}: expected "all" or 0..{available} (this model has {available} {unit})'
        )
    return count


def _chain(modules: nn.Module, start: int, stop: int) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for module in list(modules.children())[start:stop]:
            x = module(x)
        return x

    return run


def _vision_transformer(model: VisionTransformer, last_blocks: int | str) -> Cut:
    count = _count(last_blocks, len(model.blocks), "blocks")
    distilled = isinstance(model, VisionTransformerDistilled)
    rows = 2 if distilled else 1 if model.global_pool == "token" and model.attn_pool is None else None
    first = len(model.blocks) - count
    before = _chain(model.blocks, 0, first)

    def prefix(images: Tensor) -> Tensor:
        return before(model.norm_pre(model._pos_embed(model.patch_embed(images))))

    blocks: list[Rule] = []
    for index in range(first, len(model.blocks)):
        last = index == len(model.blocks) - 1
        blocks.append(
            block_rule(f"blocks.{index}", model.blocks[index], rows=rows if last else None, frozen_input=index == first)
        )
    head = rule_for("head", model.head)
    if distilled:
        tail: list[Rule] = [TwoHeads(head, Linear("head_dist", model.head_dist))]  # type: ignore[arg-type]
    else:
        skip = 0 if model.pool_include_prefix else model.num_prefix_tokens
        pool = pooling_rule(model.global_pool, skip=skip, attention_pool=model.attn_pool, attention_skip=skip)
        tail = [pool, rule_for("fc_norm", model.fc_norm), head]
    attention_pool = () if model.attn_pool is None else ("attn_pool",)
    return Cut(
        prefix=prefix,
        suffix=Sequence("", [*blocks, rule_for("norm", model.norm), *tail]),
        units=(
            *(rule.name for rule in blocks),
            "norm",
            *attention_pool,
            "fc_norm",
            "head",
            *(("head_dist",) if distilled else ()),
        ),
        heads=("head", "head_dist") if distilled else ("head",),
        class_token_rows=(rows or 1) if model.cls_token is not None and count else None,
        first_rows_only=bool(blocks) and isinstance(blocks[0], Residual) and blocks[0].reads_rows_only,
    )


def _resnet(model: ResNet, last_blocks: int | str) -> Cut:
    names = _RESNET_STAGES
    count = _count(last_blocks, len(names), "stages")
    _refuse_unpooled(model.global_pool)
    trained = names[len(names) - count :]

    def prefix(images: Tensor) -> Tensor:
        x = model.maxpool(model.act1(model.bn1(model.conv1(images))))
        for name in names[: len(names) - count]:
            x = model.get_submodule(name)(x)
        return x

    rules: list[Rule] = [Fallback(name, model.get_submodule(name)) for name in trained]
    rules += [Function("pool", model.global_pool), rule_for("fc", model.get_submodule("fc"))]
    return Cut(
        prefix=prefix,
        suffix=Sequence("", rules),
        units=(*trained, "fc"),
        heads=("fc",),
        class_token_rows=None,
        first_rows_only=False,
    )


def between(model: nn.Module, outer: int | str, inner: int | str) -> Callable[[Tensor], Tensor]:
    """The units between two cuts: tokens at the entrance of the last ``outer`` units -> at that of the last ``inner``.

    UsageError when ``inner`` is more than ``outer``: those tokens come before the ones given.
    """
    if isinstance(model, (VisionTransformer, Eva, Beit)):
        units, name = list(model.blocks), "blocks"
    elif isinstance(model, ResNet):
        units, name = [model.get_submodule(stage) for stage in _RESNET_STAGES], "stages"
    elif isinstance(model, ConvNeXt):
        units, name = list(model.stages), "stages"
    else:
        raise UnsupportedModel(f"{type(model).__name__} cannot be cut: see `cut`")
    first, last = (len(units) - _count(cut_at, len(units), name) for cut_at in (outer, inner))
    if last < first:
        raise UsageError(
            f"last_blocks={inner!r} needs tokens from before the last {outer} {name}; expected at most {outer}"
        )
    if isinstance(model, Eva):  # its blocks want positions, too, like Beit's
        return eva.EvaBlocks(model).between(first, last)
    if isinstance(model, Beit):
        return beit.BeitBlocks(model).between(first, last)
    return _chain(nn.Sequential(*units), first, last)


def _refuse_unpooled(pool: object) -> None:
    if getattr(pool, "pool_type", None) == "":
        raise UnsupportedModel(
            "global_pool='' gives no single vector a picture; create the model with global_pool='avg'"
        )


def _convnext_head(head: nn.Module) -> list[Rule]:
    """The classifier layer by layer, so that its linear layers have Gram statistics."""
    pooled_first = isinstance(head, NormMlpClassifierHead)
    parts = ("global_pool", "norm", "flatten", "pre_logits", "fc") if pooled_first else ("global_pool", "fc", "flatten")
    return [rule_for(f"head.{part}", head.get_submodule(part)) for part in parts]


def _convnext(model: ConvNeXt, last_blocks: int | str) -> Cut:
    count = _count(last_blocks, len(model.stages), "stages")
    _refuse_unpooled(model.head.global_pool)
    first = len(model.stages) - count
    before = _chain(model.stages, 0, first)
    trained = tuple(f"stages.{index}" for index in range(first, len(model.stages)))
    rules: list[Rule] = [Fallback(name, model.get_submodule(name)) for name in trained]
    rules += [rule_for("norm_pre", model.get_submodule("norm_pre")), *_convnext_head(model.head)]
    return Cut(
        prefix=lambda images: before(model.stem(images)),
        suffix=Sequence("", rules),
        units=(*trained, "norm_pre", "head"),
        heads=("head.fc",),
        class_token_rows=None,
        first_rows_only=False,
    )


def cut(model: nn.Module, last_blocks: int | str) -> Cut:
    """Cut ``model`` before its last ``last_blocks`` units; UnsupportedModel, by name and with the reason, otherwise."""
    if isinstance(model, VisionTransformer):
        return _vision_transformer(model, last_blocks)
    if isinstance(model, ResNet):
        return _resnet(model, last_blocks)
    if isinstance(model, ConvNeXt):
        return _convnext(model, last_blocks)
    if isinstance(model, Eva):
        return eva.EvaBlocks(model).cut(len(model.blocks) - _count(last_blocks, len(model.blocks), "blocks"))
    if isinstance(model, Beit):
        return beit.BeitBlocks(model).cut(len(model.blocks) - _count(last_blocks, len(model.blocks), "blocks"))
    raise UnsupportedModel(
        f"{type(model).__name__} cannot be linearised: no rule says where to cut it. Supported: timm VisionTransformer "
        "(vit, deit, augreg, CLIP, DINOv2, …), ResNet, ConvNeXt, "
        "Eva (EVA-02, DINOv3, PE, …), Beit"
    )


from taft_ray.tangent import beit, eva  # noqa: E402  # they need the classes above

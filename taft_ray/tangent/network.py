"""Where each model family is cut: a frozen prefix, and the suffix as a chain of rules.

The unit of ``last_blocks`` is a transformer block for vision transformers, `eva.py` and `beit.py` too. Any other network has the general cut
(`ordered.py`), whose units are the network's numbered blocks or stages.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from taft_ray.errors import UsageError
from taft_ray.tangent.beit import BeitBlocks
from taft_ray.tangent.blocks import Residual, block_rule
from taft_ray.tangent.eva import EvaBlocks
from taft_ray.tangent.ordered import Ordered
from taft_ray.tangent.pooling import pooling_rule
from taft_ray.tangent.rule import Rule, Saved, Saving
from taft_ray.tangent.rules import Linear, Sequence, rule_for
from taft_ray.tangent.units import Cut, Units, chain, first_trained

__all__ = ["Cut", "between", "cut", "units_of"]


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


class Blocks:
    """The blocks of a vision transformer."""

    noun = "blocks"

    def __init__(self, model: VisionTransformer) -> None:
        self._model = model
        self.names = tuple(f"blocks.{index}" for index in range(len(model.blocks)))

    def between(self, first: int, last: int) -> Callable[[Tensor], Tensor]:
        return chain(list(self._model.blocks)[first:last])

    def cut(self, first: int) -> Cut:
        return _vision_transformer(self._model, first)


def _vision_transformer(model: VisionTransformer, first: int) -> Cut:
    distilled = isinstance(model, VisionTransformerDistilled)
    rows = 2 if distilled else 1 if model.global_pool == "token" and model.attn_pool is None else None
    before = chain(list(model.blocks)[:first])

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
        class_token_rows=(rows or 1) if model.cls_token is not None and blocks else None,
        first_rows_only=bool(blocks) and isinstance(blocks[0], Residual) and blocks[0].reads_rows_only,
    )


# The families with rules of their own: a network's class, and what its units are. Any other has the general cut.
FAMILIES: tuple[tuple[type[nn.Module], Callable[..., Units]], ...] = (
    (VisionTransformer, Blocks),
    (Eva, EvaBlocks),
    (Beit, BeitBlocks),
)


def units_of(model: nn.Module) -> Units:
    """The units that ``last_blocks`` counts in ``model``; UnsupportedModel, by name and with the reason, where it cannot be cut."""
    for family, units in FAMILIES:
        if isinstance(model, family):
            return units(model)
    return Ordered(model)


def cut(model: nn.Module, last_blocks: int | str) -> Cut:
    """Cut ``model`` before its last ``last_blocks`` units; UnsupportedModel, by name and with the reason, otherwise."""
    units = units_of(model)
    return units.cut(first_trained(last_blocks, units))


def between(model: nn.Module, outer: int | str, inner: int | str) -> Callable[[Tensor], Tensor]:
    """The units between two cuts: tokens at the entrance of the last ``outer`` units -> at that of the last ``inner``.

    UsageError when ``inner`` is more than ``outer``: those tokens come before the ones given.
    """
    units = units_of(model)
    first, last = (first_trained(cut_at, units) for cut_at in (outer, inner))
    if last < first:
        raise UsageError(
            f"last_blocks={inner!r} needs tokens from before the last {outer} {units.noun}; expected at most {outer}"
        )
    return units.between(first, last)

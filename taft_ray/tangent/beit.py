"""Where timm's Beit is cut (BEiT, BEiT v2).

A block's own relative position bias is trained with the block. A table that all blocks share (``rel_pos_bias``) lies outside
them and stays frozen, like the position embedding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.models.beit import Beit, Block
from torch import Tensor

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent.blocks import Residual
from taft_ray.tangent.position_bias import PositionBias
from taft_ray.tangent.transformer import blocks_cut, positioned_block
from taft_ray.tangent.units import Cut


class BeitBlocks:
    """The blocks of a Beit."""

    noun = "blocks"

    def __init__(self, model: Beit) -> None:
        self._model = model
        self.names = tuple(f"blocks.{index}" for index in range(len(model.blocks)))

    def between(self, first: int, last: int) -> Callable[[Tensor], Tensor]:
        """The blocks themselves, on tokens."""
        model = self._model

        def run(x: Tensor) -> Tensor:
            shared = None if model.rel_pos_bias is None or first == last else model.rel_pos_bias()
            for index in range(first, last):
                x = model.blocks[index](x, shared_rel_pos_bias=shared)
            return x

        return run

    def cut(self, first: int) -> Cut:
        """The cut in front of block ``first``. UnsupportedModel naming the module in the way."""
        model, before = self._model, self.between(0, first)

        def prefix(images: Tensor) -> Tensor:
            patches = model.patch_embed(images)
            x = torch.cat((model.cls_token.expand(patches.shape[0], -1, -1), patches), dim=1)
            return before(x if model.pos_embed is None else x + model.pos_embed)

        def rule(index: int, rows: int | None, frozen_input: bool) -> Residual:
            block, name = model.blocks[index], self.names[index]
            if type(block) is not Block:
                raise UnsupportedModel(f"{name} is a {type(block).__name__}; expected BEiT's Block")
            bias = PositionBias.of(f"{name}.attn", block.attn, model.rel_pos_bias)
            return positioned_block(
                name, block, post_norm=False, rotation=None, bias=bias, rows=rows, frozen_input=frozen_input
            )

        return blocks_cut(model, prefix, first, rule)

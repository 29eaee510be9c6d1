"""Where timm's Eva is cut: EVA-02, DINOv3, the perception encoder and other transformers with rotary positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from torch import Tensor

from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.tangent.blocks import Residual
from taft_ray.tangent.network import Cut
from taft_ray.tangent.rotation import Rotation
from taft_ray.tangent.transformer import blocks_cut, positioned_block


def cut(model: Eva, count: int) -> Cut:
    """The cut in front of the last ``count`` blocks. Pictures must have the model's own size, because angles belong to a size."""
    first = len(model.blocks) - count
    tables = _tables(model)

    def prefix(images: Tensor) -> Tensor:
        height, width = (int(side) for side in model.patch_embed.img_size)  # type: ignore[union-attr]  # it is set
        if tuple(images.shape[-2:]) != (height, width):
            got = "×".join(str(int(side)) for side in images.shape[-2:])
            raise UsageError(
                f"pictures of {got} pixels: the rotary positions are those of {height}×{width}; create the model with that img_size"
            )
        tokens, _ = model._pos_embed(model.patch_embed(images))
        return blocks(model, 0, first)(model.norm_pre(tokens))

    def rule(index: int, rows: int | None, frozen_input: bool) -> Residual:
        block, name = model.blocks[index], f"blocks.{index}"
        if not (type(block) is EvaBlock or type(block) is EvaBlockPostNorm):
            raise UnsupportedModel(f"{name} is a {type(block).__name__}; expected an EvaBlock or an EvaBlockPostNorm")
        rotation = None
        if tables is not None:
            rotation = Rotation(
                tables[index] if model.rope_mixed else tables,
                model.num_prefix_tokens,
                model.patch_embed.grid_size,
                half=bool(block.get_submodule("attn").rotate_half),
            )
        return positioned_block(
            name, block, post_norm=type(block) is EvaBlockPostNorm, rotation=rotation, bias=None, rows=rows,
            frozen_input=frozen_input,
        )  # fmt: skip

    return blocks_cut(model, prefix, first, rule)


def blocks(model: Eva, start: int, stop: int) -> Callable[[Tensor], Tensor]:
    """The blocks themselves, on tokens of the model's own picture size."""

    def run(x: Tensor) -> Tensor:
        tables = _tables(model) if start < stop else None
        for index in range(start, stop):
            x = model.blocks[index](x, rope=tables[index] if tables is not None and model.rope_mixed else tables)
        return x

    return run


def _tables(model: Eva) -> Tensor | None:
    """timm's sines and cosines of the patches, for each block where positions are mixed; None without rotary positions."""
    if model.rope is None:
        return None
    embedding: Any = model.rope
    if model.dynamic_img_size or not hasattr(embedding, "feat_shape"):
        return embedding.get_embed(shape=model.patch_embed.grid_size)
    return embedding.get_embed()

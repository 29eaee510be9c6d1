"""Where timm's Eva is cut: EVA-02, DINOv3, the perception encoder and other transformers with rotary positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from torch import Tensor

from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.tangent.blocks import Residual
from taft_ray.tangent.rotation import Rotation
from taft_ray.tangent.transformer import blocks_cut, positioned_block
from taft_ray.tangent.units import Cut


class EvaBlocks:
    """The blocks of an Eva. Pictures must have the model's own size, because angles belong to a size."""

    noun = "blocks"

    def __init__(self, model: Eva) -> None:
        self._model = model
        self.names = tuple(f"blocks.{index}" for index in range(len(model.blocks)))

    def between(self, first: int, last: int) -> Callable[[Tensor], Tensor]:
        """The blocks themselves, on tokens."""
        model = self._model

        def run(x: Tensor) -> Tensor:
            tables = _tables(model) if first < last else None
            for index in range(first, last):
                x = model.blocks[index](x, rope=tables[index] if tables is not None and model.rope_mixed else tables)
            return x

        return run

    def cut(self, first: int) -> Cut:
        """The cut in front of block ``first``. UnsupportedModel naming the module in the way."""
        model, before, tables = self._model, self.between(0, first), _tables(self._model)

        def prefix(images: Tensor) -> Tensor:
            _check_size(model, images)
            tokens, _ = model._pos_embed(model.patch_embed(images))
            return before(model.norm_pre(tokens))

        def rule(index: int, rows: int | None, frozen_input: bool) -> Residual:
            block, name = model.blocks[index], self.names[index]
            if not (type(block) is EvaBlock or type(block) is EvaBlockPostNorm):
                kind = type(block).__name__
                raise UnsupportedModel(f"{name} is a {kind}; expected an EvaBlock or an EvaBlockPostNorm")
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


def _check_size(model: Eva, images: Tensor) -> None:
    height, width = (int(side) for side in model.patch_embed.img_size)  # type: ignore[union-attr]  # it is set
    if tuple(images.shape[-2:]) != (height, width):
        got = "×".join(str(int(side)) for side in images.shape[-2:])
        raise UsageError(
            f"pictures of {got} pixels: the model's positions are those of {height}×{width}; "
            "create it with the img_size of the pictures"
        )


def _tables(model: Eva) -> Tensor | None:
    """timm's sines and cosines of the patches, of each block where positions are mixed; None without rotary positions."""
    if model.rope is None:
        return None
    embedding: Any = model.rope
    if model.dynamic_img_size or not hasattr(embedding, "feat_shape"):
        return embedding.get_embed(shape=model.patch_embed.grid_size)
    return embedding.get_embed()

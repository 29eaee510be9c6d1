"""The common parts of the cuts of EVA and BEiT: blocks with positions in their scores, pooling, and the head.

Legend: R rows that are read out of the last block.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent.blocks import Residual
from taft_ray.tangent.pairs import lean
from taft_ray.tangent.pooling import pooling_rule
from taft_ray.tangent.position_bias import PositionBias
from taft_ray.tangent.positioned import PositionedAttention
from taft_ray.tangent.readout import ReadoutAttention
from taft_ray.tangent.rotary_readout import placed_readout
from taft_ray.tangent.rotation import Rotation
from taft_ray.tangent.rule import Rule
from taft_ray.tangent.rules import ChannelScale, LayerNorm, Sequence, rule_for
from taft_ray.tangent.units import Cut


class Unnormalised(LayerNorm):
    """No norm: for a read-out attention that sees the tokens as they are (post-norm blocks)."""

    def __init__(self, name: str) -> None:
        super().__init__(name, nn.LayerNorm(1, elementwise_affine=False))

    def normalise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.new_ones(*x.shape[:-1], 1)

    def input_tangent(self, x_dot: Tensor, n: Tensor, s: Tensor) -> Tensor:
        return x_dot


def positioned_block(
    name: str,
    block: nn.Module,
    *,
    post_norm: bool,
    rotation: Rotation | None,
    bias: PositionBias | None,
    rows: int | None,
    frozen_input: bool,
) -> Residual:
    """The rule of one block, with the ``rows`` and ``frozen_input`` of `blocks.block_rule`.

    UnsupportedModel, naming the attention, where it gates its output.
    """
    attention = block.get_submodule("attn")
    if getattr(attention, "gate", None) is not None:
        raise UnsupportedModel(f"{name}.attn gates its output, for which there is no rule")
    norm1 = rule_for(f"{name}.norm1", block.get_submodule("norm1"))
    inside = isinstance(norm1, LayerNorm) and not post_norm  # the attention's rule takes it in
    taken_in = norm1 if inside else None
    attending = _attention(f"{name}.attn", attention, taken_in, rotation=rotation, bias=bias, rows=rows)  # type: ignore[arg-type]
    if not (inside or post_norm):
        attending.insert(0, norm1)
    feeding: list[Rule] = [rule_for(f"{name}.mlp", block.get_submodule("mlp"))]
    norm2 = rule_for(f"{name}.norm2", block.get_submodule("norm2"))
    attending, feeding = ([*attending, norm1], [*feeding, norm2]) if post_norm else (attending, [norm2, *feeding])
    for branch, parameter in ((attending, "gamma_1"), (feeding, "gamma_2")):
        if getattr(block, parameter, None) is not None:
            branch.append(ChannelScale(f"{name}.{parameter}", block))
    if rows is None:
        attending, feeding = lean(attending), lean(feeding)
    return Residual(
        name, Sequence(name, attending), Sequence(name, feeding), rows,
        reads_rows_only=rows is not None and frozen_input and (inside or post_norm),
    )  # fmt: skip


def _attention(
    name: str, module: nn.Module, norm: LayerNorm | None, *, rotation: Rotation | None, bias: PositionBias | None,
    rows: int | None,
) -> list[Rule]:  # fmt: skip
    """norm1 and attention: as one read-out of the first rows, or token by token."""
    if rows is None:
        return [PositionedAttention(name, module, norm=norm, rotation=rotation, bias=bias)]
    norm = Unnormalised(f"{name}.tokens") if norm is None else norm
    plain_keys = isinstance(getattr(module, "k_norm", None) or nn.Identity(), nn.Identity)
    plain_queries = isinstance(getattr(module, "q_norm", None) or nn.Identity(), nn.Identity)
    one_to_one = getattr(module, "num_kv_heads", module.num_heads) == module.num_heads
    if rotation is None and plain_keys and plain_queries and one_to_one:
        return [ReadoutAttention(name, norm, module, rows, bias)]
    assert bias is None  # BEiT's has plain keys
    return [placed_readout(name, norm, module, rows, rotation)]


def blocks_cut(
    model: nn.Module,
    prefix: Callable[[Tensor], Tensor],
    first: int,
    block_rule: Callable[[int, int | None, bool], Residual],
) -> Cut:
    """The cut in front of block ``first``. block_rule: (number, rows, frozen input) -> rule."""
    pool, attention_pool = model.global_pool, getattr(model, "attn_pool", None)
    blocks, skip = list(model.get_submodule("blocks").children()), int(model.num_prefix_tokens)  # type: ignore[arg-type]
    rows = 1 if pool == "token" and attention_pool is None else None
    rules: list[Rule] = [
        block_rule(index, rows if index == len(blocks) - 1 else None, index == first)
        for index in range(first, len(blocks))
    ]
    count = len(rules)
    tail = [
        rule_for("norm", model.get_submodule("norm")),
        pooling_rule(str(pool), skip=skip, attention_pool=attention_pool, attention_skip=0),
        *(rule_for(part, model.get_submodule(part)) for part in ("fc_norm", "head")),
    ]
    return Cut(
        prefix=prefix,
        suffix=Sequence("", [*rules, *tail]),
        units=(
            *(rule.name for rule in rules),
            "norm",
            *(() if attention_pool is None else ("attn_pool",)),
            "fc_norm",
            "head",
        ),
        heads=("head",),
        class_token_rows=1 if model.cls_token is not None and count else None,
        first_rows_only=bool(rules) and rules[0].reads_rows_only,  # type: ignore[attr-defined]  # they are Residual
    )

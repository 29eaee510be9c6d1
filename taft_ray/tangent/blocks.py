"""Transformer blocks as pairs of residual branches. Legend: R rows that are read out of the last block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from taft_ray.tangent.pairs import lean
from taft_ray.tangent.readout import ReadoutAttention
from taft_ray.tangent.rule import LinearInput, Rule, Saved, Saving, plus
from taft_ray.tangent.rules import Fallback, LayerNorm, SelfAttention, Sequence, rule_for


class Residual(Rule):
    """A pre-norm block: x ← x + attend(x); x ← x + feed(x). Only the first ``rows`` tokens leave it, when given."""

    def __init__(self, name: str, attend: Rule, feed: Rule, rows: int | None, *, reads_rows_only: bool) -> None:
        super().__init__(name)
        self.attend, self.feed, self.rows = attend, feed, rows
        self.reads_rows_only = reads_rows_only  # an input tangent may be given as its first ``rows`` rows

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        x = x[:, : self.rows] + self.attend.primal(x, saved)
        return x + self.feed.primal(x, saved)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        attended = self.attend.tangent(x_dot, saved, delta)
        x_dot = plus(None if x_dot is None else x_dot[:, : self.rows], attended)
        return plus(x_dot, self.feed.tangent(x_dot, saved, delta))

    def dual(self, x: Tensor, x_dot: Tensor | None, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        attended, attended_dot = self.attend.dual(x, x_dot, delta)
        x = x[:, : self.rows] + attended
        x_dot = plus(None if x_dot is None else x_dot[:, : self.rows], attended_dot)
        fed, fed_dot = self.feed.dual(x, x_dot, delta)
        return x + fed, plus(x_dot, fed_dot)

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        yield from self.attend.linear_inputs(saved, trained)
        yield from self.feed.linear_inputs(saved, trained)


class Rows(Rule):
    """Keeps the first rows of the tokens (after a block that has no rule which computes only those)."""

    def __init__(self, name: str, rows: int) -> None:
        super().__init__(name)
        self.rows = rows

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        return x[:, : self.rows]

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        return None if x_dot is None else x_dot[:, : self.rows]


def _has_plain_scores(attention: nn.Module) -> bool:
    """True where the scores are linear in the keys' input, which is what the short cut rests on (no qk-norm, no gate)."""
    return (
        type(attention) is Attention
        and attention.gate is None
        and isinstance(attention.k_norm, nn.Identity)
        and isinstance(attention.q_norm, nn.Identity)
    )


def block_rule(name: str, block: nn.Module, *, rows: int | None, frozen_input: bool) -> Rule:
    """The rule of one block. ``rows`` is set for the last block under class-token pooling; ``frozen_input`` says that
    its input tokens carry no tangent but the class token's."""
    if type(block) is not Block:
        fallback = Fallback(name, block)
        return fallback if rows is None else Sequence(name, [fallback, Rows(name, rows)])
    norm = rule_for(f"{name}.norm1", block.norm1)
    short_cut = rows is not None and isinstance(norm, LayerNorm) and _has_plain_scores(block.attn)
    if short_cut:
        attention: list[Rule] = [ReadoutAttention(f"{name}.attn", norm, block.attn, rows)]  # type: ignore[arg-type]
    elif type(block.attn) is Attention and block.attn.gate is None:
        attention = [norm, SelfAttention(f"{name}.attn", block.attn, rows)]
    else:
        attention = [norm, Fallback(f"{name}.attn", block.attn)]
        attention += [] if rows is None else [Rows(name, rows)]
    attending = [*attention, rule_for(f"{name}.ls1", block.ls1)]
    feeding = [rule_for(f"{name}.{part}", block.get_submodule(part)) for part in ("norm2", "mlp", "ls2")]
    if rows is None:
        attending, feeding = lean(attending), lean(feeding)
    attend, feed = Sequence(name, attending), Sequence(name, feeding)
    return Residual(name, attend, feed, rows, reads_rows_only=short_cut and frozen_input)

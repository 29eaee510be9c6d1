"""Pairs of layers that keep less together than each for itself: a norm or an activation, and the linear layer behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from taft_ray.tangent.elementwise import slope_tangent
from taft_ray.tangent.rule import LinearInput, Rule, Saved, Saving, plus
from taft_ray.tangent.rules import Elementwise, Identity, LayerNorm, Linear, SelfAttention, Sequence
from taft_ray.tangent.trained import Probes, linear_tangent


class Normalised(Rule):
    """A linear layer behind a layer norm, whose scale and shift go into ΔW: ΔW(γn + β) = (ΔW·diag γ)n + ΔW β. γn + β is not kept."""

    def __init__(self, norm: LayerNorm, linear: Linear) -> None:
        super().__init__(linear.name)
        self.norm, self.linear = norm, linear

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        return self.linear.output_once(self.norm.primal(x, saved), saved)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        weight, bias = self.key("weight"), self.key("bias")
        n, x_dot = saved[self.norm.key("n")], self.norm.tangent(x_dot, saved, delta)
        if isinstance(delta, Probes):
            n = self.norm.affine(n)
        elif weight in delta:
            delta = self._folded(delta, weight, bias)
        return linear_tangent(delta, weight, bias, n, x_dot, self.linear.module.weight)

    def _folded(self, delta: Mapping[str, Tensor], weight: str, bias: str) -> dict[str, Tensor]:
        gamma, beta = self.norm.gamma, self.norm.beta
        shift = plus(delta.get(bias), None if beta is None else delta[weight] @ beta)
        scaled = delta[weight] if gamma is None else delta[weight] * gamma
        return {weight: scaled, **({} if shift is None else {bias: shift})}

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        if self.key("weight") in trained:
            given = {self.key("input"): self.norm.affine(saved[self.norm.key("n")])}
            yield from self.linear.linear_inputs(given, trained)


class Activated(Rule):
    """A linear layer behind an activation: of φ's input, its slope and its output only the input is kept."""

    def __init__(self, activation: Elementwise, linear: Linear) -> None:
        super().__init__(linear.name)
        self.activation, self.linear = activation, linear

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        saved[self.activation.key("input")] = x
        return self.linear.output_once(self.activation.module(x), saved)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        x, phi = saved[self.activation.key("input")], self.activation.module
        through = None if x_dot is None else slope_tangent(phi, x, x_dot)
        weight, bias = self.key("weight"), self.key("bias")
        return linear_tangent(delta, weight, bias, x, through, self.linear.module.weight, activation=phi)

    def dual(self, x: Tensor, x_dot: Tensor | None, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        return self.linear.dual(*self.activation.dual(x, x_dot, delta), delta)

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        if self.key("weight") in trained:
            given = {self.key("input"): self.activation.module(saved[self.activation.key("input")])}
            yield from self.linear.linear_inputs(given, trained)


def lean(rules: Iterable[Rule]) -> list[Rule]:
    """The same rules, those in pairs that keep less together than each for itself: for layers that all tokens pass through."""
    found: list[Rule] = []
    for rule in _flat(rules):
        before = found[-1] if found else None
        if isinstance(before, LayerNorm) and isinstance(rule, Linear):
            found[-1] = Normalised(before, rule)
        elif isinstance(before, Elementwise) and isinstance(rule, Linear):
            found[-1] = Activated(before, rule)
        elif isinstance(before, LayerNorm) and isinstance(rule, SelfAttention):
            found[-1] = _behind(before, rule)
        else:
            found.append(rule)
    return found


def _behind(norm: LayerNorm, attention: SelfAttention) -> SelfAttention:
    both = SelfAttention(attention.name, attention.module, attention.rows)
    both.qkv = Normalised(norm, Linear(attention.key("qkv"), attention.module.qkv))
    return both


def _flat(rules: Iterable[Rule]) -> Iterator[Rule]:
    for rule in rules:
        if isinstance(rule, Sequence):
            yield from _flat(rule.rules)
        elif not isinstance(rule, Identity):
            yield rule

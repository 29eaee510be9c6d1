"""A rule is a layer's pair of passes. The primal pass keeps constants, the tangent pass uses them (TAFT eqs. 5-12).

Legend: B batch. A tangent of ``None`` means exactly zero and costs nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

Saved = Mapping[str, Tensor]  # constants of a batch, by rule and part; every tensor has the batch first


class Selected(Saved):
    """Some pictures of ``pool``, by ``index`` (B,) int64: each constant is gathered when it is first asked for, or not at all.

    Until then neither may be written to, and the pool stays in memory.
    """

    def __init__(self, pool: Saved, index: Tensor) -> None:
        self.pool, self.index = pool, index
        self._gathered: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        value = self._gathered.get(name)
        if value is None:
            value = self._gathered[name] = self.pool[name].index_select(0, self.index)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.pool)

    def __len__(self) -> int:
        return len(self.pool)


def where_it_lies(saved: Saved, name: str) -> tuple[Tensor, Tensor | None]:
    """A constant of more pictures than the batch, and which of them are the batch (None: all): for who need not gather it."""
    return (saved.pool[name], saved.index) if isinstance(saved, Selected) else (saved[name], None)


class Saving(dict[str, Tensor]):
    """Constants in the making.

    ``known``: outputs of layers, by name, of an earlier pass over the same pictures: these are not computed again.
    ``wanted``: the least worth of a layer whose output is noted in ``outputs``, (worth, output) by name; none by default.
    """

    def __init__(self, known: Mapping[str, Tensor] | None = None, *, wanted: float = math.inf) -> None:
        super().__init__()
        self.known: Mapping[str, Tensor] = known or {}
        self.wanted = wanted
        self.outputs: dict[str, tuple[float, Tensor]] = {}

    def seen(self, layer: OfItsInput, output: Tensor) -> None:
        if layer.worth >= self.wanted:
            self.outputs[layer.name] = (layer.worth, output)


class LinearInput(NamedTuple):
    """A trained linear layer's inputs: those of rows ``start:stop`` of ``weight`` (and ``bias``)."""

    weight: str
    bias: str | None
    start: int
    stop: int
    inputs: Tensor  # (B, rows, D_in)


class Rule(ABC):
    """A layer's pair of passes. ``name`` is the module's own name; its parameters are ``name.weight`` and so on."""

    def __init__(self, name: str) -> None:
        self.name = name

    def key(self, part: str) -> str:
        return f"{self.name}.{part}" if self.name else part

    @abstractmethod
    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        """The layer's own output; constants for `tangent` go into ``saved`` under this rule's name."""

    @abstractmethod
    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        """The derivative of the output along (``x_dot``, ``delta``); None when it is zero."""

    def dual(self, x: Tensor, x_dot: Tensor | None, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Both passes in one, which keeps no constants: the output and its tangent."""
        saved = Saving()
        y = self.primal(x, saved)
        return y, self.tangent(x_dot, saved, delta)

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        """The primal inputs of every trained linear layer in here, for Gram statistics."""
        yield from ()


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b where None is zero."""
    if a is None:
        return b
    return a if b is None else a + b


class OfItsInput(Rule):
    """A layer that keeps its input and nothing else. ``worth``: about how many multiply-adds a value of its output takes."""

    worth = 0.0

    @abstractmethod
    def output(self, x: Tensor) -> Tensor: ...

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        saved[self.key("input")] = x
        return self.output_once(x, saved)

    def output_once(self, x: Tensor, saved: Saving) -> Tensor:
        """The output, taken from what is known or computed; the input is kept by whoever calls."""
        y = saved.known.get(self.name)
        if y is None:
            y = self.output(x)
        saved.seen(self, y)
        return y

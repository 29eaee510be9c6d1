"""Linear maps that share one input: queries, keys and values, or gate and value of a gated MLP.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taft_ray.tangent.rule import LinearInput, OfItsInput, Saved, Saving, plus
from taft_ray.tangent.trained import Probes, linear_tangent

if TYPE_CHECKING:
    from taft_ray.tangent.rules import LayerNorm


@dataclass(frozen=True)
class Part:
    """A linear map: rows ``start:stop`` of a weight, and as many rows of a bias from ``bias_start`` on.

    owner: the name of ``module``, which has the parameters ``weight`` and ``bias`` (dotted names). A bias may be a buffer.
    """

    owner: str
    module: nn.Module
    weight: str
    bias: str | None
    start: int
    stop: int
    bias_start: int

    @classmethod
    def of_layer(cls, owner: str, module: nn.Module, layer: str) -> Part:
        """All rows of the linear layer ``layer`` of ``module``."""
        linear: nn.Linear = attrgetter(layer)(module)
        bias = None if linear.bias is None else f"{layer}.bias"
        return cls(owner, module, f"{layer}.weight", bias, 0, linear.out_features, 0)

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def weight_name(self) -> str:
        return f"{self.owner}.{self.weight}"

    @property
    def bias_name(self) -> str:
        """The bias's name; where there is no bias, one that no parameter has."""
        return f"{self.owner}.{self.bias or '-'}"

    def rows_of(self, weight: Tensor) -> Tensor:
        return weight if self.size == len(weight) else weight[self.start : self.stop]

    def shifts_of(self, bias: Tensor) -> Tensor:
        return bias if self.size == len(bias) else bias[self.bias_start : self.bias_start + self.size]

    # read anew each time: `TangentModel.nonlinear` replaces the parameters for a call
    def base_weight(self) -> Tensor:
        return self.rows_of(attrgetter(self.weight)(self.module))

    def base_bias(self) -> Tensor | None:
        return None if self.bias is None else self.shifts_of(attrgetter(self.bias)(self.module))

    def moved_weight(self, delta: Mapping[str, Tensor]) -> Tensor | None:
        """(out, D), None where it is not trained."""
        return self.rows_of(delta[self.weight_name]) if self.weight_name in delta else None

    def moved_bias(self, delta: Mapping[str, Tensor]) -> Tensor | None:
        """(out,), None where it is not trained."""
        return self.shifts_of(delta[self.bias_name]) if self.bias_name in delta else None

    def sites(self, delta: Probes, inputs: Tensor) -> Tensor | None:
        """Probes behind the map: ``inputs`` (B, rows, H, D) -> zeros (B, rows, H, out/H), None if nothing is trained."""
        weight, bias = (name if name in delta else None for name in (self.weight_name, self.bias_name))
        if weight is None and bias is None:
            return None
        if bias is None or (weight is not None and self.bias_start == self.start):
            return delta.site(inputs, self.weight_name, bias, self.start, self.stop)
        at = self.bias_start
        shift = delta.site(inputs, "", bias, at, at + self.size)
        return shift if weight is None else shift + delta.site(inputs, weight, None, self.start, self.stop)

    def linear_input(
        self, inputs: Tensor, trained: frozenset[str], rows: tuple[int, int] | None = None
    ) -> Iterator[LinearInput]:
        """The inputs that the map saw, for Gram statistics. ``rows`` restricts it to some of its rows."""
        first, last = rows or (0, self.size)
        if self.weight_name in trained:
            # a statistic has one range of rows: a bias whose rows lie elsewhere is left to the plain mean
            together = self.bias_name in trained and self.bias_start == self.start
            bias = self.bias_name if together else None
            yield LinearInput(self.weight_name, bias, self.start + first, self.start + last, inputs)


def joined(parts: Sequence[Part], weights: Sequence[Tensor | None]) -> Tensor | None:
    """One tensor of all parts' rows, zero where one is None; None when all are."""
    known = [weight for weight in weights if weight is not None]
    if not known:
        return None
    rest = known[0].shape[1:]
    return torch.cat(
        [known[0].new_zeros(part.size, *rest) if w is None else w for part, w in zip(parts, weights, strict=True)]
    )


class Stacked(OfItsInput):
    """Several linear maps of one input, one after the other in the last axis of the output (eq. 11); the input is kept once.

    Behind a layer norm, given as ``norm``, its n is kept and not γn + β, as in `pairs.Normalised`.
    """

    def __init__(self, name: str, parts: Sequence[Part], norm: LayerNorm | None = None) -> None:
        super().__init__(name)
        self.parts, self.norm = tuple(parts), norm
        self.worth = float(self.parts[0].base_weight().shape[1])

    def _whole(self, name: str) -> Tensor | None:
        """The parameter itself where the parts are all of its rows, in order."""
        first = self.parts[0]
        if getattr(first, name) is None or any(getattr(part, name) != getattr(first, name) for part in self.parts):
            return None
        return attrgetter(getattr(first, name))(first.module)

    def weight(self) -> Tensor:
        whole = self._whole("weight")
        return torch.cat([part.base_weight() for part in self.parts]) if whole is None else whole

    def bias(self) -> Tensor | None:
        whole = self._whole("bias")
        return joined(self.parts, [part.base_bias() for part in self.parts]) if whole is None else whole

    def output(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(), self.bias())

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        if self.norm is None:
            return super().primal(x, saved)
        return self.output_once(self.norm.primal(x, saved), saved)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        x = saved[self.key("input") if self.norm is None else self.norm.key("n")]
        x_dot = x_dot if self.norm is None else self.norm.tangent(x_dot, saved, delta)
        base = self.weight()
        if isinstance(delta, Probes):
            inputs = (x if self.norm is None else self.norm.affine(x)).flatten(1, -2).unsqueeze(2)
            fresh = [part.sites(delta, inputs) for part in self.parts]
            zero = [x.new_zeros(*inputs.shape[:3], part.size) for part in self.parts]
            sites = torch.cat([z if f is None else f for z, f in zip(zero, fresh, strict=True)], -1)
            through = None if x_dot is None else x_dot @ base.T
            return plus(through, sites.view(*x.shape[:-1], -1))
        moved = {}
        weight = joined(self.parts, [part.moved_weight(delta) for part in self.parts])
        bias = joined(self.parts, [part.moved_bias(delta) for part in self.parts])
        if weight is not None and self.norm is not None:
            bias = plus(bias, None if self.norm.beta is None else weight @ self.norm.beta)
            weight = weight if self.norm.gamma is None else weight * self.norm.gamma
        moved = {name: value for name, value in (("weight", weight), ("bias", bias)) if value is not None}
        return linear_tangent(moved, "weight", "bias", x, x_dot, base)

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        if any(part.weight_name in trained for part in self.parts):
            x = saved[self.key("input")] if self.norm is None else self.norm.affine(saved[self.norm.key("n")])
            rows = x.reshape(len(x), -1, x.shape[-1])
            for part in self._merged():
                yield from part.linear_input(rows, trained)

    def _merged(self) -> Sequence[Part]:
        """One part where all are rows of one weight and bias, in order: they share one Gram matrix."""
        first, last = self.parts[0], self.parts[-1]
        if len(self.parts) == 1 or any((part.weight, part.bias) != (first.weight, first.bias) for part in self.parts):
            return self.parts
        whole = Part(first.owner, first.module, first.weight, first.bias, first.start, last.stop, first.bias_start)
        return (whole,)

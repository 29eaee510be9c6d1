"""Δw: the one thing that is trained, stored, composed and subtracted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from taft_ray.errors import DeltaMismatch


class Delta(Mapping[str, Tensor]):
    """An immutable mapping from the model's own parameter names to tensors of the parameters' shapes: a vector space.

    Guarantees: ``+``, ``-``, ``dot`` refuse deltas of other names or shapes (DeltaMismatch); the order of names never
    matters to a result.

    Examples:
        >>> delta = tr.Delta({"head.weight": torch.ones(2, 8), "head.bias": torch.zeros(2)})
        >>> delta - 3 * delta
        Delta(2 tensors, 18 values, norm 8)

        The methods' examples go on with this delta.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {name: tensors[name] for name in sorted(tensors)}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Delta({len(self)} tensors, {self.numel():,} values, norm {float(self.norm()):.4g})"

    def check_like(self, other: Mapping[str, Tensor], *, what: str = "delta") -> None:
        """Raise DeltaMismatch unless ``other`` has these names with these shapes.

        Examples:
            >>> delta.check_like({"head.weight": torch.ones(2, 8)})
            Traceback (most recent call last):
                ...
            taft_ray.errors.DeltaMismatch: delta: missing ['head.bias'], unexpected []; ...
        """
        missing, extra = sorted(self.keys() - other.keys()), sorted(other.keys() - self.keys())
        if missing or extra:
            raise DeltaMismatch(f"{what}: missing {missing}, unexpected {extra}; both must come from one linearisation")
        for name, tensor in self.items():
            if tensor.shape != other[name].shape:
                raise DeltaMismatch(f"{what}: {name} is {tuple(other[name].shape)}, expected {tuple(tensor.shape)}")

    def map(self, function: Callable[[Tensor], Tensor]) -> Delta:
        """The delta of the function's values, tensor by tensor.

        Examples:
            >>> delta.map(torch.zeros_like)
            Delta(2 tensors, 18 values, norm 0)
        """
        return Delta({name: function(tensor) for name, tensor in self.items()})

    def __add__(self, other: Mapping[str, Tensor]) -> Delta:
        self.check_like(other)
        return Delta({name: tensor + other[name] for name, tensor in self.items()})

    def __sub__(self, other: Mapping[str, Tensor]) -> Delta:
        self.check_like(other)
        return Delta({name: tensor - other[name] for name, tensor in self.items()})

    def __mul__(self, factor: float | Tensor) -> Delta:
        return self.map(lambda tensor: tensor * factor)

    __rmul__ = __mul__

    def __truediv__(self, factor: float | Tensor) -> Delta:
        return self.map(lambda tensor: tensor / factor)

    def __neg__(self) -> Delta:
        return self * -1.0

    def dot(self, other: Mapping[str, Tensor]) -> Tensor:
        """Inner product over all values, accumulated in float64; a scalar tensor.

        Examples:
            >>> delta.dot(2 * delta)
            tensor(32., dtype=torch.float64)
        """
        self.check_like(other)
        if not self._tensors:
            return torch.zeros((), dtype=torch.float64)
        # float64 sums of each tensor's float32 product: CG's step lengths come from here
        products = [
            torch.dot(tensor.flatten().double(), other[name].flatten().double()) for name, tensor in self.items()
        ]
        return torch.stack(products).sum()

    def norm(self) -> Tensor:
        """‖Δw‖ over all values, in float64; a scalar tensor.

        Examples:
            >>> delta.norm()
            tensor(4., dtype=torch.float64)
        """
        return self.dot(self).sqrt()

    def numel(self) -> int:
        """The number of values in all tensors together.

        Examples:
            >>> delta.numel()
            18
        """
        return sum(math.prod(tensor.shape) for tensor in self.values())

    def to(self, *args: Any, **kwargs: Any) -> Delta:
        """The delta on another device or in another type, by the arguments of `torch.Tensor.to`.

        Examples:
            >>> delta.to(torch.float16)["head.bias"].dtype
            torch.float16
        """
        return self.map(lambda tensor: tensor.to(*args, **kwargs))


def at_least_float32(values: Tensor) -> Tensor:
    """The type that Δw and sums of logits have, whatever the network computes in."""
    return values.float() if values.itemsize < 4 else values

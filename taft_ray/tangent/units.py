"""The parts of a cut: the units of a network, in order, and the two halves they are parted into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from taft_ray.errors import UsageError
from taft_ray.tangent.rules import Sequence


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A model cut in two. ``units`` are the trained modules' names, ``heads`` those of the classifier alone."""

    prefix: Callable[[Tensor], Tensor]
    suffix: Sequence
    units: tuple[str, ...]
    heads: tuple[str, ...]
    class_token_rows: int | None  # rows of a class-token tangent at the suffix entrance; None: there is no class token
    first_rows_only: bool  # the suffix reads only those rows of a tangent (the short cut)


class Units(Protocol):
    """The units that ``last_blocks`` counts in one network."""

    names: tuple[str, ...]  # the modules, in order
    noun: str

    def cut(self, first: int) -> Cut:
        """The network cut in front of the unit of that number; behind the last one for their count."""
        ...

    def between(self, first: int, last: int) -> Callable[[Tensor], Tensor]:
        """The units ``first:last``: tokens at the one entrance -> at the other."""
        ...


def first_trained(last_blocks: int | str, units: Units) -> int:
    """The number of the first trained unit."""
    available = len(units.names)
    count = available if last_blocks == "all" else last_blocks
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= available:
        raise UsageError(
            f'last_blocks={last_blocks!r}: expected "all" or 0..{available} (this model has {available} {units.noun})'
        )
    return available - count


def chain(modules: list[nn.Module]) -> Callable[[Tensor], Tensor]:
    """One module after the other."""

    def run(x: Tensor) -> Tensor:
        for module in modules:
            x = module(x)
        return x

    return run

"""What an epoch reads: the constants of each picture in the tangent suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

PREPARE_CHUNK = 128  # pictures a prepare call: part of what fixes the last bits of a delta
PREPARED_BUDGET = 4 << 30  # bytes of constants kept in memory; beyond it they are recomputed batch by batch


class Prepared:
    """Per-picture constants, the batch first; ``prepared[index]`` with a LongTensor or a slice selects pictures."""

    def __init__(self, primal: Tensor, saved: dict[str, Tensor], token_count: int) -> None:
        self.primal = primal  # (B, K): f_w(x)
        self.saved = saved
        self.token_count = token_count

    def __len__(self) -> int:
        return len(self.primal)

    def __getitem__(self, index: Tensor | slice) -> Prepared:
        if isinstance(index, slice):
            return self._each(lambda value: value[index])
        where = index.to(self.primal.device)
        return self._each(lambda value: value.index_select(0, where))  # copies whole pictures: faster than value[index]

    def _each(self, function: Callable[[Tensor], Tensor]) -> Prepared:
        saved = {name: function(value) for name, value in self.saved.items()}
        return Prepared(function(self.primal), saved, self.token_count)

    def to(self, *args: Any, **kwargs: Any) -> Prepared:
        return self._each(lambda value: value.to(*args, **kwargs))

    def nbytes(self) -> int:
        """Bytes of the distinct tensors held."""
        storages = {
            value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in self.saved.values()
        }
        return sum(storages.values())


class Pictures(Protocol):
    """What a solver needs: `Prepared`, or something that prepares a batch when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor | slice) -> Prepared: ...


class Recomputed:
    """Prepares each batch when it is asked for: for suffixes whose constants do not fit into memory.

    ``tokens`` may be memory-mapped; only the batch is read.
    """

    def __init__(self, prepare: Callable[[Tensor], Prepared], tokens: Tensor) -> None:
        self._prepare, self._tokens = prepare, tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: Tensor | slice) -> Prepared:
        return self._prepare(self._tokens[index])


def batches(pictures: Pictures, size: int) -> Iterator[tuple[slice, Prepared]]:
    """Consecutive batches of at most ``size`` pictures, in order; the whole of it, uncopied, if it fits into one."""
    if len(pictures) <= size and isinstance(pictures, Prepared):
        yield slice(0, len(pictures)), pictures
        return
    for start in range(0, len(pictures), size):
        part = slice(start, min(start + size, len(pictures)))
        yield part, pictures[part]


def concatenate(parts: list[Prepared]) -> Prepared:
    """One Prepared of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    saved = {name: torch.cat([part.saved[name] for part in parts]) for name in parts[0].saved}
    return Prepared(torch.cat([part.primal for part in parts]), saved, parts[0].token_count)


def prepare_pictures(prepare: Callable[[Tensor], Prepared], tokens: Tensor, sizes: Sequence[int] = ()) -> Pictures:
    """Constants of all pictures in memory while they fit the budget, else recomputed batch by batch.

    sizes: of consecutive groups (slices); no pass has pictures of two, so that the last bits of a group's constants
        do not depend on the others. One group by default.
    """
    passes: list[slice] = []
    for size in sizes or (len(tokens),):
        at = passes[-1].stop if passes else 0
        passes += [slice(i, min(i + PREPARE_CHUNK, at + size)) for i in range(at, at + size, PREPARE_CHUNK)]
    first = prepare(tokens[passes[0]])
    if first.nbytes() / len(first) * len(tokens) > PREPARED_BUDGET:
        return Recomputed(prepare, tokens)
    return concatenate([first, *(prepare(tokens[part]) for part in passes[1:])])

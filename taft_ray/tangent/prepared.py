"""The data that an epoch reads: the constants of each picture in the tangent suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from taft_ray.tangent.options import PREPARED_BUDGET
from taft_ray.tangent.rule import Saved, Selected

PREPARE_CHUNK = 128  # pictures a prepare call: part of what fixes the last bits of a delta
RECOMPUTE_CHUNK = 32  # the same where constants are too many to be kept: then those of a pass are many, too


class Prepared:
    """Per-picture constants, the batch first; ``prepared[index]`` with a LongTensor or a slice selects pictures.

    Examples:
        >>> tm = tr.linearize("test_vit", num_classes=3)
        >>> prepared = tm.prepare(tm.prefix(torch.randn(8, 3, 160, 160)))
        >>> len(prepared), len(prepared[2:5]), len(prepared[torch.tensor([7, 0])])
        (8, 3, 2)

        The methods' examples go on with these pictures.
    """

    def __init__(self, primal: Tensor, saved: Saved, token_count: int) -> None:
        self.primal = primal  # (B, K): f_w(x)
        self.saved = saved
        self.token_count = token_count

    def __len__(self) -> int:
        return len(self.primal)

    def __getitem__(self, index: Tensor | slice) -> Prepared:
        if isinstance(index, Tensor):
            index = index.to(self.primal.device)
        if isinstance(self.saved, Selected):  # of the pool: of the pictures that are left out nothing is gathered
            saved: Saved = Selected(self.saved.pool, _rows(self.saved.index, index))
        elif isinstance(index, Tensor):
            saved = Selected(self.saved, index)
        else:
            saved = {name: value[index] for name, value in self.saved.items()}
        return Prepared(_rows(self.primal, index), saved, self.token_count)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Prepared:
        saved = {name: function(value) for name, value in self.saved.items()}
        return Prepared(function(self.primal), saved, self.token_count)

    def to(self, *args: Any, **kwargs: Any) -> Prepared:
        """The constants on another device or in another type, by the arguments of `torch.Tensor.to`.

        Examples:
            >>> prepared.to(torch.bfloat16).primal.dtype
            torch.bfloat16
        """
        return self._each(lambda value: value.to(*args, **kwargs))

    def nbytes(self) -> int:
        """Bytes of the distinct tensors held.

        Examples:
            >>> prepared.nbytes() < 2**20
            True
        """
        saved = self.saved.pool if isinstance(self.saved, Selected) else self.saved
        storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in saved.values()}
        return sum(storages.values())


def _rows(values: Tensor, index: Tensor | slice) -> Tensor:
    return values[index] if isinstance(index, slice) else values.index_select(0, index)


class Pictures(Protocol):
    """The pictures that a solver needs: `Prepared`, or something that prepares a batch when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor | slice) -> Prepared: ...


class Preparing(Protocol):
    """The maker of pictures' constants: `TangentModel`, or another function of the same tokens."""

    def prepare(self, tokens: Tensor, known: Mapping[str, Tensor] | None = None) -> Prepared: ...

    def layer_outputs(self, tokens: Tensor) -> dict[str, Tensor]: ...


class Recomputed:
    """Prepares each batch when it is asked for: for suffixes whose constants do not fit into memory.

    ``tokens`` may be memory-mapped; only the batch is read. ``rows``: which of them, in this order; all by default.
    ``known``: outputs of some of the layers for these rows, which are then not computed again.
    """

    def __init__(
        self, model: Preparing, tokens: Tensor, rows: Tensor | None = None, known: Mapping[str, Tensor] | None = None
    ) -> None:
        self._model, self._tokens = model, tokens
        self._rows = torch.arange(len(tokens)) if rows is None else rows
        self._known = known or {}

    @property
    def kept(self) -> int:
        """The number of layers whose outputs are kept."""
        return len(self._known)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor | slice) -> Prepared:
        where = index if isinstance(index, slice) else index.to(self._rows.device)
        known = {name: _take(output, index) for name, output in self._known.items()}
        return self._model.prepare(self._tokens[self._rows[where]], known)


def _take(values: Tensor, index: Tensor | slice) -> Tensor:
    if isinstance(index, slice):
        return values[index]
    return values.index_select(0, index.to(values.device))  # copies whole pictures: faster than values[index]


def batches(pictures: Pictures, size: int) -> Iterator[tuple[slice, Prepared]]:
    """Consecutive batches of at most ``size`` pictures, in order; the whole of it, uncopied, if it fits into one.

    A batch of recomputed pictures has at most `RECOMPUTE_CHUNK`.
    """
    if not isinstance(pictures, Prepared):
        size = min(size, RECOMPUTE_CHUNK)
    elif len(pictures) <= size:
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


def prepare_pictures(
    model: Preparing,
    tokens: Tensor,
    rows: Tensor | None = None,
    *,
    sizes: Sequence[int] = (),
    budget: int | None = None,
) -> Pictures:
    """Constants of all pictures: in memory while they fit the budget, else recomputed batch by batch.

    Where they are recomputed, the outputs of as many layers as fit are kept, those first that save most per byte.

    ``rows``: which of the tokens, in this order; all by default. ``budget``: bytes, `PREPARED_BUDGET` by default.
    ``sizes``: of consecutive groups (slices), one group by default. No pass has pictures of two groups, so that the last bits
        of a group's constants do not depend on the others.
    """
    rows = torch.arange(len(tokens)) if rows is None else rows
    budget = PREPARED_BUDGET if budget is None else budget
    groups = rows.split(list(sizes or (len(rows),)))
    if model.prepare(tokens[rows[:1]]).nbytes() * len(rows) <= budget:
        return _prepared(model, tokens, _passes(groups, PREPARE_CHUNK))
    return Recomputed(model, tokens, rows, _kept_outputs(model, tokens, groups, rows[:1], budget))


def _prepared(model: Preparing, tokens: Tensor, passes: Sequence[Tensor]) -> Prepared:
    """Constants of all passes, in order: as `concatenate` gives them, without holding them twice meanwhile."""
    if len(passes) <= 1:
        return concatenate([model.prepare(tokens[part]) for part in passes])
    count = sum(map(len, passes))
    whole, at = None, 0
    for part in passes:
        one = model.prepare(tokens[part])
        if whole is None:
            whole = one._each(lambda value: _room(value, count))
        whole.primal[at : at + len(part)] = one.primal
        for name, value in whole.saved.items():
            value[at : at + len(part)] = one.saved[name]
        at += len(part)
    assert whole is not None  # there are two passes or more
    return whole


def _room(value: Tensor, count: int) -> Tensor:
    """Memory for as many pictures as ``count``, in the order of axes that torch.cat would give."""
    pictures = value.ndim == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if pictures else torch.contiguous_format
    return torch.empty(count, *value.shape[1:], dtype=value.dtype, device=value.device, memory_format=order)


def _kept_outputs(
    model: Preparing, tokens: Tensor, groups: Sequence[Tensor], one: Tensor, budget: int
) -> dict[str, Tensor]:
    """`Preparing.layer_outputs` of all pictures: the first ones that fit into the budget together. one: the number of any picture."""
    count = sum(map(len, groups))
    kept: dict[str, Tensor] = {}
    for name, output in model.layer_outputs(tokens[one]).items():
        budget -= output.nbytes * count
        if budget < 0:
            break
        kept[name] = output.new_empty(count, *output.shape[1:])
    at = 0
    for part in _passes(groups, RECOMPUTE_CHUNK) if kept else ():
        outputs = model.layer_outputs(tokens[part])
        for name, values in kept.items():
            values[at : at + len(part)] = outputs[name]
        at += len(part)
    return kept


def _passes(groups: Sequence[Tensor], size: int) -> list[Tensor]:
    return [part for group in groups for part in group.split(size) if len(part)]

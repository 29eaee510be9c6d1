"""Gradients of all units at a Δw, a block of pictures at a time.

They come from the Jacobian's rows in memory, or by a pass through the network.

Legend: B pictures, K classes, W values of the derivatives at all places of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent.kernel import MOST_ROWS, jacobian_rows
from taft_ray.tangent.model import TangentModel
from taft_ray.tangent.prepared import RECOMPUTE_CHUNK, Pictures, Prepared
from taft_ray.tangent.trained import Probes
from taft_ray.tangent.unit_gradients import Inputs, Layout, UnitGradients

KEPT = 512  # pictures of a block whose rows are in memory: many, so that a part of the sum stays in the cache meanwhile
PASS = 64  # pictures of a pass through the network where only a row or two of each are read
SLICE = 16  # pictures whose rows are read for J·Δ and then, out of the cache, for Jᵀr

Residual = Callable[[Tensor, Tensor], Tensor]
"""(J·Δ (B, K), the pictures' numbers (B,)) -> (B, K)."""


class Block(NamedTuple):
    """Pictures ``index`` (B,) int64, ``size`` consecutive ones being a unit, or a piece of a unit larger than a block."""

    index: Tensor
    size: int
    first: bool = True
    last: bool = True


class UnitPasses(Protocol):
    """Gradients of all units: each block once, in a fixed order."""

    layout: Layout

    def __call__(self, delta: Mapping[str, Tensor], residual: Residual) -> Iterator[tuple[Block, UnitGradients]]: ...


def unit_passes(tm: TangentModel, pictures: Pictures, units: Tensor | None, budget: int) -> UnitPasses:
    """The gradients of some pictures (at least one). units: the number of each picture's unit; each its own by default.

    budget: bytes that the Jacobian's rows may take, beside the pictures' constants in memory. Where they are more, or layers see more
    than `MOST_ROWS` tokens, each call passes through the network. UnsupportedModel where a gradient does not come apart into pictures.
    """
    layout, inputs = _layout(tm, pictures)
    values = len(pictures) * (tm.num_classes * layout.width + inputs)
    held = pictures.nbytes() if isinstance(pictures, Prepared) else 0
    if layout.site_rows <= MOST_ROWS and values * tm.dtype.itemsize + held <= budget:
        return KeptRows(tm, pictures, layout, blocks(len(pictures), units, KEPT))
    return NetworkPasses(tm, pictures, layout, blocks(len(pictures), units, _pass_size(layout, pictures)))


def blocks(count: int, units: Tensor | None, most: int) -> list[Block]:
    """All pictures in blocks of at most ``most``: units of one size together, the smallest first, in the order of their numbers."""
    if units is None:
        return [Block(index, 1) for index in torch.arange(count).split(most)]
    _, unit_of, sizes = torch.unique(units.cpu(), return_inverse=True, return_counts=True)
    order = unit_of.argsort(stable=True)
    starts = sizes.cumsum(0) - sizes
    found = []
    for size in torch.unique(sizes).tolist():
        rows = order[(starts[sizes == size][:, None] + torch.arange(size))]  # (units, size)
        if size <= most:
            found += [Block(part.flatten(), size) for part in rows.split(max(1, most // size))]
            continue
        for unit in rows:
            pieces = unit.split(most)
            found += [
                Block(piece, len(piece), first=number == 0, last=number == len(pieces) - 1)
                for number, piece in enumerate(pieces)
            ]
    return found


class KeptRows:
    """Jacobian rows of all pictures, in memory. A call reads them, and never a token."""

    def __init__(self, tm: TangentModel, pictures: Pictures, layout: Layout, plan: Sequence[Block]) -> None:
        self.layout = layout
        self._kept = [(block, *self._rows(tm, pictures, block)) for block in plan]

    def _rows(self, tm: TangentModel, pictures: Pictures, block: Block) -> tuple[Tensor, Inputs]:
        """Derivatives of the outputs (B, K, W), and the inputs."""
        outputs: Tensor | None = None
        inputs: list[list[Tensor]] = []
        for start in range(0, len(block.index), PASS):
            part = slice(start, start + PASS)
            (rows,) = jacobian_rows(tm, [_selected(pictures, block.index[part])])
            flat = self.layout.flat([factor.outputs for factor in rows.factors], rows.vectors)
            if outputs is None:
                outputs = flat.new_empty(len(block.index), *flat.shape[1:])
            outputs[part] = flat
            inputs.append(self.layout.inputs([factor.inputs for factor in rows.factors]))
        assert outputs is not None  # a block has pictures
        joined = [torch.cat(parts) for parts in zip(*inputs, strict=True)]
        return outputs, Inputs(self.layout, joined, block.size, len(outputs), outputs.device)

    def __call__(self, delta: Mapping[str, Tensor], residual: Residual) -> Iterator[tuple[Block, UnitGradients]]:
        for block, outputs, inputs in self._kept:
            products = self.layout.products(delta, inputs.tensors).expand(len(outputs), -1)
            back = torch.empty_like(products, memory_format=torch.contiguous_format)
            for start in range(0, len(outputs), SLICE):
                part = slice(start, start + SLICE)
                cotangent = residual(_each_product(outputs[part], products[part]), block.index[part])
                torch.bmm(cotangent[:, None], outputs[part], out=back[part, None])
            yield block, UnitGradients(inputs, back)


def _each_product(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(B, K, W), (B, W) -> (B, K)."""
    if matrices.is_cuda:
        return torch.bmm(matrices, vectors[:, :, None])[:, :, 0]
    return torch.stack(
        [matrix @ vector for matrix, vector in zip(matrices, vectors, strict=True)]
    )  # bmm: 6 times as long


class NetworkPasses:
    """A pass through the suffix and back for each block. One derivative stands for all classes, so K takes no memory."""

    def __init__(self, tm: TangentModel, pictures: Pictures, layout: Layout, plan: Sequence[Block]) -> None:
        self.tm, self.pictures, self.layout, self._plan = tm, pictures, layout, plan

    def __call__(self, delta: Mapping[str, Tensor], residual: Residual) -> Iterator[tuple[Block, UnitGradients]]:
        for block in self._plan:
            with torch.enable_grad():
                probes = Probes(delta, len(block.index), at=delta)
                out = self.tm.tangent(_selected(self.pictures, block.index), probes)
                leaves = [site.probe for site in probes.sites] + list(probes.vectors.values())
                grads = torch.autograd.grad(out, leaves, residual(out.detach(), block.index), allow_unused=True)
            found = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True)]
            back = self.layout.flat(found, dict(zip(probes.vectors, found[len(probes.sites) :], strict=True)))
            tensors = self.layout.inputs([site.inputs for site in probes.sites])
            yield block, UnitGradients(Inputs(self.layout, tensors, block.size, len(back), back.device), back)


class SampledPasses:
    """Gradients of some of the units, of others each time: nothing is read, and nothing kept, of those that are not asked for.

    count: units. Arguments as those of `unit_passes`; at least one picture.
    """

    def __init__(self, tm: TangentModel, pictures: Pictures, units: Tensor | None) -> None:
        self.tm, self.pictures = tm, pictures
        self.layout, _ = _layout(tm, pictures)
        self._alone = units is None
        if units is None:
            self._unit_of = torch.arange(len(pictures))
        else:
            self._unit_of = torch.unique(units.cpu(), return_inverse=True)[1]
        self.count = int(self._unit_of.max()) + 1
        self._most = _pass_size(self.layout, pictures)

    def of(self, chosen: Tensor) -> NetworkPasses | None:
        """Passes over the pictures of the chosen units alone; None for nobody. chosen: (units,) bool, in the order of their numbers."""
        index = chosen[self._unit_of].nonzero()[:, 0]
        if not len(index):
            return None
        plan = blocks(len(index), None if self._alone else self._unit_of[index], self._most)
        return NetworkPasses(
            self.tm, self.pictures, self.layout, [block._replace(index=index[block.index]) for block in plan]
        )


def _pass_size(layout: Layout, pictures: Pictures) -> int:
    """Pictures of a pass through the network."""
    return PASS if layout.site_rows <= MOST_ROWS and isinstance(pictures, Prepared) else RECOMPUTE_CHUNK


def _selected(pictures: Pictures, index: Tensor) -> Prepared:
    """Pictures ``index`` (B,): consecutive ones are not copied."""
    first, last = int(index[0]), int(index[-1])
    follow_each_other = last - first + 1 == len(index) and bool((index.diff() == 1).all())
    return pictures[slice(first, last + 1) if follow_each_other else index]


def _layout(tm: TangentModel, pictures: Pictures) -> tuple[Layout, int]:
    """How derivatives lie in W, and how many values a picture's inputs have."""
    probes = Probes(tm.zero_delta(), 1)
    try:
        tm.tangent(pictures[torch.zeros(1, dtype=torch.int64)], probes)
    except UnsupportedModel as error:
        raise UnsupportedModel(
            f"a private fit needs the gradient of each picture: {error}. Train less of the network (trainable='head', fewer "
            "last blocks), or use one whose layers have rules (docs/reference/models.md)"
        ) from error
    shapes = [(site.entry, tuple(site.probe.shape[1:])) for site in probes.sites]
    layout = Layout(shapes, {name: probe.shape[1] for name, probe in probes.vectors.items()})  # type: ignore[arg-type]
    return layout, sum(values.numel() for values in layout.inputs([site.inputs for site in probes.sites]))

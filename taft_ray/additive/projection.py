"""R: the fixed projection of sites to S numbers, from names and a seed.

Each group has a matrix of its own, with orthonormal rows, times sqrt(width / kept): vectors keep their length on average.
Rows of the groups take turns, so that the first S' numbers are a projection of all groups as well. The first rows of each group's
matrix are orthonormal too. Their scale is that of all rows, which λ makes up for.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor

from taft_ray.additive.settings import turns
from taft_ray.additive.sites import Group, Sites
from taft_ray.errors import UsageError
from taft_ray.tangent.model import seeded_normal

LENGTH = 0.9  # of a picture on average; a projection lengthens some, and 1 must not be passed


class Projection:
    """a(x) = R z(x) for the groups of ``sites``.

    Guarantees: R depends on the groups' names and sizes and on ``seed`` alone; its bits do not depend on threads. On
    another machine R is the same to the rounding of one QR factorisation in float64.
    """

    def __init__(self, sites: Sites, seed: int = 0) -> None:
        self.sites, self.seed = sites, seed
        with _one_torch_thread() as pool:
            self._matrices = list(pool.map(self._matrix, sites.groups))
        kept = [group.kept for group in sites.groups]
        starts = list(accumulate(kept, initial=0))
        self._order = torch.tensor([starts[group] + row for group, row in turns(kept)])

    @property
    def size(self) -> int:
        """S."""
        return self.sites.size

    @property
    def digest(self) -> str:
        """Names the rows: sums of rows of another projection or other sites are refused by it."""
        said = json.dumps(["additive-1", self.seed, LENGTH, self.sites.to_json()], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def matrix(self, group: int) -> Tensor:
        """(kept, width) with orthonormal rows, float64, without its scale."""
        described = self.sites.groups[group]
        return self._matrices[group] / _scale(described)

    def __call__(self, vectors: Sequence[Tensor]) -> Tensor:
        """(n, width) of each group -> a, (n, S) float64. Longer than 1 is possible here; `to_rows` sees to that."""
        widths = [vector.shape[1] for vector in vectors]
        if widths != [group.width for group in self.sites.groups]:
            raise UsageError(f"vectors of widths {widths}: expected {[group.width for group in self.sites.groups]}")
        device = vectors[0].device
        # float64: the grid of the rows is far coarser than what threads and libraries make of the last bits
        with torch.autocast(device.type, enabled=False):
            parts = [
                vector.double() @ matrix.to(device).T for vector, matrix in zip(vectors, self._matrices, strict=True)
            ]
        return torch.cat(parts, dim=1)[:, self._order.to(device)]

    def back(self, a: Tensor) -> list[Tensor]:
        """a, (n, S) float64 -> the site vectors that it was made of, (n, width) of each group.

        Each R is orthogonal where all numbers are kept, and its transpose undoes it. UsageError where some were left out.
        """
        if any(group.kept != group.width for group in self.sites.groups):
            raise UsageError(f"{self.size} of {self.sites.width} numbers are kept: site vectors need all of them")
        sorted_back = torch.empty_like(a).index_copy_(1, self._order, a)
        parts = sorted_back.split([group.kept for group in self.sites.groups], dim=1)
        return [
            part @ self.matrix(number) / _scale(group)
            for number, (group, part) in enumerate(zip(self.sites.groups, parts, strict=True))
        ]

    def _matrix(self, group: Group) -> Tensor:
        if group.kept > group.width:
            raise UsageError(f"{group.name}: {group.kept} of {group.width} numbers cannot be kept; lower the size")
        shape = torch.Size((group.width, group.kept))
        name = f"additive|{group.name}|{','.join(group.members)}"
        gaussian = seeded_normal(shape, std=1.0, seed=self.seed, name=name).double()
        factor, triangle = torch.linalg.qr(gaussian)
        # LAPACK leaves each direction's sign open
        return (factor * torch.sign(triangle.diagonal())).T.contiguous() * _scale(group)


def _scale(group: Group) -> float:
    members = len(group.members)
    return LENGTH * math.sqrt(group.weight / members * group.width / group.kept)


@contextmanager
def _one_torch_thread() -> Iterator[ThreadPoolExecutor]:
    """A pool whose task computes on one thread of torch; torch's setting, which is the process's, is put back afterwards."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)

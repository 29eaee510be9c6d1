"""Composition: exact sums over shards, and the three models that are functions of them: mean, Gram and joint composition.

    mean   Δw = Σ wᵢΔwᵢ / Σ wᵢ                                   (TAFT eq. 13: equal to output ensembling)
    gram   ΔW = (Σ ΔWᵢAᵢ + e Σ wᵢΔWᵢ)(Σ Aᵢ + e Σ wᵢ I)⁻¹          (tangent.md §6; keys, norms and biases alone: the mean)
    joint  all layers at once, as `joint` says                  (keys and norms: the mean)

with e = ε · mean diag(Σ Aᵢ) / Σ wᵢ. Every sum is an integer sum on a fixed grid, so a shard can be added and subtracted
exactly. The composed model is a deterministic function of the sums.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taft_ray.errors import DeltaMismatch, UsageError
from taft_ray.sums.fixed_point import DELTA_BITS, GRAM_BITS, from_grid, largest, reach, to_grid
from taft_ray.sums.options import COMPOSITIONS, DEFAULT_EPSILON, JOINT_PENALTY
from taft_ray.sums.packed import lower_triangle, pack
from taft_ray.sums.totals import OF_DELTA, Totals
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.gram import GramLayer

if TYPE_CHECKING:
    from taft_ray.tangent.model import TangentModel
    from taft_ray.tangent.prepared import Pictures

ROWS = 256  # of a layer's ΔW a solve: part of what fixes the last bits of a composition
_DELTA, _GRAM, _CROSS, _JOINT = OF_DELTA, "gram/", "cross/", "joint/"


def statistics_for(
    compose: str, tm: TangentModel, pictures: Pictures, delta: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """The statistics that a shard keeps beside its delta for this composition, float64 on the CPU; None for the mean.

    Raises UnsupportedModel for "joint" where a trained layer sees more tokens than the class token's.
    """
    if compose == "gram":
        return {name: matrix.cpu() for name, matrix in tm.gram(pictures).items()}
    if compose == "joint":
        from taft_ray.sums.joint import joint_statistics

        return {_JOINT + name: value for name, value in joint_statistics(tm, pictures, delta).items()}
    return None


def shard_terms(delta: Mapping[str, Tensor], statistics: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A shard's contribution to the sums, rounded once to the grids: int64 tensors by name.

    ``delta/<parameter>``. With Gram statistics also ``gram/<layer>`` (upper triangle, packed) and ``cross/<layer>`` = ΔW·A,
    and with joint ones ``joint/…``. From here on this rounded delta *is* the shard's delta.
    """
    terms = {_DELTA + name: to_grid(value, DELTA_BITS, what=name) for name, value in sorted(delta.items())}
    for key, matrix in sorted((statistics or {}).items()):
        if key.startswith(_JOINT):
            terms[key] = to_grid(matrix, GRAM_BITS, what=key)
            continue
        layer = GramLayer.parse(key)
        grid = to_grid(matrix, GRAM_BITS, what=f"Gram matrix of {key}")
        size = len(grid)
        absent = [name for name in (layer.weight, layer.bias) if name and name not in delta]
        if absent:
            raise DeltaMismatch(f"Gram statistics of {absent}, which the delta lacks; take both from one linearisation")
        rows = _augmented({name: terms[_DELTA + name] for name in (layer.weight, layer.bias) if name}, layer)
        if rows.shape[1] != size:
            raise DeltaMismatch(f"the Gram matrix of {key} has {size} rows, expected {rows.shape[1]}")
        cross = from_grid(rows, DELTA_BITS) @ from_grid(grid, GRAM_BITS)
        terms[_GRAM + key] = pack(grid)
        terms[_CROSS + key] = to_grid(cross, GRAM_BITS, what=f"ΔW·A of {key}")
    return terms


def terms_to_delta(terms: Mapping[str, Tensor], dtype: torch.dtype = torch.float64) -> Delta:
    """The shard's delta, as rounded."""
    return Delta(
        {
            name[len(_DELTA) :]: from_grid(v, DELTA_BITS).to(dtype)
            for name, v in terms.items()
            if name.startswith(_DELTA)
        }
    )


def _augmented(tensors: Mapping[str, Tensor], layer: GramLayer) -> Tensor:
    """[ΔW, Δb] of the layer's rows."""
    rows = tensors[layer.weight][layer.start : layer.stop]
    if layer.bias is None:
        return rows
    return torch.cat([rows, tensors[layer.bias][layer.start : layer.stop, None]], dim=1)


class Sums(Totals):
    """`Totals` of tensors, on whatever device, and what they compose to."""

    @classmethod
    def of(cls, totals: Totals) -> Sums:
        """These totals as tensors, without a copy: nothing may be added."""
        sums = cls()
        with warnings.catch_warnings():
            # memory that processes share is read-only, and composing writes to no total
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            sums.totals = {name: torch.from_numpy(total) for name, total in totals.totals.items()}
        sums.weight, sums.count = totals.weight, totals.count
        return sums

    def _zeros_like(self, term: Tensor) -> Tensor:
        return torch.zeros_like(term)

    def _largest(self, term: Tensor) -> int:
        return largest(term)

    def _reach(self, total: Tensor, term: Tensor, factor: int) -> int:
        return reach(total, term, factor)

    def _add(self, total: Tensor, term: Tensor, factor: int) -> None:
        total.add_(term, alpha=factor)

    def mean(self) -> Delta:
        """Σ wᵢΔwᵢ / Σ wᵢ in float64; DeltaMismatch when there is no shard."""
        self._need_shards()
        return Delta(
            {
                name[len(_DELTA) :]: from_grid(total, DELTA_BITS).div_(self.weight)
                for name, total in self.totals.items()
                if name.startswith(_DELTA)
            }
        )

    def gram(self, epsilon: float = DEFAULT_EPSILON, workers: int = 1) -> Delta:
        """The Gram composition in float64; layers without statistics are the mean. Needs terms with statistics.

        workers: layers solved at once, each on one thread.

        Guarantees: the bits do not depend on ``workers``, nor on the threads that torch uses elsewhere.
        """
        if not epsilon > 0:
            raise UsageError(f"epsilon={epsilon}: expected > 0")
        composed = self.mean()
        keys = [name[len(_GRAM) :] for name in self.totals if name.startswith(_GRAM)]
        if not keys:
            raise DeltaMismatch("the shards carry no Gram statistics; compose by mean, or fit with statistics")
        keys.sort(key=lambda key: -self.totals[_GRAM + key].numel())  # the longest must not start last
        with _single_threads(workers) as pool:
            factors = pool.map(partial(self._factor, epsilon), keys)
            solved = []
            for key, (factor, e) in zip(keys, factors, strict=True):
                rows = self.totals[_CROSS + key].shape[0]
                solved += [
                    (key, at, pool.submit(self._solve, key, slice(at, min(at + ROWS, rows)), factor, e))
                    for at in range(0, rows, ROWS)
                ]
            for key, at, answer in solved:
                layer, part = GramLayer.parse(key), answer.result()
                where = slice(layer.start + at, layer.start + at + len(part))
                composed[layer.weight][where] = part[:, : composed[layer.weight].shape[1]]
                if layer.bias is not None:
                    composed[layer.bias][where] = part[:, -1]
        return composed

    def _factor(self, epsilon: float, key: str) -> tuple[Tensor, float]:
        """The lower Cholesky factor of Σ Aᵢ + e Σ wᵢ I of a layer, and e."""
        size = self.totals[_CROSS + key].shape[1]
        packed = self.totals[_GRAM + key]
        values = from_grid(packed, GRAM_BITS)
        lower = lower_triangle(values, size)  # one buffer: at 3,073 inputs, copies cost as much as products
        # relative to the mean input energy; the floor keeps a layer whose inputs are all zero solvable
        e = epsilon * float(lower.diagonal().mean()) or 1.0
        lower.diagonal().add_(e)
        failed = torch.zeros((), dtype=torch.int32, device=packed.device)
        torch.linalg.cholesky_ex(lower, out=(lower, failed))
        if failed:
            raise DeltaMismatch(f"the Gram statistics of {key} are not those of any inputs; fit the shards again")
        return lower, e

    def _solve(self, key: str, rows: slice, lower: Tensor, e: float) -> Tensor:
        """These rows of [ΔW, Δb] of a layer."""
        layer = GramLayer.parse(key)
        part = layer._replace(start=layer.start + rows.start, stop=layer.start + rows.stop)
        tensors = {name: self.totals[_DELTA + name] for name in (layer.weight, layer.bias) if name}
        summed = from_grid(_augmented(tensors, part), DELTA_BITS).mul_(e / self.weight)
        right = from_grid(self.totals[_CROSS + key][rows], GRAM_BITS).add_(summed).T
        # cholesky_solve would copy the factor for every block of rows
        right = torch.linalg.solve_triangular(lower, right, upper=False)
        return torch.linalg.solve_triangular(lower.T, right, upper=True).T

    def joint(self, penalty: float = JOINT_PENALTY) -> Delta:
        """The joint composition in float64; λ = ``penalty``. Needs terms with joint statistics.

        Guarantees: the bits do not depend on the threads that torch uses elsewhere.
        """
        if not penalty > 0:
            raise UsageError(f"penalty={penalty}: expected > 0")
        composed = self.mean()
        found = {name[len(_JOINT) :]: total for name, total in self.totals.items() if name.startswith(_JOINT)}
        if not found:
            raise DeltaMismatch("the shards carry no joint statistics; compose by mean, or fit with --compose joint")
        from taft_ray.sums.joint import (
            solve_joint,  # with the network's passes, and so timm: no other composition needs them
        )

        statistics = {name: from_grid(total, GRAM_BITS) for name, total in found.items()}
        with _single_threads(1) as pool:
            return pool.submit(solve_joint, statistics, composed, penalty).result()

    def compose(
        self, mode: str, epsilon: float = DEFAULT_EPSILON, penalty: float = JOINT_PENALTY, workers: int = 1
    ) -> Delta:
        """`mean`, `gram` or `joint` by name; UsageError for another."""
        if mode not in COMPOSITIONS:
            raise UsageError(f"compose={mode!r}: expected one of {', '.join(COMPOSITIONS)}")
        if mode == "joint":
            return self.joint(penalty)
        return self.mean() if mode == "mean" else self.gram(epsilon, workers)

    def _need_shards(self) -> None:
        if self.weight <= 0:
            raise DeltaMismatch("nothing to compose: no shard with samples is in the model")


@contextmanager
def _single_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose tasks compute on one thread each; torch's setting, which is the process's, is put back afterwards."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _whole_weights(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the proportions of ``weights`` (fractions are kept to about 2^-16 of the largest)."""
    if not all(0 <= w < math.inf for w in weights):
        raise UsageError(f"weights={list(weights)}: expected finite numbers >= 0")
    if all(float(w).is_integer() for w in weights):
        return [int(w) for w in weights]
    shares = [float(w) / float(max(weights)) for w in weights]  # only proportions count
    fractions = [Fraction(share).limit_denominator(2**16) for share in shares]
    scale = 1
    for fraction in fractions:
        scale = math.lcm(scale, fraction.denominator)
        if scale > 2**20:  # the common denominator would eat the grid's range: round to 2^-16 instead
            return [round(share * 2**16) for share in shares]
    return [int(fraction * scale) for fraction in fractions]


def compose(
    deltas: Iterable[Mapping[str, Tensor]],
    weights: Sequence[float] | None = None,
    statistics: Sequence[Mapping[str, Tensor]] | None = None,
    epsilon: float = DEFAULT_EPSILON,
    penalty: float = JOINT_PENALTY,
) -> Delta:
    """Compose shards' deltas (TAFT eq. 13), or by Gram or joint statistics when given. Returns the first delta's types.

    ``weights``: numbers >= 0 in the shards' proportions (uniform when None); sample counts are exact.
    ``statistics``: ``[tm.gram(prepared_i), …]`` or what `statistics_for` gives, one per delta.
    ``epsilon`` belongs to Gram statistics, ``penalty`` to joint ones.

    Guarantees: the result's bits do not depend on the order of the shards.

    Examples:
        >>> first, second = tr.Delta({"head.bias": torch.tensor([1.0])}), tr.Delta({"head.bias": torch.tensor([5.0])})
        >>> tr.compose([first, second], weights=[30, 10])["head.bias"]
        tensor([2.])
    """
    deltas = list(deltas)
    if not deltas:
        raise UsageError("compose needs at least one delta")
    whole = [1] * len(deltas) if weights is None else _whole_weights(list(weights))
    if len(whole) != len(deltas) or (statistics is not None and len(statistics) != len(deltas)):
        raise UsageError(f"{len(deltas)} deltas, but {len(whole)} weights and {len(statistics or [])} statistics")
    sums = Sums()
    for index, (delta, weight) in enumerate(zip(deltas, whole, strict=True)):
        sums.add(shard_terms(delta, None if statistics is None else statistics[index]), weight)
    joint = any(name.startswith(_JOINT) for name in sums.totals)
    composed = sums.compose("mean" if statistics is None else "joint" if joint else "gram", epsilon, penalty)
    dtypes = {name: value.dtype for name, value in deltas[0].items()}
    return Delta({name: value.to(dtypes[name]) for name, value in composed.items()})

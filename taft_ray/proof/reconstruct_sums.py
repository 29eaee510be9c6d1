"""Reconstruction from the class weights of an additive model before and after a forget, simulated in memory.

| way | what leaves the sums | what the attacker has |
|---|---|---|
| subtract | one picture | both models, exact |
| gathered | several pictures in one request | both models, exact |
| drop | a shard | both models, exact |
| noisy sums | one picture | both models from differentially private sums, each with its own noise |

λ is chosen again after each forget, as the run does. The attacker knows it, and how many pictures left. Features are the
numbers of a row about their mean; a tuned run's are scaled as its model has them.

Legend: S numbers per row, n pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from taft_ray.additive.centring import Noise
from taft_ray.additive.exact_sums import Sums
from taft_ray.additive.grid import from_rows
from taft_ray.additive.noisy_sums import NoisySums
from taft_ray.additive.options import GRID
from taft_ray.additive.ridge import Problem, solve
from taft_ray.attack.reconstruction import Knowledge, Placed, Recovered, Risk, placed
from taft_ray.privacy import GaussianStream

SUBTRACT, GATHERED, DROP, NOISY = "subtract", "gathered", "drop", "noisy sums"
BATCHES = {10: 10, 100: 5}  # gathered forgets: pictures in one, and how many of them are simulated
DROPS, NOISES = 3, 5  # shards that are dropped, and pictures that leave noisy sums
PER_BATCH = 100  # pictures of a batch or shard that are looked for
OTHERS = 1000  # pictures that a recovered one is compared with


@dataclass(frozen=True, kw_only=True, eq=False)
class Held:
    """The pictures of an additive model. rows: int16 (n, S). shards: (n,). scales, penalties: as `solve` takes them."""

    sums: Sums
    rows: np.ndarray
    labels: np.ndarray
    shards: np.ndarray
    scales: np.ndarray | None
    penalties: Sequence[float] = GRID

    def features(self, at: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(m, S'), float64, not centred."""
        values = from_rows(self.rows[at])
        return values if self.scales is None else values[:, self._kept] * self.scales[self._kept]

    @property
    def _kept(self) -> np.ndarray:
        assert self.scales is not None
        return np.flatnonzero(self.scales)

    def own(self) -> Knowledge:
        """All that the run's own sums say, of whole rows."""
        problem = Problem(self.sums)
        return Knowledge(name="own sums", mean=problem.mean, covariance=problem.gram / problem.n)

    def solved(self, sums: Sums) -> tuple[np.ndarray, float]:
        """C of the features, and λ."""
        solution = solve(sums, self.penalties, self.scales)
        if self.scales is None:
            return solution.coefficients, solution.penalty
        return solution.coefficients[:, self._kept] / self.scales[self._kept], solution.penalty


@dataclass(frozen=True, kw_only=True)
class Found:
    """One row of the answer. known: the name of what the attacker knows. batch: the pictures that left at once, on average."""

    way: str
    batch: int
    known: str
    risk: Risk


def attacks(
    held: Held, knowledge: Sequence[Knowledge], *, picks: int, mu: float, seed: int, step: Callable[[str], None]
) -> Iterator[Found]:
    """Every way, each with all that the attacker may know. knowledge: of whole rows. mu: of one release of noisy sums."""
    generator = np.random.default_rng(seed)
    count = len(held.rows)
    order = generator.permutation(count)
    singles = [order[at : at + 1] for at in range(min(picks, count - 1))]
    scaled = knowledge if held.scales is None else [one.scaled(held.scales) for one in knowledge]
    before = held.solved(held.sums)
    step(SUBTRACT)
    yield from _told(SUBTRACT, singles, held, scaled, before, generator)
    for size, times in BATCHES.items():
        if size < held.sums.n - 1 and size <= count:
            step(f"{GATHERED}, {size}")
            batches = [generator.choice(count, size, replace=False) for _ in range(times)]
            yield from _told(GATHERED, batches, held, scaled, before, generator)
    shards = np.unique(held.shards)
    dropped = [np.flatnonzero(held.shards == shard) for shard in shards[:DROPS]]
    if len(shards) > 1:
        step(DROP)
        yield from _told(DROP, dropped, held, scaled, before, generator)
    step(NOISY)
    yield from _noisy(singles[:NOISES], held, knowledge, mu, seed, generator)


def _told(
    way: str,
    batches: Sequence[np.ndarray],
    held: Held,
    knowledge: Sequence[Knowledge],
    before: tuple[np.ndarray, float],
    generator: np.random.Generator,
) -> Iterator[Found]:
    found: dict[str, list[Placed]] = {one.name: [] for one in knowledge}
    among = 0
    n, (coefficients, penalty) = held.sums.n, before
    for batch in batches:
        left = held.sums.copy()
        left.subtract(held.rows[batch], held.labels[batch])
        after, penalty_after = held.solved(left)
        others = _others(batch, held, generator)
        looked_for = batch[:PER_BATCH]
        true, compared, among = held.features(looked_for), held.features(others), len(others)
        for known in knowledge:
            shift = penalty * n - penalty_after * left.n
            recovered = Recovered.of(coefficients, after, known.curvature(n, penalty * n), shift)
            span, rivals = recovered.span(len(batch)), compared - known.mean
            for at, one in zip(looked_for, true, strict=True):
                direction = recovered.one() if len(batch) == 1 else recovered.of_class(int(held.labels[at]))
                found[known.name].append(placed(direction, span, one - known.mean, rivals))
    size = round(float(np.mean([len(batch) for batch in batches])))
    for name, several in found.items():
        yield Found(way=way, batch=size, known=name, risk=Risk.of(several, among))


def _noisy(
    singles: Sequence[np.ndarray],
    held: Held,
    knowledge: Sequence[Knowledge],
    mu: float,
    seed: int,
    generator: np.random.Generator,
) -> Iterator[Found]:
    """A release of noisy sums before, and one after each of the forgets. Its model has no intercept, and whole rows."""
    before = NoisySums.release(held.sums, mu, _noise(seed, 0)).solve()
    found: dict[str, list[Placed]] = {one.name: [] for one in knowledge}
    among = 0
    for number, batch in enumerate(singles, start=1):
        left = held.sums.copy()
        left.subtract(held.rows[batch], held.labels[batch])
        after = NoisySums.release(left, mu, _noise(seed, number)).solve()
        others = _others(batch, held, generator)
        true, compared, among = from_rows(held.rows[batch])[0], from_rows(held.rows[others]), len(others)
        for known in knowledge:
            curvature = known.about_zero().curvature(held.sums.n, before.penalty)
            direction = Recovered.of(before.coefficients, after.coefficients, curvature).one()
            found[known.name].append(placed(direction, direction[None], true, compared))
    for name, several in found.items():
        yield Found(way=NOISY, batch=1, known=name, risk=Risk.of(several, among))


def _others(batch: np.ndarray, held: Held, generator: np.random.Generator) -> np.ndarray:
    rest = np.setdiff1d(np.arange(len(held.rows)), batch)
    return generator.choice(rest, min(OTHERS, len(rest)), replace=False)


def _noise(seed: int, release: int) -> Noise:
    """Always the same, for a measurement that can be repeated; of no use where anything is to be hidden."""
    return GaussianStream(hashlib.blake2b(f"reconstruction {seed} {release}".encode(), digest_size=32).digest())

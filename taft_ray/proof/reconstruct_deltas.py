"""Reconstruction from a shard's ridge Δw before and after it forgot samples, simulated in memory.

Features of a sample are the gradient of its error, g = JᵀD(t − f_w − JΔw'). With H = JᵀDJ + λ n K I of the shard's n pictures

    H (Δw − Δw') + λ m K Δw' = Σ g        over the m samples that left

so one sample's g comes back whole, and of several their sum. A mean of N shards gives the same: N times the change of the
composed Δw is the change of the shard's. A drop shows Δw itself, and H Δw is the sum over the whole shard.

H is never formed. The attacker multiplies by it, with the shard's own pictures or with public ones in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from taft_ray.attack.reconstruction import Placed, Risk, placed_by
from taft_ray.proof.reconstruct_sums import GATHERED, PER_BATCH, Found
from taft_ray.tangent import Delta, Pictures
from taft_ray.workers.refitting import Refitting
from taft_ray.workers.run_model import Loaded

RETRAIN, DROP = "retrain", "drop of Δw"
BATCHES = {10: 3, 100: 1}
PICKS = 10  # a fit each
OTHERS = 100  # each takes a pass backwards


def attacks(
    worker: Refitting,
    shard: Loaded,
    public: Pictures | None,
    *,
    picks: int,
    seed: int,
    step: Callable[[str], None],
) -> Iterator[Found]:
    """Retrains of a shard without one, ten and a hundred of its samples, and its drop."""
    generator = np.random.default_rng(seed)
    count = len(shard.labels)
    before = worker.fitted(shard.pictures, shard.labels)
    order = generator.permutation(count)
    step(RETRAIN)
    singles = [order[at : at + 1] for at in range(min(picks, PICKS, count - 1))]
    yield from _told(RETRAIN, worker, shard, public, before, singles, generator)
    for size, times in BATCHES.items():
        if size <= count // 2:
            step(f"{RETRAIN}, {GATHERED}, {size}")
            batches = [generator.choice(count, size, replace=False) for _ in range(times)]
            yield from _told(f"{RETRAIN}, {GATHERED}", worker, shard, public, before, batches, generator)


def dropped(worker: Refitting, shard: Loaded, other: Loaded, public: Pictures | None, *, seed: int) -> Iterator[Found]:
    """A drop of the shard. other: another one, whose samples the shard's are compared with."""
    generator = np.random.default_rng(seed)
    delta = worker.fitted(shard.pictures, shard.labels)
    zero = delta * 0.0
    mine, theirs = _some(len(shard.labels), OTHERS // 2, generator), _some(len(other.labels), OTHERS, generator)
    for known, matrix in _known(worker, shard, public).items():
        direction = matrix(delta)
        true = _cosines(worker, shard, mine, direction, zero)
        rivals = _cosines(worker, other, theirs, direction, zero)
        found = [placed_by(float(cosine), rivals) for cosine in true]
        yield Found(way=DROP, batch=len(shard.labels), known=known, risk=Risk.of(found, len(rivals)))


def _told(
    way: str,
    worker: Refitting,
    shard: Loaded,
    public: Pictures | None,
    before: Delta,
    batches: Sequence[np.ndarray],
    generator: np.random.Generator,
) -> Iterator[Found]:
    known = _known(worker, shard, public)
    found: dict[str, list[Placed]] = {name: [] for name in known}
    count, among, per_sample = len(shard.labels), 0, worker.spec.penalty * worker.tm.num_classes
    for batch in batches:
        left = torch.from_numpy(np.setdiff1d(np.arange(count), batch))
        after = worker.fitted(shard.pictures[left], shard.labels[left])
        others = _some(len(left), OTHERS, generator)
        rivals_at, among = left.numpy()[others], len(others)
        for name, matrix in known.items():
            direction = matrix(before - after) + after * (per_sample * len(batch))
            rivals = _cosines(worker, shard, rivals_at, direction, after)
            true = _cosines(worker, shard, batch[:PER_BATCH], direction, after)
            found[name] += [placed_by(float(cosine), rivals) for cosine in true]
    size = len(batches[0])
    for name, several in found.items():
        yield Found(way=way, batch=size, known=name, risk=Risk.of(several, among))


def _known(worker: Refitting, shard: Loaded, public: Pictures | None) -> dict[str, Callable[[Delta], Delta]]:
    """H as a product, by what the attacker has."""
    scale = float(len(shard.labels) * worker.tm.num_classes)
    known: dict[str, Callable[[Delta], Delta]] = {
        "own pictures": lambda delta: worker.curved(shard.pictures, shard.labels, delta) * scale
    }
    if public is not None:
        # with α other than 1 the weights of public pictures, whose labels are not read, are those of the first class
        labels = torch.zeros(len(public), dtype=torch.int64)
        known["public data"] = lambda delta: worker.curved(public, labels, delta) * scale
    return known


def _cosines(worker: Refitting, held: Loaded, at: np.ndarray, direction: Delta, delta: Delta) -> np.ndarray:
    """The size of the cosine of ``direction`` with g of each of these samples, (m,)."""
    pictures, labels = held.pictures[torch.from_numpy(np.asarray(at))], held.labels[at]
    errors = worker.errors(pictures, labels, delta)
    products = (errors * worker.along(pictures, direction)).sum(1).double().numpy()
    length = worker.lengths(pictures, errors) * float(direction.norm())
    return np.divide(np.abs(products), length, out=np.zeros(len(products)), where=length > 0)


def _some(count: int, most: int, generator: np.random.Generator) -> np.ndarray:
    return generator.choice(count, min(most, count), replace=False)

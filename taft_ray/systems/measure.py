"""Measuring a cell: fit its shards, read out every model that can be made of them, and time it.

Legend: n samples, N shards, B evaluation pictures, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taft_ray.data import assign, sample_keys, slice_of
from taft_ray.errors import DataError, UnsupportedModel
from taft_ray.fitting import fit
from taft_ray.plans.spec import RunSpec
from taft_ray.sums import Sums, check_joint, statistics_for
from taft_ray.systems.cell import Cell
from taft_ray.systems.nonlinear import NonLinear
from taft_ray.systems.order import order_by_key
from taft_ray.systems.readouts import Member, Readouts
from taft_ray.systems.regmean import regmean
from taft_ray.tangent import Delta, Pictures, TangentModel, prepare_pictures

WARM_UP = 64  # pictures of the fit that does not count
IN_MEMORY = 64  # shards whose statistics are; those of more lie in files, which the kernel may drop from memory


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenSet:
    """Cached pictures: keys n of 16 bytes, labels (n,) int64, tokens (n, T, D) of the cache's type."""

    keys: Sequence[bytes]
    labels: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: Tensor) -> TokenSet:
        return TokenSet(
            keys=[self.keys[i] for i in index.tolist()], labels=self.labels[index], tokens=self.tokens[index]
        )


def split(cell: Cell, train: TokenSet) -> list[Tensor]:
    """The samples of each shard as positions in ``train``, in ascending order of their keys; forgotten ones are in none.

    A sample's key is drawn anew from its cached one and the cell's seed, so that every seed has other shards.
    """
    seed, spec = cell.spec.seed, cell.spec
    keys = sample_keys([key.hex() for key in train.keys], seed)
    shard = assign(keys, shards=spec.shards, method=spec.assignment, labels=train.labels.numpy())  # type: ignore[arg-type]  # checked by the spec
    in_order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    kept = np.ones(len(keys), bool)
    kept[_drawn(cell, train, round(cell.forget * len(keys)))] = False
    return [torch.from_numpy(in_order[kept[in_order] & (shard[in_order] == number)]) for number in range(spec.shards)]


def leaving(cell: Cell, train: TokenSet) -> Tensor:
    """The pictures that leave after the fit, as positions in ``train``: the first that `Cell.forget` would leave out."""
    return torch.tensor(_drawn(cell, train, cell.leaving), dtype=torch.int64)


def _drawn(cell: Cell, train: TokenSet, count: int) -> list[int]:
    drawn = sample_keys([f"forget {key.hex()}" for key in train.keys], cell.spec.seed)
    return sorted(range(len(drawn)), key=drawn.__getitem__)[:count]


def measure(cell: Cell, tm: TangentModel, train: TokenSet, test: TokenSet) -> dict[str, Any]:
    """Everything that tables read of a cell, JSON-able.

    "accuracy": by readout, over all shards. "kept": the same for some of the shards, an entry per order. Beside them are
    "gram_by_epsilon" and "joint_by_penalty".
    "ensemble_difference": of the mean of the shards' outputs from the composed model's, relative to the largest output.
    "fits": seconds and what the solver says, a list with an entry per shard. "recompose_seconds": of taking one shard out,
    another in and composing. "absent_classes": how many shards lack at least one class.

    Raises DataError when no shard has a sample.
    """
    began = time.perf_counter()
    model = NonLinear(tm) if cell.network == "nonlinear" else tm
    shards = split(cell, train)
    if not any(len(index) for index in shards):
        raise DataError("every shard is empty: no sample was kept")
    if cell.timed:
        fit_shard(replace(cell, spec=replace(cell.spec, epochs=1)), model, train[shards[0][:WARM_UP]])
    fitted = [fit_shard(cell, model, train[index]) for index in shards if len(index)]
    members = [member for member, _ in fitted]
    readouts = Readouts(
        model, prepare_pictures(model, test.tokens, budget=cell.spec.constants_bytes), test.labels, members, cell.spec
    )
    subsets = _subsets(cell, len(members))
    everyone, *some = readouts.read([range(len(members)), *(who for _, who in subsets)])
    out: dict[str, Any] = {
        "accuracy": everyone,
        "ensemble_difference": readouts.ensemble_difference(),
        "kept": [
            {"order": order, "shards": len(who), **accuracy}
            for (order, who), accuracy in zip(subsets, some, strict=True)
        ],
        "gram_by_epsilon": readouts.gram_accuracy(cell.epsilons),
        "joint_by_penalty": readouts.joint_accuracy(cell.joint_penalties),
        "samples": [len(index) for index in shards],
        "absent_classes": sum(len(train.labels[index].unique()) < tm.num_classes for index in shards),
        "evaluated": len(test),
        "fits": {name: [facts[name] for _, facts in fitted] for name in fitted[0][1]},
    }
    if cell.merges and isinstance(model, NonLinear):
        shard_tokens = [train[index].tokens for index in shards if len(index)]
        for readout, refreshed in (("regmean", False), ("regmean++", True)):
            merged = regmean(model, [member.delta for member in members], shard_tokens, refreshed=refreshed)
            out["accuracy"][readout] = readouts.accuracy_of(merged)
    if cell.timed:
        out["recompose_seconds"] = _recompose_seconds(members, cell.spec)
    return {**out, "seconds": time.perf_counter() - began}


def fit_shard(
    cell: Cell,
    model: TangentModel | NonLinear,
    shard: TokenSet,
    *,
    start: Delta | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Member, dict[str, Any]]:
    """A shard's member, and what it took. Statistics are kept where there is something to compose.

    start: of ridge, where the shard was before pictures left it, as a resolve goes on from there. clock: of the seconds.
    """
    spec = cell.spec
    config = spec.fit_config() if start is None else spec.fit_config().to_resolve()
    keys = sample_keys([key.hex() for key in shard.keys], spec.seed)

    began = clock()
    pictures: Pictures = prepare_pictures(model, shard.tokens, budget=spec.constants_bytes)
    prepared = clock()
    slices = torch.from_numpy(slice_of(keys, slices=spec.slices, seed=spec.seed))
    delta = fit(model, pictures, shard.labels, config, order=order_by_key(keys), start=start, slice_of=slices)
    fitted = clock()
    statistics: dict[str, Mapping[str, Tensor] | None] = {"mean": None}
    seconds = {}
    for readout in _by_statistics(cell, model, shard.tokens[:1]):
        started = clock()
        kept = statistics_for(readout, model, pictures, delta)  # type: ignore[arg-type]  # a tangent model
        statistics[readout] = in_files(kept) if kept and spec.shards > IN_MEMORY else kept
        seconds[f"{readout}_seconds"] = clock() - started
    facts = {
        "prepare_seconds": prepared - began,
        "fit_seconds": fitted - prepared,
        **seconds,
        "iterations": delta.report.iterations,
        "converged": delta.report.converged,
        "norm": float(delta.norm()),
    }
    return Member(delta=delta, weight=spec.weight_of(len(shard)), statistics=statistics), facts


def in_files(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, of CPU memory that unnamed files hold. They go with the last tensor that reads them."""

    def moved(tensor: Tensor) -> Tensor:
        values = tensor.numpy()
        if not values.size:
            return tensor
        with TemporaryFile(prefix="taft-ray-statistics-") as file:
            held = np.memmap(file, values.dtype, mode="w+", shape=values.shape)
            held[...] = values
        return torch.from_numpy(held)

    return {name: moved(tensor) for name, tensor in tensors.items()}


def _by_statistics(cell: Cell, model: TangentModel | NonLinear, tokens: Tensor) -> tuple[str, ...]:
    """The compositions beside the mean that the shards of this cell allow. tokens: of one picture."""
    if isinstance(model, NonLinear) or cell.spec.shards == 1:
        return ()
    try:
        check_joint(model, tokens)
    except UnsupportedModel:
        return ("gram",)
    return ("gram", "joint")


def _subsets(cell: Cell, shards: int) -> list[tuple[int, list[int]]]:
    """(order, who stays): the first few of the shards in each random order, for every number the cell wants."""
    counts = sorted({min(count, shards) for count in cell.kept})
    orders = [
        np.random.default_rng((cell.spec.seed, order)).permutation(shards).tolist() for order in range(cell.orders)
    ]
    return [(number, order[:count]) for number, order in enumerate(orders) for count in counts]


def _recompose_seconds(members: Sequence[Member], spec: RunSpec) -> dict[str, float]:
    """The seconds of a warm composer after a retrain, by readout: one shard out, one in, compose. The median of three."""
    out = {}
    for readout in members[0].statistics:
        sums, terms = Sums(), {}
        for member in members:
            terms = member.terms(readout)
            sums.add(terms, member.weight)
        taken = []
        for _ in range(3):
            began = time.perf_counter()
            sums.subtract(terms, members[-1].weight)
            sums.add(members[-1].terms(readout), members[-1].weight)
            spec.composed(sums, readout)
            taken.append(time.perf_counter() - began)
        out[readout] = median(taken)
    return out

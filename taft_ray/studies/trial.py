"""One trial of a sweep: fit on the training part, measure on the part that is held out. Nothing is written.

The tokens are in Ray's object store once, and a trial maps them. The constants that a linearisation makes of them
(`Prepared`, the Gram matrices) stay in the worker's process for the trials that share it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from torch import Tensor

from taft_ray.data import slice_of
from taft_ray.errors import TaftError
from taft_ray.fitting import FittedDelta, fit
from taft_ray.orchestration.object_store import mapped
from taft_ray.orchestration.pulse import beating
from taft_ray.plans.spec import RunSpec
from taft_ray.run.environment import settle
from taft_ray.run.model import build_tangent
from taft_ray.sums import Sums, shard_terms, statistics_for
from taft_ray.systems.order import order_by_key
from taft_ray.tangent import Delta, Pictures, TangentModel, prepare_pictures
from taft_ray.tangent.accuracy import count_correct

EFFORT = 100.0  # of a finished trial; a part of it: epochs of adam, or shards composed
_REPORTS = 5  # of a composed model, while its shards are fitted

Heard = Callable[[float, Delta], None]  # (effort so far, the model so far)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything that the trials of a sweep share. Small: the tokens are references into the object store."""

    name: str  # a sweep's own; two benches with one name are one
    spec: RunSpec = field(compare=False)
    classes: int = field(compare=False)
    objective: str = field(compare=False)
    tokens: Mapping[int | str, Any] = field(
        compare=False
    )  # last_blocks -> ref of (n, T, d), float16 or bfloat16's bits
    keys: np.ndarray = field(compare=False)  # uint8 (n, 16), ascending in each shard, shard by shard
    labels: np.ndarray = field(compare=False)  # int64 (n,)
    shards: np.ndarray = field(compare=False)  # int64 (n,)
    held: np.ndarray = field(compare=False)  # bool (n,): measured on, never fitted on


@dataclass(frozen=True)
class Linearisation:
    """The fields of a spec that decide what `prepare` makes of the tokens."""

    last_blocks: int | str
    trainable: str
    reset: bool
    cls_token: bool

    @classmethod
    def of(cls, spec: RunSpec) -> Linearisation:
        return cls(spec.last_blocks, spec.trainable, spec.reset, spec.cls_token)


@dataclass(frozen=True, eq=False)
class Group:
    """The samples that one delta is fitted on: a shard's, or all."""

    pictures: Pictures
    labels: Tensor
    keys: list[bytes]
    gram: dict[str, Tensor] | None


@dataclass(frozen=True, eq=False)
class LaidOut:
    """A linearisation of the bench: its model, the groups to fit on, and what is measured on."""

    tm: TangentModel
    groups: list[Group]
    pictures: Pictures
    labels: Tensor
    seconds: float  # it took
    mapped: bool  # the tokens are the object store's own memory


def signs_of(name: str) -> str:
    """The group in which workers of a sweep give signs of life. name: its bench's."""
    return f"sweep/{name}"


def trial_loop(config: Mapping[str, Any], bench: Bench) -> None:
    """The function that a Tune trial runs. config: {"trial": {"number", "settings"}}. Reports accuracy by effort, or why there is none."""
    try:
        with beating(signs_of(bench.name)):
            _measure(config["trial"]["settings"], bench)
    except TaftError as error:
        # these settings fail again wherever they run: not a loss of the worker, after which Tune would try once more
        tune.report({"effort": 0.0, "accuracy": 0.0, "error": str(error)})


def _measure(settings: Mapping[str, Any], bench: Bench) -> None:
    began = time.perf_counter()
    spec = replace(bench.spec, **settings)
    settle(spec)
    reused = _lay_out.cache_info().hits
    laid = _lay_out(bench, Linearisation.of(spec))
    reused = _lay_out.cache_info().hits > reused

    def heard(effort: float, delta: Delta) -> None:
        correct = count_correct(laid.tm, laid.pictures, laid.labels, delta)
        tune.report(
            {
                "effort": effort,
                "accuracy": correct / len(laid.labels),
                "correct": correct,
                "seconds": time.perf_counter() - began,
                "prepare_seconds": 0.0 if reused else laid.seconds,
                "tokens_mapped": laid.mapped,
            }
        )

    run_trial(spec, laid, bench.objective, heard)


def run_trial(spec: RunSpec, laid: LaidOut, objective: str, heard: Heard) -> None:
    """Fit, and let ``heard`` have the model now and then; the last time with all of `EFFORT`.

    "whole": one model over all groups' samples (there is one group), heard after each epoch of adam. "composed": a delta a
    group, composed as the spec says, heard when another fifth of them is in the model.
    """
    if objective == "whole":
        (group,) = laid.groups
        if spec.solver == "adam":
            _fit(spec, laid.tm, group, slices=1, watch=lambda done, most, delta: heard(EFFORT * done / most, delta))
        else:
            heard(EFFORT, _fit(spec, laid.tm, group, slices=1))
        return
    sums, count = Sums(), len(laid.groups)
    stops = {-(-count * part // _REPORTS) for part in range(1, _REPORTS + 1)}
    for done, group in enumerate(laid.groups, start=1):
        delta = _fit(spec, laid.tm, group, slices=spec.slices)
        # Gram matrices are those of the pictures, joint statistics those of the fit as well
        statistics = group.gram or statistics_for(spec.of_deltas, laid.tm, group.pictures, delta)
        terms = shard_terms({name: value.cpu() for name, value in delta.items()}, statistics)
        sums.add(terms, spec.weight_of(len(group.labels)))
        if done in stops:
            heard(EFFORT * done / count, spec.composed(sums, spec.of_deltas).to(torch.float32))


def _fit(spec: RunSpec, tm: TangentModel, group: Group, *, slices: int, watch: Any = None) -> FittedDelta:
    config = replace(spec.fit_config(), slices=slices)
    parts = torch.from_numpy(slice_of(group.keys, slices=slices, seed=config.seed))

    order = order_by_key(group.keys)
    return fit(tm, group.pictures, group.labels, config, order=order, slice_of=parts, watch=watch)


@lru_cache(maxsize=1)
def _lay_out(bench: Bench, linearisation: Linearisation) -> LaidOut:
    """Kept for the next trial of this process; one at a time, for the constants are the large part."""
    return lay_out(bench, linearisation, ray.get(bench.tokens[linearisation.last_blocks]))


def lay_out(bench: Bench, linearisation: Linearisation, tokens: np.ndarray) -> LaidOut:
    """Prepare the bench's samples; ``tokens`` is not copied, nor written to."""
    began = time.perf_counter()
    spec = replace(bench.spec, **vars(linearisation))
    tm, _ = build_tangent(spec, bench.classes)
    view = mapped(tokens, spec.cache_dtype)

    def prepare(rows: np.ndarray) -> Pictures:
        budget = spec.constants_bytes * len(rows) // len(bench.held)
        return prepare_pictures(tm, view, torch.from_numpy(rows), budget=budget)

    rows = np.flatnonzero(~bench.held)
    numbers = bench.shards[rows]
    several = [rows[numbers == number] for number in np.unique(numbers)] if bench.objective == "composed" else [rows]
    groups = []
    for members in several:
        pictures = prepare(members)
        with_gram = bench.objective == "composed" and spec.of_deltas == "gram"
        groups.append(
            Group(
                pictures,
                torch.from_numpy(bench.labels[members]),
                [bench.keys[row].tobytes() for row in members],
                statistics_for("gram", tm, pictures, {}) if with_gram else None,
            )
        )
    held = np.flatnonzero(bench.held)
    return LaidOut(
        tm,
        groups,
        prepare(held),
        torch.from_numpy(bench.labels[held]),
        time.perf_counter() - began,
        mapped=not tokens.flags.owndata and not tokens.flags.writeable,
    )

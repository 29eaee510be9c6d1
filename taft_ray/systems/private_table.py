"""table3: accuracy by ε of every way to fit the same pictures under differential privacy.

Source: TAFT (Liu et al., ICLR 2024), section 4.5 and Table 3: full batch, 50 steps, the tangent term alone. Rows on sites, sums and
shards are ours. All settings are fixed beforehand, for all data and every ε. They were chosen on CIFAR-10:

    rate of dp-gd     1 of 0.1, 1, 3, 10 ("head"), of 0.1, 0.3, 1 ("norm"), of 0.1, 1, 3 ("full"); "bitfit" and the network itself have it too
    rate of rows      10 of 5, 10, 20, and less where noise would move a logit by more than 0.15, of 0.1 to 0.3, in the mean of all shards
    the mean's share  0.1 of 0.05, 0.1, 0.2
    sites             those of a run; 4 blocks with S = 1,024 have the same accuracy within the spread, 1 or 2 blocks have less
    noisy sums        S = 512 of 64 to 512; the penalty and the share of the budget in `additive/noisy_sums.py`
    small shards      S = 512 of 512, 1,024 and a run's, 0.3 of μ² for the mean of 0.1 to 0.5; the other data was looked at, too
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.fitting.config import PRIVATE, PRIVATE_ROWS
from taft_ray.plans.privacy import LOGIT_NOISE, MEAN_SHARE, PINK_NOISE, RATE
from taft_ray.systems.cell import Cell
from taft_ray.systems.points import Point, Table, Wanted, accuracy
from taft_ray.systems.private import DELTA, Private
from taft_ray.systems.recipes import frozen, on_sites, ridge

EPSILONS = (1.0, 3.0, 8.0, math.inf)
REGIMES = ("full", "bitfit", "norm", "head")
FEWER = 512  # numbers per row, of sums and of small shards
SMALL_SHARE = 0.3  # of μ², for the mean of a small shard's rows
SHARDS, PER_OWNER = 10, 5

Make = Callable[..., "Cell"]


def _tangent(regime: str) -> Make:
    def make(base: Cell, epsilon: float, **changes: Any) -> Cell:
        cell = ridge(base, trainable=regime, **changes)
        return replace(cell, private=Private(epsilon=epsilon, learning_rate=RATE[PRIVATE]))

    return make


def _nonlinear(regime: str) -> Make:
    def make(base: Cell, epsilon: float, **changes: Any) -> Cell:
        # a cell's network says that Adam fits it; private ones descend
        cell = base.with_spec(solver="adam", trainable=regime, **changes)
        private = Private(epsilon=epsilon, learning_rate=RATE[PRIVATE])
        return replace(cell, network="nonlinear", private=private)

    return make


def _head_rows(base: Cell, epsilon: float, **changes: Any) -> Cell:
    return replace(frozen(base, **changes), private=_on_rows(epsilon))


def _sites(width: int, way: str, whitening: str = PINK_NOISE) -> Make:
    def make(base: Cell, epsilon: float, **changes: Any) -> Cell:
        features = None if way == "descent" else FEWER
        private = replace(_on_rows(epsilon), way=way, features=features, whitening=whitening)
        return replace(on_sites(base, "additive", width, **changes), private=private)

    return make


def _small(width: int) -> Make:
    """Fewer numbers per row, and more of the budget for their mean: for shards of a few hundred pictures or less."""

    def make(base: Cell, epsilon: float, **changes: Any) -> Cell:
        cell = _sites(width, "descent")(base, epsilon, **changes)
        assert cell.private is not None
        return replace(cell, private=replace(cell.private, features=FEWER, mean_share=SMALL_SHARE))

    return make


def _owners(width: int) -> Make:
    """Made-up owners of so many pictures each, as they come: all pictures of an owner are hidden together."""

    def make(base: Cell, epsilon: float, **changes: Any) -> Cell:
        cell = _sites(width, "descent")(base, epsilon, **changes)
        assert cell.private is not None
        return replace(cell, private=replace(cell.private, per_owner=PER_OWNER))

    return make


def _on_rows(epsilon: float) -> Private:
    """As a run of dp-additive is by default."""
    return Private(epsilon=epsilon, learning_rate=RATE[PRIVATE_ROWS], mean_share=MEAN_SHARE, logit_noise=LOGIT_NOISE)


def table3(wanted: Wanted) -> Table:
    """Every row at every ε, on one data set and composed of 10 private shards."""
    rows: dict[str, tuple[Make, int]] = {f"dp-gd, {regime}": (_tangent(regime), 1) for regime in REGIMES}
    rows["head on rows about their mean"] = (_head_rows, 1)
    if wanted.site_width is not None:
        rows["dp-additive"] = (_sites(wanted.site_width, "descent"), 1)
        if wanted.public:
            rows["dp-additive, whitened by public pictures"] = (_sites(wanted.site_width, "descent", "public"), 1)
        rows["dp-additive, noisy sums"] = (_sites(wanted.site_width, "sums"), 1)
        rows[f"dp-additive, owners of {PER_OWNER} pictures"] = (_owners(wanted.site_width), 1)
    rows[f"head on rows about their mean, mean of {SHARDS} shards"] = (_head_rows, SHARDS)
    if wanted.site_width is not None:
        rows[f"dp-additive, mean of {SHARDS} shards"] = (_sites(wanted.site_width, "descent"), SHARDS)
        rows[f"dp-additive for small shards, mean of {SHARDS} shards"] = (_small(wanted.site_width), SHARDS)
        rows[f"dp-additive, noisy sums of {SHARDS} shards"] = (_sites(wanted.site_width, "sums"), SHARDS)
    title = f"Differential privacy: accuracy by ε, δ = {DELTA:g}; ∞ clips and adds no noise"
    return _by_epsilon("table3", title, rows, wanted)


def of_rows(wanted: Wanted) -> Table:
    """The rows of table3 whose fits read no network, on one data set: for many pictures."""
    if wanted.site_width is None:
        raise UsageError("table3-rows is of the sites of several blocks, and this network has none; use table3")
    rows: dict[str, tuple[Make, int]] = {"head on rows about their mean": (_head_rows, 1)}
    rows["dp-additive"] = (_sites(wanted.site_width, "descent"), 1)
    rows["dp-additive, noisy sums"] = (_sites(wanted.site_width, "sums"), 1)
    title = f"Private heads on rows: accuracy by ε, δ = {DELTA:g}; ∞ clips and adds no noise"
    return _by_epsilon("table3-rows", title, rows, wanted)


def nonlinear(wanted: Wanted) -> Table:
    """The network itself beside its linearisation. It is a table of its own, because it takes hours where the others take minutes."""
    rows: dict[str, tuple[Make, int]] = {}
    for regime in REGIMES:
        rows[f"dp-gd, {regime}"] = (_tangent(regime), 1)
        rows[f"non-linear, {regime} (Opacus's ghost clipping)"] = (_nonlinear(regime), 1)
    title = f"Private fine-tuning of the last block, linearised and not; δ = {DELTA:g}"
    return _by_epsilon("table3-nonlinear", title, rows, wanted)


def _by_epsilon(name: str, title: str, rows: dict[str, tuple[Make, int]], wanted: Wanted) -> Table:
    points = tuple(
        Point(
            row=row, column="∞" if math.isinf(epsilon) else f"{epsilon:g}", read=accuracy("private"),
            cell=make(wanted.base, epsilon, shards=shards, seed=seed),
        )
        for row, (make, shards) in rows.items()
        for epsilon in EPSILONS
        for seed in wanted.seeds
    )  # fmt: skip
    return Table(name=name, title=title, row="system", column="ε", picture="bars", points=points)

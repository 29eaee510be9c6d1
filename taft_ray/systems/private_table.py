"""table3: accuracy by ε of every way to fit the same pictures under differential privacy.

Source: TAFT (Liu et al., ICLR 2024), section 4.5 and Table 3: full batch, 50 steps, the tangent term alone. Rows on sites, sums and
shards are ours. All settings are fixed beforehand, for all data and every ε. They were chosen on 1,650 pictures of CIFAR-10 at ε = 3,
rows whitened by Sign-Digits:

    rate of dp-gd     1 of 0.1, 1, 3, 10 ("head"), of 0.1, 0.3, 1 ("norm"), of 0.1, 1, 3 ("full"); "bitfit" and the network itself have it too
    rate of rows      10 of 5, 10, 20, 40
    sites             the last 4 blocks, S = 1,024: as in a prototype that saw Sign-Digits, and better than 7 blocks on CIFAR-10, too
    noisy sums        S = 512 of 64 to 512; the penalty and the share of the budget in `additive/noisy_sums.py`

"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from taft_ray.systems.cell import Cell
from taft_ray.systems.points import Point, Table, Wanted, accuracy
from taft_ray.systems.private import DELTA, Private
from taft_ray.systems.recipes import frozen, on_sites, ridge

EPSILONS = (1.0, 3.0, 8.0, math.inf)
REGIMES = ("full", "bitfit", "norm", "head")
FEATURES, SUM_FEATURES = 1024, 512
SHARDS = 10

Make = Callable[..., "Cell"]

RATE, ROW_RATE = 1.0, 10.0  # of Δw, and of descent on rows


def _tangent(regime: str) -> Make:
    def make(base: Cell, epsilon: float, **changes: Any) -> Cell:
        cell = ridge(base, trainable=regime, **changes)
        return replace(cell, private=Private(epsilon=epsilon, learning_rate=RATE))

    return make


def _nonlinear(base: Cell, epsilon: float, **changes: Any) -> Cell:
    cell = base.with_spec(solver="adam", **changes)  # a cell's network says that Adam fits it; private ones descend
    private = Private(epsilon=epsilon, learning_rate=RATE)
    return replace(cell, network="nonlinear", private=private)


def _head_rows(base: Cell, epsilon: float, **changes: Any) -> Cell:
    private = Private(epsilon=epsilon, learning_rate=ROW_RATE)
    return replace(frozen(base, **changes), private=private)


def _sites(width: int, way: str) -> Make:
    def make(base: Cell, epsilon: float, **changes: Any) -> Cell:
        features = FEATURES if way == "descent" else SUM_FEATURES
        private = Private(epsilon=epsilon, way=way, learning_rate=ROW_RATE, features=features)
        return replace(on_sites(base, "additive", width, **changes), private=private)

    return make


def table3(wanted: Wanted) -> Table:
    """Every row at every ε, on one data set and composed of 10 private shards."""
    rows: dict[str, tuple[Make, int]] = {f"dp-gd, {regime}": (_tangent(regime), 1) for regime in REGIMES}
    rows["head on its inputs' rows"] = (_head_rows, 1)
    if wanted.site_width is not None:
        rows["dp-additive, descent"] = (_sites(wanted.site_width, "descent"), 1)
        rows["dp-additive, noisy sums"] = (_sites(wanted.site_width, "sums"), 1)
    rows[f"head on its inputs' rows, mean of {SHARDS} shards"] = (_head_rows, SHARDS)
    if wanted.site_width is not None:
        rows[f"dp-additive, descent, mean of {SHARDS} shards"] = (_sites(wanted.site_width, "descent"), SHARDS)
        rows[f"dp-additive, noisy sums of {SHARDS} shards"] = (_sites(wanted.site_width, "sums"), SHARDS)
    title = f"Differential privacy: accuracy by ε, δ = {DELTA:g}; ∞ clips and adds no noise"
    return _by_epsilon("table3", title, rows, wanted)


def nonlinear(wanted: Wanted) -> Table:
    """The network itself beside its linearisation. It is a table of its own, because it takes hours where the others take minutes."""
    rows: dict[str, tuple[Make, int]] = {
        "dp-gd, full": (_tangent("full"), 1),
        "non-linear, full (Opacus's ghost clipping)": (_nonlinear, 1),
    }
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

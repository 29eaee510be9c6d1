"""The systems as changes of a base cell: the paper's recipes, and those that are not trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from taft_ray.additive.options import ADDITIVE
from taft_ray.systems.cell import Cell


def ridge(base: Cell, **changes: Any) -> Cell:
    return base.with_spec(solver="ridge", **changes)


def adam(base: Cell, **changes: Any) -> Cell:
    """The paper's TAFT: RSL, Adam, learning rate 1e-3 (its Tables 4 and 6)."""
    return base.with_spec(**{"solver": "adam", "learning_rate": 1e-3, **changes})


def adam_reset(base: Cell, **changes: Any) -> Cell:
    """The paper's choice on shards: the last block re-initialised before it is linearised, PT=F (its Table 6)."""
    return adam(base, **{"reset": True, **changes})


def nlft(base: Cell, **changes: Any) -> Cell:
    """The paper's NLFT: cross-entropy, no penalty; learning rate 1e-3 on shards and 1e-4 on the whole data (its Tables 4 to 6)."""
    rate = 1e-4 if changes.get("shards", base.spec.shards) == 1 else 1e-3
    spec = {"solver": "adam", "loss": "ce", "penalty": 0.0, "learning_rate": rate, **changes}
    return replace(base.with_spec(**spec), network="nonlinear")


def merged(base: Cell, **changes: Any) -> Cell:
    """NLFT whose shards are merged by RegMean and RegMean++ as well."""
    return replace(nlft(base, **changes), merges=True)


def frozen(base: Cell, **changes: Any) -> Cell:
    """Systems on the head's inputs. Nothing is fitted, so that the solver says nothing."""
    return replace(ridge(base, **changes), network="frozen")


def on_sites(base: Cell, network: str, width: int, **changes: Any) -> Cell:
    """Systems on the sites of the last blocks, which have ``width`` numbers."""
    spec = {"solver": ADDITIVE, "compose": ADDITIVE, "features": width, "weighting": "uniform", **changes}
    return replace(base, network=network, spec=replace(base.spec, **spec))

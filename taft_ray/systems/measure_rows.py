"""Measuring a cell of a system that is not trained (`frozen.py`): accuracy, digest, and what forgetting pictures leaves and takes.

Legend: n pictures, S numbers, B evaluation pictures, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from taft_ray.additive import Projection, Sites, sites_of, to_rows
from taft_ray.additive.grid import UNIT
from taft_ray.additive.projection import LENGTH
from taft_ray.additive.sites import SIZE
from taft_ray.systems.cell import Cell
from taft_ray.systems.forgetting import CLOCK, compared
from taft_ray.systems.frozen import Neighbours, RidgeOfSums, Rows, System, head_rows
from taft_ray.systems.head2toe import Head2Toe
from taft_ray.systems.measure import TokenSet, leaving, split
from taft_ray.tangent import TangentModel


def measure_frozen(cell: Cell, tm: TangentModel, train: TokenSet, test: TokenSet) -> dict[str, Any]:
    """`measure` of a "frozen" cell: both systems on the head's inputs."""
    began = time.perf_counter()
    kept, asked = (_rows_of(some, head_rows(tm, some.tokens)) for some in (train, test))
    systems: dict[str, System] = {"head": RidgeOfSums(), "knn": Neighbours()}
    result = _measured(cell, systems, train, kept, asked, tm.num_classes)
    return {**result, "seconds": time.perf_counter() - began}


def measure_sites(
    cell: Cell, network: nn.Module, image_size: int, classes: int, train: TokenSet, test: TokenSet
) -> dict[str, Any]:
    """`measure` of a cell on sites. The tokens are rows of a projection by seed 0 that keeps all numbers, int16 (n, 1, S)."""
    began = time.perf_counter()
    views = cell.spec.views
    sites = sites_of(network, image_size, size=cell.spec.features, views=views)
    size = min(SIZE, sites.width)
    make, systems = {
        "additive": (
            lambda rows: _projected(sites, sites_of(network, image_size, size=size, views=views), cell.spec.seed, rows),
            {"additive": RidgeOfSums()},
        ),
        "head2toe": (lambda rows: _turned_back(sites, rows), {"head2toe": Head2Toe(size)}),
    }[cell.network]
    kept, asked = (_rows_of(some, make(some.tokens[:, 0])) for some in (train, test))
    result = _measured(cell, systems, train, kept, asked, classes)
    return {**result, "seconds": time.perf_counter() - began}


def _rows_of(some: TokenSet, rows: np.ndarray) -> Rows:
    return Rows(some.keys, some.labels.numpy(), rows)


@lru_cache(maxsize=1)  # a factorisation of every block's sites takes longer than a cell
def _full(sites: Sites) -> Projection:
    return Projection(sites, seed=0)


def site_vectors_of(sites: Sites, rows: Tensor) -> list[Tensor]:
    """Rows of a projection by seed 0 that keeps all numbers, (n, S) int16 -> the vectors of each group, (n, width)."""
    return _full(sites).back(rows.double() * UNIT)


def _projected(sites: Sites, wanted: Sites, seed: int, rows: Tensor) -> np.ndarray:
    """The rows of a run with this seed. A run projects before it rounds, and these were rounded before too."""
    return to_rows(Projection(wanted, seed)(site_vectors_of(sites, rows)))


def _turned_back(sites: Sites, rows: Tensor) -> np.ndarray:
    """The site vectors themselves, side by side, on the grid."""
    members = sum(len(group.members) for group in sites.groups)
    return to_rows(torch.cat(site_vectors_of(sites, rows), dim=1) * (LENGTH / math.sqrt(members)))


def _measured(
    cell: Cell, systems: Mapping[str, System], train: TokenSet, kept: Rows, asked: Rows, classes: int
) -> dict[str, Any]:
    """ "accuracy" and "digests" by system; with pictures that leave "forgetting" by system and way."""
    parts = [index.numpy() for index in split(cell, train)]
    shards = [kept.at(index) for index in parts if len(index)]
    gone = leaving(cell, train).numpy()
    staying = [kept.at(index[~np.isin(index, gone)]) for index in parts]
    out: dict[str, Any] = {"accuracy": {}, "digests": {}, "forgetting": {}}
    for name, system in systems.items():
        state = system.fitted(shards, classes)
        out["accuracy"][name] = _accuracy(system.logits(state, asked.rows), asked.labels)
        out["digests"][name] = system.digest(state)
        if len(gone):
            anew = system.fitted([shard for shard in staying if len(shard.keys)], classes)
            way = f"{name}: {system.way}"
            out["forgetting"][way] = _forgotten(system, state, anew, kept.at(gone), asked)
    return {
        **out,
        "samples": [len(index) for index in parts],
        "absent_classes": sum(len(np.unique(kept.labels[index])) < classes for index in parts),
        "evaluated": len(asked.labels),
        "ensemble_difference": None,
    }


def _forgotten(system: System, state: Any, anew: Any, gone: Rows, asked: Rows) -> dict[str, Any]:
    """One way to forget, against the same system made anew without the pictures."""
    system.without(state, gone)  # warm: the first call loads libraries
    began = CLOCK()
    after = system.without(state, gone)
    seconds = CLOCK() - began
    rows, labels = np.concatenate([asked.rows, gone.rows]), np.concatenate([asked.labels, gone.labels])
    answers, oracle, before = (system.logits(one, rows) for one in (after, anew, state))
    return {
        **compared(answers, oracle, before, labels, len(asked.labels), seconds),
        "equal_digests": system.digest(after) == system.digest(anew),
    }


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == labels).mean())

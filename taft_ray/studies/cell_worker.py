"""Measures cells on a worker: a plain class, Ray is put around it at the rim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.plans.privacy import PINK_NOISE
from taft_ray.plans.spec import RunSpec
from taft_ray.run.environment import cell_environment, settle
from taft_ray.run.model import build_tangent, load_for
from taft_ray.storage import Store, canonical_json, json_object
from taft_ray.studies.shared_tokens import token_set
from taft_ray.systems import (
    ON_SITES,
    Cell,
    TokenSet,
    measure,
    measure_forgetting,
    measure_frozen,
    measure_private,
    measure_private_sites,
    measure_sites,
)

SAME = 1e-9  # accuracies of a cell that is measured again may differ by this much, which is rounding of a mean


class CellWorker:
    """Measures cells and writes their files. Keeps nothing between them."""

    def __init__(self, root: str) -> None:
        self.store = Store(root)

    def measure(self, cell_json: Mapping[str, Any], classes: int, again: bool, *arrays: np.ndarray) -> dict[str, Any]:
        """Measure a cell on the `Tokens.arrays` of training, evaluation and public data, and write its file; its content.

        again: compare with the file instead of writing it; "same" says whether the accuracies are those.
        """
        cell = Cell.from_json(cell_json)
        settle(cell.spec)
        train, test, *public = (
            token_set(arrays[at : at + 3], cell.spec.stored_dtype) for at in range(0, len(arrays), 3)
        )
        result = _measured(cell, classes, train, test, public[0] if public else None)
        document = {"cell": cell.to_json(), "digest": cell.digest, **result, "environment": cell_environment(cell.spec)}
        if again:
            try:
                before = json_object(self.store.read(cell_key(cell)), cell_key(cell)).get("accuracy")
            except (ObjectMissing, IntegrityError):
                before = None
            if before is not None:
                same = all(abs(before[name] - value) <= SAME for name, value in result["accuracy"].items())
                return {**document, "same": same, "before": before}
        self.store.write(cell_key(cell), canonical_json(document))
        return document


def _measured(cell: Cell, classes: int, train: TokenSet, test: TokenSet, public: TokenSet | None) -> dict[str, Any]:
    """By the function for this cell's network."""
    if cell.network in ON_SITES:
        loaded = load_for(cell.spec)
        if cell.private is not None:
            whitening = cell.private.whitening
            by = _of_pink_noise(cell.spec) if whitening == PINK_NOISE else public if whitening == "public" else None
            return measure_private_sites(cell, loaded.network, loaded.preprocess.size, classes, train, test, by)
        return measure_sites(cell, loaded.network, loaded.preprocess.size, classes, train, test)
    tm, _ = build_tangent(cell.spec, classes)
    if cell.private is not None:
        return measure_private(cell, tm, train, test)
    if cell.network == "frozen":
        return measure_frozen(cell, tm, train, test)
    return (measure_forgetting if cell.leaving else measure)(cell, tm, train, test)


def _of_pink_noise(spec: RunSpec) -> TokenSet:
    """Rows of pink noise, as `shared_tokens` makes those of pictures: by seed 0."""
    from taft_ray.prefix.whitening import public_rows

    rows = torch.from_numpy(public_rows(PINK_NOISE, replace(spec, seed=0)))
    return TokenSet(keys=[b""] * len(rows), labels=torch.zeros(len(rows), dtype=torch.int64), tokens=rows[:, None])


def cell_key(cell: Cell) -> str:
    return f"cells/{cell.digest}.json"

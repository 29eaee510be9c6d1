"""From exact sums to the composed model: the one step of a composer that needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from taft_ray.additive.options import ADDITIVE

if TYPE_CHECKING:
    from taft_ray.plans.spec import RunSpec
    from taft_ray.sums import Totals

Model = dict[str, np.ndarray]  # float32 values by name
Solve = Callable[["RunSpec", "Totals", str, int], Model]


def solve(spec: RunSpec, totals: Totals, mode: str, workers: int) -> Model:
    """The composed model of these sums, by ``mode``; layers are solved by so many ``workers``, which no bit depends on."""
    if mode == ADDITIVE:  # the sums are the model: whoever uses it solves
        return {name: np.array(total) for name, total in totals.totals.items()}
    from taft_ray.run.sums import one_thread
    from taft_ray.sums import Sums

    with one_thread():
        delta = spec.composed(Sums.of(totals), mode, workers=workers)
    return {name: value.float().contiguous().numpy() for name, value in delta.items()}

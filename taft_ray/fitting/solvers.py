"""Fitting Δw on prepared pictures: one call, two solvers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from taft_ray.counting import plural
from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.fitting.adam import EpochOrder, Trainable, Watch, index_order
from taft_ray.fitting.config import PRIVATE_SOLVERS, FitConfig
from taft_ray.fitting.loss import check_labels
from taft_ray.fitting.precision import products
from taft_ray.fitting.precondition import whole
from taft_ray.fitting.ridge import solve
from taft_ray.fitting.slices import KeepCheckpoint, descend_by_slices
from taft_ray.tangent.delta import Delta, at_least_float32
from taft_ray.tangent.kernel import JacobianRows, jacobian_rows
from taft_ray.tangent.model import TangentModel
from taft_ray.tangent.prepared import Pictures, Prepared

Progress = Callable[[int, int], None]  # (steps done, steps at most)


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """The cost of a fit and how good it is.

    residual: relative residual of the normal equations (ridge), recomputed at the end, not the recurrence's.

    distance_bound: ‖Δw − Δw*‖ ≤ ‖∇L(Δw)‖ / (2·penalty), the certified distance to the one optimum. None where the
    objective is not the ridge problem.

    objective: mean loss + penalty · ‖Δw‖² at the end; None of a private fit, which tells nothing of its samples.

    nonfinite: of a private fit, how many gradients were not finite and contributed zero.
    """

    solver: str
    samples: int
    iterations: int
    seconds: float
    objective: float | None = None
    residual: float | None = None
    distance_bound: float | None = None
    converged: bool = True
    history: list[float] = field(default_factory=list)
    nonfinite: int | None = None


class FittedDelta(Delta):
    """A Delta with the report of its fit."""

    def __init__(self, tensors: Mapping[str, Tensor], report: FitReport) -> None:
        super().__init__(tensors)
        self.report = report


def fit(
    tm: Trainable,
    prepared: Pictures,
    labels: Tensor,
    config: FitConfig | None = None,
    *,
    order: EpochOrder = index_order,
    start: Mapping[str, Tensor] | None = None,
    slice_of: Tensor | None = None,
    done: int = 0,
    checkpoint: KeepCheckpoint | None = None,
    rows: JacobianRows | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> FittedDelta:
    """Fit Δw on the pictures; labels (B,) in 0..K-1. Zero pictures give Δw = 0.

    tm: the tangent model; adam takes any function of Δw (`systems.NonLinear`), ridge only what is linear in it. The Δw of a
    model in half precision (and constants to match) is float32 all the same; ridge refuses such a model (UsageError).

    order: ``order(count, seed, epoch) -> permutation`` for adam; `data.epoch_order` of the sample keys makes it stable
    under removal of samples.

    start: a warm start (zero otherwise).

    rows: the Jacobian's of these pictures, if known (`fit_many`).

    watch: ``watch(epochs done, epochs at most, delta)`` is called after each epoch of adam.

    slice_of: the slice of each picture, (B,) int64 in 0..R-1. Needed with ``config.slices`` = R > 1.

    checkpoint: with slices, ``checkpoint(stage, delta)`` is called after each stage but the last. The delta is not written
    to later.

    done: with slices, go on after this many stages, from ``start``, which must be their checkpoint.

    Raises DataError for labels outside the classes.

    Examples:
        >>> tm = tr.linearize("test_vit", num_classes=3)
        >>> prepared, labels = tm.prepare(tm.prefix(torch.randn(6, 3, 160, 160))), torch.arange(6) % 3
        >>> delta = tr.fit(tm, prepared, labels, tr.FitConfig(solver="ridge", penalty=0.01))
        >>> delta.report.converged, tm.logits(prepared, delta).argmax(1)
        (True, tensor([0, 1, 2, 0, 1, 2]))
    """
    config = config or FitConfig()
    if config.solver in PRIVATE_SOLVERS:
        raise UsageError(f"solver={config.solver!r} is made with noise alone: see fitting.private_descent")
    labels = check_labels(torch.as_tensor(labels), tm.num_classes).to(tm.device)
    if len(labels) != len(prepared):
        raise UsageError(f"{plural(len(prepared), 'picture')}, but {plural(len(labels), 'label')}")
    slice_of = _check_slices(slice_of, len(labels), config.slices)
    if not 0 <= done < config.slices:
        raise UsageError(f"expected 0 <= done < {config.slices} (the slices), got {done}")
    if done and start is None:
        raise UsageError(f"done={done} needs start, the checkpoint of stage {done}")
    zero = tm.zero_delta().map(at_least_float32)
    if start is not None:
        zero.check_like(start, what="warm start")
    began = time.perf_counter()
    initial = zero if start is None else Delta({name: start[name].to(value) for name, value in zero.items()})
    if len(labels) == 0:
        report = FitReport(
            solver=config.solver, samples=0, iterations=0, seconds=0.0, objective=0.0, residual=0.0, distance_bound=0.0
        )
        return FittedDelta(zero, report)
    with products(tm.device, config.fit_precision):
        delta, facts = _fitted(
            tm, prepared, labels, config, order=order, initial=initial, slice_of=slice_of, done=done, checkpoint=checkpoint,
            rows=rows, progress=progress, watch=watch,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    return FittedDelta(delta, FitReport(solver=config.solver, samples=len(labels), seconds=seconds, **facts))


def _fitted(
    tm: Trainable,
    prepared: Pictures,
    labels: Tensor,
    config: FitConfig,
    *,
    order: EpochOrder,
    initial: Delta,
    slice_of: Tensor,
    done: int,
    checkpoint: KeepCheckpoint | None,
    rows: JacobianRows | None,
    progress: Progress | None,
    watch: Watch | None,
) -> tuple[Delta, dict[str, Any]]:
    """`fit`, of what it has checked: Δw, and what the solver says."""
    if config.solver == "ridge":
        if not isinstance(tm, TangentModel):
            raise UsageError(f"solver='ridge': {type(tm).__name__} is not linear in Δw; use solver='adam'")
        if tm.dtype.itemsize < 4:
            raise UsageError(f"solver='ridge' with weights of {tm.dtype}: it needs float32; use solver='adam'")
        solution = solve(
            tm, prepared, labels, config.as_loss(), penalty=config.penalty, tolerance=config.tolerance,
            max_iterations=config.max_iterations, start=initial, rows=rows, progress=progress,
        )  # fmt: skip
        return solution.delta, {
            "iterations": solution.iterations,
            "residual": solution.residual,
            "distance_bound": solution.distance_bound,
            "converged": solution.converged,
            "objective": solution.objective,
            "history": solution.history,
        }
    descent = descend_by_slices(
        tm, prepared, labels, config.as_loss(), config.as_recipe(), slice_of=slice_of, slices=config.slices,
        done=done, order=order, start=initial, checkpoint=checkpoint, progress=progress, watch=watch,
    )  # fmt: skip
    return descent.delta, {"iterations": descent.steps, "objective": descent.objective, "history": descent.history}


def fit_many(
    tm: TangentModel, shards: Sequence[tuple[Pictures, Tensor]], config: FitConfig | None = None
) -> list[FittedDelta]:
    """`fit` of several shards' (pictures, labels), in less time: ridge passes all their pictures through the network together.

    Guarantees: each delta is, bit for bit, that of `fit` on its shard alone.
    """
    config = config or FitConfig()
    began = time.perf_counter()
    known = _rows_of_all(tm, [pictures for pictures, _ in shards], config)
    shared = (time.perf_counter() - began) / max(1, sum(len(shards[number][0]) for number in known))
    fitted = []
    for number, (pictures, labels) in enumerate(shards):
        delta = fit(tm, pictures, labels, config, rows=known.get(number))
        if number in known:
            delta.report = replace(delta.report, seconds=delta.report.seconds + shared * len(pictures))
        fitted.append(delta)
    return fitted


def _rows_of_all(tm: TangentModel, shards: Sequence[Pictures], config: FitConfig) -> dict[int, JacobianRows]:
    """The Jacobian's rows of those shards, by their place in the list, whose whole kernel `fit` would use."""
    small = {
        number: pictures
        for number, pictures in enumerate(shards)
        if isinstance(pictures, Prepared) and 0 < len(pictures) * tm.num_classes <= whole(tm.device)
    }
    if config.solver != "ridge" or not small:
        return {}
    if config.fit_precision != "float32":  # products of several shards at once may be rounded otherwise
        return {}
    try:
        return dict(zip(small, jacobian_rows(tm, list(small.values())), strict=True))
    except (UnsupportedModel, torch.OutOfMemoryError):  # then each shard does what it can by itself
        return {}


def _check_slices(slice_of: Tensor | None, count: int, slices: int) -> Tensor:
    if slice_of is None:
        if slices > 1:
            raise UsageError(f"slices={slices} needs slice_of, the slice of each picture")
        return torch.zeros(count, dtype=torch.int64)
    if len(slice_of) != count:
        raise UsageError(f"{plural(count, 'picture')}, but the slices of {len(slice_of)}")
    if count and not 0 <= int(slice_of.min()) <= int(slice_of.max()) < slices:
        raise UsageError(f"slice_of has values {int(slice_of.min())}..{int(slice_of.max())}, expected 0..{slices - 1}")
    return slice_of.cpu()


__all__: Sequence[str] = ("FitConfig", "FitReport", "FittedDelta", "fit", "fit_many")

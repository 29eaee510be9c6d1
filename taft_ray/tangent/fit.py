"""Fitting Δw on prepared pictures: one call, two solvers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from taft_ray.errors import UsageError
from taft_ray.tangent.adam import EpochOrder, descend, index_order
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.loss import Loss, check_labels
from taft_ray.tangent.model import TangentModel
from taft_ray.tangent.prepared import Pictures
from taft_ray.tangent.ridge import solve

SOLVERS = ("ridge", "adam")
Progress = Callable[[int, int], None]  # (steps done, steps at most)


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a delta is fitted: minimise mean loss + penalty · ‖Δw‖².

    solver "ridge": conjugate gradient to ``tolerance`` (relative residual), at most ``max_iterations``; loss rsl or mse.
    solver "adam": the paper's recipe (appendix A): ``epochs`` with ``batch_size``, ``learning_rate`` divided by ten at
    each of ``milestones``, no augmentation.
    """

    solver: str = "ridge"
    loss: str = "rsl"
    kappa: float = 15.0
    alpha: float = 1.0
    penalty: float = 0.001
    tolerance: float = 1e-2
    max_iterations: int = 300
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    milestones: tuple[int, ...] = (15, 25)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise UsageError(f"solver={self.solver!r}: expected one of {', '.join(SOLVERS)}")
        if not self.as_loss().is_quadratic and self.solver == "ridge":
            raise UsageError(f"loss={self.loss!r} is not least squares; use solver='adam', or loss='rsl' or 'mse'")
        if self.solver == "ridge" and not self.penalty > 0:
            raise UsageError(f"penalty={self.penalty}: ridge needs > 0, or the optimum is not unique")
        if not (self.penalty >= 0 and self.tolerance > 0 and self.learning_rate > 0):  # false for NaN, too
            raise UsageError("penalty must be >= 0, tolerance and learning_rate > 0")
        if min(self.max_iterations, self.epochs, self.batch_size) < 1:
            raise UsageError("max_iterations, epochs and batch_size must be >= 1")

    def as_loss(self) -> Loss:
        return Loss(kind=self.loss, kappa=self.kappa, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """What a fit cost and how good it is.

    residual: relative residual of the normal equations (ridge), recomputed at the end, not the recurrence's.
    distance_bound: ‖Δw − Δw*‖ ≤ ‖∇L(Δw)‖ / (2·penalty), the certified distance to the one optimum; None where the
        objective is not the ridge problem.
    objective: mean loss + penalty · ‖Δw‖² at the end.
    """

    solver: str
    samples: int
    iterations: int
    seconds: float
    objective: float
    residual: float | None = None
    distance_bound: float | None = None
    converged: bool = True
    history: list[float] = field(default_factory=list)


class FittedDelta(Delta):
    """A Delta with the report of its fit."""

    def __init__(self, tensors: Mapping[str, Tensor], report: FitReport) -> None:
        super().__init__(tensors)
        self.report = report


def fit(
    tm: TangentModel,
    prepared: Pictures,
    labels: Tensor,
    config: FitConfig | None = None,
    *,
    order: EpochOrder = index_order,
    start: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> FittedDelta:
    """Fit Δw on the pictures; labels (B,) in 0..K-1. Zero pictures give Δw = 0.

    order: ``order(count, seed, epoch) -> permutation`` for adam; `data.epoch_order` of the sample keys makes it stable
        under removal of samples. start: a warm start (zero otherwise). DataError for labels outside the classes.
    """
    config = config or FitConfig()
    labels = check_labels(torch.as_tensor(labels), tm.num_classes).to(tm.device)
    if len(labels) != len(prepared):
        raise UsageError(f"{len(prepared)} pictures, but {len(labels)} labels")
    zero = tm.zero_delta()
    if start is not None:
        zero.check_like(start, what="warm start")
    began = time.perf_counter()
    initial = zero if start is None else Delta({name: start[name].to(value) for name, value in zero.items()})
    if len(labels) == 0:
        report = FitReport(
            solver=config.solver, samples=0, iterations=0, seconds=0.0, objective=0.0, residual=0.0, distance_bound=0.0
        )
        return FittedDelta(zero, report)
    if config.solver == "ridge":
        solution = solve(
            tm, prepared, labels, config.as_loss(), penalty=config.penalty, tolerance=config.tolerance,
            max_iterations=config.max_iterations, start=initial, progress=progress,
        )  # fmt: skip
        delta, facts = solution.delta, {
            "iterations": solution.iterations,
            "residual": solution.residual,
            "distance_bound": solution.distance_bound,
            "converged": solution.converged,
            "objective": solution.objective,
            "history": solution.history,
        }  # fmt: skip
    else:
        descent = descend(
            tm, prepared, labels, config.as_loss(), penalty=config.penalty, epochs=config.epochs,
            batch_size=config.batch_size, learning_rate=config.learning_rate, milestones=config.milestones,
            seed=config.seed, order=order, start=initial, progress=progress,
        )  # fmt: skip
        delta, facts = descent.delta, {
            "iterations": descent.steps,
            "objective": descent.objective,
            "history": descent.history,
        }  # fmt: skip
    seconds = time.perf_counter() - began
    return FittedDelta(delta, FitReport(solver=config.solver, samples=len(labels), seconds=seconds, **facts))


__all__: Sequence[str] = ("FitConfig", "FitReport", "FittedDelta", "fit")

"""How a delta is fitted, as options; without torch, so that a wrong one is told at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from taft_ray.errors import UsageError

if TYPE_CHECKING:
    from taft_ray.fitting.adam import Recipe
    from taft_ray.fitting.loss import Loss

SOLVERS = ("ridge", "adam")
PRIVATE = "dp-gd"  # full-batch gradient descent with noise: see `fitting.private`
PRIVATE_ROWS = "dp-additive"  # the same of a head on rows
PRIVATE_SOLVERS = (PRIVATE, PRIVATE_ROWS)
# no sum of gradients between them overflows float32, and none is lost below its smallest value
LEAST_CLIP, LARGEST_CLIP = 1e-12, 1e12
RESOLVE_TOLERANCE = 1e-5  # relative residual of a resolve: about what float32 can reach
RESOLVE_ITERATIONS = 2000  # at most
LOSSES = ("rsl", "mse", "ce")
FIT_PRECISIONS = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "tf32")}
"""Of a fit's products, by device."""


def check_loss(kind: str, kappa: float, alpha: float) -> None:
    """UsageError for a loss that is none."""
    if kind not in LOSSES:
        raise UsageError(f"loss={kind!r}: expected one of {', '.join(LOSSES)}")
    if not kappa > 0 or not alpha > 0:
        raise UsageError(f"kappa={kappa}, alpha={alpha}: expected both > 0")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a delta is fitted: minimise mean loss + penalty · ‖Δw‖².

    solver "ridge": preconditioned conjugate gradient to ``tolerance`` (relative residual), at most ``max_iterations``; loss rsl or mse.

    solver "adam": the paper's recipe (appendix A): ``epochs`` with ``batch_size``, ``learning_rate`` divided by ten at
    each of ``milestones``, no augmentation. ``slices`` > 1 trains in stages over parts of the shard (`fitting.slices`), so
    that a retrain can start in the middle; 1 is the paper's recipe. ``radius`` keeps ‖Δw‖ at most that large by projection
    after each step (appendix B, where the penalty is 0); None is no constraint.

    ``fit_precision``: of matrix products (`fitting.precision`); "bfloat16" on a CPU and "tf32" on a GPU are faster.

    solver "dp-gd" and "dp-additive": noisy gradient descent (`fitting.private`). `fit` refuses them, for it has no noise.

    Examples:
        >>> tr.FitConfig(solver="adam", epochs=50, milestones=(25, 40)).learning_rate
        0.001
        >>> tr.FitConfig(solver="ridge", loss="ce")
        Traceback (most recent call last):
            ...
        taft_ray.errors.UsageError: loss='ce' is not least squares; ...
    """

    solver: str = "ridge"
    loss: str = "rsl"
    kappa: float = 15.0
    alpha: float = 1.0
    penalty: float = 0.01
    tolerance: float = 1e-4
    max_iterations: int = 300
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    milestones: tuple[int, ...] = (15, 25)
    slices: int = 1
    radius: float | None = None
    fit_precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.solver not in (*SOLVERS, *PRIVATE_SOLVERS):
            raise UsageError(f"solver={self.solver!r}: expected one of {', '.join((*SOLVERS, *PRIVATE_SOLVERS))}")
        check_loss(self.loss, self.kappa, self.alpha)
        if not any(self.fit_precision in several for several in FIT_PRECISIONS.values()):
            raise UsageError(f"fit_precision={self.fit_precision!r}: expected float32, bfloat16 (CPU) or tf32 (GPU)")
        if self.loss == "ce" and self.solver == "ridge":
            raise UsageError(f"loss={self.loss!r} is not least squares; use solver='adam', or loss='rsl' or 'mse'")
        if self.solver == "ridge" and not self.penalty > 0:
            raise UsageError(f"penalty={self.penalty}: ridge needs > 0, or the optimum is not unique")
        if not (self.penalty >= 0 and self.tolerance > 0 and self.learning_rate > 0):  # false for NaN, too
            raise UsageError("penalty must be >= 0, tolerance and learning_rate > 0")
        if min(self.max_iterations, self.epochs, self.batch_size) < 1:
            raise UsageError("max_iterations, epochs and batch_size must be >= 1")
        if self.radius is not None and not self.radius > 0:
            raise UsageError(f"expected radius > 0, got {self.radius}; set --radius")
        if self.radius is not None and self.solver != "adam":
            raise UsageError(
                f"radius={self.radius}: solver={self.solver!r} solves the problem without a constraint; "
                "use --solver adam, or --penalty instead of --radius"
            )
        if self.slices < 1:
            raise UsageError(f"expected slices >= 1, got {self.slices}; set --slices")
        if self.slices > 1 and self.solver != "adam":
            raise UsageError(
                f"slices={self.slices}: solver={self.solver!r} has no stages to keep checkpoints of; "
                "use --slices 1, or --solver adam"
            )

    def to_resolve(self) -> FitConfig:
        """The same fit, gone on with to `RESOLVE_TOLERANCE` from where a shard was: in float32, for no less gets there."""
        return replace(
            self,
            fit_precision="float32",
            tolerance=min(self.tolerance, RESOLVE_TOLERANCE),
            max_iterations=max(self.max_iterations, RESOLVE_ITERATIONS),
        )

    def as_loss(self) -> Loss:
        from taft_ray.fitting.loss import Loss

        return Loss(kind=self.loss, kappa=self.kappa, alpha=self.alpha)

    def as_recipe(self) -> Recipe:
        from taft_ray.fitting.adam import Recipe

        return Recipe(
            penalty=self.penalty, epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate,
            milestones=self.milestones, seed=self.seed, radius=self.radius,
        )  # fmt: skip

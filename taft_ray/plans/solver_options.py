"""Which fields of a spec mean something to which solver: a field that is in no set here means something to each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from taft_ray.additive.options import ADDITIVE
from taft_ray.errors import UsageError
from taft_ray.fitting.config import PRIVATE, PRIVATE_ROWS, PRIVATE_SOLVERS
from taft_ray.log import logger_of
from taft_ray.plans.spec import RunSpec

OF_FITS = frozenset(
    [
        "last_blocks", "trainable", "reset", "cls_token", "loss", "alpha", "penalty", "compose", "epsilon", "joint_penalty",
        "weighting", "cache_dtype", "constants_gib", "fit_precision",
    ]
)  # fmt: skip
"""Fields of ridge and adam, which fit a tangent model per shard."""

OF_SOLVER = {
    "ridge": frozenset(["tolerance", "max_iterations"]),
    "adam": frozenset(["epochs", "batch_size", "learning_rate", "milestones", "slices", "radius"]),
    ADDITIVE: frozenset(["features", "site_blocks", "views"]),
    PRIVATE: frozenset(["privacy"]),
    PRIVATE_ROWS: frozenset(["privacy", "features", "site_blocks", "views"]),
}
"""Fields of one solver alone."""

_log = logger_of(__name__)


NOT_PRIVATE = frozenset(["penalty", "epsilon", "joint_penalty", "learning_rate", "fit_precision"])
"""Fields of fits and compositions that a private run has none of: its own numbers are in `Privacy`."""

OF_BOTH = frozenset(["beside"])
"""Fields of a run that fits deltas beside its rows."""


def idle(solver: str, compose: str = RunSpec.compose) -> frozenset[str]:
    """The fields that mean nothing to a solver and a composition."""
    own = OF_SOLVER[solver]
    others = (frozenset().union(*OF_SOLVER.values()) | OF_BOTH) - own
    if solver == PRIVATE_ROWS:
        return others | NOT_PRIVATE | (OF_FITS - {"compose", "loss", "alpha", "weighting"})
    if solver == PRIVATE:
        return others | NOT_PRIVATE
    if solver == ADDITIVE:
        return others | (OF_FITS - {"compose"} if compose == ADDITIVE else OF_FITS)
    return others - OF_SOLVER[ADDITIVE] - OF_BOTH if compose == ADDITIVE else others


def check_idle(values: Mapping[str, Any], given: Collection[str]) -> None:
    """UsageError for a ``given`` field that means nothing to the kind of run that is made; a field's own default is let pass.

    Between ridge and adam it is a warning: runs of earlier versions have such fields, and are repeated with them.
    """
    solver = values.get("solver", RunSpec.solver)
    if solver not in OF_SOLVER:
        return  # the spec refuses it
    fields = RunSpec.__dataclass_fields__
    compose = values.get("compose", RunSpec.compose)
    lost = sorted(name for name in idle(solver, compose) & set(given) if values.get(name) != fields[name].default)
    if solver in PRIVATE_SOLVERS and lost:
        raise UsageError(
            f"{_options(lost)} mean{'s' * (len(lost) == 1)} nothing to a private run, whose mechanism is fixed: T steps of "
            f"noisy gradient descent (--steps, --clip, --learning-rate). Leave {'it' if len(lost) == 1 else 'them'} out"
        )
    other_kind = [name for name in lost if solver == ADDITIVE or name in OF_SOLVER[ADDITIVE] | OF_BOTH]
    if other_kind:
        one = len(other_kind) == 1
        lean = solver == ADDITIVE
        said, other = (f"--solver {solver}", "solver") if lean else (f"--compose {compose}", "composition")
        raise UsageError(
            f"{_options(other_kind)} mean{'s' * one} nothing to {said}: {_WHY[lean]}. "
            f"Leave {'it' if one else 'them'} out, or choose another {other}"
        )
    lost = [name for name in lost if name not in _REFUSED]
    if lost:
        _log.warning("%s mean%s nothing to --solver %s", _options(lost), "s" * (len(lost) == 1), solver)


_REFUSED = ("slices", "radius")  # by `fitting.FitConfig`
_WHY = {
    True: "an additive run fits nothing, and sums rows of numbers",
    False: "rows of numbers are made by --compose additive, the default, and by --solver additive",
}


def _options(names: Collection[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)

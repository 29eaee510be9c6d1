"""The kind of a run in a sentence: which model it has, what is kept of each shard, and how it forgets by default."""

from __future__ import annotations

from taft_ray.fitting.config import PRIVATE_ROWS
from taft_ray.plans.forget import default_mode
from taft_ray.plans.spec import RunSpec

_HOW = {
    "gram": "composed by Gram matrices (gram)",
    "mean": "composed by their mean (mean)",
    "joint": "composed jointly over all layers (joint)",
}


def kind_of(spec: RunSpec) -> str:
    """The kind of the runs of a spec, for a person."""
    forgets = f"forget without --mode {default_mode(spec)}s"
    if spec.lean:
        return f"additive: sums over rows are the model; rows are kept, and no deltas; {forgets}"
    if spec.privacy is not None:
        of = "a head on rows" if spec.solver == PRIVATE_ROWS else "a tangent model"
        return f"private {spec.solver}: {of} per shard, fitted with noise; deltas are kept, {_HOW[spec.compose]}; {forgets}"
    fitted = f"deltas by {spec.solver}"
    if spec.two_tiers:
        return (
            f"additive: sums over rows are the model; {fitted} are kept beside them, {_HOW[spec.of_deltas]}; {forgets}"
        )
    return f"{spec.compose}: {fitted} are the model, {_HOW[spec.compose]}; {forgets}"

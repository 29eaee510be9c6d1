"""The kind of a run in a sentence: each combination of solver and composition is told apart, with what it keeps."""

from typing import Any

import pytest

from taft_ray.plans.forget import default_mode
from taft_ray.plans.kind import kind_of
from taft_ray.plans.privacy import Privacy
from taft_ray.plans.spec import RunSpec

PRIVACY = Privacy(epsilon=1.0, delta=1e-6)
CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "additive: sums over rows are the model; deltas by ridge are kept beside them, composed by Gram matrices (gram)"),
    ({"solver": "adam", "beside": "joint"}, "deltas by adam are kept beside them, composed jointly over all layers (joint)"),
    ({"solver": "additive"}, "additive: sums over rows are the model; rows are kept, and no deltas"),
    ({"compose": "gram"}, "gram: deltas by ridge are the model, composed by Gram matrices (gram)"),
    ({"compose": "mean"}, "mean: deltas by ridge are the model, composed by their mean (mean)"),
    ({"compose": "joint"}, "joint: deltas by ridge are the model, composed jointly over all layers (joint)"),
    ({"solver": "dp-gd", "loss": "ce", "compose": "mean", "classes": ("a", "b"), "privacy": PRIVACY},
     "private dp-gd: a tangent model per shard, fitted with noise; deltas are kept, composed by their mean (mean)"),
    ({"solver": "dp-additive", "loss": "ce", "compose": "mean", "classes": ("a", "b"), "privacy": PRIVACY},
     "private dp-additive: a head on rows per shard, fitted with noise"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "words"), CASES)
def test_kind_says_the_model_what_is_kept_and_how_it_forgets(options: dict[str, Any], words: str) -> None:
    spec = RunSpec(data="data", model="model", **options)
    told = kind_of(spec)
    assert words in told
    assert told.endswith(f"; forget without --mode {default_mode(spec)}s")
    assert len({kind_of(RunSpec(data="data", model="model", **one)) for one, _ in CASES}) == len(CASES)

"""Ways to forget against the same system made anew: those that are exact have no distance at all, others have one."""

import pytest
import torch

from taft_ray.systems import Cell, measure, measure_forgetting, measure_frozen
from taft_ray.systems.measure import leaving

TUNED = {"network": "nonlinear", "solver": "adam", "loss": "ce", "penalty": 0.0}
NOTHING = {"mean": 0.0, "max": 0.0, "same": 1.0}


@pytest.fixture(scope="module")
def ridge(tm, train, test, cell_of) -> dict:
    return measure_forgetting(cell_of(leaving=1, timed=True, shards=2), tm, train, test)


@pytest.fixture(scope="module")
def tuned(tm, train, test, cell_of) -> dict:
    return measure_forgetting(cell_of(**TUNED, leaving=2, merges=True), tm, train, test)


@pytest.mark.parametrize("readout", ["mean", "gram", "joint"])
@pytest.mark.parametrize("way", ["retrain", "drop"])
def test_retraining_and_dropping_are_exact(ridge, readout, way):
    found = ridge["forgetting"][f"{readout}: {way}"]
    assert found["after"] == NOTHING
    assert found["equal_bits"]
    assert found["seconds"] > 0


@pytest.mark.parametrize("readout", ["mean", "gram", "joint"])
def test_models_that_are_not_the_oracles_are_told(ridge, readout):
    """A model that has forgotten nothing, and one that has lost a whole shard."""
    ways = ridge["forgetting"]
    assert ways[f"{readout}: retrain"]["before"]["max"] > 0
    dropped = ways[f"{readout}: drop, against retrain"]
    assert not dropped["equal_bits"]
    assert dropped["after"]["mean"] > ways[f"{readout}: drop"]["after"]["mean"]


def test_a_resolve_is_near_its_oracle_and_not_equal(ridge):
    found = ridge["forgetting"]["gram: resolve"]
    assert 0 < found["after"]["mean"] < found["before"]["mean"]


def test_fine_tuned_shards_are_exact_by_every_readout(tuned):
    assert set(tuned["forgetting"]) == {
        "mean: retrain", "mean: drop", "mean: drop, against retrain", "average: retrain", "regmean++: retrain",
    }  # fmt: skip
    for way in ("mean: retrain", "average: retrain", "regmean++: retrain"):
        found = tuned["forgetting"][way]
        assert found["after"] == NOTHING, way
        assert found["before"]["max"] > 0, way
    assert set(tuned["accuracy"]) == {"mean", "average"}


def test_accuracy_after_is_of_the_evaluation_pictures(tm, train, test, cell_of):
    """As the very cell without the pictures has it."""
    cell = cell_of(**TUNED, leaving=6)
    found = measure_forgetting(cell, tm, train, test)["forgetting"]["mean: retrain"]
    without = measure(cell_of(**TUNED, forget=6 / len(train)), tm, train, test)
    assert len(leaving(cell, train)) == 6
    assert found["accuracy"] == without["accuracy"]["mean"]


def test_a_frozen_systems_pictures_leave_to_the_last_bit(tm, train, test, cell_of):
    cell: Cell = cell_of(network="frozen", leaving=3)
    result = measure_frozen(cell, tm, train, test)
    assert set(result["forgetting"]) == {"head: subtract", "knn: remove the row"}
    for found in result["forgetting"].values():
        assert found["after"] == NOTHING
        assert found["equal_bits"]
        assert found["equal_digests"]
        assert found["before"]["max"] > 0


def test_a_shard_whose_every_picture_leaves_is_left_out(tm, train, test, cell_of):
    few = train[torch.arange(9)]
    result = measure_forgetting(cell_of(**TUNED, shards=8, leaving=6), tm, few, test)
    assert result["forgetting"]["mean: retrain"]["after"] == NOTHING
    assert result["forgetting"]["average: retrain"]["after"] == NOTHING

"""A cell is called by its content, wherever its inputs lie."""

import json

import pytest

from taft_ray.errors import UsageError
from taft_ray.systems import Cell


def test_json_and_back(cell_of):
    cell = cell_of(
        network="nonlinear",
        solver="adam",
        kept=(4, 2),
        epsilons=(0.01,),
        joint_penalties=(0.1, 1.0),
        last_blocks="all",
        forget=0.25,
        merges=True,
    )
    again = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert again == cell
    assert again.digest == cell.digest


def test_cells_of_earlier_versions_keep_their_digests(cell_of):
    """Fields that came later are not in the JSON of a cell that has none of them."""
    assert not {"leaving", "merges", "joint_penalties"} & cell_of().to_json().keys()
    leaving = cell_of(leaving=2)
    assert Cell.from_json(json.loads(json.dumps(leaving.to_json()))) == leaving


def test_digest_does_not_depend_on_where_the_inputs_lie(cell_of):
    cell = cell_of()
    moved = cell.with_spec(data="s3://bucket/elsewhere", weights="/mnt/other.safetensors")
    assert moved.digest == cell.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1}, {"shards": 5}, {"solver": "adam"}, {"penalty": 0.02}, {"reset": True}, {"last_blocks": 2}, {"slices": 2, "solver": "adam"},
        {"radius": 1.0, "solver": "adam"}, {"epsilon": 0.1}, {"joint_penalty": 0.1}, {"joint_penalties": (0.1,)},
        {"weighting": "samples"}, {"weights_digest": "a"}, {"threads": 2},
        {"network": "nonlinear", "solver": "adam"}, {"forget": 0.5}, {"kept": (2,)}, {"leaving": 1},
        {"network": "frozen"}, {"network": "nonlinear", "solver": "adam", "merges": True}, {"network": "additive", "solver": "additive"},
        {"network": "head2toe", "solver": "additive"}, {"timed": True}, {"inputs": {"data": "other"}},
    ],
    ids=str,
)  # fmt: skip
def test_digest_depends_on_everything_else(cell_of, changes):
    assert cell_of(**changes).digest != cell_of().digest


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "linear"},
        {"network": "nonlinear"},  # with ridge
        {"assignment": "grouped"},
        {"forget": 1.0},
        {"kept": (5,)},
        {"network": "additive"},  # with ridge
        {"solver": "additive"},  # of a tangent model
        {"merges": True},
        {"leaving": -1},
        {"leaving": 1, "forget": 0.5},
    ],
    ids=str,
)
def test_impossible_cells_are_refused(cell_of, changes):
    with pytest.raises(UsageError):
        cell_of(**changes)


def test_memory_for_constants_decides_seconds_and_no_other_number(cell_of):
    assert cell_of(constants_gib=1.0).digest == cell_of().digest
    timed = [cell_of(timed=True).digest, cell_of(timed=True, constants_gib=1.0).digest]
    assert timed[0] != timed[1]

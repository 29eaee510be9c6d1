"""A worker's share of a cluster: as Ray's parts are told it, and as the ledger keeps it."""

from typing import Any

import pytest
from history import Entry

from taft_ray.errors import UsageError
from taft_ray.plans.fold import apply
from taft_ray.plans.lane_resources import ANYWHERE, LaneResources, LaneResourcesSet
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.plans.train import lanes_for

SPEC = {"data": "d", "model": "taft_vit_cifar", "threads": 2}
ON_GPU, ON_CPU = RunSpec(**SPEC, device="cuda"), RunSpec(**SPEC, device="cpu")
EVERYWHERE = LaneResources(cpus=3, gpus=0.25, resources={"ssd": 0.5}, accelerator_type="L4", label_selector={"a": "!b"})


def test_a_person_who_says_nothing_gets_one_gpu_or_the_runs_threads() -> None:
    assert ANYWHERE.for_lane(ON_GPU) == {"GPU": 1.0}
    assert ANYWHERE.for_worker(ON_GPU) == {"num_cpus": 0, "num_gpus": 1.0}
    assert ANYWHERE.for_worker(ON_CPU) == {"num_cpus": 2, "num_gpus": 0}


@pytest.mark.parametrize("spec", [ON_GPU, ON_CPU], ids=["GPU", "CPU"])
def test_whatever_is_asked_reaches_lanes_the_pass_and_warm_workers(spec: RunSpec) -> None:
    lane = EVERYWHERE.for_lane(spec)
    assert lane["CPU"] == 3
    assert lane["ssd"] == 0.5
    assert lane.get("GPU") == (0.25 if spec is ON_GPU else None)
    for options in (EVERYWHERE.for_pass(spec), EVERYWHERE.for_worker(spec)):
        assert options["num_gpus"] == (0.25 if spec is ON_GPU else 0)
        assert options["resources"] == {"ssd": 0.5}
        assert options["accelerator_type"] == "L4"
        assert options["label_selector"] == {"a": "!b"}


@pytest.mark.parametrize(
    ("per_lane", "gpus", "cpus", "lanes"),
    [
        (LaneResources(gpus=0.5), 3, 8, 6),
        (LaneResources(gpus=0.3), 1, 8, 3),
        (LaneResources(gpus=1 / 3), 1, 8, 3),
        (LaneResources(gpus=0.7), 2, 8, 2),
        (LaneResources(cpus=4), 0, 8, 2),
        (LaneResources(cpus=0.5), 0, 2, 4),
        (LaneResources(cpus=16), 0, 8, 1),
    ],
)
def test_as_many_lanes_as_share_the_gpus_or_the_cores(
    per_lane: LaneResources, gpus: int, cpus: int, lanes: int
) -> None:
    assert lanes_for(50, gpus=gpus, cpus=cpus, threads=1, per_lane=per_lane) == lanes


def test_the_ledger_keeps_the_latest_and_counts_how_often_it_was_said() -> None:
    state = RunState()
    assert state.per_lane == ANYWHERE
    for number, per_lane in enumerate([EVERYWHERE, LaneResources(gpus=0.5)]):
        apply(state, Entry(LaneResourcesSet.KIND, LaneResourcesSet(per_lane, number).to_json()))
    assert state.per_lane == LaneResources(gpus=0.5)
    assert state.per_lane_set == 2


@pytest.mark.parametrize(
    ("wrong", "way_out"),
    [
        ({"gpus": 0}, "gpus per lane"),
        ({"gpus": 2}, "one GPU at most"),
        ({"gpus": float("nan")}, "gpus per lane"),
        ({"cpus": 0}, "--cpus-per-lane"),
        ({"cpus": float("inf")}, "--cpus-per-lane"),
        ({"resources": {"GPU": 1}}, "--gpus-per-lane"),
        ({"resources": {"ssd": 0}}, "more than 0"),
        ({"resources": {"": 1}}, "no custom resource"),
    ],
)
def test_amounts_that_are_none_are_refused(wrong: dict[str, Any], way_out: str) -> None:
    with pytest.raises(UsageError, match=way_out):
        LaneResources(**wrong)


def test_a_blank_after_a_comma_is_no_part_of_a_label() -> None:
    assert LaneResources(label_selector={"pool": "in(a, b)"}).label_selector == {"pool": "in(a,b)"}


def test_it_says_what_a_worker_waits_for() -> None:
    assert ANYWHERE.said("cuda", 1) == "a GPU"
    assert ANYWHERE.said("cpu", 2) == "2 CPUs"
    assert EVERYWHERE.said("cuda", 2) == "0.25 of a GPU of type L4 and 3 CPUs and 0.5 of ssd on a node with a=!b"

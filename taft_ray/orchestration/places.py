"""Places for workers in the cluster: those that its nodes have, and those that an autoscaler may add."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # there is no public way

from taft_ray.errors import NoDevice, UsageError
from taft_ray.orchestration.session import connected
from taft_ray.plans.lane_resources import ANYWHERE, LaneResources
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.train import lanes_for

AUTOSCALED_GPUS = "TAFT_RAY_AUTOSCALED_GPUS"
"""Names how many GPUs an autoscaler may start whose configuration Ray does not show."""
MOST_GPUS = 4096  # where an autoscaler has no limit

_SELECTOR = re.compile(r"(!?)(?:in\(([^()]*)\)|([^()]*))")


def resources(per_lane: LaneResources = ANYWHERE) -> tuple[int, int]:
    """(CPUs, GPUs), as Ray counts them now, of the nodes on which such a worker may be."""
    nodes = [node for node in ray.nodes() if node["Alive"] and _suits(node, per_lane)]
    cpus, gpus = (sum(node["Resources"].get(what, 0) for node in nodes) for what in ("CPU", "GPU"))
    return int(cpus), int(gpus)


def _suits(node: Mapping[str, Any], per_lane: LaneResources) -> bool:
    """Whether a node is of the kind that such a worker asks for."""
    there = node["Resources"]
    if per_lane.accelerator_type and f"accelerator_type:{per_lane.accelerator_type}" not in there:
        return False
    if any(there.get(name, 0) < amount for name, amount in per_lane.resources.items()):
        return False
    labels = node.get("Labels", {})
    return all(selects(wanted, labels.get(name)) for name, wanted in per_lane.label_selector.items())


def selects(wanted: str, label: str | None) -> bool:
    """Whether a node with this label (None: without it) is among those that a selector of Ray's syntax means."""
    found = _SELECTOR.fullmatch(wanted)
    if found is None:
        raise UsageError(f"label selector {wanted!r}: expected value, !value, in(a,b) or !in(a,b)")
    no, several, one = found.groups()
    values = [one] if several is None else several.split(",")
    return (label in values) != bool(no)


def has_room(options: Mapping[str, Any], per_lane: LaneResources) -> bool:
    """Whether a node that suits has free, now, what a worker with these options of Ray takes."""
    free = available_resources_per_node()
    wanted = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], **per_lane.resources}
    return any(
        all(free.get(node["NodeID"], {}).get(name, 0) >= amount for name, amount in wanted.items())
        for node in ray.nodes()
        if node["Alive"] and _suits(node, per_lane)
    )


def check_lane_resources(per_lane: LaneResources) -> None:
    """UsageError for labels that Ray would not take."""
    from ray._private.label_utils import validate_label_selector  # as Ray's own options do

    said = validate_label_selector(dict(per_lane.label_selector))
    if said:
        raise UsageError(f"label selector: {said}")


def gpus_within_reach(declared: int | None = None, per_lane: LaneResources = ANYWHERE) -> tuple[int, str]:
    """GPUs that the cluster has or can start, and by what that is known.

    declared: how many a person said that it can start. Else an autoscaler's configuration, or `AUTOSCALED_GPUS`, says it.
    """
    there = resources(per_lane)[1]
    startable, source = _startable(declared)
    if startable > there:
        return startable, f"{source}: {startable}; {there} are up"
    return there, f"the cluster has {there}"


def has_gpus(declared: int | None = None) -> bool:
    """Whether the cluster has or can start GPUs; it is joined for the question where this process has not joined it."""
    with nullcontext() if ray.is_initialized() else connected():
        return gpus_within_reach(declared)[0] > 0


def workers_at_once(spec: RunSpec, per_lane: LaneResources = ANYWHERE) -> int:
    """How many workers of a run find a place on the nodes that are up, and at least one. On CPUs no more than it has shards."""
    cpus, gpus = resources(per_lane)
    if spec.device == "cuda" and gpus:
        return gpus * per_lane.per_gpu
    return lanes_for(spec.shards, gpus=0, cpus=cpus, threads=spec.threads, per_lane=per_lane)


def check_device(device: str, declared: int | None = None, per_lane: LaneResources = ANYWHERE) -> None:
    """NoDevice when the run wants GPUs and the cluster neither has one that suits nor can start one."""
    if device != "cuda" or gpus_within_reach(declared, per_lane)[0] > 0:
        return
    others = resources()[1]
    if others:
        raise NoDevice(
            f"none of this cluster's {others} GPUs is {per_lane.said(device, 1)}; `ray status -v` shows what nodes have, "
            "and --gpus says that an autoscaler starts some"
        )
    raise NoDevice(
        "device=cuda, but this cluster has no GPU; use --device cpu, or, where an autoscaler adds GPU workers, "
        f"give --gpus or set {AUTOSCALED_GPUS}=<how many at most>"
    )


def _startable(declared: int | None) -> tuple[int, str]:
    if declared is not None:
        return declared, "--gpus"
    said = os.environ.get(AUTOSCALED_GPUS, "")
    if said:
        if not said.isdecimal():
            raise UsageError(f"{AUTOSCALED_GPUS}={said!r}: expected how many GPUs an autoscaler may start")
        return int(said), AUTOSCALED_GPUS
    from ray._private.state import state  # as Ray Train reads it: there is no public way

    known = state.get_max_resources_from_cluster_config() or {}
    return min(int(known.get("GPU", 0)), MOST_GPUS), "the autoscaler's configuration"

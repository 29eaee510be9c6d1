"""Nodes of `ray up`: spot, and on demand where spot is refused.

Ray 2.60's autoscaler asks for the same node type again after a launch that the cloud refused, and never for another
one. So the node provider falls back. A launcher file names one of `AWS`, `GCP` and `Azure`:

    provider: {type: external, module: taft_ray.orchestration.spot.AWS, ...}
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable
from functools import cache
from typing import Any

from taft_ray.log import logger_of

Node = dict[str, Any]

BATCH = "taft-ray-batch"
"""The tag of nodes that were asked for together."""

_log = logger_of(__name__)


def aws_on_demand(node: Node) -> Node | None:
    """The same node on demand; None where it is on demand already."""
    if node.get("InstanceMarketOptions", {}).get("MarketType") != "spot":
        return None
    return _without(node, "InstanceMarketOptions")


def gcp_on_demand(node: Node) -> Node | None:
    """The same node on demand; None where it is on demand already."""
    scheduling = node.get("scheduling", {})
    if scheduling.get("provisioningModel") != "SPOT":
        return None
    return {**_without(node), "scheduling": _without(scheduling, "provisioningModel", "instanceTerminationAction")}


def azure_on_demand(node: Node) -> Node | None:
    """The same node on demand; None where it is on demand already."""
    parameters = node["azure_arm_parameters"]
    if parameters.get("priority") != "Spot":
        return None
    regular = _without(parameters, "priority", "evictionPolicy", "billingProfile")
    return {**_without(node), "azure_arm_parameters": regular}


def _without(fields: Node, *names: str) -> Node:
    return {name: copy.deepcopy(value) for name, value in fields.items() if name not in names}


def falling_back(provider: type, on_demand: Callable[[Node], Node | None], *, lists_failed: bool = False) -> type:
    """A cloud's node provider, made to start on demand what was refused as spot.

    lists_failed: whether the cloud lists machines that it failed to start; they are deleted first.

    Guarantees: no more nodes start than were asked for, if the cloud lists at once those that it made. Where on demand
    is refused, too, the cloud's error is raised.
    """

    class SpotOrOnDemand(provider):
        def create_node(self, node_config: Node, tags: dict[str, str], count: int) -> Any:
            regular = on_demand(node_config)
            if regular is None:
                return super().create_node(node_config, tags, count)
            tags = {**tags, BATCH: secrets.token_hex(8)}
            try:
                made: Any = super().create_node(node_config, tags, count)
                reason = "the cloud started fewer than that"
            except Exception as error:  # each cloud has its own, and any may mean that it has no spot machines
                made, reason = dict.fromkeys(self._started(tags[BATCH])), str(error)
            if made is None or len(made) >= count:  # Azure does not say which it made: all, or there was an error
                return made
            missing = count - len(made)
            _log.warning("%d of %d spot nodes were refused (%s); starting them on demand", missing, count, reason)
            return {**made, **(super().create_node(regular, tags, missing) or {})}

        def _started(self, batch: str) -> list[str]:
            there = self.non_terminated_nodes({BATCH: batch})
            failed = [node for node in there if lists_failed and not self.is_running(node)]
            for node in failed:
                self.terminate_node(node)
            return [node for node in there if node not in failed]

    SpotOrOnDemand.__name__ = SpotOrOnDemand.__qualname__ = f"SpotOrOnDemand{provider.__name__}"
    return SpotOrOnDemand


@cache
def __getattr__(name: str) -> type:
    """`AWS`, `GCP` and `Azure`, made when they are asked for: each needs the packages of its cloud."""
    if name == "AWS":
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        return falling_back(AWSNodeProvider, aws_on_demand)
    if name == "GCP":
        from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

        return falling_back(GCPNodeProvider, gcp_on_demand)
    if name == "Azure":
        from ray.autoscaler._private._azure.node_provider import AzureNodeProvider

        return falling_back(AzureNodeProvider, azure_on_demand, lists_failed=True)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

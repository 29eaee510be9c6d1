"""Spot nodes of the launcher files: started on demand where the cloud refuses them, which Ray itself does not do."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.loader import load_function_or_class
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated import instance_manager_pb2 as messages

from taft_ray.orchestration import spot

ROOT = Path(__file__).parents[2]
ON_DEMAND = {"aws": spot.aws_on_demand, "gcp": spot.gcp_on_demand, "azure": spot.azure_on_demand}
CLASSES = {"aws": "AWS", "gcp": "GCP", "azure": "Azure"}


def load(cloud):
    return yaml.safe_load((ROOT / "cluster" / f"{cloud}.yaml").read_text())


def gpu_node(cloud):
    return load(cloud)["available_node_types"]["gpu"]["node_config"]


class Refused(Exception):
    pass


class Cloud:
    """Ray's interface of a node provider, for a cloud that has `spot` spot machines, then as many others as wanted."""

    def __init__(self, on_demand, spot=0, told=True, regular=100):
        self.on_demand, self.left, self.told = on_demand, {True: spot, False: regular}, told
        self.nodes = {}  # name: node and tags

    def create_node(self, node, tags, count):
        as_spot = self.on_demand(node) is not None
        made = {}
        for _ in range(min(count, self.left[as_spot])):
            made[f"node{len(self.nodes)}"] = self.nodes[f"node{len(self.nodes)}"] = (node, tags)
            self.left[as_spot] -= 1
        if len(made) < count and self.told:
            raise Refused("InsufficientInstanceCapacity")
        return made

    def non_terminated_nodes(self, tags):
        return [name for name, (_, have) in self.nodes.items() if tags.items() <= have.items()]


def provider(cloud, **conditions):
    made = spot.falling_back(Cloud, ON_DEMAND[cloud])
    return made(ON_DEMAND[cloud], **conditions)


def kinds(cloud, nodes):
    return ["spot" if ON_DEMAND[cloud](node) else "on demand" for node, _ in nodes.values()]


@pytest.mark.parametrize("cloud", ON_DEMAND)
@pytest.mark.parametrize("there", [0, 1, 3])
@pytest.mark.parametrize("told", [True, False], ids=["refusal is an error", "fewer are started"])
def test_as_many_nodes_start_as_were_asked_for(cloud, there, told):
    started = provider(cloud, spot=there, told=told)
    made = started.create_node(gpu_node(cloud), {"ray-user-node-type": "gpu"}, 3)
    assert made.keys() == started.nodes.keys()
    assert kinds(cloud, started.nodes) == ["spot"] * there + ["on demand"] * (3 - there)
    assert all(tags["ray-user-node-type"] == "gpu" for _, tags in started.nodes.values())


def test_batches_do_not_count_each_others_nodes():
    started = provider("aws", spot=2)
    for _ in range(2):
        started.create_node(gpu_node("aws"), {}, 3)
    assert len(started.nodes) == 6


def test_the_error_is_the_clouds_where_on_demand_is_refused_too():
    with pytest.raises(Refused):
        provider("gcp", regular=0).create_node(gpu_node("gcp"), {}, 1)


@pytest.mark.parametrize("cloud", ON_DEMAND)
def test_only_what_makes_a_node_spot_is_taken_away(cloud):
    node = gpu_node(cloud)
    before = copy.deepcopy(node)
    regular = ON_DEMAND[cloud](node)
    assert regular
    assert node == before
    assert ON_DEMAND[cloud](regular) is None
    assert ON_DEMAND[cloud](load(cloud)["available_node_types"]["head"]["node_config"]) is None
    spots = re.compile("(?i)spot|instanceTermination|evictionPolicy|maxPrice")
    assert spots.search(str(node))
    assert not spots.search(str(regular))
    kept = regular["azure_arm_parameters"] if cloud == "azure" else regular
    assert {"InstanceType", "machineType", "vmSize"} & kept.keys()
    if cloud == "gcp":
        assert regular["scheduling"] == {"onHostMaintenance": "TERMINATE"}  # else Google Cloud refuses a GPU


@pytest.mark.parametrize("cloud", ON_DEMAND)
def test_the_files_name_the_class_of_their_cloud(cloud):
    named = load(cloud)["provider"]
    assert named["type"] == "external"
    assert named["module"] == f"taft_ray.orchestration.spot.{CLASSES[cloud]}"
    if cloud == "aws":  # the clients of the others are no packages of the tests
        found = load_function_or_class(named["module"])
        assert found is load_function_or_class(named["module"])  # Ray keeps one provider per class
        assert [base.__name__ for base in found.__bases__] == ["AWSNodeProvider"]


def test_failed_machines_are_deleted_first():
    class Azure(Cloud):
        """A machine that could not be started stays in Azure's list."""

        def create_node(self, node, tags, count):
            if self.on_demand(node) is not None:
                self.nodes["failed"] = (node, tags)
            return super().create_node(node, tags, count)

        def is_running(self, name):
            return name != "failed"

        def terminate_node(self, name):
            del self.nodes[name]

    started = spot.falling_back(Azure, spot.azure_on_demand, lists_failed=True)(spot.azure_on_demand)
    started.create_node(gpu_node("azure"), {}, 2)
    assert len(started.nodes) == 2
    assert "failed" not in started.nodes


def test_rays_autoscaler_forgets_what_was_refused():
    """Only a node that was given and never came up counts against its type; this is why the provider falls back."""
    monitor = CloudResourceMonitor()
    instance, event = (getattr(messages, name) for name in ("Instance", "InstanceUpdateEvent"))  # made by protobuf
    for status, known in ((instance.ALLOCATION_FAILED, set()), (instance.ALLOCATION_TIMEOUT, {"gpu"})):
        monitor.notify([event(instance_id="1", new_instance_status=status, instance_type="gpu")])
        assert monitor.get_recoverable_resource_availabilities().keys() == known


def launches(config, gpus):
    """How many nodes of which type Ray's autoscaler starts for so many lanes."""
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make({"GPU": 1})] * gpus),
    )
    reply = ResourceDemandScheduler().schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


@pytest.mark.parametrize("cloud", ["gcp", "azure"])  # of AWS's machines Ray learns the resources from AWS
def test_autoscaler_starts_a_node_per_lane_and_keeps_it_warm(cloud):
    config = AutoscalingConfig(load(cloud), skip_content_hash=True)
    assert launches(config, 5)["gpu"] == 5
    assert launches(config, 50)["gpu"] == load(cloud)["max_workers"]
    assert config.get_node_type_configs()["gpu"].idle_timeout_s == 900
    assert config.get_idle_timeout_s() == 300

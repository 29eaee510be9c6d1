"""The files of `ray up`: Ray's own validation takes them, and AWS's nodes start on a mock of EC2."""

import copy
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest import mock

import boto3
import pytest
import ray
import yaml
from botocore.exceptions import ClientError
from jsonschema import ValidationError
from moto import mock_aws
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

from taft_ray.orchestration.places import AUTOSCALED_GPUS

ROOT = Path(__file__).parents[2]
RAY_AUTOSCALER = Path(ray.__file__).parent / "autoscaler"
TOKEN = "~/.ray/auth_token"
LAUNCHER = ["aws", "gcp", "azure"]


def load(name):
    return yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())


def validated(config):
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.fixture(params=LAUNCHER)
def config(request):
    return load(request.param)


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # relative paths in the files are relative to it, as cluster/README.md says


def test_ray_accepts(config, in_root):
    prepared = validated(config)
    assert set(prepared["available_node_types"]) == {"head", "gpu"}


def test_nothing_but_the_head_is_paid_for_between_jobs(config):
    types = validated(config)["available_node_types"]
    assert types["gpu"]["min_workers"] == 0
    assert types["gpu"]["max_workers"] == config["max_workers"] > 0
    assert (types["head"]["min_workers"], types["head"]["max_workers"]) == (0, 0)


def test_jobs_know_how_many_gpus_may_come(config):
    """The driver runs on the head, which has no GPU."""
    [start] = [line for line in config["head_start_ray_commands"] if "--head" in line]
    assert f"export {AUTOSCALED_GPUS}={config['max_workers']}; " in start


def test_head_schedules_no_work(config):
    head = config["available_node_types"]["head"]
    assert head["resources"] == {"CPU": 0}
    node = head["node_config"]
    assert not {"InstanceMarketOptions", "scheduling", "guestAccelerators"} & node.keys()
    assert "priority" not in node.get("azure_arm_parameters", {})


def test_nodes_leave_no_disk_behind(config):
    """A disk that outlives its node keeps activations of samples that were forgotten meanwhile."""
    assert config["provider"]["cache_stopped_nodes"] is False
    for node_type in config["available_node_types"].values():
        node = node_type["node_config"]
        for disk in node.get("BlockDeviceMappings", []):
            assert disk["Ebs"]["DeleteOnTermination"] is True
        for disk in node.get("disks", []):
            assert disk["autoDelete"] is True


def test_local_paths_exist_and_the_large_ones_stay_here(config):
    for local in set(config["file_mounts"].values()) - {TOKEN}:
        assert not Path(local).is_absolute()
        assert (ROOT / local).exists()
    assert {".venv", "runs", ".git"} <= set(config["rsync_exclude"])


def test_every_process_of_ray_asks_for_the_token(config):
    """The options hold for whatever runs in the container: Ray, `ray exec`, jobs."""
    options = " ".join(config["docker"]["run_options"])
    (there,) = [remote for remote, local in config["file_mounts"].items() if local == TOKEN]
    assert "-e RAY_AUTH_MODE=token" in options
    assert f"-e RAY_AUTH_TOKEN_PATH={there}" in options
    assert "RAY_AUTH" not in " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])


def test_the_token_that_is_made_is_the_one_that_is_mounted(tmp_path):
    """The laptop generates it, a node finds it by its path, and a node without it does not start."""
    show = "from ray._raylet import AuthenticationTokenLoader as Loader; print(Loader.instance().get_raw_token())"

    def run(*command, **environment):
        environment = {"PATH": os.environ["PATH"], "RAY_AUTH_MODE": "token", **environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    ray_command = str(Path(sys.executable).with_name("ray"))
    made = run(ray_command, "get-auth-token", "--generate", HOME=str(tmp_path))
    token = Path(TOKEN.replace("~", str(tmp_path)))
    assert made.stdout == token.read_text() != ""
    node = {"HOME": str(tmp_path / "elsewhere"), "RAY_AUTH_TOKEN_PATH": str(token)}
    assert run(sys.executable, "-c", show, **node).stdout.strip() == made.stdout
    token.unlink()
    assert run(sys.executable, "-c", show, **node).returncode != 0


def test_setup_uses_files_of_the_repository(config):
    source = next(remote for remote, local in config["file_mounts"].items() if local == ".").replace("/home/ray", "~")
    setup = "\n".join(config["setup_commands"])
    assert source in setup
    assert "-c ~/taft_ray/constraints.txt" in setup
    assert (ROOT / "constraints.txt").is_file()
    assert (ROOT / "pyproject.toml").is_file()


def test_image_has_the_ray_that_is_pinned(config):
    assert f"ray:{pinned('ray')}-py311" in config["docker"]["image"]


def pinned(package):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def test_dashboard_is_not_on_the_network(config):
    (start,) = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.parametrize("name", LAUNCHER)
@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (lambda c: c.update(max_worker=8), ValidationError),  # a misspelt key
        (lambda c: c["available_node_types"]["gpu"].update(min_workers="0"), ValidationError),
        (lambda c: c["available_node_types"]["gpu"].pop("node_config"), ValidationError),
        (lambda c: c["available_node_types"]["head"].update(resources={"CPU": -1}), ValidationError),
        (lambda c: c.update(head_node_type="heads"), ValueError),
        (lambda c: c["available_node_types"]["gpu"].update(min_workers=99), ValueError),
        (lambda c: c["docker"].pop("container_name"), AssertionError),
    ],
)
def test_broken_config_is_refused(name, broken, error):
    config = load(name)
    broken(config)
    with pytest.raises(error):
        validated(config)


def test_gcp_gpu_nodes_are_spot_and_may_reach_the_bucket():
    node = load("gcp")["available_node_types"]["gpu"]["node_config"]
    assert node["scheduling"] == {
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "DELETE",
        "onHostMaintenance": "TERMINATE",
    }
    (account,) = node["serviceAccounts"]
    assert account["email"].endswith(f"@{load('gcp')['provider']['project_id']}.iam.gserviceaccount.com")


@pytest.fixture
def azure():
    """The node types of azure.yaml as Ray hands them to Azure, and Ray's template that takes them."""
    template = json.loads((RAY_AUTOSCALER / "_private/_azure/azure-vm-template.json").read_text())
    types = validated(load("azure"))["available_node_types"]
    return {name: types[name]["node_config"]["azure_arm_parameters"] for name in types}, template["parameters"]


def test_azure_nodes_have_only_what_rays_template_takes(azure):
    """Azure refuses a deployment with an unknown parameter, or without one that has no default."""
    nodes, parameters = azure
    by_ray = {"vmName", "vmTags", "vmCount", "provisionPublicIp", "msi", "nsg", "subnet", "zones"}
    by_ray |= {"adminUsername", "publicKey"}  # of Ray's key pair
    needed = {name for name, parameter in parameters.items() if "defaultValue" not in parameter}
    kinds = {"string": str, "int": int, "object": dict, "bool": bool}
    for node in nodes.values():
        given = node.keys() - {"availability_zone"}  # becomes zones
        assert given <= parameters.keys() - by_ray
        assert needed <= given | by_ray
        for name in given:
            assert isinstance(node[name], kinds[parameters[name]["type"]]), name


def test_azure_gpu_nodes_are_spot_and_leave_nothing(azure):
    gpu = azure[0]["gpu"]
    assert (gpu["priority"], gpu["evictionPolicy"], gpu["billingProfile"]) == ("Spot", "Delete", {"maxPrice": -1})


def test_azure_identity_is_not_made_by_ray():
    """Ray removes the rights of an identity that it makes with each `ray up`, that to the data too."""
    provider = load("azure")["provider"]
    assert provider["msi_name"]
    assert provider["msi_resource_group"] != provider["resource_group"]  # in which the identity may do everything
    assert provider["subscription_id"]  # without it Ray asks the tools of `az`, which the head lacks


def test_azure_clients_are_those_of_rays_own_file():
    def pinned_clients(commands):
        return set(re.findall(r"[\w-]+==[\w.]+", " ".join(commands)))

    rays = yaml.safe_load((RAY_AUTOSCALER / "azure/defaults.yaml").read_text())
    assert pinned_clients(load("azure")["head_setup_commands"]) == pinned_clients(rays["head_setup_commands"])


def test_storage_packages_are_extras_of_the_project():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, extra, package in (("gcp", "gcs", "gcsfs"), ("azure", "azure", "adlfs")):
        assert extras[extra] == [package]
        assert f" ~/taft_ray {package}" in "\n".join(load(name)["setup_commands"])


@pytest.fixture
def ec2(monkeypatch, tmp_path):
    """A mock of EC2 and IAM with what the file expects to be there; HOME is where Ray writes the key pair."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        region = load("aws")["provider"]["region"]
        iam = boto3.client("iam", region)
        for name in ("taft-ray-head", "taft-ray-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        yield boto3.client("ec2", region)


def test_aws_nodes_start_on_a_mock(ec2, in_root):
    config = _bootstrap_config(prepare_config(load("aws")), no_config_cache=True)
    types = config["available_node_types"]
    # the autoscaler will plan with what Ray asked EC2 about the instance type
    assert types["gpu"]["resources"].items() >= {"CPU": 8, "GPU": 1}.items()
    assert types["head"]["resources"]["CPU"] == 0

    provider = _get_node_provider(config["provider"], config["cluster_name"])
    for kind, node_type in (("head", "head"), ("worker", "gpu")):
        tags = {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: node_type}
        provider.create_node(copy.deepcopy(types[node_type]["node_config"]), tags, 1)

    nodes = {}
    for reservation in ec2.describe_instances()["Reservations"]:
        for node in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in node["Tags"]}
            nodes[tags[TAG_RAY_USER_NODE_TYPE]] = node
    assert nodes["head"].get("InstanceLifecycle") is None
    assert nodes["gpu"]["InstanceLifecycle"] == "spot"
    assert nodes["head"]["IamInstanceProfile"]["Arn"].endswith("/taft-ray-head")
    assert nodes["gpu"]["IamInstanceProfile"]["Arn"].endswith("/taft-ray-worker")
    assert nodes["head"]["ImageId"] == nodes["gpu"]["ImageId"]


def test_aws_starts_on_demand_what_it_refuses_as_spot(ec2, in_root):
    def refuse(params, **_):
        if "InstanceMarketOptions" in params:
            answer = {"Error": {"Code": "InsufficientInstanceCapacity", "Message": "no spot"}}
            raise ClientError(answer, "RunInstances")

    config = _bootstrap_config(prepare_config(load("aws")), no_config_cache=True)
    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    events = provider.ec2_fail_fast.meta.client.meta.events  # of a client that Ray keeps for the next provider
    events.register("before-parameter-build.ec2.RunInstances", refuse)
    reader = AutoscalingConfig(config, skip_content_hash=True)
    # as Ray's autoscaler (v2) asks for nodes, and hears of what went wrong
    adapter = NodeProviderAdapter(provider, mock.Mock(get_cached_autoscaling_config=lambda: reader))
    adapter._launch_nodes_by_type("gpu", 1, "request")
    events.unregister("before-parameter-build.ec2.RunInstances", refuse)
    assert adapter.poll_errors() == []
    (there,) = adapter.get_non_terminated().values()
    assert (there.node_type, there.request_id) == ("gpu", "request")
    nodes = [node for found in ec2.describe_instances()["Reservations"] for node in found["Instances"]]
    assert [node.get("InstanceLifecycle") for node in nodes] == [None]

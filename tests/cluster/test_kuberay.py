"""The KubeRay files, against a schema written after KubeRay's API reference, and against Ray's own autoscaler."""

import inspect
import shlex
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, InstanceReconcileConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from taft_ray.orchestration.session import AUTOSCALED_GPUS

ROOT = Path(__file__).parents[2]

# KubeRay's own schema comes with its operator only, not with a Python package. This one has the documented fields of
# ray.io/v1 in KubeRay 1.7 that the files use, and knows no others, so that a misspelt field fails here and is not dropped in silence by the API server.
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
RESOURCES = {
    "type": "object",
    "properties": {"limits": STRINGS, "requests": STRINGS},
    "required": ["limits", "requests"],
    "additionalProperties": False,
}
ENVIRONMENT = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
        "required": ["name", "value"],
        "additionalProperties": False,
    },
}
CONTAINER = {
    "type": "object",
    "properties": {
        "name": NAME,
        "image": {"type": "string", "pattern": "^[^: ]+:[^: ]+$"},
        "ports": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"containerPort": {"type": "integer"}, "name": {"type": "string", "maxLength": 15}},
                "required": ["containerPort"],
                "additionalProperties": False,
            },
        },
        "env": ENVIRONMENT,
        "resources": RESOURCES,
    },
    "required": ["name", "image", "resources"],
    "additionalProperties": False,
}
TOLERATION = {
    "type": "object",
    "properties": {
        "key": {"type": "string"},
        "operator": {"enum": ["Exists", "Equal"]},
        "value": {"type": "string"},
        "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
    },
    "additionalProperties": False,
}
NODE_EXPRESSION = {
    "type": "object",
    "properties": {
        "key": {"type": "string"},
        "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]},
        "values": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["key", "operator"],
    "additionalProperties": False,
}


def nested(*names, inner):
    """An object with one field, in which is an object with one field, and so on; none may be left out."""
    for name in reversed(names):
        inner = {"type": "object", "properties": {name: inner}, "required": [name], "additionalProperties": False}
    return inner


AFFINITY = nested(
    "nodeAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
    inner={"type": "array", "items": nested("matchExpressions", inner={"type": "array", "items": NODE_EXPRESSION})},
)
TEMPLATE = {
    "type": "object",
    "properties": {
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "properties": {
                "serviceAccountName": NAME,
                "restartPolicy": {"const": "Never"},  # the operator refuses others with autoscaler v2
                "nodeSelector": STRINGS,
                "affinity": AFFINITY,
                "tolerations": {"type": "array", "items": TOLERATION},
                "containers": {"type": "array", "minItems": 1, "items": CONTAINER},
            },
            "required": ["containers"],
            "additionalProperties": False,
        },
    },
    "required": ["spec"],
    "additionalProperties": False,
}
RAY_CLUSTER_SPEC = {
    "type": "object",
    "properties": {
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "authOptions": {
            "type": "object",
            "properties": {"mode": {"enum": ["disabled", "token"]}},
            "additionalProperties": False,
        },
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": {
            "type": "object",
            "properties": {
                "idleTimeoutSeconds": COUNT,
                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
                "version": {"enum": ["v1", "v2"]},
                "resources": RESOURCES,
                "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
                "env": ENVIRONMENT,
            },
            "additionalProperties": False,
        },
        "headGroupSpec": {
            "type": "object",
            "properties": {
                "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
                "enableIngress": {"type": "boolean"},
                "rayStartParams": STRINGS,
                "template": TEMPLATE,
            },
            "required": ["template"],
            "additionalProperties": False,
        },
        "workerGroupSpecs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "groupName": NAME,
                    "replicas": COUNT,
                    "minReplicas": COUNT,
                    "maxReplicas": COUNT,
                    "numOfHosts": COUNT,
                    "idleTimeoutSeconds": COUNT,
                    "priority": {"type": "integer"},  # since KubeRay 1.7
                    "rayStartParams": STRINGS,
                    "template": TEMPLATE,
                },
                "required": ["groupName", "template"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["headGroupSpec"],
    "additionalProperties": False,
}
RAY_JOB_SPEC = {
    "type": "object",
    "properties": {
        "entrypoint": {"type": "string", "minLength": 1},
        "runtimeEnvYAML": {"type": "string"},
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        "clusterSelector": STRINGS | {"required": ["ray.io/cluster"]},
        "rayClusterSpec": RAY_CLUSTER_SPEC,
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": COUNT,
        "activeDeadlineSeconds": COUNT | {"minimum": 1},
        "backoffLimit": COUNT,
        "suspend": {"type": "boolean"},
    },
    "required": ["entrypoint"],
    "oneOf": [{"required": ["clusterSelector"]}, {"required": ["rayClusterSpec"]}],
    "additionalProperties": False,
}
SPECS = {"RayCluster": RAY_CLUSTER_SPEC, "RayJob": RAY_JOB_SPEC}


def check(manifest):
    """Raises ValidationError unless the API server would keep every field and the operator would accept them."""
    schema = {
        "properties": {
            "apiVersion": {"const": "ray.io/v1"},
            "kind": {"enum": list(SPECS)},
            "metadata": {
                "type": "object",
                "oneOf": [{"required": ["name"]}, {"required": ["generateName"]}],
                "properties": {"name": NAME, "generateName": {"type": "string", "maxLength": 42}, "namespace": NAME},
                "additionalProperties": False,
            },
            "spec": SPECS.get(manifest["kind"], {}),
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
    }
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(manifest)


def documents(name):
    return list(yaml.safe_load_all((ROOT / "cluster" / f"{name}.yaml").read_text()))


@pytest.fixture
def cluster():
    return next(document for document in documents("kuberay-cluster") if document["kind"] == "RayCluster")


@pytest.fixture
def job():
    (job,) = documents("kuberay-job")
    return job


def test_documented_fields_only(cluster, job):
    check(cluster)
    check(job)


def test_ray_autoscaler_accepts(cluster):
    """Ray derives the node types from the manifest and validates them with the schema of `ray up`."""
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    head, *groups = config["available_node_types"].values()
    assert head["resources"]["CPU"] == 0  # no task is ever put on the head
    assert "GPU" not in head["resources"]
    for group in groups:
        assert group["resources"].items() >= {"CPU": 7, "GPU": 1, "memory": 26 * 2**30}.items()
        assert group["min_workers"] == 0
        assert group["max_workers"] > 0
    assert [group["idle_timeout_s"] for group in groups] == [900, 300]


def test_jobs_know_how_many_gpus_may_come(cluster):
    """The driver runs on the head, which has no GPU. Each group alone has room for all lanes of a job."""
    (head,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    (most,) = {group["maxReplicas"] for group in cluster["spec"]["workerGroupSpecs"]}
    assert {"name": AUTOSCALED_GPUS, "value": str(most)} in head["env"]


def launches(cluster, gpus, given_up=()):
    """How many pods of which group Ray's autoscaler starts for so many lanes; given_up: groups without nodes lately."""
    config = AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(cluster), skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make({"GPU": 1})] * gpus),
        recoverable_resource_availabilities=dict.fromkeys(given_up, 0.5),
        cloud_resource_availabilities=dict.fromkeys(given_up, 0.0),
    )
    reply = ResourceDemandScheduler().schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch if launch.instance_type != "headgroup"}


def test_spot_comes_first_and_on_demand_in_its_place(cluster):
    assert launches(cluster, 8) == {"gpu-spot": 8}
    assert launches(cluster, 8, given_up=["gpu-spot"]) == {"gpu-on-demand": 8}
    assert launches(cluster, 8, given_up=["gpu-spot", "gpu-on-demand"]) == {"gpu-spot": 8}
    for group in cluster["spec"]["workerGroupSpecs"]:
        del group["priority"]
    assert launches(cluster, 8) != {"gpu-spot": 8}  # so the file needs an operator that knows the field


def test_pods_without_nodes_are_given_up_in_the_time_that_the_file_says(cluster):
    """Ray waits an hour by default."""
    ((name, value),) = [(env["name"], env["value"]) for env in cluster["spec"]["autoscalerOptions"]["env"]]
    assert f'"{name}", 60 * 60' in inspect.getsource(InstanceReconcileConfig)
    assert int(value) < 3600


def test_groups_share_no_nodes(cluster):
    spot, on_demand = (group["template"]["spec"] for group in cluster["spec"]["workerGroupSpecs"])
    (term,) = on_demand["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    excluded = {rule["key"]: rule["values"] for rule in term["matchExpressions"] if rule["operator"] == "NotIn"}
    for key, value in spot["nodeSelector"].items():
        assert excluded[key] == [value]


def test_pods_agree(cluster):
    spec = cluster["spec"]
    pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    (account,) = (document for document in documents("kuberay-cluster") if document["kind"] == "ServiceAccount")
    assert {pod["serviceAccountName"] for pod in pods} == {account["metadata"]["name"]}
    assert len({container["image"] for pod in pods for container in pod["containers"]}) == 1
    for pod in pods:
        for container in pod["containers"]:  # Ray plans with limits, Kubernetes with requests
            assert container["resources"]["limits"] == container["resources"]["requests"]


def test_versions_are_those_that_are_pinned(cluster):
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['spec']['rayVersion']}" in constraints
    assert f"FROM rayproject/ray:{cluster['spec']['rayVersion']}-py311" in (ROOT / "cluster/Dockerfile").read_text()


def test_job_runs_on_the_cluster(cluster, job):
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert job["metadata"]["namespace"] == cluster["metadata"]["namespace"]


def test_job_runs_a_file_that_the_image_has(job):
    python, script, *options = shlex.split(job["spec"]["entrypoint"])
    image = (ROOT / "cluster/Dockerfile").read_text()
    folder = next(line.split()[1] for line in image.splitlines() if line.startswith("WORKDIR"))
    assert python == "python"
    relative = Path(script).relative_to(folder)
    assert str(relative) == "jobs/shard_train.py"
    assert (ROOT / relative).is_file()
    assert {"--data", "--model", "--shards"} <= set(options)


def test_image_copies_what_exists():
    for line in (ROOT / "cluster/Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            for source in sources:
                assert (ROOT / source).exists(), source


def gpu_group(manifest):
    return manifest["spec"]["workerGroupSpecs"][0]


def gpu_container(manifest):
    return gpu_group(manifest)["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    "broken",
    [
        lambda c: c.update(apiVersion="ray.io/v1alpha1"),
        lambda c: c.update(kind="RayClusters"),
        lambda c: c["spec"].pop("headGroupSpec"),
        lambda c: c["spec"].update(workerGroupSpec=[]),  # a misspelt field
        lambda c: c["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),  # not a string
        lambda c: gpu_group(c).update(minReplicas="0"),
        lambda c: gpu_group(c)["template"]["spec"].update(restartPolicy="Always"),
        lambda c: gpu_group(c)["template"]["spec"].update(containers=[]),
        lambda c: gpu_container(c)["resources"]["limits"].update({"nvidia.com/gpu": 1}),
        lambda c: c["spec"]["autoscalerOptions"].update(upscalingMode="Fast"),
    ],
)
def test_broken_cluster_is_refused(cluster, broken):
    broken(cluster)
    with pytest.raises(ValidationError):
        check(cluster)


@pytest.mark.parametrize(
    "broken",
    [
        lambda j: j["spec"].pop("entrypoint"),
        lambda j: j["spec"].pop("clusterSelector"),  # neither a cluster to choose nor one to make
        lambda j: j["spec"].update(clusterSelector={"cluster": "taft-ray"}),
        lambda j: j["spec"].update(activeDeadlineSeconds=0),
        lambda j: j["metadata"].pop("generateName"),
    ],
)
def test_broken_job_is_refused(job, broken):
    broken(job)
    with pytest.raises(ValidationError):
        check(job)


def test_ray_autoscaler_refuses_workers_without_cpus(cluster):
    del gpu_container(cluster)["resources"]
    with pytest.raises(ValueError, match="failed to detect `CPU` resources for group gpu-spot"):
        _derive_autoscaling_config_from_ray_cr(cluster)

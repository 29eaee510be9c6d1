"""The KubeRay files, against a schema written after KubeRay's API reference, and against Ray's own autoscaler."""

import inspect
import shlex
from pathlib import Path

import pytest
from jsonschema import ValidationError
from kuberay_files import check, documents, only
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, InstanceReconcileConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from taft_ray.cli.forgetting import forget as forget_command
from taft_ray.orchestration.places import AUTOSCALED_GPUS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster():
    return only("kuberay-cluster", "RayCluster")


@pytest.fixture
def job():
    return only("kuberay-job", "RayJob")


@pytest.fixture
def alone():
    return only("kuberay-job-alone", "RayJob")


@pytest.fixture
def cron():
    return only("kuberay-cronjob", "RayCronJob")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "cluster").glob("kuberay-*.yaml")))
def test_documented_fields_only(name):
    for document in documents(name):
        if document["kind"] != "ServiceAccount":  # it has no spec
            check(document)


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
    account = only("kuberay-account", "ServiceAccount")
    assert {pod["serviceAccountName"] for pod in pods} == {account["metadata"]["name"]}
    assert len({container["image"] for pod in pods for container in pod["containers"]}) == 1
    for pod in pods:
        for container in pod["containers"]:  # Ray plans with limits, Kubernetes with requests
            assert container["resources"]["limits"] == container["resources"]["requests"]


def test_versions_are_those_that_are_pinned(cluster):
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['spec']['rayVersion']}" in constraints
    assert f"_BASE=rayproject/ray:{cluster['spec']['rayVersion']}-py311" in (ROOT / "cluster/Dockerfile").read_text()


def test_jobs_run_on_the_cluster(cluster, job, cron):
    for manifest, spec in ((job, job["spec"]), (cron, cron["spec"]["jobTemplate"])):
        assert spec["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
        assert manifest["metadata"]["namespace"] == cluster["metadata"]["namespace"]


def test_a_job_alone_has_the_same_cluster_and_ends_it(cluster, alone):
    """Each repeat is in a new cluster, so that its head needs no memory beyond its life."""
    del cluster["spec"]["gcsFaultToleranceOptions"]
    assert alone["spec"]["rayClusterSpec"] == cluster["spec"]
    assert alone["spec"]["shutdownAfterJobFinishes"] is True
    assert alone["spec"]["backoffLimit"] > 0


def test_no_job_runs_for_ever_and_the_operator_submits(job, alone, cron):
    for spec in (job["spec"], alone["spec"], cron["spec"]["jobTemplate"]):
        assert 0 < spec["activeDeadlineSeconds"] <= 86400
        assert spec["submissionMode"] == "HTTPMode"  # so the network policy lets in nobody else


def test_requests_that_are_due_are_carried_out_each_day(cron):
    minute, hour, *every = cron["spec"]["schedule"].split()
    assert minute.isdecimal()
    assert hour.isdecimal()
    assert every == ["*", "*", "*"]
    python, script, *arguments = shlex.split(cron["spec"]["jobTemplate"]["entrypoint"])
    assert (python, Path(script).name) == ("python", "forget.py")
    assert forget_command.make_context("forget", arguments).params["due"] is True


def test_head_and_redis_agree(cluster):
    options = cluster["spec"]["gcsFaultToleranceOptions"]
    service, redis = only("kuberay-cluster", "Service"), only("kuberay-cluster", "StatefulSet")
    assert options["redisAddress"] == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    pod = redis["spec"]["template"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"] == redis["spec"]["selector"]["matchLabels"]
    (container,) = pod["spec"]["containers"]
    assert {"name": "REDIS_PASSWORD", **options["redisPassword"]} in container["env"]
    assert container["args"][:2] == ["--requirepass", "$(REDIS_PASSWORD)"]
    secret = options["redisPassword"]["valueFrom"]["secretKeyRef"]
    comment = (ROOT / "cluster/kuberay-cluster.yaml").read_text()
    assert f"kubectl create secret generic {secret['name']} --from-literal={secret['key']}=" in comment


def test_job_runs_a_file_that_the_image_has(job, alone):
    assert alone["spec"]["entrypoint"] == job["spec"]["entrypoint"]
    python, script, *options = shlex.split(job["spec"]["entrypoint"])
    image = (ROOT / "cluster/Dockerfile").read_text()
    folder = next(line.split()[1] for line in image.splitlines() if line.startswith("WORKDIR"))
    assert python == "python"
    relative = Path(script).relative_to(folder)
    assert str(relative) == "jobs/shard_train.py"
    assert (ROOT / relative).is_file()
    assert {"--data", "--model", "--shards"} <= set(options)


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
        lambda j: j["spec"].update(backoffLimit=1),  # the operator refuses it on a cluster that is there
        lambda j: j["spec"].update(shutdownAfterJobFinishes=True),
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

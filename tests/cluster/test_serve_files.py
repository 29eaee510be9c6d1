"""The files that serve runs on a cluster: Ray Serve's own schema takes them, and the application takes their arguments."""

import importlib
from pathlib import Path

import pytest
import yaml
from jsonschema import ValidationError
from kuberay_files import check, only
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.serve.schema import ServeDeploySchema

from taft_ray.errors import UsageError
from taft_ray.serving.application import TOKENS, asked_for

ROOT = Path(__file__).parents[2]


def configs():
    alone = yaml.safe_load((ROOT / "cluster/serve.yaml").read_text())
    return {
        "serve": alone,
        "kuberay-serve": yaml.safe_load(only("kuberay-serve", "RayService")["spec"]["serveConfigV2"]),
    }


@pytest.mark.parametrize("name", configs())
def test_ray_serve_takes_the_file_and_finds_the_application(name, monkeypatch, tmp_path):
    (application,) = ServeDeploySchema.model_validate(configs()[name]).applications
    module, _, attribute = application.import_path.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-more-than-sixteen-characters\n")
    monkeypatch.setenv(TOKENS, tokens.read_text())
    args = {**application.args, **({"token_file": str(tokens)} if "token_file" in application.args else {})}
    sources, options = asked_for(args)
    assert [source.run for source in sources] == ["s3://BUCKET/runs/first"]
    assert (options.replicas, len(options.tokens)) == (2, 1)
    with pytest.raises(UsageError, match="unknown options of a serving: leese"):
        asked_for({**args, "leese": 1})


def test_whoever_is_reached_from_elsewhere_has_tokens(monkeypatch):
    """Neither file serves without: one names a file, the other's pods have them in their environment."""
    monkeypatch.delenv(TOKENS, raising=False)
    with pytest.raises(UsageError, match="cannot be read"):
        asked_for(configs()["serve"]["applications"][0]["args"])
    spec = only("kuberay-serve", "RayService")["spec"]["rayClusterConfig"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert [one["name"] for one in container["env"]] == [TOKENS]


def test_cluster_of_a_service_is_that_of_the_jobs_with_workers_that_stay():
    service, cluster = only("kuberay-serve", "RayService"), only("kuberay-cluster", "RayCluster")
    spec = service["spec"]["rayClusterConfig"]
    assert spec["rayVersion"] == cluster["spec"]["rayVersion"]
    images = {
        container["image"]
        for one in (spec, cluster["spec"])
        for group in (one["headGroupSpec"], *one["workerGroupSpecs"])
        for container in group["template"]["spec"]["containers"]
    }
    assert len(images) == 1
    derived = _derive_autoscaling_config_from_ray_cr({**cluster, "spec": spec})
    head, group = derived["available_node_types"].values()
    assert head["resources"]["CPU"] == 0
    args = configs()["kuberay-serve"]["applications"][0]["args"]
    assert group["min_workers"] == group["max_workers"] == args["replicas"]


@pytest.mark.parametrize(
    "broken",
    [
        lambda s: s["spec"].pop("serveConfigV2"),
        lambda s: s["spec"].pop("rayClusterConfig"),
        lambda s: s["spec"].update(serveConfig="x"),  # a misspelt field
        lambda s: s["spec"].update(serveConfigV2={"applications": []}),  # not a text
    ],
)
def test_broken_service_is_refused(broken):
    service = only("kuberay-serve", "RayService")
    broken(service)
    with pytest.raises(ValidationError):
        check(service)

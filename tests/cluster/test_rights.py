"""The policies of cluster/aws-policies: exactly the rights for the calls that the code makes, recorded as it makes them."""

import copy
import json
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest
import yaml
from aiobotocore.client import AioBaseClient
from botocore.client import BaseClient
from folder import plain_forget
from moto import mock_aws
from plain import plain_train
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME, TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE
from s3_server import S3Server
from tiny import sample_id

from taft_ray.proof.verify_run import verify
from taft_ray.storage import Store
from taft_ray.storage.probe import check_creates_once, check_use

ROOT = Path(__file__).parents[2]

# Rights that AWS asks for, by its "Actions, resources, and condition keys": the right, and whether it is the bucket's.
BUCKETS = {
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "HeadBucket": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectVersions": "s3:ListBucketVersions",
    "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
}
OBJECTS = {
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "CompleteMultipartUpload": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "ListParts": "s3:ListMultipartUploadParts",
    "PutObject": "s3:PutObject",
    "UploadPart": "s3:PutObject",
}
WITH_VERSION = {"s3:DeleteObject": "s3:DeleteObjectVersion", "s3:GetObject": "s3:GetObjectVersion"}

Calls = list[tuple[str, dict[str, Any]]]


def policy(name: str) -> list[dict[str, Any]]:
    return json.loads((ROOT / f"cluster/aws-policies/{name}.json").read_text())["Statement"]


def listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def granted(statements: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Resources by right."""
    found: dict[str, set[str]] = defaultdict(set)
    for statement in statements:
        assert statement["Effect"] == "Allow"
        for action in listed(statement["Action"]):
            assert "*" not in action
            found[action] |= set(listed(statement["Resource"]))
    return dict(found)


@contextmanager
def recorded() -> Iterator[Calls]:
    """Every S3 operation of this process, with its arguments, as botocore names them; they are carried out."""
    calls: Calls = []
    real = AioBaseClient._make_api_call

    async def make(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        calls.append((operation, arguments))
        return await real(self, operation, arguments)

    with mock.patch.object(AioBaseClient, "_make_api_call", make):
        yield calls


def needed(calls: Calls) -> dict[str, set[str]]:
    """The rights for these calls, with the resources, as `granted` has them."""
    found: dict[str, set[str]] = defaultdict(set)
    for operation, arguments in calls:
        if operation in BUCKETS:
            found[BUCKETS[operation]].add("arn:aws:s3:::BUCKET")
            continue
        named = arguments["Delete"]["Objects"] if operation == "DeleteObjects" else [arguments]
        for one in named:
            right = OBJECTS[operation]
            found[WITH_VERSION[right] if one.get("VersionId") else right].add("arn:aws:s3:::BUCKET/*")
    return dict(found)


@pytest.fixture
def uri(s3: S3Server, s3_uri: str) -> str:
    """A place in a bucket that keeps versions; the environment has the keys."""
    bucket = f"rights-{uuid.uuid4().hex[:12]}"
    client = boto3.client("s3", endpoint_url=s3.endpoint)
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return f"s3://{bucket}/runs"


def live(uri: str, parquet: Path, spec_of: Callable[..., Any], tmp_path: Path) -> None:
    """A run with all that storage is asked for: train, forget in each mode, verify, destroy; and large objects."""
    for file in parquet.rglob("*.parquet"):
        Store(uri).upload(file, f"data/{file.relative_to(parquet)}")
    data, run = f"{uri}/data", f"{uri}/first"
    plain_train(run, spec_of(data, compose="additive"))
    for number, mode in enumerate(("subtract", "retrain", "drop")):
        plain_forget(run, [sample_id(number)], mode)
    assert verify(run)["problems"] == []
    store = Store(run)
    assert Store(uri).folders()
    check_creates_once(store)
    check_use(store)
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * 101)  # from 100 MiB s3fs uploads in parts
    store.upload(tmp_path / "large", "large")
    store.write("large too", (tmp_path / "large").read_bytes())
    assert store.fetch("large").stat().st_size == 101 << 20
    store.sweep(0)
    store.erase([info.key for info in store.list()])
    assert store.remaining(["large"]) == []
    assert store.traces() == []


def unfinished_upload(uri: str, endpoint: str) -> None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    boto3.client("s3", endpoint_url=endpoint).create_multipart_upload(Bucket=bucket, Key=f"{key}/first/killed")


def test_the_workers_policy_is_what_runs_need(
    s3: S3Server, uri: str, parquet: Path, spec_of: Callable[..., Any], tmp_path: Path
) -> None:
    """Both ways: no call is refused, and no right is idle."""
    unfinished_upload(uri, s3.endpoint)
    with recorded() as calls:
        live(uri, parquet, spec_of, tmp_path)
        check_use(Store(f"s3://{s3.bucket}/{uuid.uuid4().hex}"))  # a bucket without versions
    made = {operation for operation, _ in calls}
    assert made >= {"CreateMultipartUpload", "AbortMultipartUpload", "ListObjectVersions", "DeleteObjects"}
    assert needed(calls) == granted(policy("worker"))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """aws.yaml as the head has it, on a mock of EC2."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".ssh").mkdir()
    config = yaml.safe_load((ROOT / "cluster/aws.yaml").read_text())
    with mock_aws():
        iam = boto3.client("iam", config["provider"]["region"])
        for name in ("taft-ray-head", "taft-ray-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        yield _bootstrap_config(prepare_config(config), no_config_cache=True)


def test_the_heads_policy_is_what_rays_autoscaler_calls(cluster: dict[str, Any]) -> None:
    """A node's life, as the autoscaler on the head lives it: started, looked at, tagged, ended."""
    calls: list[tuple[str, dict[str, Any]]] = []
    real = BaseClient._make_api_call

    def make(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        calls.append((f"{self.meta.service_model.service_name}:{operation}", arguments))
        return real(self, operation, arguments)

    name = cluster["cluster_name"]
    node = copy.deepcopy(cluster["available_node_types"]["gpu"]["node_config"])
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: "gpu"}
    with mock.patch.object(BaseClient, "_make_api_call", make):
        provider = _get_node_provider(cluster["provider"], name, use_cache=False)
        provider.create_node(node, tags, 1)
        (made,) = provider.non_terminated_nodes(tags)
        assert provider.is_running(made) in (True, False)
        assert provider.internal_ip(made)
        provider.set_node_tags(made, {TAG_RAY_NODE_STATUS: "up-to-date"})
        deadline = time.monotonic() + 60  # tags are written in batches, behind the call
        while "ec2:CreateTags" not in dict(calls) and time.monotonic() < deadline:
            time.sleep(0.1)
        provider.terminate_node(made)
    operations = {operation for operation, _ in calls}
    rights = granted(policy("head"))
    # a launch asks for two more beyond its own right: the worker's role, and the image by a name of AWS's
    assert operations | {"iam:PassRole", "ssm:GetParameters"} == rights.keys()
    (launch,) = [arguments for operation, arguments in calls if operation == "ec2:RunInstances"]
    assert launch["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/")
    assert "arn:aws:ssm:*::parameter/aws/service/deeplearning/*" in rights["ssm:GetParameters"]
    assert rights["iam:PassRole"] == {f"arn:aws:iam::ACCOUNT:role/{launch['IamInstanceProfile']['Name']}"}
    given = {tag["Key"]: tag["Value"] for tags in launch["TagSpecifications"] for tag in tags["Tags"]}
    assert given[TAG_RAY_CLUSTER_NAME] == name
    assert {tags["ResourceType"] for tags in launch["TagSpecifications"]} == {"instance"}


def test_the_head_touches_nodes_of_its_own_cluster_only() -> None:
    cluster = yaml.safe_load((ROOT / "cluster/aws.yaml").read_text())["cluster_name"]
    for statement in policy("head"):
        nodes = "arn:aws:ec2:*:*:instance/*" in listed(statement["Resource"])
        if nodes:
            (test,) = statement["Condition"].values()
            ((key, value),) = test.items()
            of_the_cluster = {f"aws:RequestTag/{TAG_RAY_CLUSTER_NAME}", f"ec2:ResourceTag/{TAG_RAY_CLUSTER_NAME}"}
            assert (key in of_the_cluster and value == cluster) or (key, value) == ("ec2:CreateAction", "RunInstances")
        elif statement["Resource"] == "*":  # descriptions know no resources
            assert listed(statement["Action"]) == ["ec2:DescribeInstances"]


def test_roles_of_other_clouds_are_as_small() -> None:
    """Read, write, list and remove; on Azure a listing is a read. No emulator checks more than that they are well formed."""
    role = yaml.safe_load((ROOT / "cluster/gcp-role.yaml").read_text())
    assert role["includedPermissions"] == [f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list")]
    role = json.loads((ROOT / "cluster/azure-role.json").read_text())
    blobs = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
    assert role["DataActions"] == [f"{blobs}/{verb}" for verb in ("delete", "read", "write")]
    assert role["Actions"] == []

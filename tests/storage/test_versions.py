"""Erasing: no older version of an erased object is left, none of any other goes, and what stays is said."""

import json
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from s3_server import READER_KEY, READER_SECRET, S3Server

from taft_ray.errors import StorageError
from taft_ray.storage import Erasure, Store, versions
from taft_ray.storage.remote import RemoteFolder

Client = Any


@pytest.fixture
def client(s3: S3Server, s3_uri: str) -> Client:
    """A second, plain S3 client: the oracle."""
    return boto3.client("s3", endpoint_url=s3.endpoint)


@pytest.fixture
def bucket(client: Client) -> Callable[..., str]:
    """Buckets of this test's own: ``bucket("Enabled")``, ``bucket("")`` never had versioning."""

    def make(versioning: str, **options: Any) -> str:
        name = f"versions-{uuid.uuid4().hex[:12]}"
        client.create_bucket(Bucket=name, **options)
        if versioning:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": versioning})
        return name

    return make


def kept(client: Client, bucket: str) -> Counter[str]:
    """How many versions and delete markers each key has, by the plain client (pages of a thousand, all of them)."""
    pages = client.get_paginator("list_object_versions").paginate(Bucket=bucket)
    return Counter(v["Key"] for page in pages for kind in ("Versions", "DeleteMarkers") for v in page.get(kind, []))


def with_history(store: Store, key: str, puts: int, deleted: bool = False) -> None:
    for number in range(puts):
        store.write(key, f"{key} {number}".encode())
    if deleted:
        store.delete(key)


def deny(client: Client, bucket: str, action: str) -> None:
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": resources}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))


@pytest.mark.parametrize("versioning", ["Enabled", "Suspended", ""])
def test_no_version_of_an_erased_key_is_left_and_all_others_are(
    client: Client, bucket: Callable[..., str], versioning: str
) -> None:
    name = bucket("Enabled" if versioning else "")
    store = Store(f"s3://{name}/run")
    history = {"a/x": 3, "a/xy": 2, "a/x-b": 2, "a/x/deep": 2, "b": 1}
    for key, puts in history.items():
        with_history(store, key, puts)
    with_history(store, "a/gone", 2, deleted=True)
    with_history(Store(f"s3://{name}/running"), "a/x", 2)  # another root that starts with the same letters
    if versioning == "Suspended":
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Suspended"})
        store.write("a/x", b"the null version")
    assert store.versioned() is bool(versioning)
    before = kept(client, name)
    erased = store.erase(["a/x", "b", "a/gone", "a/never", "a/x"])
    doomed = {"run/a/x", "run/b", "run/a/gone"}
    assert kept(client, name) == Counter({key: n for key, n in before.items() if key not in doomed})
    # beyond the current objects of a/x and b: 2 or 3 older ones of the first, 2 and a marker of a/gone
    assert erased == Erasure(versions={"Enabled": 5, "Suspended": 6, "": 0}[versioning])
    assert store.erase(["a/x", "b"]) == Erasure()
    assert {info.key for info in store.list()} == {"a/xy", "a/x-b", "a/x/deep"}


def test_history_longer_than_a_page(
    client: Client, bucket: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = bucket("Enabled")
    store = Store(f"s3://{name}/run")
    keys = [f"cache/part-{number:03d}" for number in range(12)]
    for key in keys:
        with_history(store, key, 3, deleted=key.endswith("0"))
    monkeypatch.setattr(versions, "PAGE", 4)
    monkeypatch.setattr(versions, "BATCH", 5)
    assert store.erase(keys[:10]).versions == 10 * 2 + 2  # a deleted one has three older ones and a marker
    assert set(kept(client, name)) == {f"run/{key}" for key in keys[10:]}
    assert store.erase(keys[10:]).versions == 4 + 2
    assert not kept(client, name)


def test_remaining_and_traces_see_what_a_listing_of_objects_does_not(bucket: Callable[..., str]) -> None:
    store = Store(f"s3://{bucket('Enabled')}/run")
    with_history(store, "a/there", 1)
    with_history(store, "a/deleted", 2, deleted=True)
    with_history(store, "a/deeper/deleted", 1, deleted=True)
    with_history(store, "a/other", 1)
    store.delete("a/only-a-marker")
    asked = ["a/there", "a/deleted", "a/never", "a/only-a-marker", "a/the"]
    assert store.remaining(asked) == ["a/deleted", "a/there"]
    assert store.traces("a/") == ["a/deeper/deleted", "a/deleted", "a/other", "a/there"]
    assert store.traces("a/de") == ["a/deeper/deleted", "a/deleted"]
    store.erase(store.traces())
    assert store.remaining([*asked, "a/deeper/deleted"]) == store.traces() == []


def test_stores_without_versions(any_store: Store) -> None:
    for key in ("a/x", "a/xy", "b"):
        any_store.write(key, b"1")
    assert any_store.versioned() is False
    assert any_store.remaining(["b", "a/x", "a", "c"]) == ["a/x", "b"]
    assert any_store.traces("a/") == ["a/x", "a/xy"]
    assert any_store.erase(["a/x", "b", "c", "a"]) == Erasure(versions=0, beyond=None)
    assert [info.key for info in any_store.list()] == any_store.traces() == ["a/xy"]
    assert any_store.erase([]) == Erasure()
    assert any_store.remaining([]) == []


def test_versions_under_retention_are_said_and_hidden(client: Client, bucket: Callable[..., str]) -> None:
    name = bucket("", ObjectLockEnabledForBucket=True)
    store = Store(f"s3://{name}/run")
    until = datetime.now(UTC) + timedelta(seconds=60)
    locked = {"Bucket": name, "ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    client.put_object(Key="run/now", Body=b"1", **locked)
    client.put_object(Key="run/then", Body=b"1", **locked)
    store.write("then", b"2")
    store.write("free", b"1")
    erased = store.erase(["now", "then", "free"])
    assert store.list() == []  # a locked version never becomes current again
    assert store.remaining(["now", "then", "free"]) == ["now", "then"]
    assert erased.versions == 0
    assert erased.beyond is not None
    assert erased.beyond.startswith(
        "2 older versions of 2 objects, with their content, could not be removed from s3://"
    )
    assert "AccessDenied" in erased.beyond
    again = store.erase(["now", "then", "free"])
    assert again.beyond == erased.beyond
    assert store.list() == []


def test_versions_that_may_not_be_listed_are_said(client: Client, bucket: Callable[..., str]) -> None:
    name = bucket("Enabled")
    store = Store(f"s3://{name}/run")
    with_history(store, "x", 2)
    deny(client, name, "s3:ListBucketVersions")
    assert store.remaining(["x"]) == store.traces() == ["x"]
    erased = store.erase(["x"])
    assert erased.versions == 0
    assert erased.beyond is not None
    assert "1 object in s3://" in erased.beyond
    assert "could not be listed (permission denied, AccessDenied)" in erased.beyond
    assert store.list() == []
    client.delete_bucket_policy(Bucket=name)
    assert store.erase(["x"]) == Erasure(versions=3)  # two, and the marker of the erase that was not allowed to look
    assert not kept(client, name)


def test_a_bucket_that_does_not_say_is_taken_as_versioned(client: Client, bucket: Callable[..., str]) -> None:
    name = bucket("Enabled")
    store = Store(f"s3://{name}/run")
    with_history(store, "x", 2)
    deny(client, name, "s3:GetBucketVersioning")
    assert store.versioned() is None
    assert store.erase(["x"]) == Erasure(versions=1)
    assert not kept(client, name)


def test_an_object_that_cannot_be_deleted_raises(bucket: Callable[..., str]) -> None:
    for name in (bucket("Enabled"), bucket("")):
        Store(f"s3://{name}/run").write("x", b"1")
        reader = Store(f"s3://{name}/run", key=READER_KEY, secret=READER_SECRET)
        with pytest.raises(StorageError, match=r"delete x in .*permission denied"):
            reader.erase(["x"])
        assert reader.read("x") == b"1"


def test_a_null_marker_that_the_server_keeps_is_said(client: Client, bucket: Callable[..., str]) -> None:
    # SeaweedFS 4.48 answers the deletion of a null delete marker with success and keeps it; AWS removes it
    name = bucket("Suspended")
    store = Store(f"s3://{name}/run")
    with_history(store, "x", 1, deleted=True)
    assert kept(client, name) == {"run/x": 1}
    erased = store.erase(["x"])
    assert store.remaining(["x"]) == []
    assert (erased.beyond is None) == (not kept(client, name))
    assert erased.beyond is None or "1 delete marker, which names a key and holds no content" in erased.beyond


def test_requests_grow_with_folders_not_with_keys(
    client: Client, bucket: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = bucket("Enabled")
    store = Store(f"s3://{name}/run")
    keys = [f"cache/shard={number % 5:05d}/part-{number // 5:03d}" for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: with_history(store, key, 2), keys))
    older = kept(client, name).total() - len(keys)  # 200, and one for every put that the client had to repeat
    assert older >= 200
    asked: list[str] = []
    once = RemoteFolder._repeated
    monkeypatch.setattr(
        RemoteFolder, "_repeated", lambda self, doing, *rest: (asked.append(doing), once(self, doing, *rest))[1]
    )
    assert store.remaining(keys) == sorted(keys)
    assert len(asked) == 1 + 5 + 5  # the bucket's versioning, objects and versions of each folder
    asked.clear()
    assert store.erase(keys) == Erasure(versions=older)
    assert len(asked) == 1 + 5 + 2 + 5  # listed, the older ones and the current ones deleted, listed again
    assert store.remaining(keys) == []

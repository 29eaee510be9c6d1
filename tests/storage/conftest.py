"""Tests that take `store` run on local files and on a real S3 server; those that take `any_store` in memory too."""

import uuid
from pathlib import Path

import pytest

from taft_ray.storage import Store


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

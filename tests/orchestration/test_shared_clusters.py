"""Commands on a cluster that others made: which device a run has, and that nobody waits for ever."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from command import started
from folder import delta_digests, only_cached
from own_cluster import own_cluster
from processes import wait_for
from tiny import MODEL, SHARDS, SIZE

Trained = tuple[Path, dict[str, Any]]


def begun(run: Path) -> dict[str, Any] | None:
    """The first fact of a run that has one."""
    entries = sorted((run / "ledger").glob("*.json"))
    return json.loads(entries[0].read_text())["body"] if entries else None


@pytest.mark.parametrize(
    ("gpus", "options", "env", "device", "lanes", "why"),
    [
        pytest.param(2, (), {}, "cuda", 2, "the cluster has 2", id="GPUs of the cluster", marks=pytest.mark.slow),
        pytest.param(1, (), {"TAFT_RAY_AUTOSCALED_GPUS": "8"}, "cuda", SHARDS, "TAFT_RAY_AUTOSCALED_GPUS: 8; 1 are up", id="one is up and seven may come"),
        pytest.param(0, ("--gpus", 2), {}, "cuda", 2, "--gpus: 2; 0 are up", id="none is up", marks=pytest.mark.slow),
        pytest.param(0, (), {}, "cpu", 1, "the cluster has 0", id="no GPU and nobody who starts one"),
    ],
)  # fmt: skip
def test_device_and_lanes_are_those_that_the_cluster_has_or_can_start(
    gpus: int, options: tuple[object, ...], env: dict[str, str], device: str, lanes: int, why: str,
    tmp_path: Path, parquet: Path, weights: Path,
) -> None:  # fmt: skip
    """This process, as a head, has none: it must not ask its own machine."""
    model = ("--model", MODEL, "--weights", weights, "--image-size", SIZE, "--shards", SHARDS)
    with (
        own_cluster(1, gpus) as address,
        started(
            tmp_path / "log", "train", tmp_path / "run", "--data", parquet, *model, *options, env={**address, **env}
        ),
    ):
        environment = wait_for(lambda: begun(tmp_path / "run"))["environment"]
    spec = json.loads((tmp_path / "run" / "run.json").read_text())["spec"]
    assert spec["device"] == device
    assert environment["lanes"] == lanes
    assert environment["gpus_within_reach"] == why


def test_lanes_without_a_place_hold_nothing_up(ridge: Trained, copy_of: Callable[..., Path], tmp_path: Path) -> None:
    """Lanes that do not fit on one CPU wait, say so, and go home when the others have done the work."""
    run = only_cached(copy_of(ridge[0]))
    with (
        own_cluster(1) as address,
        started(
            tmp_path / "log", "train", run, "--lanes", 6, env={**address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "2"}
        ) as command,
    ):
        assert command.wait(200) == 0, (tmp_path / "log").read_text()
    assert "has waited for 1 CPU for" in (tmp_path / "log").read_text()
    assert delta_digests(run) == delta_digests(ridge[0])


@pytest.mark.slow
def test_three_runs_at_once_on_one_cpu_all_end(ridge: Trained, tmp_path: Path, parquet: Path, weights: Path) -> None:
    """Lanes that waited for a pass would hold the cores that it waits for."""
    model = ("--model", MODEL, "--weights", weights, "--image-size", SIZE, "--shards", SHARDS, "--epochs", 3)
    options = ("--data", parquet, *model, "--compose", "gram", "--precision", "float32", "--lanes", 1)
    runs = [tmp_path / f"run-{number}" for number in range(3)]
    with own_cluster(1) as address, ExitStack() as stack:
        commands = [started(tmp_path / f"log-{run.name}", "train", run, *options, env=address) for run in runs]
        processes = [stack.enter_context(command) for command in commands]
        codes = [process.wait(500) for process in processes]
    assert codes == [0, 0, 0], [(tmp_path / f"log-{run.name}").read_text()[-500:] for run in runs]
    for run in runs:
        assert delta_digests(run) == delta_digests(ridge[0])

"""Commands on a cluster that others made: which device a run has, and that nobody waits for ever."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import here, spawned, started
from folder import delta_digests, only_cached
from own_cluster import cpus_held, own_cluster
from PIL import Image
from processes import wait_for
from tiny import MODEL, SHARDS, SIZE

Trained = tuple[Path, dict[str, Any]]


PLACED = Path(__file__).parents[1] / "support" / "placed_lanes.py"


def begun(run: Path) -> dict[str, Any] | None:
    """The first fact of a run that has one."""
    entries = sorted((run / "ledger").glob("*.json"))
    return json.loads(entries[0].read_text())["body"] if entries else None


@pytest.mark.parametrize(
    ("gpus", "options", "env", "device", "lanes", "why"),
    [
        pytest.param(2, (), {}, "cuda", 2, "the cluster has 2", id="GPUs of the cluster", marks=pytest.mark.slow),
        pytest.param(1, (), {"TAFT_RAY_AUTOSCALED_GPUS": "8"}, "cuda", SHARDS, "TAFT_RAY_AUTOSCALED_GPUS: 8; 1 are up",
                     id="one is up and seven may come", marks=pytest.mark.slow),
        pytest.param(2, ("--gpus-per-lane", 0.5), {}, "cuda", 4, "the cluster has 2", id="two lanes per GPU", marks=pytest.mark.slow),
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


@pytest.mark.slow
def test_lanes_without_a_place_hold_nothing_up(ridge: Trained, copy_of: Callable[..., Path], tmp_path: Path) -> None:
    """Lanes that do not fit on one CPU wait, say so, and go home when the others have done the work.

    First somebody else has the CPU, so that they wait for long enough to be seen.
    """
    run = only_cached(copy_of(ridge[0]))
    soon = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "2"}
    with ExitStack() as stack:
        address = stack.enter_context(own_cluster(1))
        held = stack.enter_context(ExitStack())
        held.enter_context(cpus_held(address["RAY_ADDRESS"]))
        command = stack.enter_context(started(tmp_path / "log", "train", run, "--lanes", 6, env={**address, **soon}))
        (waits,) = wait_for(lambda: here("status", run, "--json").json.get("waiting"), 200)
        held.close()
        assert command.wait(200) == 0, (tmp_path / "log").read_text()
    assert waits["by"] == "train: lanes"
    assert waits["what"].startswith("1 CPU")
    assert "waiting" not in here("status", run, "--json").json
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


@pytest.mark.slow
def test_a_run_of_more_data_than_the_object_store_holds_spills_nothing(tmp_path: Path, weights: Path) -> None:
    """50 shards of 5 MB, and an object store of 100 MB: pictures and tokens do not travel through it."""
    data = _noise(tmp_path / "noise.parquet", pictures=5_000, side=130)
    assert data.stat().st_size > 240 * 2**20
    model = ("--model", MODEL, "--weights", weights, "--image-size", SIZE, "--shards", 50, "--epochs", 3)
    with own_cluster(2, store_mb=100) as address:
        with started(tmp_path / "log", "train", tmp_path / "run", "--data", data, *model, env=address) as command:
            assert command.wait(500) == 0, (tmp_path / "log").read_text()
        stats = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "memory", "--stats-only", "--address", address["RAY_ADDRESS"]],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
    assert "Spilled" not in stats, stats
    assert here("status", tmp_path / "run", "--json").json["samples"] == 5_000
    assert len(delta_digests(tmp_path / "run")) == 50


def _noise(path: Path, pictures: int, side: int) -> Path:
    """A Parquet file of pictures that no coder makes smaller."""
    random = np.random.default_rng(0)
    with pq.ParquetWriter(
        path, pa.schema([("image", pa.binary()), ("label", pa.string()), ("id", pa.string())])
    ) as file:
        for start in range(0, pictures, 250):
            numbers = range(start, start + 250)
            coded = [_png(random.integers(0, 256, (side, side, 3), np.uint8)) for _ in numbers]
            labels, ids = [str(n % 3) for n in numbers], [f"noise-{n}" for n in numbers]
            file.write_table(pa.table({"image": coded, "label": labels, "id": ids}))
    return path


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@pytest.mark.slow
def test_workers_go_to_the_nodes_that_were_asked_for_and_nowhere_else(
    ridge: Trained, tmp_path: Path, parquet: Path, weights: Path
) -> None:
    """Ray says where each worker was; and our reading of label selectors is Ray's."""
    model = ("--model", MODEL, "--weights", weights, "--image-size", SIZE, "--shards", SHARDS, "--compose", "gram")
    options = ("--data", parquet, *model, "--precision", "float32", "--resource-per-lane", "ssd=0.4")
    selectors = ["a", "!a", "in(a,b)", "!in(a,b)", "c", "!in(head,a,b)"]
    asked = ("train", tmp_path / "run", *options, "--label-selector", "pool=!head", "--json")
    done = subprocess.run(
        [sys.executable, PLACED, json.dumps(selectors), *map(str, asked)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert {pool for _, pool in told["where"]} == {"a"}, told["where"]
    assert len({name for name, _ in told["where"]}) == 2, told["where"]  # lanes, and those of the pass
    for selector, (nodes, *placed) in told["selected"].items():
        assert placed == ([True] if nodes else []), selector
    assert delta_digests(tmp_path / "run") == delta_digests(ridge[0])
    first = begun(tmp_path / "run")
    assert first is not None
    assert first["environment"]["lanes"] == 1  # of the six cores that are there


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--label-selector", "pool=in("), ("label selector", "in(")),
        (("--label-selector", "pool"), ("'pool'", "NAME=VALUE")),
        (("--resource-per-lane", "ssd=much"), ("ssd=much", "number")),
        (("--gpus-per-lane", 2), ("one GPU at most",)),
        (("--device", "cuda", "--gpus", 1, "--accelerator-type", "L4", "--label-selector", "pool=!!b"), ("label selector",)),
        (("--device", "cuda", "--accelerator-type", "L4"), ("none of this cluster's 1 GPU", "type L4", "--gpus")),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_is_refused(
    own_gpu: dict[str, str], options: tuple[object, ...], words: tuple[str, ...], tmp_path: Path, parquet: Path, weights: Path
) -> None:  # fmt: skip
    model = ("--model", MODEL, "--weights", weights, "--image-size", SIZE)
    answer = spawned("train", tmp_path / "run", "--data", parquet, *model, *options, "--json", env=own_gpu)
    answer.complains(1 if "none of" in words[0] else 2, *words)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def own_gpu() -> Iterator[dict[str, str]]:
    """A cluster of one CPU and one GPU that is none."""
    with own_cluster(1, 1) as address:
        yield address


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "forget"])
def test_status_says_that_a_command_waits_for_a_place(
    command: str, ridge: Trained, copy_of: Callable[..., Path], parquet: Path, tmp_path: Path
) -> None:
    """A pass over pictures, and a worker that fits again: on a cluster that has no CPU. Ray Data's own patience does not count."""
    run = copy_of(ridge[0])
    (sample, *_) = here("status", run, "--samples", "--json").json["samples"]
    options = {"evaluate": ("--data", parquet), "forget": ("--ids", sample["id"], "--mode", "retrain")}[command]
    who = {"evaluate": "evaluate: the prefix pass", "forget": "forget: a worker"}[command]
    impatient = {"RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "10"}
    with own_cluster(0) as address, started(tmp_path / "log", command, run, *options, env={**address, **impatient}):
        (waits,) = wait_for(lambda: here("status", run, "--json").json.get("waiting"), 200)
    assert (waits["by"], waits["what"]) == (who, "1 CPU")
    assert f"{who.partition(': ')[2]} has waited for 1 CPU for 30 s" in (tmp_path / "log").read_text()

"""The accuracy and wall-clock figures on real pictures, through `ray job submit`, from JPEG to report.

    python -m benchmarks.figures --assets FOLDER [--out FOLDER] [--only NAME …] [--json]

Needs the weights and Parquet files named in ASSETS. Starts its own Ray head on free ports and stops it by process id. Each
row is one run: train (with a monolith where wanted), evaluate, report; the numbers come from the run's own report.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

WEIGHTS = "deit_tiny_patch16_224.safetensors"
SIGNS = ("signdigits_100px_train.parquet", "signdigits_100px_test.parquet")
CIFAR = ("cifar10_jpeg_train.parquet", "cifar10_jpeg_test.parquet")
ASSETS = (WEIGHTS, *SIGNS, *CIFAR)

# name: (data set, options, {figure: at least}); "monolith", "gram" and "mean" are accuracies
RUNS: dict[str, tuple[str, list[str], dict[str, float]]] = {
    "signs-ridge-50": ("signs", ["--shards", "50"], {"mean": 0.75, "gram": 0.82}),
    "signs-ridge-10": ("signs", ["--shards", "10", "--monolithic"], {"monolith": 0.87, "mean": 0.82}),
    "signs-adam-10": ("signs", ["--shards", "10", "--solver", "adam"], {"mean": 0.74}),
    "cifar-ridge-50": ("cifar", ["--shards", "50"], {"mean": 0.75, "gram": 0.765}),
}


class Head:
    """A Ray head of our own: `ray start --head` in a process group, on free local ports."""

    def __init__(self, scratch: Path) -> None:
        self.environment = dict(os.environ)
        token = scratch / "token"
        token.write_text("taft-ray-benchmark-token-0123456789")
        self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.dashboard, gcs, client = (free_port() for _ in range(3))
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={gcs}", f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={client}",
            "--dashboard-host=127.0.0.1", f"--temp-dir={tempfile.mkdtemp(prefix='trb-')}",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._wait_for_agent()

    def _wait_for_agent(self, limit_s: float = 120) -> None:
        """Until a job can be submitted: the dashboard listens before the agent that runs its jobs is there."""
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "job", "submit", f"--address=http://127.0.0.1:{self.dashboard}", "--", "true"]
        until = time.monotonic() + limit_s
        while True:
            tried = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
            if tried.returncode == 0:
                return
            if time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"no job could be submitted within {limit_s:.0f} s:\n{tried.stderr[-2000:]}")
            time.sleep(1)

    def submit(self, *entry: str) -> float:
        """Submit a job and wait; seconds. CalledProcessError with its log when it fails."""
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "job", "submit", f"--address=http://127.0.0.1:{self.dashboard}", "--working-dir", ".", "--"]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, sys.executable, *entry], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stdout[-4000:], done.stderr[-2000:], file=sys.stderr)
            raise subprocess.CalledProcessError(done.returncode, entry)
        return time.perf_counter() - began

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def subset(source: Path, target: Path, rows: int) -> Path:
    """The same random rows each time."""
    table = pq.read_table(source)
    chosen = np.sort(np.random.default_rng(0).permutation(len(table))[:rows])
    pq.write_table(table.take(chosen), target)
    return target


def measure(head: Head, name: str, assets: Path, out: Path) -> dict[str, Any]:
    data, options, targets = RUNS[name]
    run = out / name
    if data == "signs":
        train, test = (assets / file for file in SIGNS)
    else:
        train = subset(assets / CIFAR[0], out / "cifar_train_5000.parquet", 5000)
        test = subset(assets / CIFAR[1], out / "cifar_test_2000.parquet", 2000)
    model = ["--model", "deit_tiny_patch16_224", "--weights", str(assets / WEIGHTS)]
    train_s = head.submit("jobs/shard_train.py", str(run), "--data", str(train), *model, *options)
    evaluate_s = head.submit("jobs/evaluate.py", str(run), "--data", str(test))
    head.submit("jobs/report.py", str(run))
    report = json.loads((run / "reports/report.json").read_text())
    facts = report["measurements"]
    evaluated = [json.loads(path.read_text()) for path in sorted((run / "ledger").glob("*.json"))]
    accuracy = next(entry["body"] for entry in reversed(evaluated) if entry["kind"] == "evaluated")
    measured = {mode: answer["accuracy"] for mode, answer in accuracy["by_composition"].items()}
    measured["monolith"] = accuracy["monolith"]
    prefix, lanes = facts["cache"]["seconds"], facts["training"]["lanes"]
    fits = [shard["seconds"] for shard in facts["shards"] if "seconds" in shard]
    monolith_s = facts.get("monolith", {}).get("seconds")
    allowed = 1.5 * (prefix + sum(fits) / lanes) + 30
    row = {
        "run": name,
        "accuracy": measured,
        "targets": targets,
        "met": {
            figure: measured[figure] is not None and measured[figure] >= least for figure, least in targets.items()
        },
        "submit_to_done_s": train_s,
        "evaluate_s": evaluate_s,
        "prefix_s": prefix,
        "sum_of_fits_s": sum(fits),
        "slowest_fit_s": max(fits),
        "lanes": lanes,
        "monolith_s": monolith_s,
    }
    if monolith_s is None:  # a monolith in the same job is not part of what is bounded
        row |= {"allowed_s": allowed, "in_time": train_s <= allowed}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="where the runs go; a temporary folder by default")
    parser.add_argument("--only", nargs="*", choices=sorted(RUNS), default=sorted(RUNS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    missing = [file for file in ASSETS if not (options.assets / file).is_file()]
    if missing:
        parser.error(f"{options.assets} lacks {', '.join(missing)}")
    out = (options.out or Path(tempfile.mkdtemp(prefix="taft-ray-figures-"))).absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        head = Head(Path(scratch))
        try:
            rows = [measure(head, name, options.assets.absolute(), out) for name in options.only]
        finally:
            head.stop()
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()

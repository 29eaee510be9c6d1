"""How long a command takes that only looks, against importing the libraries that all of them need.

    python -m benchmarks.looking [--before COMMIT-OR-FOLDER] [--rounds 9] [--before-rounds 1] [--json]

R is `python -c "import click, fsspec, numpy, pyarrow, rich.table, rich.progress"`. The demo's run is made once by each version.
Then R and every command take turns, each in a process of its own. The medians of their wall clocks are compared. The CPU
seconds of the process are beside them, for a machine that is busy with something else. Commands of an earlier version may
start Ray, which takes half a minute, and so take part in the first rounds only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from benchmarks.earlier import ROOT, environment_of, files_of

R = "import click, fsspec, numpy, pyarrow, rich.table, rich.progress"

TRIES, NOT_STARTED = 5, "timed out during startup"  # on a busy machine Ray gives up


class Took(NamedTuple):
    """One process."""

    wall_s: float
    cpu_s: float


@dataclass
class Version:
    """One version of the package, with its own copy of the demo's run."""

    root: Path
    folder: Path
    took: dict[str, list[Took]] = field(default_factory=dict)

    @property
    def run(self) -> str:
        return str(self.folder / "run")

    def make(self) -> None:
        self.time("demo", ["demo", "--folder", str(self.folder)])
        self.ids: list[str] = pq.read_table(self.folder / "data/train.parquet", columns=["id"])["id"].to_pylist()

    def time(self, what: str, arguments: list[str], code: int = 0) -> None:
        line = [sys.executable, "-m", "taft_ray.cli", *arguments]
        for left in reversed(range(TRIES)):
            try:
                self.took.setdefault(what, []).append(timed(line, self.root, code))
                return
            except RuntimeError as error:
                if not left or NOT_STARTED not in str(error):
                    raise


# commands that a person waits for: a version's words for it in a round, and its exit code
COMMANDS: dict[str, tuple[Callable[[Version, int], list[str]], int]] = {
    "--help": (lambda of, turn: ["--help"], 0),
    "a wrong option": (lambda of, turn: ["status", of.run, "--wrong"], 2),
    "status": (lambda of, turn: ["status", of.run], 0),
    "estimate": (lambda of, turn: ["estimate", of.run, "--ids", of.ids[-1]], 0),
    "a refused id": (lambda of, turn: ["forget", of.run, "--ids", "nobody", "--mode", "drop"], 2),
    "verify": (lambda of, turn: ["verify", of.run], 0),
    "forget --deadline": (
        lambda of, turn: ["forget", of.run, "--ids", of.ids[-2 - turn], "--mode", "retrain", "--deadline", "30d"],
        0,
    ),
}


def timed(line: list[str], root: Path, code: int = 0) -> Took:
    """Run a command of a version; RuntimeError where it does not end with ``code``."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(line, cwd=root, env=environment_of(root), stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        if process.returncode != code:
            said.seek(0)
            raise RuntimeError(f"{line} ended with {process.returncode}, not {code}: {said.read().decode()[-2000:]}")
    return Took(wall, used.ru_utime + used.ru_stime)


def measure(now: Version, before: Version | None, rounds: int, before_rounds: int) -> list[dict[str, Any]]:
    versions = [version for version in (now, before) if version is not None]
    for version in versions:
        version.make()
    for turn in range(rounds):
        now.took.setdefault("R", []).append(timed([sys.executable, "-c", R], now.root))
        for what, (words, code) in COMMANDS.items():
            for version in versions[: 2 if turn < before_rounds else 1]:
                version.time(what, words(version, turn), code)
    unit = middle(now.took["R"])
    rows: list[dict[str, Any]] = [
        {"what": "R", "wall_s": unit.wall_s, "cpu_s": unit.cpu_s, "ratio": 1.0, "cpu_ratio": 1.0}
    ]
    for what in COMMANDS:
        row: dict[str, Any] = {"what": what, **compared(middle(now.took[what]), unit)}
        if before is not None:
            row["before"] = compared(middle(before.took[what]), unit)
        rows.append(row)
    return rows


def middle(several: list[Took]) -> Took:
    return Took(*(statistics.median(values) for values in zip(*several, strict=True)))


def compared(took: Took, unit: Took) -> dict[str, float]:
    return {**took._asdict(), "ratio": took.wall_s / unit.wall_s, "cpu_ratio": took.cpu_s / unit.cpu_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="an earlier version: a commit, or a folder with its files")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--before-rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taft-ray-looking-") as name:
        folder = Path(name)
        now, before = Version(ROOT, folder / "now"), None
        if options.before:
            before = Version(files_of(options.before, folder / "files"), folder / "before")
        rows = measure(now, before, options.rounds, options.before_rounds)
    for row in rows:
        row["load"] = os.getloadavg()[0]
    print(json.dumps(rows) if options.json else json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""Many commands `forget` at once on one run, and one with very many ids: seconds, memory, and whether anything came out different.

    python -m benchmarks.crowds [--commands 20] [--ids 100000] [--pictures 200000] [--shards 50] [--features 512] [--json]

The run is additive, of random rows (`additive_forget`). Each command is a process of its own, as a user starts it. The same requests
are made one after another on a copy of the run: the model must have the same digest. The memory is the largest of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.additive_forget import name_of, synthetic_run

FORGET = [sys.executable, "-m", "taft_ray.cli", "forget"]


def started(run: Path, ids: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as target:
        return subprocess.Popen([*FORGET, str(run), "--ids", ids, "--json"], stdout=target, stderr=subprocess.STDOUT)


def ended(process: subprocess.Popen[bytes], log: Path) -> float:
    """Its largest memory in MB; CalledProcessError with what it said where it failed."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, log.read_bytes())
    return used.ru_maxrss / 1024


def told(run: Path, command: str) -> dict[str, Any]:
    done = subprocess.run([*FORGET[:-1], command, str(run), "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure(commands: int, ids: int, pictures: int, shards: int, features: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="taft-ray-crowds-") as name:
        folder = Path(name)
        crowd, queue, many = folder / "crowd", folder / "queue", folder / "many"
        synthetic_run(crowd, shards, pictures, features)
        for other in (queue, many):
            shutil.copytree(crowd, other)

        logs = [folder / f"log-{number}" for number in range(commands)]
        began = time.perf_counter()
        processes = [started(crowd, name_of(7 * number), log) for number, log in enumerate(logs)]
        memory = [ended(process, log) for process, log in zip(processes, logs, strict=True)]
        at_once = time.perf_counter() - began

        began = time.perf_counter()
        for number, log in enumerate(logs):
            ended(started(queue, name_of(7 * number), log), log)
        in_turn = time.perf_counter() - began

        listed = folder / "ids"
        listed.write_text("\n".join(name_of(number) for number in range(ids)))
        began = time.perf_counter()
        memory_of_many = ended(started(many, f"@{listed}", logs[0]), logs[0])
        one_request = time.perf_counter() - began

        same = told(crowd, "status")["composed"] == told(queue, "status")["composed"]
        leftovers = len(told(crowd, "gc")["removed"])  # of those that lost a race
        problems = sum(len(told(run, "verify")["problems"]) for run in (crowd, queue, many))
    return {
        "commands": commands, "at_once_s": at_once, "in_turn_s": in_turn, "at_once_mb": max(memory),
        "same_digest": same, "leftovers": leftovers, "problems": problems,
        "ids": ids, "pictures": pictures, "one_request_s": one_request, "one_request_mb": memory_of_many,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=20)
    parser.add_argument("--ids", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=200_000)
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found = measure(given.commands, given.ids, given.pictures, given.shards, given.features)
    if given.json:
        print(json.dumps(found))
        return
    print(
        f"{found['commands']} commands at once: {found['at_once_s']:.1f} s, one after another {found['in_turn_s']:.1f} s; "
        f"{found['at_once_mb']:.0f} MB at most each; {found['leftovers']} leftovers for gc; {'the same model' if found['same_digest'] else 'ANOTHER MODEL'}"
    )
    print(
        f"{found['ids']:,} ids of {found['pictures']:,} pictures in one request: {found['one_request_s']:.1f} s, "
        f"{found['one_request_mb']:.0f} MB; verify finds {found['problems']} problems"
    )


if __name__ == "__main__":
    main()

"""How long a sweep takes on a run whose cache exists, and whether what it chooses is better on data that it never saw.

    python -m benchmarks.sweep --assets FOLDER [--trials 24] [--objective composed] [--scheduler asha] [--shards 10] [--keep FOLDER] [--json]

Sign-Digits, DeiT-Tiny, last block, all through the command line. Trains a run, sweeps it, and trains another run with the best
spec. Evaluates both on the test set, which the sweep has not read. ``wall_seconds`` is the sweep's whole command, with Ray's start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WEIGHTS = "deit_tiny_patch16_224.safetensors"
TRAIN, TEST = "signdigits_100px_train.parquet", "signdigits_100px_test.parquet"
TARGET_S = 180.0  # for 24 trials on 2 cores


def command(*arguments: object) -> tuple[dict[str, Any], float]:
    """The answer of a taft-ray command, and its wall-clock seconds; CalledProcessError when it fails."""
    began = time.perf_counter()
    line = [sys.executable, "-m", "taft_ray.cli", *map(str, arguments), "--json"]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout), time.perf_counter() - began


def measure(assets: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    data, test = assets / TRAIN, assets / TEST
    model = ("--model", "deit_tiny_patch16_224", "--weights", assets / WEIGHTS, "--shards", options.shards)
    run, best = folder / "run", folder / "best"
    command("train", run, "--data", data, *model, "--compose", "gram")  # what is chosen is of deltas
    chosen = ("--trials", options.trials, "--objective", options.objective, "--scheduler", options.scheduler)
    answer, seconds = command("sweep", run, *chosen)
    command("train", best, "--spec", answer["spec"])
    return {
        "wall_seconds": seconds,
        "trials": len(answer["trials"]),
        "stopped": sum(trial["status"] == "stopped" for trial in answer["trials"]),
        "resumed": answer["resumed"],
        "trial_seconds": sum(trial["seconds"] for trial in answer["trials"]),
        "best": answer["best"],
        "standard_error": answer["standard_error"],
        "as_good_as_best": answer["as_good_as_best"],
        "test_accuracy": {
            "defaults": command("evaluate", run, "--data", test)[0]["accuracy"],
            "best": command("evaluate", best, "--data", test)[0]["accuracy"],
        },
        "page": answer["page"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--objective", default="composed")
    parser.add_argument("--scheduler", default="asha")
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="keep the runs here, and go on with those that are there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        result = {**measure(options.assets.resolve(), folder, options), "load": os.getloadavg()[0]}
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name}: {value}")
    if result["trials"] == 24 and not result["resumed"]:
        print(f"24 trials within {TARGET_S:.0f} s: {'yes' if result['wall_seconds'] <= TARGET_S else 'NO'}")


if __name__ == "__main__":
    main()

"""Seconds of privacy accounting, and normals per second of the noise that can be drawn again.

    python -m benchmarks.privacy [--shards 10000] [--generations 5] [--numbers 4000000] [--repetitions 5] [--json]

Accounting: the total μ and the ε of each of many shards, all different. Noise: a call of `GaussianStream`, beside numpy's normals,
which are neither secret nor on a grid. All on one thread.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from taft_ray.privacy import GaussianStream, epsilon_of, new_key, stream_seed, total

DELTA = 1e-5


def seconds(action: Callable[[], Any], repetitions: int) -> float:
    took = []
    for _ in range(repetitions):
        began = time.perf_counter()
        action()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def accounting(shards: int, generations: int, repetitions: int) -> dict[str, Any]:
    rng = random.Random(0)
    spent = [[10 ** rng.uniform(-2, 0.5) for _ in range(generations)] for _ in range(shards)]
    took = seconds(lambda: [epsilon_of(total(mus), DELTA) for mus in spent], repetitions)
    return {"what": f"μ and ε of {shards:,} shards of {generations} generations each", "seconds": took}


def noise(numbers: int, repetitions: int) -> dict[str, Any]:
    stream = GaussianStream(stream_seed(new_key(), spec="spec", inputs="inputs", reservation="reservation"))
    plain = np.random.default_rng(0)
    took = seconds(lambda: stream(0, numbers, 2.0**20), repetitions)
    beside = seconds(lambda: plain.standard_normal(numbers), repetitions)
    return {
        "what": f"{numbers:,} normals of `GaussianStream`",
        "seconds": took,
        "per_s": numbers / took,
        "times_numpy": took / beside,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--numbers", type=int, default=4_000_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [
        accounting(options.shards, options.generations, options.repetitions),
        noise(options.numbers, options.repetitions),
    ]
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        rate = (
            f", {row['per_s'] / 1e6:.0f} million/s, {row['times_numpy']:.1f} × numpy's time" if "per_s" in row else ""
        )
        print(f"{row['what']}: {row['seconds']:.3f} s{rate}")


if __name__ == "__main__":
    main()

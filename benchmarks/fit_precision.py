"""A fit with products in bfloat16 against one in float32, in one run: seconds, and how far the deltas are apart.

    python -m benchmarks.fit_precision [--json] [--pictures 128] [--repetitions 5] [--threads 1] [--model NAME ...]

The last block by ridge, and by four epochs of Adam, on random pictures and weights: the time does not depend on the values.
Repetitions are interleaved. The ratio is the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any

import timm
import torch

from taft_ray.fitting import FitConfig, fit
from taft_ray.tangent import Delta, linearize, prepare_pictures

MODELS = ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224")
SOLVERS: dict[str, dict[str, Any]] = {"ridge": {"solver": "ridge"}, "adam": {"solver": "adam", "epochs": 4}}


def distance(delta: Delta, other: Delta) -> float:
    """‖Δw − Δw'‖ / ‖Δw'‖ of the tensor where it is largest."""
    return max(float((delta[name] - value).norm() / value.norm()) for name, value in other.items() if value.any())


def measure(name: str, pictures: int, repetitions: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    tm = linearize(timm.create_model(name, num_classes=10))
    with torch.no_grad():
        tokens = torch.cat([tm.prefix(torch.randn(32, 3, 224, 224)) for _ in range(pictures // 32)])
    labels = torch.randint(0, 10, (len(tokens),))
    prepared = prepare_pictures(tm, tokens, budget=8 << 30)
    rows = []
    for solver, options in SOLVERS.items():
        configs = [FitConfig(**options, fit_precision=one) for one in ("float32", "bfloat16")]
        fit(tm, prepared, labels, configs[1])  # warm
        pairs = [[fit(tm, prepared, labels, config) for config in configs] for _ in range(repetitions)]
        ratios = [faster.report.seconds / exact.report.seconds for exact, faster in pairs]
        exact, faster = pairs[0]
        rows.append(
            {
                "model": name, "solver": solver, "pictures": len(tokens), "ratio": statistics.median(ratios),
                "float32_s": statistics.median(one.report.seconds for one, _ in pairs), "distance": distance(faster, exact),
            }
        )  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", nargs="*", default=list(MODELS))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    rows = [row for name in given.model for row in measure(name, given.pictures, given.repetitions)]
    if given.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("{model} {solver}: {ratio:.2f} of {float32_s:.2f} s; {distance:.1e} apart".format(**row))


if __name__ == "__main__":
    main()

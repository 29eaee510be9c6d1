"""The cost of serving a composed model, against the plain forward of the network it was made from, in one run.

    python -m benchmarks.serving [--json] [--model NAME ...] [--batch 16] [--threads 2] [--repetitions 9]

The plain network is timm's own, with its fused attention. Repetitions are interleaved; medians, and the median of the ratios of
neighbours. Weights and pictures are random: the time does not depend on the values.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import timm
import torch

from taft_ray.tangent import ComposedModel, linearize

MODELS = ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224")


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@torch.inference_mode()
def measure(name: str, *, batch: int, repetitions: int) -> dict[str, Any]:
    """The plain network, the composed model of its last block, and of all blocks."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10).eval()
    pictures = torch.randn(batch, 3, 224, 224)
    ways: dict[str, torch.nn.Module] = {"plain": network}
    for last_blocks in (1, "all"):
        tm = linearize(network, last_blocks=last_blocks)
        delta = tm.zero_delta().map(lambda value: torch.randn_like(value) * 0.01)
        ways[f"last {last_blocks}"] = ComposedModel(tm, delta)
    for model in ways.values():
        model(pictures)
    rounds = [
        {way: seconds(lambda model=model: model(pictures)) for way, model in ways.items()} for _ in range(repetitions)
    ]
    return {
        "model": name,
        "batch": batch,
        "plain_s": statistics.median(times["plain"] for times in rounds),
        **{
            f"ratio of {way}": round(statistics.median(times[way] / times["plain"] for times in rounds), 3)
            for way in ways
            if way != "plain"
        },
        "load": os.getloadavg()[0],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = [
        measure(name, batch=options.batch, repetitions=options.repetitions) for name in options.model or list(MODELS)
    ]
    print(json.dumps(rows) if options.json else json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

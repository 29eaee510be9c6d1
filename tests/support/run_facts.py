"""Facts as a run of a hundred shards on two lanes leaves them, with a monolith and three forgets."""

import random
from typing import Any

START = 1_760_000_000.0


def run_facts(shards: int = 100, lanes: int = 2, seed: int = 7) -> dict[str, Any]:
    rng = random.Random(seed)
    free = [START + 130.0] * lanes
    entries = []
    for shard in range(shards):
        lane = min(range(lanes), key=free.__getitem__)
        seconds = rng.uniform(5.2, 9.4)
        entries.append(
            {
                "shard": shard,
                "generation": 1,
                "samples": 500 + rng.randrange(-30, 30),
                "state": "trained",
                "seconds": seconds,
                "lane": f"lane-{lane}",
                "started": free[lane],
                "ended": free[lane] + seconds,
                "iterations": rng.randrange(40, 60),
                "residual": 10 ** rng.uniform(-7, -6),
                "distance_bound": 10 ** rng.uniform(-5, -4),
            }
        )
        free[lane] += seconds + 0.15
    ended = max(free)
    counts = sorted({min(shards, count) for count in (1, 2, 5, 10, 20, 40, 60, 80, 100, shards)})
    facts: dict[str, Any] = {
        "run": {
            "uri": "s3://bucket/runs/cifar-100-shards",
            "spec": {
                "model": "vit_small_patch16_224",
                "shards": shards,
                "solver": "cg",
                "compose": "gram",
                "last_blocks": 2,
                "seed": 0,
                "loss": "rsl",
            },
            "spec_digest": "b2:" + "5c" * 16,
            "composed": "b2:" + "a1" * 16,
            "created": "2025-10-09T08:53:20Z",
        },
        "environment": {
            "cpus": 16,
            "gpus": 1,
            "device": "NVIDIA H200",
            "threads": 8,
            "lanes": lanes,
            "versions": {"python": "3.11.9", "torch": "2.11.0", "ray": "2.60.0", "timm": "1.0.20"},
        },
        "data": {
            "rows": 50_012,
            "kept": 50_000,
            "rejected": 12,
            "reasons": {"unreadable image": 9, "label outside the classes": 3},
            "classes": ["airplane", "automobile", "bird"],
        },
        "cache": {
            "seconds": 104.2,
            "images": 50_000,
            "bytes": 50_000 * 197 * 384 * 2,
            "started": START,
            "ended": START + 104.2,
        },
        "shards": entries,
        "training": {"wall_seconds": ended - START - 112, "lanes": lanes, "started": START + 112, "ended": ended},
        "monolith": {
            "seconds": 512.25,
            "started": ended + 1,
            "ended": ended + 513.25,
            "samples": sum(entry["samples"] for entry in entries),
            "iterations": 71,
            "accuracy": 0.9312,
            "lane": "lane-0",
        },
        "composition": [
            {"mode": "mean", "seconds": 0.42, "digest": "b2:" + "c3" * 16, "accuracy": 0.8871},
            {"mode": "gram", "seconds": 3.18, "digest": "b2:" + "a1" * 16, "accuracy": 0.9240},
        ],
        "accuracy_by_shards": [
            {"shards": m, "mean": 0.887 - 0.14 * 0.93**m, "gram": 0.924 - 0.16 * 0.9**m} for m in counts
        ],
        "evaluation": {"data": "cifar10-test", "n": 10_000, "accuracy": 0.9240, "composed": "b2:" + "a1" * 16},
        "forgets": [],
    }
    for i, (mode, retrain) in enumerate([("drop", None), ("retrain", 7.75), ("retrain", 6.5), ("resolve", 1.25)]):
        shard = entries[(17 * i + 3) % shards]
        before = 0.9240 - 0.0001 * i
        facts["forgets"].append(
            {
                "request": f"request-{i:04d}",
                "mode": mode,
                "samples": i + 1,
                "shards": [shard["shard"]],
                "seconds": {"drop": 0.031, "purge": 0.4 + i / 8, "total": 1.1 + (retrain or 0)}
                | ({"retrain": retrain} if retrain else {}),
                "accuracy_before": before,
                "accuracy_after": before - 0.0001,
                "composed_before": "b2:" + "a1" * 16,
                "composed_after": "b2:" + "d4" * 16,
                "time": f"2025-10-09T1{i}:00:00Z",
            }
        )
        if mode == "drop":
            shard["state"] = "dropped"
        elif retrain is not None and shards > 1:
            again = {"generation": 2, "started": ended + 90_000 + 40 * i, "ended": ended + 90_000 + 40 * i + retrain}
            entries.append(shard | again | {"seconds": retrain})
    return facts


def classes(facts: dict[str, Any]) -> dict[str, Any]:
    """The same facts, with an evaluation by class."""
    facts["evaluation"] |= {
        "per_class": [{"label": "ant", "n": 40, "accuracy": 0.9}, {"label": "<bee>", "n": 10, "accuracy": None}],
        "confusion": [[36, 4], [3, 7]],
        "confused": [{"true": "ant", "predicted": "<bee>", "n": 4}],
        "top5": None,
        "calibration_error": 0.0321,
        "calibration": [{"confidence": 0.5, "accuracy": 0.4, "n": 10}, {"confidence": 0.9, "accuracy": 0.95, "n": 40}],
    }
    return facts

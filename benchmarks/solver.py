"""The ridge problem of real shards: preconditioned conjugate gradient (what `fit` does) against plain conjugate gradient.

    python -m benchmarks.solver --assets FOLDER [--json] [--threads 1] [--penalty 0.01] [--tolerance 1e-6]

Sign-Digits with DeiT-Tiny, last block, final norm and head, split into N = 1, 10 and 50 shards by the keyed hash. The
seconds are of `fit` on cached tokens whose constants are prepared. The iterations are those until the relative residual of
the normal equations is below the tolerance. Both ways are timed on the same shards, one after the other; of N = 10 and 50 on the first few.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from taft_ray.data import assign, sample_keys
from taft_ray.data.decode import decode_image
from taft_ray.fitting import FitConfig, FittedDelta, fit, ridge
from taft_ray.models import load_model
from taft_ray.tangent import TangentModel, linearize

MODEL = "deit_tiny_patch16_224"
DATA = "signdigits_100px_train.parquet"
SHARDS = {1: 1, 10: 3, 50: 5}  # how many of them are timed


def tokens_of(assets: Path) -> tuple[TangentModel, Tensor, Tensor, list[bytes]]:
    """The tangent model, and of every picture its tokens, label and shard key."""
    loaded = load_model(MODEL, str(assets / f"{MODEL}.safetensors"), None)
    table = pq.read_table(assets / DATA)
    pictures = [cell["bytes"] if isinstance(cell, dict) else cell for cell in table["image"].to_pylist()]
    labels = torch.tensor(table["label"].to_pylist())
    tm = linearize(loaded.network, num_classes=int(labels.max()) + 1)
    parts = []
    for start in range(0, len(pictures), 64):
        pixels = np.stack([decode_image(data, loaded.preprocess.size) for data in pictures[start : start + 64]])
        parts.append(tm.prefix(loaded.preprocess(torch.from_numpy(pixels))).half())
    return tm, torch.cat(parts), labels, sample_keys([f"{DATA}#{row}" for row in range(len(labels))], 0)


def measure(
    tm: TangentModel, tokens: Tensor, labels: Tensor, keys: list[bytes], shards: int, timed: int, config: FitConfig
) -> dict[str, Any]:
    """Both solvers on the first ``timed`` shards."""
    numbers = assign(keys, shards=shards, method="hash")
    rows = []
    for shard in range(timed):
        mine = torch.from_numpy(np.flatnonzero(numbers == shard))
        prepared = tm.prepare(tokens[mine])
        ours = fit(tm, prepared, labels[mine], config)
        with mock.patch.object(ridge, "preconditioner", return_value=lambda residual: residual):
            plain = fit(tm, prepared, labels[mine], config)
        rows.append((len(mine), ours, plain))
    return {
        "shards": shards,
        "samples_a_shard": statistics.median(count for count, _, _ in rows),
        "ours": facts([ours for _, ours, _ in rows]),
        "plain": facts([plain for _, _, plain in rows]),
        "ratio": statistics.median(plain.report.seconds / ours.report.seconds for _, ours, plain in rows),
        "difference": max(float((ours - plain).norm() / plain.norm()) for _, ours, plain in rows),
    }


def facts(fits: list[FittedDelta]) -> dict[str, Any]:
    """Medians over the shards."""
    return {
        "iterations": statistics.median(found.report.iterations for found in fits),
        "seconds": statistics.median(found.report.seconds for found in fits),
        "residual": max(found.report.residual or 0.0 for found in fits),
        "distance_bound": max(found.report.distance_bound or 0.0 for found in fits),
        "norm": statistics.median(float(found.norm()) for found in fits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--penalty", type=float, default=0.01)
    parser.add_argument("--tolerance", type=float, default=1e-6)
    parser.add_argument("--max-iterations", type=int, default=1000)
    parser.add_argument("--shards", type=int, nargs="*", choices=sorted(SHARDS), default=sorted(SHARDS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tm, tokens, labels, keys = tokens_of(options.assets)
    config = FitConfig(penalty=options.penalty, tolerance=options.tolerance, max_iterations=options.max_iterations)
    rows = [measure(tm, tokens, labels, keys, count, SHARDS[count], config) for count in options.shards]
    for row in rows:
        row["load"] = os.getloadavg()[0]
    print(json.dumps(rows) if options.json else json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

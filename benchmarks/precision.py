"""The cost in accuracy of a bfloat16 prefix and a 16-bit cache, against a float32 prefix and a float32 cache.

    python -m benchmarks.precision --assets FOLDER [--data signs cifar] [--prefix float32 bfloat16] [--threads 2] [--json]

DeiT-Tiny, last block, final norm and head, one model over everything (N = 1), ridge as runs fit it. Sign-Digits (1,650 / 412) and
CIFAR-10 (5,000 / 2,000: the same random rows as `benchmarks.figures`). The prefix runs in float32, its
tokens kept as float32 or float16. It also runs in bfloat16 as a run's, its tokens kept as float16 or bfloat16. A model is
fitted and tested on what was kept. One picture of Sign-Digits is 0.24 points, so pictures are counted too. ``changed``
counts the test pictures whose class is another than the reference's. ``better`` and ``worse`` count those of them that
became right or wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from taft_ray.data import decode_image
from taft_ray.fitting import FitConfig, fit
from taft_ray.models import LoadedModel, load_model
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.tokens import PREFIX_BATCH, arithmetic
from taft_ray.tangent import TangentModel, batches, concatenate, linearize

MODEL = "deit_tiny_patch16_224"
WEIGHTS = f"{MODEL}.safetensors"
DATA = {
    "signs": (("signdigits_100px_train.parquet", None), ("signdigits_100px_test.parquet", None)),
    "cifar": (("cifar10_jpeg_train.parquet", 5000), ("cifar10_jpeg_test.parquet", 2000)),
}
KEPT = {"float32": (torch.float32, torch.float16), "bfloat16": (torch.float16, torch.bfloat16)}  # of each prefix
PREPARE_CHUNK = 128


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model: which prefix, what its tokens were kept as, and the test set's answers."""

    data: str
    prefix: str
    kept: str
    accuracy: float  # percent
    points: float  # more than the first row of the data set, which is the reference
    changed: int
    better: int
    worse: int
    tokens_differ: float  # of the test pictures, from float32's, relative to the norm
    iterations: int
    prefix_s: float
    fit_s: float


def rows_of(file: Path, count: int | None) -> pa.Table:
    table = pq.read_table(file)
    if count is None:
        return table
    return table.take(np.sort(np.random.default_rng(0).permutation(len(table))[:count]))


@torch.no_grad()
def tokens_of(tm: TangentModel, loaded: LoadedModel, table: pa.Table, precision: str) -> Tensor:
    """(n, T, D) float32, before they are rounded for a cache; padded passes of one shape, as a run's."""
    size, out = PREFIX_BATCH["cpu"], []
    spec = RunSpec(data="none", model=MODEL, precision=precision, compose="gram")
    pictures = table["image"].to_pylist()
    for at in range(0, len(pictures), size):
        pixels = [decode_image(picture, loaded.preprocess.size) for picture in pictures[at : at + size]]
        padded = np.zeros((size, *pixels[0].shape), np.uint8)
        padded[: len(pixels)] = pixels
        with arithmetic(tm, spec):
            out.append(tm.prefix(loaded.preprocess(torch.from_numpy(padded)))[: len(pixels)].float())
    return torch.cat(out)


def fitted(tm: TangentModel, train: Tensor, labels: Tensor, test: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The classes of the test pictures, and what the fit took."""
    prepared = concatenate([tm.prepare(part) for part in train.split(PREPARE_CHUNK)])
    delta = fit(tm, prepared, labels, FitConfig())
    del prepared
    answers = []
    with torch.no_grad():
        for part in test.split(PREPARE_CHUNK):
            for _, batch in batches(tm.prepare(part), PREPARE_CHUNK):
                answers.append((batch.primal + tm.tangent(batch, delta)).argmax(1))
    return torch.cat(answers), {"iterations": delta.report.iterations, "fit_s": round(delta.report.seconds, 1)}


def measure(assets: Path, data: str, prefixes: Sequence[str]) -> Iterator[Row]:
    """Every prefix with every type of cache; the first row is what the others are compared with."""
    (train_file, train_count), (test_file, test_count) = DATA[data]
    train, test = rows_of(assets / train_file, train_count), rows_of(assets / test_file, test_count)
    labels, expected = (torch.from_numpy(table["label"].to_numpy().astype(np.int64)) for table in (train, test))
    loaded = load_model(MODEL, str(assets / WEIGHTS))
    tm = linearize(loaded.network, num_classes=int(labels.max()) + 1)
    reference: Tensor | None = None
    exact: Tensor | None = None
    for prefix in prefixes:
        began = time.perf_counter()
        train_tokens, test_tokens = (tokens_of(tm, loaded, table, prefix) for table in (train, test))
        prefix_s = round(time.perf_counter() - began, 1)
        exact = test_tokens if exact is None else exact
        for dtype in KEPT[prefix]:
            seen, asked = train_tokens.to(dtype), test_tokens.to(dtype)
            answers, facts = fitted(tm, seen, labels, asked)
            right = answers == expected
            reference = answers if reference is None else reference
            was_right = reference == expected
            yield Row(
                data=data,
                prefix=prefix,
                kept=str(dtype).removeprefix("torch."),
                accuracy=round(100 * float(right.double().mean()), 2),
                points=round(100 * float(right.double().mean() - was_right.double().mean()), 2),
                changed=int((answers != reference).sum()),
                better=int((right & ~was_right).sum()),
                worse=int((was_right & ~right).sum()),
                tokens_differ=float((asked.float() - exact).norm() / exact.norm()),
                prefix_s=prefix_s,
                **facts,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--data", nargs="+", choices=sorted(DATA), default=list(DATA))
    parser.add_argument("--prefix", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON array on stdout")
    options = parser.parse_args()
    files = [WEIGHTS, *(name for data in options.data for name, _ in DATA[data])]
    missing = [name for name in files if not (options.assets / name).is_file()]
    if missing:
        parser.error(f"{options.assets} lacks {', '.join(missing)}")
    torch.set_num_threads(options.threads)
    rows = []
    for data in options.data:
        for row in measure(options.assets, data, options.prefix):
            rows.append(asdict(row))
            if not options.json:
                print(json.dumps(rows[-1]), flush=True)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()

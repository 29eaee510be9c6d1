"""The cost in accuracy of slices inside a shard, and the time they save in a retrain.

One run's worker is measured with 1, 2, 4 and 8 slices.

    python -m benchmarks.slices --assets FOLDER [--slices 1 2 4 8] [--shards 10] [--fitted 3] [--retrains 4] [--json]

Sign-Digits, DeiT-Tiny, last block, Adam's recipe of 30 epochs. The shards are those that a run on the same file has. Tokens
are made once. Then `ShardWorker`, the class that lanes and retrains run, fits the first shards of them. Accuracy is measured
on the test set: the mean over single shards, and those composed. The shard whose size is nearest the mean then forgets at
least one sample of each slice. It does so once from the checkpoint that survives and once from zero, on the same rewritten
cache. The two deltas must have the same digest. A random sample is in slice j with probability n_j/n: the means weigh so.
A fit's seconds hold reading, preparing, Gram statistics and writing, checkpoints too. CPU seconds come first: other
programs on the machine disturb them less.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from taft_ray.data import assign, decode_image, sample_keys, slice_of
from taft_ray.models import Preprocess
from taft_ray.plans.slices import after_loss, expected_visits, resume_from
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.tokens import prefix_tokens
from taft_ray.run.model import build_tangent
from taft_ray.storage import CheckpointRef, Store, write_part, write_spec
from taft_ray.storage import rundir as names
from taft_ray.workers.shard_worker import ShardWorker

WEIGHTS = "deit_tiny_patch16_224.safetensors"
TRAIN, TEST = "signdigits_100px_train.parquet", "signdigits_100px_test.parquet"
CLASSES = 10
TEST_FOLDER = "eval/test"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The cached tokens of a data set, and what the cache knows of each picture."""

    keys: list[bytes]
    labels: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Row:
    """The measurements for one number of slices. Seconds are of the worker's whole fit; ``cpu`` over all threads."""

    slices: int
    shard_samples: int
    shards_fitted: int
    accuracy_of_shards: float  # mean over the fitted shards, each alone
    accuracy_gram: float
    accuracy_mean: float
    train_cpu_s: float  # of the shard that samples are forgotten from; mean a fit
    train_s: float
    retrain_cpu_s: float  # mean for a random sample, from the checkpoint that survives
    retrain_s: float
    from_zero_cpu_s: float  # the same retrains from zero
    saved: float  # 1 - retrain / from zero, of CPU seconds
    saved_visits: float  # the same of visits to samples with even slices: 1 - (2R+1)/(3R)
    checkpoint_s: float  # of train_s: writing the checkpoints
    checkpoint_bytes: int
    load: float


def spec_of(assets: Path, shards: int, slices: int) -> RunSpec:
    return RunSpec(
        data=str(assets / TRAIN), model="deit_tiny_patch16_224", weights=str(assets / WEIGHTS), shards=shards,
        solver="adam", compose="gram", slices=slices, device="cpu", threads=1, precision="float32",
    )  # fmt: skip


def tokens_of(assets: Path, file: str, shards: int, fitted: int | None = None) -> Tokens:
    """As the prefix pass makes them, of the pictures in the first ``fitted`` shards."""
    spec = spec_of(assets, shards, 1)
    tm, _ = build_tangent(spec, CLASSES)
    preprocess = Preprocess.of(tm.network)
    table = pq.read_table(assets / file)
    keys = sample_keys([f"{file}#{row}" for row in range(len(table))], spec.seed)
    rows = np.flatnonzero(assign(keys, shards=shards) < (shards if fitted is None else fitted))
    table = table.take(rows)
    pixels = np.stack([decode_image(picture, preprocess.size) for picture in table["image"].to_pylist()])
    return Tokens(
        keys=[keys[row] for row in rows],
        labels=table["label"].to_numpy().astype(np.int64),
        tokens=prefix_tokens(tm, preprocess, pixels, spec),
    )


class Run:
    """A run's folder and its worker, without Ray."""

    def __init__(self, folder: Path, spec: RunSpec, train: Tokens, test: Tokens) -> None:
        self.store, self.spec, self.train = Store(str(folder)), spec, train
        write_spec(self.store, spec.to_json())
        self.worker = ShardWorker(str(folder), CLASSES)
        self.shard_of = assign(train.keys, shards=spec.shards)
        self.slices = slice_of(train.keys, slices=spec.slices, seed=spec.seed)
        self.test = self._write(TEST_FOLDER, test, range(len(test.keys)))

    def _write(self, folder: str, data: Tokens, rows: Sequence[int]) -> list[dict[str, Any]]:
        rows = sorted(rows, key=data.keys.__getitem__)
        ref = write_part(
            self.store, folder, 0, keys=[data.keys[i] for i in rows], labels=data.labels[rows], tokens=data.tokens[rows],
            dtype=self.spec.cache_dtype, fingerprint=self.worker.fingerprint,
        )  # fmt: skip
        return [ref.to_json()]

    def fit(
        self, shard: int, gone: Collection[int] = (), resume: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], float]:
        """The worker's answer, and CPU seconds."""
        rows = [int(row) for row in np.flatnonzero(self.shard_of == shard) if row not in gone]
        parts = self._write(names.shard_prefix(shard), self.train, rows)
        began = time.process_time()
        result = self.worker.fit({"shard": shard, "generation": 1, "parts": parts, "resume": resume})
        return result, time.process_time() - began


def measure(run: Run, retrains: int) -> Row:
    """Fit every shard there is, then forget from the one nearest the mean size."""
    load, slices = os.getloadavg()[0], run.spec.slices
    sizes = np.bincount(run.shard_of)
    chosen = int(np.argmin(np.abs(sizes - sizes.mean())))
    fits = [run.fit(shard) for shard in range(len(sizes))]
    refs = [result["delta"] for result, _ in fits]
    alone = [run.worker.evaluate(None, run.test, ref)["accuracy"] for ref in refs]
    together = run.worker.accuracy_by_shards(refs, [1] * len(refs), run.test, [len(refs)])[-1]
    whole, _ = fits[chosen]
    members = np.flatnonzero(run.shard_of == chosen)
    totals = np.zeros(3)  # from the checkpoint: CPU and wall; from zero: CPU
    for lost in range(slices):
        of_slice = members[run.slices[members] == lost]
        tries = of_slice[: max(1, retrains // slices)]
        for sample in tries:
            written = map(CheckpointRef.from_json, whole.get("checkpoints", []))
            resume = resume_from(after_loss(written, {lost}).kept)
            again, cpu = run.fit(chosen, {int(sample)}, resume and resume.to_json())
            never, zero_cpu = run.fit(chosen, {int(sample)})
            if again["delta"]["digest"] != never["delta"]["digest"]:
                raise AssertionError(f"{slices} slices: a retrain from stage {lost} is not the one from zero")
            weight = len(of_slice) / len(members) / len(tries)
            totals += weight * np.array([cpu, again["facts"]["seconds"], zero_cpu])
    return Row(
        slices=slices,
        shard_samples=len(members),
        shards_fitted=len(sizes),
        accuracy_of_shards=float(np.mean(alone)),
        accuracy_gram=together["gram"],
        accuracy_mean=together["mean"],
        train_cpu_s=fits[chosen][1],
        train_s=whole["facts"]["seconds"],
        retrain_cpu_s=float(totals[0]),
        retrain_s=float(totals[1]),
        from_zero_cpu_s=float(totals[2]),
        saved=float(1 - totals[0] / totals[2]),
        saved_visits=float(1 - expected_visits(slices)),
        checkpoint_s=whole["facts"].get("checkpoint_seconds", 0.0),
        checkpoint_bytes=sum(ref["bytes"] for ref in whole.get("checkpoints", [])),
        load=round(load, 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--fitted", type=int, default=3, help="how many of the shards are fitted")
    parser.add_argument("--retrains", type=int, default=4, help="for each number of slices; at least one a slice")
    parser.add_argument("--json", action="store_true", help="one JSON array on stdout")
    options = parser.parse_args()
    missing = [file for file in (WEIGHTS, TRAIN, TEST) if not (options.assets / file).is_file()]
    if missing:
        parser.error(f"{options.assets} lacks {', '.join(missing)}")
    assets = options.assets.absolute()
    train, test = tokens_of(assets, TRAIN, options.shards, options.fitted), tokens_of(assets, TEST, options.shards)
    rows = []
    for slices in options.slices:
        with tempfile.TemporaryDirectory(prefix="taft-ray-slices-") as folder:
            rows.append(
                measure(Run(Path(folder), spec_of(assets, options.shards, slices), train, test), options.retrains)
            )
        if not options.json:
            print(json.dumps(asdict(rows[-1])), flush=True)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()

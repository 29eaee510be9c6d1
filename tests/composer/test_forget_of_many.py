"""A request of 100,000 samples: its time grows with their number, not with its square."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tiny import MODEL

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.data import assign, id_hash, sample_keys
from taft_ray.plans.facts import Cached
from taft_ray.plans.forget import MOST_IDS
from taft_ray.plans.spec import RunSpec
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Store, digest_bytes, id_key, write_delta, write_part, write_rows, write_spec
from taft_ray.storage import rundir as names

SHARDS = 50
SMALL, LARGE = MOST_IDS // 4, MOST_IDS
LEFT = 10_000  # samples more than are forgotten


def synthetic_run(run: Path, samples: int) -> Composer:
    """A run of many samples of one number each, as a training would leave it; no picture was ever there."""
    store = Store(str(run))
    write_spec(store, RunSpec(data="nowhere", model=MODEL, shards=SHARDS, compose="mean").to_json())
    composer, secret = Composer(str(run)), id_key(store, create=True)
    composer.begin({}, digest_bytes(secret))
    ids = [f"picture-{n:06d}" for n in range(samples)]
    keys = sample_keys(ids, 0)
    shard = assign(keys, shards=SHARDS)
    parts: dict[str, list[dict[str, Any]]] = {}
    part_row = np.zeros(samples, np.int32)
    for number in range(SHARDS):
        mine = np.flatnonzero(shard == number)
        part_row[mine] = np.arange(len(mine))
        ref = write_part(
            store, names.shard_prefix(number), 0, keys=[keys[i] for i in mine], labels=np.zeros(len(mine), np.int64),
            tokens=np.zeros((len(mine), 1, 1), np.float16), dtype="float16", fingerprint="none",
        )  # fmt: skip
        parts[str(number)] = [{**ref.to_json(), "part": 0}]
    rows = pa.table(
        {
            "key": pa.array(keys, pa.binary(16)),
            "shard": pa.array(shard, pa.int32()),
            "label": pa.array(np.zeros(samples), pa.int32()),
            "owner_key": pa.nulls(samples, pa.binary(16)),
            "status": ["kept"] * samples,
            "part": pa.array(np.zeros(samples), pa.int32()),
            "part_row": pa.array(part_row),
            "id_hash": [id_hash(name, secret) for name in ids],
        }
    )
    meta = {"parts": parts, "classes": ["a", "b"], "fingerprint": "none"}
    manifest = write_rows(store, rows, meta, version=0)
    counts = [parts[str(number)][0]["rows"] for number in range(SHARDS)]
    composer.admit_cache(Cached(manifest.digest, tuple(counts), ("a", "b"), manifest.key, fingerprint="none"))
    for number in range(SHARDS):
        task = composer.take("lane")
        assert task is not None
        value = np.array([task["shard"]], np.int64)
        folder = names.delta_folder(task["shard"])
        delta = write_delta(store, folder, task["generation"], {"delta/w": value}, {"shard": str(number)})
        composer.finished(
            {
                **{name: task[name] for name in ("shard", "generation")},
                "samples": counts[task["shard"]],
                "parts": [part["digest"] for part in task["parts"]],
                "delta": delta.to_json(),
                "facts": {"seconds": 1.0, "samples": counts[task["shard"]]},
            }
        )
    composer.compose()
    return composer


def forget_many(run: Path, count: int) -> float:
    """Processor seconds from the request to the certificate, by drop: the machine may do other things meanwhile."""
    synthetic_run(run, count + LEFT)
    composer = Composer(str(run))
    ids = tuple(f"picture-{n:06d}" for n in range(count))
    began = time.process_time()
    asked = composer.request_forget(Selection(ids=ids), "drop")
    composer.resume_forget(asked["request"])
    certificate = composer.conclude_forget(asked["request"], {"retrain_seconds": 0.0})
    seconds = time.process_time() - began
    assert certificate["samples"] == count
    assert sum(shard.samples for shard in composer.snapshot().shards.values()) == LEFT
    return seconds


def test_most_samples_of_a_request_take_seconds(tmp_path: Path) -> None:
    small, large = forget_many(tmp_path / "small", SMALL), forget_many(tmp_path / "large", LARGE)
    print(f"CPU seconds of a drop: {small:.2f} for {SMALL:,} samples, {large:.2f} for {LARGE:,}")
    assert large < 20
    assert large < 8 * small, "four times as many take about four times as long, and not sixteen times"
    assert verify(str(tmp_path / "large"))["problems"] == []
    again = time.process_time()
    composer = Composer(str(tmp_path / "large"))
    asked = composer.request_forget(Selection(ids=tuple(f"picture-{n:06d}" for n in range(LARGE))), "drop")
    assert asked["done"]
    assert time.process_time() - again < 20


def test_more_samples_than_a_request_may_name_can_go_by_shard(tmp_path: Path) -> None:
    composer = synthetic_run(tmp_path / "run", 2_000)
    asked = composer.request_forget(Selection(shards=tuple(range(SHARDS))), "drop")
    composer.resume_forget(asked["request"])
    assert composer.conclude_forget(asked["request"], {})["samples"] == 2_000

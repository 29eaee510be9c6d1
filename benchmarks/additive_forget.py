"""From a request to its certificate in an additive run, outside a cluster: what a command does after its start.

    python -m benchmarks.additive_forget [--shards 50] [--pictures 50000] [--repetitions 5] [--json]

The rows are random: no time depends on their values. Each forget is made by a new composer, as each command has one. Beside it,
in the same run: a request of 1,000 pictures, and the sums made anew from all rows that are left. That is a retrain of one model by
the same method, without the passes through the network that a retrain from pictures needs as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from taft_ray.additive.exact_sums import Sums
from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.data import MANIFEST_SCHEMA, assign, id_hash, sample_keys
from taft_ray.plans.facts import Cached
from taft_ray.plans.spec import RunSpec
from taft_ray.run.rows import model_of, terms_in, write_record
from taft_ray.storage import Store, digest_bytes, id_key, write_part, write_rows, write_spec
from taft_ray.storage import rundir as names

CLASSES = 10
PART = 64


def name_of(number: int) -> str:
    return f"picture-{number}"


def synthetic_run(run: Path, shards: int, pictures: int, features: int) -> None:
    """An additive run of random rows, trained and composed."""
    spec = RunSpec(data="synthetic", model="synthetic", shards=shards, solver="additive", features=features)
    store = Store(str(run))
    write_spec(store, spec.to_json())
    secret = id_key(store, create=True)
    composer = Composer(str(run))
    composer.begin({}, digest_bytes(secret))
    keys = sample_keys([name_of(n) for n in range(pictures)], spec.seed)
    placed = assign(keys, shards=shards, method="hash")
    members = [np.flatnonzero(placed == shard).tolist() for shard in range(shards)]
    # the first rows of one block, whatever the shard: so its sums are those of its size
    rows = np.random.default_rng(0).integers(-900, 900, (max(map(len, members)), features), dtype=np.int16)
    labels = np.arange(len(rows)) % CLASSES
    parts: dict[str, list[dict[str, Any]]] = {}
    places: list[tuple[int, int, int]] = []
    for shard, held in enumerate(members):
        for part, start in enumerate(range(0, len(held), PART)):
            end = min(start + PART, len(held))
            ref = write_part(
                store, names.shard_prefix(shard), part, keys=[keys[n] for n in held[start:end]],
                labels=labels[start:end], tokens=rows[start:end, None], dtype="int16", fingerprint="synthetic",
            )  # fmt: skip
            parts.setdefault(str(shard), []).append({**ref.to_json(), "part": part})
            places += [(shard, part, at) for at in range(end - start)]
    order = [n for held in members for n in held]
    columns = {
        "key": [keys[n] for n in order],
        "shard": [place[0] for place in places],
        "label": [int(labels[at]) for held in members for at in range(len(held))],
        "owner_key": [None] * pictures,
        "uri_relative": ["synthetic"] * pictures,
        "row": order,
        "bytes": [1] * pictures,
        "status": ["kept"] * pictures,
        "reason": [None] * pictures,
        "part": [place[1] for place in places],
        "part_row": [place[2] for place in places],
    }
    table = pa.table({name: columns[name] for name in MANIFEST_SCHEMA.names}, MANIFEST_SCHEMA)
    hashes = pa.array([id_hash(name_of(n), secret) for n in order], pa.string())
    meta = {"parts": parts, "classes": [str(c) for c in range(CLASSES)], "fingerprint": "synthetic"}
    manifest = write_rows(store, table.append_column("id_hash", hashes), meta, version=0)
    samples = tuple(map(len, members))
    composer.admit_cache(Cached(manifest.digest, samples, tuple(meta["classes"]), manifest.key))
    for shard, terms in _sums_of(samples, rows, labels):
        refs = parts[str(shard)]
        ref = write_record(store, names.delta_folder(shard), shard, 1, refs, "synthetic", CLASSES)
        composer.finished(
            {"shard": shard, "generation": 1, "samples": samples[shard], "delta": ref.to_json(), "facts": {},
             "parts": [part["digest"] for part in refs], "terms": terms}
        )  # fmt: skip
    composer.compose()


def _sums_of(
    samples: Sequence[int], rows: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Each shard, the smallest first, and the sums over its rows: the first ones of all."""
    sums, added = Sums(rows.shape[1], CLASSES), 0
    for shard in sorted(range(len(samples)), key=samples.__getitem__):
        if samples[shard] > added:
            sums.add(rows[added : samples[shard]], labels[added : samples[shard]])
            added = samples[shard]
        yield shard, terms_in(sums)


def forgotten(run: Path, numbers: Sequence[int]) -> tuple[float, dict[str, float]]:
    """Seconds of a forget by a new composer, and of its steps."""
    began = time.perf_counter()
    marks = {}
    composer = Composer(str(run))
    asked = composer.request_forget(Selection(ids=tuple(map(name_of, numbers))), "subtract")
    marks["asked"] = time.perf_counter() - began
    composer.resume_forget(asked["request"])
    marks["purged"] = time.perf_counter() - began
    composer.conclude_forget(asked["request"], {})
    return time.perf_counter() - began, marks


def measure(shards: int, pictures: int, features: int, repetitions: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="taft-ray-additive-") as folder:
        run = Path(folder) / "run"
        synthetic_run(run, shards, pictures, features)
        one = [forgotten(run, [7 * n])[0] for n in range(repetitions)]
        marks = forgotten(run, [7 * repetitions])[1]
        many = forgotten(run, range(pictures // 2, pictures // 2 + 1000))[0]
        solves, anew = [], []
        for _ in range(min(3, repetitions)):
            composer = Composer(str(run))
            for snapshot in (run / names.COMPOSED_FOLDER).iterdir():
                snapshot.unlink()
            began = time.perf_counter()
            arrays = composer.composition.tier().sums().totals
            anew.append(time.perf_counter() - began)
            began = time.perf_counter()
            model_of(composer.record.spec, arrays)
            solves.append(time.perf_counter() - began)
            composer.compose()
        return {
            "shards": shards,
            "pictures": pictures,
            "features": features,
            "one_picture_s": statistics.median(one),
            "one_picture_each_s": one,
            "steps_s": marks,
            "thousand_pictures_s": many,
            "sums_anew_s": statistics.median(anew),
            "solve_s": statistics.median(solves),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found = measure(given.shards, given.pictures, given.features, given.repetitions)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{given.pictures:,} pictures in {given.shards:,} shards, {given.features:,} numbers per picture")
    print(f"one picture, request to certificate: {found['one_picture_s']:.3f} s")
    print(f"1,000 pictures in one request: {found['thousand_pictures_s']:.3f} s")
    print(f"the sums of all rows anew: {found['sums_anew_s']:.2f} s; a solve: {found['solve_s']:.2f} s")


if __name__ == "__main__":
    main()

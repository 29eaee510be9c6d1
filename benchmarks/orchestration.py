"""The cost of handling a shard, whatever is in it: tiny shards through the real verbs, the composer's memory, a long ledger.

    python -m benchmarks.orchestration [--json] [--shards 10 100 1000] [--samples 4] [--entries 10000] [--rows 1000000]

A run: Parquet of noise (32 px), ``samples`` pictures per shard, timm's `test_vit` (0.4 M parameters, random weights). The last
block is fitted by ridge with Gram statistics, through `train` on a local folder and a Ray of its own. Read off the run's own
measurements:

* ``seconds``: of `train`, all of it, with Ray up.
* ``lanes_start_s``: from the start of the lanes, beside the prefix pass, until the last of them asked for its first shard.
* ``beyond_lanes_start_s``: the first less the second.
* ``overhead_ms``: the wall clock of the fits times the lanes, less the seconds in which a lane computed (preparing, fitting,
  statistics), over the shards. It holds all that is done for a shard and is not mathematics. That is asking, reading, writing,
  committing, and waiting for a core that something else has.
* ``between_ms``: the median gap between what a lane fits in one go and the next.
* ``composer_rss_mb`` and ``composer_peak_mb``: of the composer's process after the composition, and its highest.
* ``composer_again_s``: a composer made anew from the folder until it has the composed model.

Manifest: the work of a forget on one of ``rows`` samples beside the fit. It finds the sample, and writes the manifest anew
without it (rows, description and the pointer to them).

Ledger: as many `trained` facts as a run of ``entries`` shards has, appended by the project's own code. A new process reads
them with the files out of the page cache (that much a user without privileges can drop).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection, find
from taft_ray.data import MANIFEST_SCHEMA
from taft_ray.data.manifest import key_array
from taft_ray.orchestration import session
from taft_ray.orchestration.actors import composer_for
from taft_ray.plans.facts import Cached
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.run.record import Record
from taft_ray.storage import Ledger, Store, digest_bytes, entry_key, id_key, point_manifest, write_rows, write_spec
from taft_ray.storage import rundir as names
from taft_ray.verbs.train import train

MODEL, SIDE, CLASSES = "test_vit", 32, 4
SHARDS = (10, 100, 1000)
FILES = 4
MANIFEST_SHARDS = 10_000


def write_noise(folder: Path, samples: int) -> Path:
    """Pictures of noise, as PNG in a few Parquet files."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number, rows in enumerate(np.array_split(np.arange(samples), FILES)):
        images = []
        for _ in rows:
            encoded = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(encoded, "PNG")
            images.append(encoded.getvalue())
        table = pa.table({"image": images, "label": rows % CLASSES, "id": [f"sample-{row}" for row in rows]})
        pq.write_table(table, folder / f"part-{number}.parquet")
    return folder


def write_weights(path: Path) -> Path:
    torch.manual_seed(0)
    save_file(timm.create_model(MODEL, img_size=SIDE).state_dict(), path)
    return path


def memory_mb(_: Any) -> dict[str, float]:
    """This process's memory as the kernel has it: {"rss", "peak"} in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {what: int(lines[name].split()[0]) / 1024 for what, name in (("rss", "VmRSS"), ("peak", "VmHWM"))}


def measure_run(shards: int, samples: int) -> dict[str, Any]:
    """One run of tiny shards from the pictures to the composed model."""
    with tempfile.TemporaryDirectory(prefix="taft-ray-orchestration-") as folder:
        data = write_noise(Path(folder) / "data", shards * samples)
        weights = write_weights(Path(folder) / "weights.safetensors")
        run = Path(folder) / "run"
        spec = RunSpec(
            data=str(data),
            model=MODEL,
            weights=str(weights),
            image_size=SIDE,
            shards=shards,
            assignment="equal",
            compose="gram",
        )
        session.connect()
        try:
            began = time.perf_counter()
            train(str(run), spec)
            seconds = time.perf_counter() - began
            composer = composer_for(str(run))
            memory: dict[str, float] = ray.get(composer.actor.__ray_call__.remote(memory_mb))
            state: RunState = composer.snapshot()
        finally:
            ray.shutdown()
        began = time.perf_counter()
        again = Composer(str(run)).composition.computed_digest()
        composer_again_s = time.perf_counter() - began
        if again != state.compositions[-1].digest:
            raise AssertionError(f"the composer made anew has {again}, the run {state.compositions[-1].digest}")
        size = sum(shard.delta.bytes for shard in state.in_model if shard.delta) / len(state.in_model)
        return {
            "shards": shards,
            "samples_a_shard": samples,
            "seconds": seconds,
            **phases(state, seconds),
            **handling(state),
            "composer_rss_mb": memory["rss"],
            "composer_peak_mb": memory["peak"],
            "composer_again_s": composer_again_s,
            "delta_bytes": size,
        }


def phases(state: RunState, seconds: float) -> dict[str, float]:
    """How long each phase of `train` took."""
    cached, training = state.cached, state.trainings[-1]
    assert cached is not None, "the run is trained"
    assert training.lanes_started is not None, "by lanes"
    start = max(training.lanes_ready) - training.lanes_started
    return {
        "lanes_start_s": start,
        "beyond_lanes_start_s": seconds - start,
        "prefix_pass_s": cached.seconds,
        "training_s": training.wall_seconds,
        "compose_s": state.compositions[-1].seconds,
    }


def handling(state: RunState) -> dict[str, float]:
    """The work of a lane for its shards beside computing."""
    facts = [shard.facts for shard in state.in_model]
    lanes: dict[str, list[Any]] = {}
    for fact in sorted(facts, key=lambda fact: fact["started"]):
        lanes.setdefault(fact["lane"], []).append(fact)
    gaps = [after["started"] - before["ended"] for fits in lanes.values() for before, after in pairwise(fits)]
    gaps = [gap for gap in gaps if gap >= 0]  # else both were fitted in one go
    wall = sum(fits[-1]["ended"] - fits[0]["started"] for fits in lanes.values())
    computing = sum(sum(fact[f"{what}_seconds"] for what in ("prepare", "fit", "statistics")) for fact in facts)
    return {
        "lanes": len(lanes),
        "fits_s": sum(fact["seconds"] for fact in facts),
        "computing_s": computing,
        "computing_ms_a_shard": 1000 * computing / len(facts),
        "overhead_ms": 1000 * (wall - computing) / len(facts),
        "between_ms": 1000 * statistics.median(gaps) if gaps else 0.0,
    }


def trained_fact(shard: int) -> dict[str, Any]:
    """A `trained` entry's body, of the size and shape that a worker's has."""
    random = np.random.default_rng(shard)
    digest = random.bytes(32).hex()
    times = {
        name: float(random.random())
        for name in ("seconds", "fit_seconds", "read_seconds", "prepare_seconds", "statistics_seconds", "residual",
                     "distance_bound", "objective", "norm", "started", "ended")
    }  # fmt: skip
    return {
        "shard": shard,
        "generation": 1,
        "samples": 100,
        "parts": [random.bytes(32).hex() for _ in range(2)],
        "delta": {"key": f"deltas/shard={shard:05d}/000001-{digest[:16]}.safetensors", "digest": digest, "bytes": 9**7},
        "facts": {
            **times, "samples": 100, "lane": f"lane-{shard % 500}", "solver": "ridge", "iterations": 2, "converged": True,
            "environment": {"machine": "x86_64", "cpu_capability": "AVX512", "device": "cpu", "threads": 1,
                            "python": "3.11.0", "torch": torch.__version__},
        },
        "weight": 1,
    }  # fmt: skip


def measure_ledger(entries: int) -> dict[str, Any]:
    """Write a ledger of so many fits, and read it in a new process."""
    with tempfile.TemporaryDirectory(prefix="taft-ray-ledger-") as folder:
        store = Store(folder)
        write_spec(store, RunSpec(data="synthetic", model=MODEL, shards=entries, compose="gram").to_json())
        ledger = Ledger(store)
        began = time.perf_counter()
        ledger.append("cached", {"manifest": "", "samples": [100] * entries, "classes": []}, "cached")
        for shard in range(entries):
            ledger.append("trained", trained_fact(shard), f"trained/{shard}/1")
        written_s = time.perf_counter() - began
        command = [sys.executable, "-m", "benchmarks.orchestration", "--replay", folder]
        cold, warm = (
            json.loads(subprocess.run([*command, *more], check=True, capture_output=True, text=True).stdout)
            for more in ((), ("--warm",))
        )
        return {
            "ledger_entries": entries + 1,
            "commit_ms": 1000 * written_s / entries,
            "entry_bytes": (Path(folder) / entry_key(1)).stat().st_size,
            "replay_cold_s": cold["seconds"],
            "replay_warm_s": warm["seconds"],
            "replayed_mb": cold["grown_mb"],
        }


def measure_manifest(rows: int, shards: int) -> dict[str, Any]:
    """Find one sample among so many, and write the manifest without it."""
    random = np.random.default_rng(0)
    keys = random.bytes(16 * rows)
    shard = np.sort(random.integers(0, shards, rows)).astype(np.int32)
    hashes = [random.bytes(16).hex() for _ in range(rows)]
    columns = {
        "key": key_array([keys[at : at + 16] for at in range(0, len(keys), 16)]), "shard": shard,
        "label": random.integers(0, 1000, rows).astype(np.int32), "owner_key": pa.nulls(rows, pa.binary(16)),
        "uri_relative": np.array([f"part-{n:04d}.parquet" for n in range(100)])[random.integers(0, 100, rows)],
        "row": random.integers(0, 1 << 20, rows), "bytes": random.integers(5_000, 20_000, rows),
        "status": pa.array(["kept"] * rows), "reason": pa.nulls(rows, pa.string()),
        "part": np.zeros(rows, np.int32), "part_row": np.zeros(rows, np.int32),
    }  # fmt: skip
    table = pa.table(columns, schema=MANIFEST_SCHEMA).append_column("id_hash", pa.array(hashes))
    parts = {
        str(number): [{"key": f"{names.shard_prefix(number)}/part-{part:03d}-{'0' * 16}.arrow", "digest": "0" * 64,
                       "rows": 64, "bytes": 1 << 20, "part": part} for part in range(2)]
        for number in range(shards)
    }  # fmt: skip
    meta = {"parts": parts, "classes": [str(number) for number in range(1000)], "fingerprint": "0" * 64}
    with tempfile.TemporaryDirectory(prefix="taft-ray-manifest-") as folder:
        store = Store(folder)
        write_spec(store, RunSpec(data="synthetic", model=MODEL, shards=shards, compose="gram").to_json())
        composer = Composer(folder)
        composer.begin({}, digest_bytes(id_key(store, create=True)))
        manifest = write_rows(store, table, meta, version=0)
        classes = tuple(meta["classes"])
        composer.commit(Cached(manifest.digest, (1,) * shards, classes, manifest.key), "cached")
        composer.record.manifest()
        began = time.perf_counter()
        find(composer.record, Selection(shards=(shards // 2,)))
        find_s = time.perf_counter() - began
        began = time.perf_counter()
        point_manifest(store, write_rows(store, table.slice(1), meta, version=1))
        return {
            "manifest_rows": rows,
            "manifest_shards": shards,
            "manifest_bytes": (Path(folder) / manifest.key).stat().st_size,
            "find_s": find_s,
            "manifest_rewrite_s": time.perf_counter() - began,
        }


def replay(folder: str, warm: bool) -> dict[str, Any]:
    """The composer's record made from a folder whose entries are not in memory: seconds, and what the process grew by."""
    if not warm:
        for entry in Path(folder, "ledger").iterdir():
            descriptor = os.open(entry, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    before, began = memory_mb(None)["rss"], time.perf_counter()
    record = Record(folder)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "grown_mb": memory_mb(None)["rss"] - before,
        "trained": len(record.state.in_model),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="*", default=list(SHARDS))
    parser.add_argument("--samples", type=int, default=4, help="pictures a shard")
    parser.add_argument("--entries", type=int, default=10_000, help="of the ledger; 0: leave it out")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the manifest; 0: leave it out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--replay", help=argparse.SUPPRESS)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.replay:
        print(json.dumps(replay(options.replay, options.warm)))
        return
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints warnings of its own on stdout
        rows: list[dict[str, Any]] = [measure_run(shards, options.samples) for shards in options.shards]
        if options.entries:
            rows.append(measure_ledger(options.entries))
        if options.rows:
            rows.append(measure_manifest(options.rows, MANIFEST_SHARDS))
    for row in rows:
        row["load"] = os.getloadavg()[0]
    print(json.dumps(rows) if options.json else json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

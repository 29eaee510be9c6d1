"""How long forgetting takes: the drop of a ViT-B shard from a warm composer, and the retrain of a shard of about 100 samples.

    python -m benchmarks.forget [--json] [--repetitions 9]                    the drop; needs nothing from outside
    python -m benchmarks.forget --assets FOLDER [--shards 16] [--json]        and the retrain, on Sign-Digits with DeiT-Tiny

Drop: a run of ViT-B/16 shards (last block, final norm, head: 7 M trained values). Their deltas are random, and their Gram
statistics are those of random inputs, of the true shapes. The time of a sum, a solve and a commit does not depend on the
values. A drop is measured as its caller waits for it, through Ray, from the request to the answer. By the answer the ledger
has the drop, and the model without the shard is composed in memory. The purge follows and is measured by itself. A composer
without exact sums is measured beside it: it reads every remaining delta and composes anew.

Retrain: from the call of `forget` to the certificate with a warm actor, and the fits in it. It is compared with the fit of
the one model over everything that the same forget has spoiled. That fit runs on the same worker in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pyarrow as pa
import ray
import timm
import torch

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.data import MANIFEST_SCHEMA, id_hash, sample_key
from taft_ray.orchestration import session
from taft_ray.orchestration.actors import composer_for
from taft_ray.plans.facts import Cached
from taft_ray.plans.spec import RunSpec, fastest_precision
from taft_ray.storage import Store, digest_bytes, id_key, write_delta, write_part, write_rows, write_spec
from taft_ray.storage import rundir as names
from taft_ray.sums import shard_terms, statistics_for
from taft_ray.tangent import linearize
from taft_ray.verbs.forget import forget
from taft_ray.verbs.train import train

CLASSES = 10
INPUTS = 32  # random pictures whose Gram statistics every shard has


def shard_name(shard: int) -> str:
    return f"sample-{shard}"


def synthetic_run(run: Path, shards: int, compose: str, model: str) -> RunSpec:
    """A trained run of random deltas, one sample a shard in a cache of one token."""
    spec = RunSpec(data="synthetic", model=model, shards=shards, compose=compose)
    store = Store(str(run))
    write_spec(store, spec.to_json())
    secret = id_key(store, create=True)
    composer = Composer(str(run))
    composer.begin({}, digest_bytes(secret))
    parts, rows = {}, []
    for shard in range(shards):
        key = sample_key(shard_name(shard), spec.seed)
        ref = write_part(
            store, names.shard_prefix(shard), 0, keys=[key], labels=np.zeros(1, np.int64),
            tokens=np.zeros((1, 1, 8), np.float16), dtype="float16", fingerprint="synthetic",
        )  # fmt: skip
        parts[str(shard)] = [{**ref.to_json(), "part": 0}]
        rows.append(
            {"key": key, "shard": shard, "label": 0, "owner_key": None, "uri_relative": "synthetic", "row": shard,
             "bytes": 1, "status": "kept", "reason": None, "part": 0, "part_row": 0}
        )  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    hashes = [id_hash(shard_name(shard), secret) for shard in range(shards)]
    table = table.append_column("id_hash", pa.array(hashes, pa.string()))
    meta = {"parts": parts, "classes": [str(c) for c in range(CLASSES)], "fingerprint": "synthetic"}
    manifest = write_rows(store, table, meta, version=0)
    classes = tuple(meta["classes"])
    composer.commit(Cached(manifest.digest, (1,) * shards, classes, manifest.key), "cached")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tm = linearize(timm.create_model(model), num_classes=CLASSES)
        pictures = tm.prepare(tm.prefix(torch.randn(INPUTS, 3, 224, 224)))
        statistics = statistics_for(compose, tm, pictures, tm.zero_delta())
        for shard in range(shards):
            delta = {name: torch.randn_like(value) * 0.01 for name, value in tm.zero_delta().items()}
            terms = shard_terms(delta, statistics)
            arrays = {name: term.numpy() for name, term in terms.items()}
            ref = write_delta(store, names.delta_folder(shard), 1, arrays, {"shard": str(shard)})
            composer.finished(
                {"shard": shard, "generation": 1, "samples": 1, "delta": ref.to_json(), "facts": {},
                 "parts": [part["digest"] for part in parts[str(shard)]]}
            )  # fmt: skip
    return spec


def measure_drop(compose: str, model: str, repetitions: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="taft-ray-forget-") as folder:
        run = Path(folder) / "run"
        synthetic_run(run, repetitions + 2, compose, model)
        composer = composer_for(str(run))
        composer.compose()  # warm: the sums are made, the latest deltas are in memory
        drops, purges, anew = [], [], []
        for shard in range(repetitions):
            began = time.perf_counter()
            asked = composer.request_forget(Selection(ids=(shard_name(shard),)), "drop")
            drops.append(time.perf_counter() - began)
            began = time.perf_counter()
            composer.resume_forget(asked["request"])
            purges.append(time.perf_counter() - began)
            composer.conclude_forget(asked["request"], {})
        for _ in range(3):
            cold = Composer(str(run))
            began = time.perf_counter()
            cold.composition.computed_digest()
            anew.append((time.perf_counter() - began) / 2 * (repetitions + 1))  # two shards are left of them
        values = sum(v.numel() for v in linearize(timm.create_model(model), num_classes=CLASSES).zero_delta().values())
        return {
            "compose": compose,
            "model": model,
            "trained_values": values,
            "drop_s": statistics.median(drops),
            "drop_quartiles_s": statistics.quantiles(drops, n=4)[::2],
            "purge_s": statistics.median(purges),
            f"anew_of_{repetitions + 1}_shards_s": statistics.median(anew),
            "ratio": statistics.median(anew) / statistics.median(drops),
        }


def measure_retrain(assets: Path, shards: int, repetitions: int) -> dict[str, Any]:
    import pyarrow.parquet as pq

    data = assets / "signdigits_100px_train.parquet"
    with tempfile.TemporaryDirectory(prefix="taft-ray-forget-") as folder:
        run = Path(folder) / "run"
        spec = RunSpec(
            data=str(data), model="deit_tiny_patch16_224", weights=str(assets / "deit_tiny_patch16_224.safetensors"),
            shards=shards, compose="gram", precision=fastest_precision("cpu"),
        )  # fmt: skip
        train(str(run), spec, monolithic=True)
        ids = [f"{data.name}#{row}" for row in range(pq.read_metadata(data).num_rows)]
        chosen = np.random.default_rng(0).permutation(len(ids))[: repetitions + 1]
        walls, fits, samples = [], [], []
        for row in chosen:
            began = time.perf_counter()
            certificate = forget(str(run), Selection(ids=(ids[row],)), mode="retrain")
            walls.append(time.perf_counter() - began)
            fits += [shard["facts"]["seconds"] for shard in certificate["retrained"]]
            samples += [shard["facts"]["samples"] for shard in certificate["retrained"]]
        train(str(run), spec, monolithic=True)  # the forgets have removed the one model: its retrain
        fitted = composer_for(str(run)).snapshot().monolith
        assert fitted is not None, "train has fitted it"
        monolith = fitted.fit.facts
        warm, fit = statistics.median(walls[1:]), statistics.median(fits[1:])  # the first one started the actor
        return {
            "data": data.name,
            "model": spec.model,
            "shards": shards,
            "samples_a_shard": statistics.median(samples),
            "forget_to_certificate_s": warm,
            "fit_s": fit,
            "first_with_cold_actor_s": walls[0],
            "monolith_fit_s": monolith["seconds"],
            "ratio_fit": monolith["seconds"] / fit,
            "ratio_wall": monolith["seconds"] / warm,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    session.connect()
    rows = []
    try:
        rows += [measure_drop(compose, options.model, options.repetitions) for compose in ("mean", "gram", "joint")]
        if options.assets is not None:
            rows.append(measure_retrain(options.assets.absolute(), options.shards, options.repetitions))
    finally:
        ray.shutdown()
    for row in rows:
        row["load"] = os.getloadavg()[0]
    print(json.dumps(rows) if options.json else json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

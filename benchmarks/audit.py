"""Does the audit tell an honest forget from a faked one on real pictures?

    python -m benchmarks.audit [--assets FOLDER] [--solver ridge] [--forget 60] [--run RUN] [--json]

scikit-learn's digits and the embedded model; with --assets the Sign-Digits and DeiT-Tiny. A run is trained and copied
three times. The first copy forgets samples of three shards by retrain. The second says it did and keeps the old deltas
under the next generation; its ledger, its certificate and `verify` are in order. The third drops the three shards. Each
is attacked against the test pictures. Starts a Ray of its own on this machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import SIGNS, WEIGHTS
from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.data import assign, index_files, open_source, sample_keys
from taft_ray.embedded import EMBEDDED_NAME, write_digits
from taft_ray.orchestration.prefix_pass import passes
from taft_ray.plans.fold import replay
from taft_ray.plans.spec import RunSpec, fastest_precision
from taft_ray.proof.audit import examine
from taft_ray.proof.verify_run import verify
from taft_ray.run.spec import run_spec
from taft_ray.storage import Ledger, Store, read_delta, write_delta
from taft_ray.verbs.train import train
from taft_ray.workers.shard_worker import ShardWorker

TOUCHED = 3  # shards


def ids_of(data: str, shards: int, count: int) -> list[str]:
    """As many samples of each of the first shards, in the order of their keys: any other order may be one of kinds."""
    ids = index_files(open_source(data).files)["id"].to_pylist()
    keys = sample_keys(ids, 0)
    by_key = sorted(zip(keys, assign(keys, shards=shards), ids, strict=True))
    in_shard = [[name for _, shard, name in by_key if shard == wanted] for wanted in range(TOUCHED)]
    return [name for names in in_shard for name in names[: count // TOUCHED]]


def forget(run: Path, ids: list[str], mode: str, *, faked: bool) -> None:
    """Without Ray, on the plain classes; faked: what is committed as a retrained delta is the old one."""
    store = Store(str(run))
    old = {shard.shard: shard.in_sums for shard in replay(Ledger(store).entries()).in_model}
    kept = {shard: read_delta(store, ref) for shard, ref in old.items() if faked}
    composer = Composer(str(run))
    asked = composer.request_forget(Selection(ids=tuple(ids)), mode)
    asked = composer.resume_forget(asked["request"])
    worker = ShardWorker(str(run), composer.class_count())
    for shard in asked["retrain"]:
        task = composer.task_for(shard)
        assert task is not None, f"shard {shard} has nothing to fit"
        answer = worker.fit(task)
        if faked:
            folder = answer["delta"]["key"].rpartition("/")[0]
            store.delete(answer["delta"]["key"])
            answer = {**answer, "delta": write_delta(store, folder, answer["generation"], *kept[shard]).to_json()}
        composer.finished(answer)
    composer.conclude_forget(asked["request"], {"retrain_seconds": None})


def attacked(run: Path, data: str, never_seen: str) -> dict[str, Any]:
    store = Store(str(run))
    state = replay(Ledger(store).entries())
    worker = ShardWorker(str(run), len(state.classes))
    began = time.perf_counter()
    answer = examine(
        passes(), store, run_spec(store), state, worker.sample_values, data=data, never_seen=never_seen, ids=None,
        level=0.01,
    )  # fmt: skip
    return {**answer, "seconds": time.perf_counter() - began, "verify": verify(str(run))["ok"]}


def measure(options: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    run: Path | None = options.run
    if options.assets is None:
        data, never_seen = write_digits(out / "data")
        model, weights = EMBEDDED_NAME, None
    else:
        data, never_seen = (str(options.assets.absolute() / name) for name in SIGNS)
        model, weights = "deit_tiny_patch16_224", str(options.assets.absolute() / WEIGHTS)
    if run is None:
        run = out / "run"
        precision = fastest_precision("cpu")
        spec = RunSpec(
            data=data, model=model, weights=weights, shards=10, solver=options.solver, compose="gram", precision=precision
        )  # fmt: skip
        train(str(run), spec)
    spec = run_spec(Store(str(run)))
    ids = ids_of(data, spec.shards, options.forget)
    rows = []
    for name, mode, faked in (
        ("honest retrain", "retrain", False),
        ("faked retrain", "retrain", True),
        ("drop", "drop", False),
    ):
        copy = Path(shutil.copytree(run, out / name.replace(" ", "-")))
        forget(copy, ids, mode, faked=faked)
        answer = attacked(copy, data, never_seen)
        print(f"{name}: {answer['verdict']}", file=sys.stderr)
        rows.append({"forget": name, "solver": spec.solver, **answer})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, help="a folder with the files named in benchmarks.figures")
    parser.add_argument("--solver", choices=("ridge", "adam"), default="ridge")
    parser.add_argument("--run", type=Path, help="a trained run on the same data, left as it is; else one is trained")
    parser.add_argument("--forget", type=int, default=60, help="samples, in three shards")
    parser.add_argument("--out", type=Path, help="where the runs go; a temporary folder by default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    missing = [file for file in (WEIGHTS, *SIGNS) if options.assets and not (options.assets / file).is_file()]
    if missing:
        parser.error(f"{options.assets} lacks {', '.join(missing)}")
    out = (options.out or Path(tempfile.mkdtemp(prefix="taft-ray-audit-"))).absolute()
    rows = measure(options, out)
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()

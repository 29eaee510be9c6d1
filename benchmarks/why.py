"""Seconds of an explanation in an additive run: each shard and each owner left out of the sums, for some pictures at once.

    python -m benchmarks.why [--shards 50] [--pictures 50000] [--features 2048] [--owners 500] [--asked 10] [--json]

The rows are random: no time depends on their values. Owners have equally many pictures. The passes of the network that `predict`
needs all the same are not in it, nor is the prediction's own solve.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.additive_forget import synthetic_run
from taft_ray.composer.composer import Composer
from taft_ray.data import sample_keys
from taft_ray.run.owner_groups import OwnerGroups
from taft_ray.run.rows import model_of
from taft_ray.run.snapshots import load_arrays
from taft_ray.workers import explaining
from taft_ray.workers.explaining import OWNER, SHARD, Seen, explain


def measure(shards: int, pictures: int, features: int, owners: int, asked: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="taft-ray-why-") as folder:
        run = Path(folder) / "run"
        synthetic_run(run, shards, pictures, features)
        composer = Composer(str(run))
        composed = composer.compose()
        rows = np.random.default_rng(1).integers(-900, 900, (asked, features), dtype=np.int16)
        began = time.perf_counter()
        model = model_of(composer.record.spec, load_arrays(composer.record.store, composed["key"]))
        solved = time.perf_counter() - began
        seen = Seen(penalty=model.penalty)
        seen.take(torch.from_numpy(rows), torch.from_numpy(model.logits(rows)))
        found: dict[str, Any] = {
            "shards": shards, "pictures": pictures, "features": features, "asked": asked, "solve_s": solved,
        }  # fmt: skip
        for name, count in (("shards_s", 0), ("shards_and_owners_s", owners)):
            explaining.owner_groups = lambda record, named, count=count: _made_up(record, count)
            explained = explain(composer.record, seen, composed["key"])
            found[name] = explained.seconds
            kinds = [one.group for one in explained.groups]
            found["groups"] = {SHARD: kinds.count(SHARD), OWNER: kinds.count(OWNER)}
        return found


def _made_up(record: Any, count: int) -> OwnerGroups:
    """So many owners, each of every count-th picture: the synthetic run has none."""
    if not count:
        return OwnerGroups(names={}, owner_of={})
    owners = sample_keys([f"owner {number}" for number in range(count)], record.spec.seed)
    samples = sorted(record.manifest().table["key"].to_pylist())
    owner_of = {key: owners[at % count] for at, key in enumerate(samples)}
    return OwnerGroups(names={owner: str(at) for at, owner in enumerate(owners)}, owner_of=owner_of)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--owners", type=int, default=500)
    parser.add_argument("--asked", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found = measure(given.shards, given.pictures, given.features, given.owners, given.asked)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(
        f"{given.pictures:,} pictures in {given.shards:,} shards, {given.features:,} numbers per picture, {given.asked} asked"
    )
    print(f"every shard: {found['shards_s']:.2f} s; with {given.owners:,} owners: {found['shards_and_owners_s']:.2f} s")
    print(f"one solve of the model: {found['solve_s']:.2f} s")


if __name__ == "__main__":
    main()

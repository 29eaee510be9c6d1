"""How much memory the composer of a small run holds in its Ray actor's process.

    python -m benchmarks.composer [--before COMMIT-OR-FOLDER] [--json]

A run of 60 of the demo's digits in 3 shards, on a Ray of its own, for each version. The proportional set size
(PSS: shared pages are divided among those who share them) is the process's own /proc/self/smaps_rollup. It is read after
`train` has composed, and again after 20 samples were dropped and the rest composed anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.earlier import ROOT, environment_of, files_of

PICTURES = 60
# run by each version with its own files; the earlier one has its verbs elsewhere
MEASURE = """
import json, sys
from pathlib import Path
import pyarrow.parquet as pq
from taft_ray.embedded import EMBEDDED_NAME, write_digits
from taft_ray.orchestration import session
from taft_ray.orchestration.actors import composer_for
from taft_ray.plans.spec import RunSpec, fastest_precision
try:
    from taft_ray.composer.selection import Selection
    from taft_ray.verbs.forget import forget
    from taft_ray.verbs.train import train
except ImportError:
    from taft_ray.orchestration.requests import Selection, forget
    from taft_ray.orchestration.run import train
import ray

folder, pictures = Path(sys.argv[1]), int(sys.argv[2])
table = pq.read_table(write_digits(folder / "all")[0]).slice(0, pictures)
pq.write_table(table, folder / "some.parquet")
run = str(folder / "run")

def held(_):
    lines = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    return {"pss_mb": int(lines["Pss"].split()[0]) / 1000, "private_mb": sum(
        int(lines[name].split()[0]) for name in ("Private_Clean", "Private_Dirty")) / 1000}

def modules(_):
    import sys
    return sorted({name.partition(".")[0] for name in sys.modules})

def ask(what):
    composer = composer_for(run)
    return ray.get(getattr(composer, "actor", composer).__ray_call__.remote(what))

session.connect()
try:
    spec = RunSpec(data=str(folder / "some.parquet"), model=EMBEDDED_NAME, shards=3, compose="gram", precision=fastest_precision("cpu"))
    train(run, spec, lanes=1)
    found = {"after": "train", **ask(held)}
    forget(run, Selection(ids=tuple(table["id"].to_pylist()[:20])), mode="drop")
    print(json.dumps([found, {"after": "a drop", **ask(held), "torch": "torch" in ask(modules)}]))
finally:
    ray.shutdown()
"""


def measure(root: Path, version: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of one version."""
    folder.mkdir()
    line = [sys.executable, "-c", MEASURE, str(folder), str(PICTURES)]
    done = subprocess.run(line, cwd=root, env=environment_of(root), stdout=subprocess.PIPE, text=True, check=True)
    return [{"version": version, **row} for row in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="an earlier version: a commit, or a folder with its files")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taft-ray-composer-") as name:
        folder = Path(name)
        rows = measure(ROOT, "now", folder / "now")
        if options.before:
            rows += measure(files_of(options.before, folder / "files"), "before", folder / "before")
    for row in rows:
        row["load"] = os.getloadavg()[0]
    print(json.dumps(rows) if options.json else json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

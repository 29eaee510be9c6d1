"""Run the benchmarks, and make benchmarks/README.md with their ratios and pictures.

    python -m benchmarks [--assets FOLDER] [--only NAME ...] [--draw]

Each runs by itself, one after the other; what it printed is kept in benchmarks/results/bench-NAME.json with the machine it ran on.
Those that need weights and pictures run only with ``--assets``, and the one that needs a GPU where there is one.
``--draw`` runs nothing: tables and pictures are made of what is there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import history
from benchmarks.page import PAGE, RESULTS, json_file, kept, own_page, page
from benchmarks.picture import picture
from benchmarks.tables import ASSETS, TABLES, Table
from taft_ray.version import VERSION


def run(table: Table, assets: Path | None) -> None:
    """One benchmark in a process of its own; its JSON into results/, its ratios into the history."""
    arguments = [str(assets) if part == ASSETS else part for part in table.arguments]
    load, began = os.getloadavg()[0], time.perf_counter()
    print(f"{table.command}  (load {load:.1f})", file=sys.stderr, flush=True)
    line = [sys.executable, "-m", f"benchmarks.{table.module}", *arguments, "--json"]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "load_before": round(load, 1),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(time.perf_counter() - began),
    }
    measured = json.loads(done.stdout.splitlines()[-1])
    found = {"command": table.command, "machine": machine, "measured": measured}
    RESULTS.mkdir(exist_ok=True)
    json_file(table).write_text(json.dumps(found, indent=1) + "\n")
    history.add(history.values(table, found, version=VERSION, commit=history.head()))


def draw(tables: Sequence[Table]) -> None:
    """The page, and tables and pictures of what was measured, today or before."""
    for table in tables:
        found = kept(table)
        if found is None:
            continue
        bars = table.all_bars(found["measured"])
        (RESULTS / f"bench-{table.name}.svg").write_bytes(
            picture(bars, axis=table.axis, log=table.log, name=table.name)
        )
        (RESULTS / f"bench-{table.name}.md").write_text(own_page(table, found), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--assets", type=Path, help="a folder with weights and data sets")
    parser.add_argument("--only", nargs="*", choices=[table.name for table in TABLES])
    parser.add_argument("--draw", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    chosen = [table for table in TABLES if options.only is None or table.name in options.only]
    for table in chosen:
        if options.draw:
            break
        lacks = "--assets" if table.needs_assets and options.assets is None else ""
        lacks = "a GPU" if table.needs_gpu and not torch.cuda.is_available() else lacks
        if lacks:
            print(f"{table.name}: left out, it needs {lacks}", file=sys.stderr)
            continue
        run(table, options.assets and options.assets.resolve())
        draw([table])  # an hour's work is kept when the next one fails
    draw(chosen)


if __name__ == "__main__":
    main()

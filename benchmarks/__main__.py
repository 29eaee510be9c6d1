"""Run the benchmarks, and put their tables and pictures into benchmarks/README.md.

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
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.picture import picture
from benchmarks.tables import ASSETS, TABLES, Table

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE / "README.md"


def run(table: Table, assets: Path | None) -> None:
    """One benchmark in a process of its own; its JSON into results/."""
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
    kept = {"command": table.command, "machine": machine, "measured": json.loads(done.stdout.splitlines()[-1])}
    RESULTS.mkdir(exist_ok=True)
    json_file(table).write_text(json.dumps(kept, indent=1) + "\n")


def json_file(table: Table) -> Path:
    return RESULTS / f"bench-{table.name}.json"


def part_of_page(table: Table, kept: dict[str, Any]) -> str:
    """The command, the table and the picture, in Markdown."""
    machine = kept["machine"]
    if table.needs_gpu:
        where = f"{kept['measured']['device']}, CUDA {kept['measured']['cuda']}, torch {machine['torch']}, {machine['date']}"
    else:
        where = (
            f"{machine['cpus']} CPUs ({machine['cpu_capability']}), torch {machine['torch']}, {machine['date']}, "
            f"load {machine['load_before']} before"
        )
    body = table.markdown(kept["measured"])
    return f"    {kept['command']}\n\n{where}:\n\n{body}\n\n![{table.name}](results/bench-{table.name}.svg)"


def put(page: str, name: str, part: str) -> str:
    """The page with ``part`` between the marks of this name; KeyError where it has no such marks."""
    marks = re.compile(rf"(<!-- bench {re.escape(name)} -->\n).*?(<!-- /bench -->)", re.DOTALL)
    if not marks.search(page):
        raise KeyError(f"{PAGE.name} has no part '<!-- bench {name} -->'")
    return marks.sub(lambda found: f"{found[1]}{part}\n{found[2]}", page)


def draw(tables: Sequence[Table]) -> None:
    """Tables and pictures of what was measured, today or before."""
    page = PAGE.read_text()
    for table in tables:
        if not json_file(table).is_file():
            continue
        kept = json.loads(json_file(table).read_text())
        bars = table.all_bars(kept["measured"])
        (RESULTS / f"bench-{table.name}.svg").write_bytes(
            picture(bars, axis=table.axis, log=table.log, name=table.name)
        )
        page = put(page, table.name, part_of_page(table, kept))
    PAGE.write_text(page)


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

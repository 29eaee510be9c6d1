"""The text of benchmarks/README.md and of each table's own page, made of what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import history
from benchmarks.tables import TABLES, Bar, Table
from benchmarks.template import filled

HERE = Path(__file__).parent
RESULTS, PAGE, TEMPLATE = HERE / "results", HERE / "README.md", HERE / "README.md.in"


def json_file(table: Table) -> Path:
    return RESULTS / f"bench-{table.name}.json"


def kept(table: Table) -> dict[str, Any] | None:
    """The output of the last measurement, with its command and its machine; None where there was none."""
    return json.loads(json_file(table).read_text()) if json_file(table).is_file() else None


def page(tables: Sequence[Table] = TABLES) -> str:
    """benchmarks/README.md."""
    there = [(table, found) for table in tables if (found := kept(table)) is not None]
    parts = {f"bench {table.name}": section(table, found) for table, found in there}
    parts["targets"] = targets([(table, table.ratios(found["measured"])) for table, found in there])
    parts["history"] = history.markdown(history.read(), tables)
    return filled(TEMPLATE.read_text(encoding="utf-8"), parts.__getitem__)


def section(table: Table, kept: dict[str, Any]) -> str:
    """The command, the ratios and the picture."""
    ratios = ratio_table(table.ratios(kept["measured"]), table.axis)
    own = f"[Times and machine](results/bench-{table.name}.md)."
    return f"    {kept['command']}\n\n{ratios}\n\n![{table.name}](results/bench-{table.name}.svg)\n\n{own}"


def own_page(table: Table, kept: dict[str, Any]) -> str:
    """results/bench-NAME.md: the whole table, with the machine it was measured on."""
    machine = kept["machine"]
    if table.needs_gpu:
        where = f"{kept['measured']['device']}, CUDA {kept['measured']['cuda']}, torch {machine['torch']}, {machine['date']}"
    else:
        where = (
            f"{machine['cpus']} CPUs ({machine['cpu_capability']}), torch {machine['torch']}, {machine['date']}, "
            f"load {machine['load_before']} before"
        )
    body = table.markdown(kept["measured"])
    return f"# {table.name}\n\n    {kept['command']}\n\n{where}:\n\n{body}\n\n![{table.name}](bench-{table.name}.svg)\n"


def ratio_table(bars: Sequence[Bar], axis: str) -> str:
    lines = [[axis.removesuffix(", log scale"), "is", "target", "met"], ["---"] * 4]
    lines += [[bar.label, f"{bar.value:.3g}", *_aim(bar)] for bar in bars]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def targets(shown: Sequence[tuple[Table, Sequence[Bar]]]) -> str:
    """How many targets there are and are met, and every one that is not."""
    aimed = [(table, bar) for table, bars in shown for bar in bars if bar.target is not None]
    missed = [(table, bar) for table, bar in aimed if not bar.met]
    lines = [["missed", "is", "target"], ["---"] * 3]
    lines += [[f"{table.name}: {bar.label}", f"{bar.value:.3g}", _aim(bar)[0]] for table, bar in missed]
    said = f"**{len(aimed) - len(missed)} of {len(aimed)} targets are met.**"
    return "\n\n".join([said, "\n".join(f"| {' | '.join(line)} |" for line in lines)] if missed else [said])


def _aim(bar: Bar) -> tuple[str, str]:
    if bar.target is None:
        return "–", "–"
    return f"{'≥' if bar.at_least else '≤'} {bar.target:g}", "yes" if bar.met else "**no**"

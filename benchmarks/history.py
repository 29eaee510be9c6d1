"""Ratios version by version: results/history.jsonl, to which every measurement adds its lines.

    python -m benchmarks.history      writes the file anew, from the commits of results/bench-*.json

A line has the version and the commit that was measured, the date, the name of the ratio and its value. Lines out of commits have
the commit that brought the figures.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import TABLES, Table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FILE = RESULTS / "history.jsonl"
_VERSION = re.compile(r'^(?:VERSION|__version__)\s*=\s*"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Value:
    """One ratio of one measurement. name: of the table and of the bar, as in ``step: vit_base_patch16_224, torch.func.jvp``."""

    version: str
    commit: str
    date: str
    name: str
    value: float


def values(table: Table, kept: dict[str, Any], *, version: str, commit: str) -> list[Value]:
    """The followed ratio, and those with a target, of what was kept of a measurement."""
    measured, date = kept["measured"], kept["machine"]["date"]
    shown = [bar for bar in table.all_bars(measured) if bar.target is not None or bar.label == table.followed]
    return [
        Value(version=version, commit=commit, date=date, name=f"{table.name}: {bar.label}", value=float(f"{bar.value:.4g}"))
        for bar in shown
    ]  # fmt: skip


def read(file: Path = FILE) -> list[Value]:
    return [Value(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def add(found: Iterable[Value], file: Path = FILE) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps(asdict(value), ensure_ascii=False) + "\n" for value in found)


def markdown(history: Sequence[Value], tables: Sequence[Table] = TABLES) -> str:
    """A line per followed ratio, a column per version, values in order."""
    versions = list(dict.fromkeys(value.version for value in history))
    lines = [["ratio", *versions], ["---"] * (len(versions) + 1)]
    for table in tables:
        name = f"{table.name}: {table.followed}"
        there = [value for value in history if value.name == name]
        cells = [" → ".join(f"{one.value:.3g}" for one in there if one.version == version) for version in versions]
        lines.append([name, *(cell or "–" for cell in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def from_commits(tables: Sequence[Table] = TABLES) -> Iterator[Value]:
    """Every measurement that a commit brought, oldest first. A figure that stayed the same is not one."""
    before: dict[str, Any] = {}
    for commit in _git("log", "--reverse", "--format=%h", "--", "benchmarks/results/bench-*.json").split():
        version = version_of(commit)
        for table in tables:
            text = _git("show", f"{commit}:benchmarks/results/bench-{table.name}.json", missing="null")
            kept = json.loads(text)
            if kept is None or before.get(table.name) == kept["measured"]:
                continue
            before[table.name] = kept["measured"]
            try:
                yield from values(table, kept, version=version, commit=commit)
            except (KeyError, TypeError) as problem:
                print(f"{commit}: {table.name} was kept in another form: {problem!r}", file=sys.stderr)


def version_of(commit: str) -> str:
    """The package's version in a commit."""
    for file in ("taft_ray/version.py", "taft_ray/__init__.py"):
        found = _VERSION.search(_git("show", f"{commit}:{file}", missing=""))
        if found:
            return found[1]
    raise ValueError(f"{commit}: expected a version in taft_ray/version.py or taft_ray/__init__.py, got none")


def head() -> str:
    """The short name of the commit that is checked out."""
    return _git("rev-parse", "--short", "HEAD").strip()


def _git(*arguments: str, missing: str | None = None) -> str:
    """Its output; ``missing`` where it fails, if given."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=missing is None)
    return done.stdout if done.returncode == 0 else str(missing)


def main() -> None:
    found = list(from_commits())
    FILE.write_text("", encoding="utf-8")
    add(found)


if __name__ == "__main__":
    main()

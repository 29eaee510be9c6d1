"""A table of the paper, with its numbers, as Markdown and CSV. Pure functions of `systems.summarise`'s answer."""

import csv
import io
from typing import Any

from taft_ray.evaluation.notation import recorded, times


def number(entry: dict[str, Any] | None) -> str:
    """Mean ± spread as a person reads it: accuracies in percent."""
    if entry is None:
        return ""
    scale = 100.0 if entry["unit"] == "accuracy" else 1.0

    def one(value: float) -> str:
        if entry["unit"] == "accuracy":
            return f"{value:.1f}"
        return times(value) if entry["unit"] == "×" else recorded(float(f"{value:.3g}"))

    text = one(scale * entry["mean"])
    if entry["spread"] is not None:
        text += f" ± {one(scale * entry['spread'])}"
    return text + {"accuracy": "", "margin": "", "×": "×", "s": " s"}[entry["unit"]]


def entries(summary: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(entry["row"], entry["column"]): entry for entry in summary["values"]}


def markdown(summary: dict[str, Any]) -> str:
    """The table, what was measured on, and under it the command that makes it."""
    found, columns = entries(summary), summary["columns"]
    corner = f"{summary['row']} \\ {summary['column']}" if summary["column"] else summary["row"]
    lines = [
        f"### {summary['table']}: {summary['title']}",
        "",
        f"{summary['data']}; {summary['model']}; seeds {', '.join(map(str, summary['seeds']))}; accuracy in percent, "
        "mean ± sample standard deviation over seeds.",
        "",
        f"| {corner} | {' | '.join(columns)} |",
        f"|{'---|' * (len(columns) + 1)}",
    ]
    lines += [
        f"| {row} | {' | '.join(number(found.get((row, column))) for column in columns)} |" for row in summary["rows"]
    ]
    one = f"One cell again: the same with `--cell DIGEST`; {summary['table']}'s CSV has the digest of every number."
    return "\n".join([*lines, "", f"    {summary['command']}", "", one, ""])


def as_csv(summary: dict[str, Any]) -> str:
    """One line a number and seed, with the cell it was read from (``reproduce --cell`` measures that one again)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "row", "column", "unit", "seed", "value", "cell"])
    for entry in summary["values"]:
        each = len(entry["cells"]) // len(entry["values"])  # a ratio is read from two
        for index, (seed, value) in enumerate(zip(entry["seeds"], entry["values"], strict=True)):
            cells = "+".join(entry["cells"][index * each : (index + 1) * each])
            writer.writerow([summary["table"], entry["row"], entry["column"], entry["unit"], seed, value, cells])
    return out.getvalue()

"""Write RESULTS.md, benchmarks/findings.md and the pictures of RESULTS.md from what was measured. Nothing is measured here.

python -m benchmarks.evidence

Text lies in RESULTS.md.in and findings.md.in beside this file. Figures in it are references (`results.py`), and ``{{sharding table}}``
stands for the table of a question.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.evidence import forgetting, index, others, privacy, sharding
from benchmarks.evidence.results import FOLDER, Results
from benchmarks.reconstruction import risk
from benchmarks.template import filled

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
QUESTIONS = (sharding, forgetting, privacy, others)
PAGES = {"RESULTS.md": HERE / "RESULTS.md.in", "benchmarks/findings.md": HERE / "findings.md.in"}


def page(name: str, results: Results) -> str:
    """The text of a page."""
    folder = "benchmarks/results" if name == "RESULTS.md" else "results"
    parts = {"index table": index.table(results, folder), "index commands": index.commands(results)}
    for question in QUESTIONS:
        parts |= {
            f"{question.NAME} table": question.table(results),
            f"{question.NAME} commands": question.commands(results),
            f"{question.NAME} picture": f"![{question.NAME}]({folder}/{picture_file(question.NAME)})",
        }
    attacked = {label: results.table(f"reconstruction-{label}") for label in ("Sign-Digits", "digits")}
    measured = {label: told["measured"] for label, told in attacked.items() if told}
    if measured:
        parts["reconstruction table"] = "\n".join(risk(measured))
    return filled(PAGES[name].read_text(encoding="utf-8"), lambda mark: _said(mark, parts, results))


def pictures(results: Results) -> dict[str, bytes]:
    """By file name."""
    return {picture_file(question.NAME): question.picture(results) for question in QUESTIONS}


def picture_file(name: str) -> str:
    return f"evidence-{name}.svg"


def _said(mark: str, parts: Mapping[str, str], results: Results) -> str:
    return results.said(mark) if "|" in mark else parts[mark]


def main() -> None:
    results = Results()
    for name, drawn in pictures(results).items():
        (FOLDER / name).write_bytes(drawn)
    for name in PAGES:
        (ROOT / name).write_text(page(name, results), encoding="utf-8")


if __name__ == "__main__":
    main()

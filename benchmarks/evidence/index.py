"""Every table in benchmarks/results/: its title, its files by data set, and its command."""

from __future__ import annotations

from benchmarks.evidence.results import Results
from benchmarks.evidence.systems import markdown

# the tables in the order of the page; one that is not named here comes last
ORDER = (
    "table1", "table2", "baselines", "fig1a", "fig1b", "fig1c", "forgetting", "views", "table3",
    "table3-rows", "table3-nonlinear", "fig2a", "fig2b", "fig2c", "table7", "joint", "epsilon", "rates", "choices", "slices",
)  # fmt: skip
FILES = (("table", "md"), ("CSV", "csv"), ("JSON", "json"), ("picture", "svg"))


def table(results: Results, folder: str) -> str:
    """A line per table, with the files of each data set. folder: where the page finds them."""
    shown: dict[str, list[str]] = {}
    titles: dict[str, str] = {}
    for name in _ordered(results):
        told = results.table(name)
        links = " · ".join(f"[{title}]({folder}/{name}.{end})" for title, end in FILES)
        seeds = "" if len(told["seeds"]) > 1 else ", one seed"
        shown.setdefault(told["table"], []).append(f"{told['data']}{seeds}: {links}")
        titles[told["table"]] = told["title"]
    lines = [[kind, titles[kind], "<br>".join(several)] for kind, several in shown.items()]
    return markdown([["table", "it shows", "data: files"], *lines])


def commands(results: Results) -> str:
    return results.commands(*_ordered(results))


def _ordered(results: Results) -> list[str]:
    def place(name: str) -> tuple[int, str]:
        kind = results.table(name)["table"]
        return (ORDER.index(kind) if kind in ORDER else len(ORDER), name)

    return sorted(results.names(), key=place)

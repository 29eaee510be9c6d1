"""benchmarks/README.md is made of what was measured: ratios, targets, whether they are met, and their history."""

import json
from pathlib import Path

import pytest

from benchmarks import history
from benchmarks.page import PAGE, RESULTS, json_file, own_page, page, targets
from benchmarks.picture import picture
from benchmarks.tables import TABLES, Bar, Table


def test_page_says_what_was_measured() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "benchmarks/README.md is made by `python -m benchmarks --draw`; its text lies in README.md.in"
    )


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_says_what_was_measured(table: Table) -> None:
    kept = json.loads(json_file(table).read_text())
    assert kept["command"] == table.command
    assert (RESULTS / f"bench-{table.name}.md").read_text(encoding="utf-8") == own_page(table, kept)
    assert json_file(table).with_suffix(".svg").is_file()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_picture_has_every_bar(table: Table) -> None:
    bars = table.all_bars(json.loads(json_file(table).read_text())["measured"])
    drawn = picture(bars, axis=table.axis, log=table.log, name=table.name).decode()
    assert drawn == picture(bars, axis=table.axis, log=table.log, name=table.name).decode()
    for bar in bars:
        assert bar.label.replace("&", "&amp;") in drawn


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_last_of_the_history_is_what_was_measured(table: Table) -> None:
    last = {value.name: value.value for value in history.read()}
    kept = json.loads(json_file(table).read_text())
    now = {value.name: value.value for value in history.values(table, kept, version="", commit="")}
    assert f"{table.name}: {table.followed}" in now
    assert {name: last.get(name) for name in now} == now


def test_history_is_read_as_it_was_added(tmp_path: Path) -> None:
    file, (table, *_) = tmp_path / "history.jsonl", TABLES
    kept = json.loads(json_file(table).read_text())
    old, new = (history.values(table, kept, version=version, commit="c") for version in ("1.0", "2.0"))
    for some in (old, old, new):
        history.add(some, file)
    assert history.read(file) == [*old, *old, *new]
    value = next(one.value for one in old if one.name.endswith(table.followed))
    row = history.markdown(history.read(file), [table]).splitlines()[-1]
    assert row == f"| {table.name}: {table.followed} | {value:.3g} → {value:.3g} | {value:.3g} |"


def test_missed_targets_are_named() -> None:
    bars = [Bar("good", 2.0, 1.0), Bar("bad", 2.0, 1.0, at_least=False), Bar("free", 2.0)]
    said = targets([(TABLES[0], bars)])
    assert said.startswith("**1 of 2 targets are met.**")
    assert said.splitlines()[4:] == [f"| {TABLES[0].name}: bad | 2 | ≤ 1 |"]


@pytest.mark.parametrize(
    ("bar", "met"),
    [
        (Bar("", 2.0, 1.0), True),
        (Bar("", 0.9, 1.0), False),
        (Bar("", 0.9, 1.0, at_least=False), True),
        (Bar("", 2.0, 1.0, at_least=False), False),
        (Bar("", 2.0), None),
    ],
)
def test_targets(bar: Bar, met: bool | None) -> None:
    assert bar.met is met

"""benchmarks/README.md is made of what was measured: its tables are those of results/, and say whether targets are met."""

import json

import pytest

from benchmarks.__main__ import PAGE, json_file, part_of_page, put
from benchmarks.picture import picture
from benchmarks.tables import TABLES, Bar, Table


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_page_says_what_was_measured(table: Table) -> None:
    kept = json.loads(json_file(table).read_text())
    assert kept["command"] == table.command
    assert part_of_page(table, kept) in PAGE.read_text()
    assert json_file(table).with_suffix(".svg").is_file()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_picture_has_every_bar(table: Table) -> None:
    bars = table.all_bars(json.loads(json_file(table).read_text())["measured"])
    drawn = picture(bars, axis=table.axis, log=table.log, name=table.name).decode()
    assert drawn == picture(bars, axis=table.axis, log=table.log, name=table.name).decode()
    for bar in bars:
        assert bar.label.replace("&", "&amp;") in drawn


def test_a_part_of_the_page_is_replaced_alone() -> None:
    page = "a\n<!-- bench one -->\nold\n<!-- /bench -->\nb\n<!-- bench two -->\nold\n<!-- /bench -->\n"
    assert put(page, "two", r"new \1") == page[: page.rindex("old")] + "new \\1\n<!-- /bench -->\n"
    empty = page.replace("<!-- bench one -->\nold\n", "<!-- bench one -->\n")
    assert put(empty, "one", "old") == page
    with pytest.raises(KeyError, match="three"):
        put(page, "three", "")


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

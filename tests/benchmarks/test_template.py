"""A page's template: marks are filled in, paragraphs are wrapped, and nothing else changes."""

import pytest

from benchmarks.template import COLUMNS, filled


def said(mark: str) -> str:
    return {"n": "12.5", "table": "| a |\n|---|\n| b |\n"}[mark]


def test_marks_are_filled_in_wherever_they_stand() -> None:
    assert filled("# {{n}}\n\nIt is {{ n }}, or\n{{\nn}}.\n\n{{table}}\n", said) == (
        "# 12.5\n\nIt is 12.5, or 12.5.\n\n| a |\n|---|\n| b |\n"
    )


def test_an_unknown_mark_stops_it() -> None:
    with pytest.raises(KeyError, match="other"):
        filled("It is {{other}}.", said)


def test_paragraphs_and_items_are_wrapped_and_code_is_not() -> None:
    words = " ".join(["word"] * 60)
    page = filled(f"{words}\n\n* {words}\n* {{{{n}}}}\n\n    {words}\n\n| {words} |\n", said)
    paragraph, items, code, table = page.split("\n\n")
    assert all(len(line) <= COLUMNS for line in (paragraph + "\n" + items).splitlines())
    assert [line[:2] for line in items.splitlines()] == ["* ", "  ", "  ", "  ", "* "]
    assert (code, table) == (f"    {words}", f"| {words} |\n")


@pytest.mark.parametrize("mark", ["+", "-", "*", "3."])
def test_no_line_begins_a_list_that_was_not_there(mark: str) -> None:
    for length in range(COLUMNS - 10, COLUMNS + 10):
        page = filled(f"{'x' * (length - 5)} word {mark} word", said)
        assert not any(line.startswith(f"{mark} ") for line in page.splitlines())
        assert page.split() == f"{'x' * (length - 5)} word {mark} word".split()

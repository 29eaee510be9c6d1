"""The prose check finds a bad sentence, takes no table, list or code for prose, and its table only goes down."""

import json
from pathlib import Path

import check_prose
import pytest
from check_prose import (
    CHAIN,
    LONG,
    OPENER,
    WRAP,
    offences_in_comments,
    offences_in_markdown,
    offences_in_notebook,
    offences_in_python,
    unreleased,
)

WORDS = " ".join(["Word"] * 25)


def rules(text: str) -> list[str]:
    return [rule for _, rule, _ in offences_in_markdown(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{WORDS[:60]}\n{WORDS[60:]} more.", [LONG]),
        (f"Short.\n\n- A point.\n- {WORDS[:50]}\n  {WORDS[50:]} more.\n", [LONG]),
        ("It is good. Of the rest nothing is known.", [OPENER]),
        ("What holds is tested.", [OPENER]),
        ("Who signs it?\nWhat holds is tested.", [OPENER]),
        ("One holds; two holds; three holds.", [CHAIN]),
        ("x" * 60 + " " + "y" * 40, [WRAP]),
    ],
)
def test_a_bad_sentence_is_found(text: str, found: list[str]) -> None:
    assert rules(text) == found


@pytest.mark.parametrize(
    "text",
    [
        f"{WORDS[:60]}\n{WORDS[60:]}.\n{WORDS[:60]}\n{WORDS[60:]}.",
        f"| a | b |\n|---|---|\n| {WORDS} {WORDS} | Of it |\n",
        f"Lines:\n\n    {WORDS} {WORDS}\n\n    What is this.\n\nAfter.",
        f"```\n{WORDS} {WORDS}\nOf it.\n```\n",
        f"* A point.\n\n## Next\n\n    {WORDS} {WORDS} which is code\n",
        f"Examples:\n    >>> f({WORDS!r})\n    What {WORDS}\n\nAfter.",
        "\n".join(f"- point {number} is one of many short ones" for number in range(9)),
        "What is promised? Nothing.",
        f"<!-- {WORDS} {WORDS} -->\nShort.",
        f"# {WORDS} {WORDS}",
        f"A link is [its text](https://example.org/{'long' * 30}).".replace(" [", "\n["),
        "Call `one. Of two. What three` first.",
        'It holds; see (one; two) and "three; four", too.',
    ],
)
def test_what_is_no_offence(text: str) -> None:
    assert [rule for rule in rules(text) if rule != WRAP or "https" not in text] == []


def test_docstrings_and_errors_are_read_and_other_strings_are_not() -> None:
    code = f'''
def f(x):
    """Of a number.

        Of this, which is code.
    """
    y = "What is no message."
    raise ValueError(f"expected {{x}}, got {{y}} {WORDS}")
'''
    assert [(line, rule) for line, rule, _ in offences_in_python(code)] == [(3, OPENER), (8, LONG)]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (f"# {WORDS[:60]}\n# {WORDS[60:]} more\nx = 1", [(1, LONG)]),
        (f"def f():\n    # Short.\n    # {WORDS} more\n    return 1", [(2, LONG)]),
        ("x = 1\n# what is kept", [(2, OPENER)]),
        ("# Plain.\n#\n# Of a list", [(3, OPENER)]),
        ("# one holds; two holds;\n# three holds", [(1, CHAIN)]),
        (f"x = 1  # {WORDS} more", [(1, LONG)]),
        (f"x = 1  # type: ignore[misc]  # {WORDS} more", [(1, LONG)]),
        (f"# --- {WORDS} more\n# of what comes\nx = 1", [(2, OPENER)]),
        (f"# type of a part: {WORDS}", [(1, LONG)]),
    ],
)
def test_a_bad_comment_is_found(code: str, found: list[tuple[int, str]]) -> None:
    assert [(line, rule) for line, rule, _ in offences_in_comments(code)] == found
    assert [(line, rule) for line, rule, _ in offences_in_python(code)] == found


@pytest.mark.parametrize(
    "code",
    [
        "x = 1  # what is kept; so; on",
        f"# {WORDS[:60]}\n# {WORDS[60:]}\nx = 1\n# {WORDS}",
        f"if x:\n    # {WORDS}\n    y = 1\n# {WORDS}\nz = 1",
        f"x = 1  # {WORDS}\n# {WORDS}\ny = 1",
        f'x = \'# of it {WORDS} more\'\ny = """\n# of it {WORDS} more\n"""',
        f"#!/usr/bin/env {WORDS} more python\n# fmt: off\nx = 1  # noqa: {WORDS} more\n# pyright: {WORDS} more",
        f"# Copyright {WORDS}\n# {WORDS}",
        "# Of (B, T, D), W x + ΔW x; Σ_i p_i; (B, D)",
        f"# {', '.join(f'{letter} {letter}ize' for letter in 'ABCDEFGHIJKLMNOP')}",
        f"# --- {WORDS} more",
        f"# as in\n#\n#     {WORDS} more\n",
        "# what is kept?",
    ],
)
def test_a_comment_that_is_no_offence(code: str) -> None:
    assert list(offences_in_comments(code)) == []


def test_released_versions_stay_as_they_are() -> None:
    changelog = "# Changelog\n\n## [Unreleased]\n\n- Of this.\n\n## [0.1.0]\n\n- Of that.\n"
    assert rules(unreleased(changelog)) == [OPENER]


def test_pages_of_a_notebook_are_read_and_its_code_is_not() -> None:
    cells = [("code", "# Of a."), ("markdown", "Plain."), ("markdown", "Of this.")]
    text = json.dumps({"cells": [{"cell_type": kind, "source": [source]} for kind, source in cells]})
    assert list(offences_in_notebook(text)) == [(3, OPENER, "Of this.")]


def test_an_offence_fails_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_prose, "ROOT", tmp_path)
    page = tmp_path / "README.md"
    for text, files in (("Plain.", []), ("Plain.", [str(page)])):
        page.write_text(text)
        assert check_prose.main(files) == 0
        assert capsys.readouterr().out == ""
    for files in ([], [str(page)]):
        page.write_text("Plain.\n\nOf this.")
        assert check_prose.main(files) == 1
        assert capsys.readouterr().out == f"README.md:3: {OPENER}: Of this.\n"

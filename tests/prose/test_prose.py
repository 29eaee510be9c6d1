"""The prose check finds a bad sentence, takes no table, list or code for prose, and its table only goes down."""

import json
from pathlib import Path

import check_prose
import pytest
from check_prose import LONG, OPENER, WRAP, offences_in_markdown, offences_in_notebook, offences_in_python, unreleased

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

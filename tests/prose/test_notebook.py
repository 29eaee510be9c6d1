"""The notebook of the tutorials runs from its first cell to its last, and shows what it printed."""

import json
import subprocess
import sys
from pathlib import Path

import notebook
import notebooks
import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs/tutorials/notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    command = [sys.executable, str(ROOT / "tests/support/notebooks.py"), str(FILE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_part_is_there_with_its_outcome() -> None:
    cells = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
    code = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for call in ("train", "evaluate", "predict", "forget", "verify", "privacy", "serve", "destroy"):
        assert f".{call}(" in code
    assert sum(bool(cell.get("outputs")) for cell in cells) >= 6
    assert "\\u001b" not in FILE.read_text(encoding="utf-8")  # a line of Ray's, in colour


def test_a_cell_gives_what_it_prints_and_its_last_value() -> None:
    names: dict[str, object] = {}
    assert notebooks.run("print('a')\nb = 2", names) == "a\n"
    assert notebooks.run("b + 1", names) == "3\n"
    with pytest.raises(ZeroDivisionError):
        notebooks.run("b / 0", names)


def test_a_page_has_words_code_and_outcomes() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "b"]},
        {"cell_type": "code", "source": ["1 + 1"], "outputs": [{"text": ["2\n"]}]},
    ]
    assert notebook.page(json.dumps({"cells": cells})) == "# A\nb\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n"

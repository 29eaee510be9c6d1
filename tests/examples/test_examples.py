"""The examples of the documents run as they are, and print what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PRINTS = {
    "pets_folder.py": [
        r"accuracy 0\.9\d+$",
        r"cost \d+ pictures",
        r"accuracy 0\.9\d+ without",
        r"certificate [0-9a-f]{16} in",
    ],
    "hospital.py": [r"request [0-9a-f]{16} waits until", r"0 are due today", r"\d+ pictures left", r"dossier in"],
    "three_sites.py": [r"with north alone", r"with all three", r"without west", r"to be published"],
    "spot_cluster.py": [r"a machine has gone after \d+ shards", r"the same model: [0-9a-f]{16}"],
    "sweep_settings.py": [r"before the sweep: accuracy", r"after the sweep: accuracy"],
}


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PRINTS, "pictures.py"}


def test_the_page_of_the_examples_names_each():
    page = (EXAMPLES / "index.md").read_text()
    assert {*re.findall(r"\]\((\w+\.py)\)", page)} == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.slow  # half a minute each on idle cores
@pytest.mark.parametrize("name", PRINTS)
def test_an_example_runs_and_prints_what_it_found(name: str, tmp_path: Path):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, tmp_path], capture_output=True, text=True, env=clean, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for expected in PRINTS[name]:
        assert re.search(expected, done.stdout, re.MULTILINE), (expected, done.stdout[-3000:])

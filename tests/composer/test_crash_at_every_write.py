"""Law 4, to the letter: signal 9 at every durable write of every process, and the run ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "crash_at.py"
ROOT = SCRIPT.parents[2]


def kills(folder: Path, *phases: str) -> list[dict[str, Any]]:
    path = os.pathsep.join(
        [str(SCRIPT.parent), str(SCRIPT.parents[1] / "orchestration"), os.environ.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, *phases],
        capture_output=True,
        text=True,
        timeout=580,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: list[dict[str, Any]], roles: set[str], writes: int) -> None:
    assert [kill for kill in found if kill["wrong"]] == []
    assert {kill["role"] for kill in found} == roles
    by_time = Counter(kill["when"] for kill in found)
    assert by_time["before"] >= writes
    assert by_time["staged"] == sum(kill["when"] == "before" and kill["change"] != "delete" for kill in found)


@pytest.mark.slow
def test_forget_by_retrain(tmp_path: Path) -> None:
    check(kills(tmp_path, "retrain"), {"composer", "retrain actor"}, writes=15)


@pytest.mark.slow
def test_forget_by_subtraction(tmp_path: Path) -> None:
    check(kills(tmp_path, "subtract"), {"composer"}, writes=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "roles", "writes"),
    [
        ("train", {"driver", "prefix actor", "lane", "composer"}, 20),
        ("drop", {"composer"}, 12),
        ("resolve", {"composer", "retrain actor"}, 15),
        ("sum", {"driver", "prefix actor", "lane", "composer"}, 18),
        ("drop-rows", {"composer"}, 10),
        ("add", {"driver", "prefix actor", "lane", "composer"}, 14),
        ("both", {"driver", "prefix actor", "lane", "composer"}, 22),
        ("subtract-both", {"composer", "retrain actor"}, 16),
        ("retrain-both", {"composer", "retrain actor"}, 16),
        ("private", {"driver", "prefix actor", "lane", "composer"}, 26),
        ("retrain-private", {"composer", "retrain actor"}, 18),
        ("private-rows", {"driver", "prefix actor", "lane", "composer"}, 26),
        ("retrain-private-rows", {"composer", "retrain actor"}, 18),
        ("sampled", {"driver", "prefix actor", "lane", "composer"}, 26),
        ("retrain-sampled", {"composer", "retrain actor"}, 18),
    ],
)
def test_whole_run(tmp_path: Path, phase: str, roles: set[str], writes: int) -> None:
    check(kills(tmp_path, phase), roles, writes)

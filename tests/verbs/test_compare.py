"""`report` of several runs: the numbers are those of each run's own report, and runs that cannot be compared say why."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

import taft_ray as tr
from taft_ray.cli import main
from taft_ray.composer.composer import Composer
from taft_ray.errors import TaftError, UsageError
from taft_ray.plans.facts import Evaluated


@pytest.fixture
def two(proved: tuple[Path, Any], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(proved[0], tmp_path / name / "run")) for name in ("a", "b")]


def evaluated(run: Path, data: str, accuracy: float, n: int) -> None:
    composed = tr.Run(run).status().composed
    assert composed is not None
    fact = Evaluated(data, accuracy, n, composed, {"mean": {"composed": composed, "accuracy": accuracy}}, None, ())
    Composer(str(run)).commit(fact, f"evaluated/{n}")


def test_numbers_are_those_of_each_runs_own_report(two: list[Path]) -> None:
    evaluated(two[0], "test", 0.75, 400)
    answer = tr.compare(*two)
    for run, row in zip(two, answer.runs, strict=True):
        derived = tr.Run(run).report().derived
        for name in ("accuracy", "forgotten_samples", "forget_seconds_median", "work_seconds", "training_seconds"):
            assert getattr(row, name) == derived[name], name
    assert [row.name for row in answer.runs] == ["a/run", "b/run"]
    assert [row.requests for row in answer.runs] == [3, 3]
    assert [row.accuracy for row in answer.runs] == [0.75, None]
    assert Path(answer.page).is_file()
    assert json.loads(Path(answer.json).read_bytes())["runs"][0]["numbers"]["accuracy"]["from"] == {
        "evaluation.accuracy": 0.75
    }
    assert isinstance(answer.to_pandas(), pd.DataFrame)
    assert list(answer.to_pandas()["name"]) == ["a/run", "b/run"]
    assert "a/run" in str(answer)
    assert "75.0%" in str(answer)


def test_accuracies_of_different_pictures_are_said_to_be_different(two: list[Path]) -> None:
    evaluated(two[0], "test", 0.75, 400)
    evaluated(two[1], "test", 0.75, 400)
    assert not tr.compare(*two).notes
    evaluated(two[1], "other", 0.8, 300)
    assert "not of the same pictures. a/run: 400 of test; b/run: 300 of other" in tr.compare(*two).notes[0]


def test_command_takes_several_runs(two: list[Path]) -> None:
    done = CliRunner().invoke(main, ["report", *map(str, two), "--json"])
    assert done.exit_code == 0, done.output
    assert [row["name"] for row in json.loads(done.stdout)["runs"]] == ["a/run", "b/run"]


def test_bad_input_is_refused(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two runs or more"):
        tr.compare(two[0])
    with pytest.raises(UsageError, match="one of them twice"):
        tr.compare(two[0], two[0])
    with pytest.raises(TaftError, match="nowhere"):
        tr.compare(two[0], tmp_path / "nowhere")

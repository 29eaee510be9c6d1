"""`sweep`'s bad input, found before Ray is started; and `train --spec`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import here

from taft_ray.cli import main
from taft_ray.cli.spec import spec_from


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, trained: Path) -> Path:
    from taft_ray.orchestration import session

    def connect() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(session, "connect", connect)
    return trained


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--vary", "momentum=0.9"], 2, "a sweep cannot vary it"),
        (["--vary", "shards=2"], 2, "make another run"),
        (["--vary", "last_blocks=3"], 2, "no valid trial"),
        (["--vary", "solver=ridge", "--vary", "loss=ce"], 2, "is not least squares"),
        (["--held-out", "1"], 2, "expected 0 < held_out < 1"),
        (["--held-out", "0.0001"], 1, "none of 120 samples is held out to measure on"),
        (["--held-out", "0.9999"], 1, "none of 120 samples is left to fit on"),
        (["--trials", "0"], 2, "trials >= 1"),
    ],
)
def test_a_sweep_that_cannot_be(cached: Path, options: list[str], code: int, words: str) -> None:
    before = sorted(path.name for path in cached.rglob("*"))
    here("sweep", cached, *options).complains(code, words)
    assert sorted(path.name for path in cached.rglob("*")) == before


def test_mlflow_that_is_not_installed(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found(name))
    here("sweep", cached, "--mlflow", "http://127.0.0.1:1").complains(2, "pip install 'taft_ray[mlflow]'")


def options_of(*arguments: object) -> dict[str, Any]:
    return dict(main.commands["train"].make_context("train", [str(argument) for argument in arguments]).params)


def test_what_is_typed_comes_before_the_spec_file(tmp_path: Path) -> None:
    file = tmp_path / "best.json"
    values = {"data": "d", "kappa": 7, "last_blocks": 0, "reset": True, "milestones": [3, 4], "classes": ["a", "b"]}
    file.write_text(json.dumps({**values, "weights": None, "device": "cpu", "precision": "float32"}))
    options = options_of(tmp_path / "run", "--spec", file, "--kappa", "9")
    options.pop("run")
    spec = spec_from(str(tmp_path / "run"), options)
    assert (spec.data, spec.kappa, spec.last_blocks, spec.reset, spec.device) == ("d", 9.0, 0, True, "cpu")
    assert (spec.milestones, spec.classes, spec.weights) == ((3, 4), ("a", "b"), None)
    assert spec.penalty == 0.01


def test_data_must_come_from_one_of_the_two(tmp_path: Path) -> None:
    file = tmp_path / "best.json"
    file.write_text('{"kappa": 7}')
    answer = here("train", tmp_path / "run", "--spec", file)
    assert answer.code == 2
    assert "Missing option '--data'" in answer.err


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), ("{", "is not JSON"), ('{"lr": 1}', "lr cannot be set")]
)
def test_a_spec_file_that_cannot_be_used(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "best.json"
    if content is not None:
        file.write_text(content)
    answer = here("train", tmp_path / "run", "--spec", file)
    assert answer.code == 2
    assert words in answer.err
    assert "Traceback" not in answer.err


def test_the_file_a_sweep_writes_is_one_that_train_takes(
    spec_of: Callable[..., Any], parquet: Path, tmp_path: Path
) -> None:
    from taft_ray.plans.spec_file import write_spec_file

    spec = spec_of(parquet, kappa=7.0, milestones=(3, 4))
    (tmp_path / "best.json").write_bytes(write_spec_file(spec))
    options = options_of(tmp_path / "run", "--spec", tmp_path / "best.json")
    options.pop("run")
    assert spec_from(str(tmp_path / "run"), options) == spec

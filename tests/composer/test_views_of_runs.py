"""Runs whose rows are averaged over views of a picture: all laws of additive runs hold in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import computed_digest, plain_forget
from plain import plain_train
from tiny import SAMPLES, sample_id, write_parquet

from taft_ray.errors import SpecMismatch
from taft_ray.proof.verify_run import verify
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store

VIEWS = 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, parquet: Path, additive: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("views") / "run"
    plain_train(run, additive(parquet, views=VIEWS))
    return run


def test_views_are_kept_and_make_another_model(
    trained: Path, parquet: Path, additive: Callable[..., Any], tmp_path: Path
) -> None:
    assert run_spec(Store(str(trained))).views == VIEWS
    plain_train(tmp_path / "one", additive(parquet))
    assert computed_digest(trained) != computed_digest(tmp_path / "one")


def test_a_subtraction_equals_never_seen_at_any_number_of_shards(
    trained: Path, copy_of: Callable[..., Path], additive: Callable[..., Any], tmp_path: Path
) -> None:
    run, gone = copy_of(trained), range(3, 13)
    told = plain_forget(run, [sample_id(n) for n in gone], "subtract")
    data = write_parquet(tmp_path / "data", [n for n in range(SAMPLES) if n not in gone])
    for shards in (1, 5):
        plain_train(tmp_path / f"run{shards}", additive(data, shards=shards, views=VIEWS))
        assert computed_digest(tmp_path / f"run{shards}") == told["composed_after"] == computed_digest(run)
    assert verify(str(run))["problems"] == []


def test_rows_beside_tokens_are_those_of_a_run_of_rows_alone(
    trained: Path, parquet: Path, spec_of: Callable[..., Any], tmp_path: Path
) -> None:
    """One pass gives tokens and the first view; the others pass by themselves."""
    plain_train(tmp_path / "both", spec_of(parquet, compose="additive", features=48, trainable="head", views=VIEWS))
    assert computed_digest(tmp_path / "both") == computed_digest(trained)


def test_a_run_keeps_its_number_of_views(trained: Path, parquet: Path, additive: Callable[..., Any]) -> None:
    with pytest.raises(SpecMismatch, match="views"):
        plain_train(trained, additive(parquet, views=3))

"""Files among the tombstones that no taft_ray wrote: `verify` names them, nothing removes them, and no command minds them."""

from pathlib import Path

import pytest
from folder import files, state_of
from released import copied, toy_export, toy_forget, trained_toy
from toy_run import EVERYONE

from taft_ray.composer.composer import Composer
from taft_ray.proof.verify_run import verify
from taft_ray.verbs.gc import gc


@pytest.fixture(scope="module")
def forgotten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a tombstone and a release beside it."""
    run = trained_toy(tmp_path_factory.mktemp("beside") / "run")
    toy_forget(run, [EVERYONE[0]], "retrain")
    toy_export(run, run.parent / "1.pt2")
    return run


@pytest.fixture
def run(forgotten: Path, tmp_path: Path) -> Path:
    return copied(forgotten, tmp_path / "run")


@pytest.mark.parametrize(
    "where",
    ["notes.txt", "{run}/.DS_Store", "{run}/notes.txt", "{run}/copy/3f39.json", "released/list.csv", "old/{run}/3f39.json"],
)  # fmt: skip
def test_stranger_is_named_and_stays(run: Path, where: str) -> None:
    beside = run.with_name(f"{run.name}.tombstones")
    key = where.format(run=state_of(run).identity[:32])
    file = beside / key
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("whose?")
    before = files(run.parent, beside.name)
    (problem,) = verify(str(run))["problems"]
    assert f"{key} in {beside} is nothing that is kept beside a run" in problem
    Composer(str(run)).recover()
    toy_forget(run, [EVERYONE[4]], "drop")
    assert gc(str(run))["removed"] == []
    assert {*before} < {*files(run.parent, beside.name)}
    assert verify(str(run))["problems"] == [problem]


def test_what_another_run_left_at_the_address_is_no_stranger(run: Path) -> None:
    beside = run.with_name(f"{run.name}.tombstones")
    for kind in ("", "spent", "released"):
        folder = beside / kind / ("f" * 32)
        folder.mkdir(parents=True)
        (folder / "3f39.json").write_text("{}")
    assert verify(str(run))["problems"] == []

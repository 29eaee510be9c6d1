"""The samples of a run by their ids: those that a forget takes, and nobody's who is forgotten."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import here
from folder import plain_forget, shard_of
from plain import plain_train
from tiny import CLASSES, SHARDS, picture, sample_id, write_class_folder, write_parquet

import taft_ray as tr
from taft_ray.answers import Samples
from taft_ray.errors import UnknownSample, UsageError
from taft_ray.storage import Store, write_spec

FEW = range(12)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, spec_of: Callable[..., Any]) -> Callable[[Path], Path]:
    """A small run on some data."""

    def train(data: Path) -> Path:
        run = tmp_path_factory.mktemp("samples") / "run"
        plain_train(run, spec_of(data, solver="additive", features=16))
        return run

    return train


@pytest.fixture(scope="module")
def with_ids(tmp_path_factory: pytest.TempPathFactory, make: Callable[[Path], Path]) -> tuple[Path, Path]:
    """A run on Parquet whose rows have ids of their own, and that data."""
    data = write_parquet(tmp_path_factory.mktemp("data") / "ids", FEW)
    return make(data), data


def test_every_sample_is_listed_by_the_id_that_a_forget_takes(
    with_ids: tuple[Path, Path], copy_of: Callable[..., Path]
) -> None:
    run = copy_of(with_ids[0])
    told = tr.Run(run).samples()
    assert sorted(str(one.id) for one in told.samples) == [sample_id(n) for n in FEW]
    assert (told.without_id, told.why) == (0, None)
    for one in told.samples:
        number = int(str(one.id).rpartition("-")[2])
        assert (one.label, one.shard) == (CLASSES[number % 3], shard_of(str(one.id), SHARDS))
        assert pq.read_table(with_ids[1] / one.file)["id"][one.row].as_py() == one.id
        assert tr.Run(run).estimate([str(one.id)]).samples_to_forget == 1
    plain_forget(run, [sample_id(3)], "subtract")
    assert sorted(str(one.id) for one in tr.Run(run).samples().samples) == [sample_id(n) for n in FEW if n != 3]


@pytest.mark.parametrize("kind", ["files", "rows"])
def test_ids_that_are_places_need_no_data(kind: str, tmp_path: Path, make: Callable[[Path], Path]) -> None:
    data = tmp_path / "data"
    if kind == "files":
        write_class_folder(data, FEW)
        expected = [f"{CLASSES[n % 3]}/{n:03d}.png" for n in FEW]
    else:
        data.mkdir()
        table = pa.table({"image": [picture(n) for n in FEW], "label": [CLASSES[n % 3] for n in FEW]})
        pq.write_table(table, data / "all.parquet")
        expected = [f"all.parquet#{n}" for n in FEW]
    run = make(data)
    shutil.rmtree(data)
    told = tr.Run(run).samples()
    assert sorted(str(one.id) for one in told.samples) == sorted(expected)
    assert told.why is None


def test_ids_whose_data_is_gone_are_counted_and_found_where_it_lies_now(
    with_ids: tuple[Path, Path], copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    _, data = with_ids
    run, moved = copy_of(with_ids[0]), tmp_path / "moved"
    data.rename(moved)
    try:
        told = tr.Run(run).samples()
        assert {one.id for one in told.samples} == {None}
        assert told.without_id == len(FEW)
        assert f"{len(FEW)} ids are not known: the data cannot be read: " in str(told)
        assert sorted(str(one.id) for one in tr.Run(run).samples(moved).samples) == [sample_id(n) for n in FEW]
        other = write_parquet(tmp_path / "other", range(6, 18))
        told = tr.Run(run).samples(other)
        assert {one.id for one in told.samples} == {None, *(sample_id(n) for n in range(6, 12))}
        assert "has other ids now" in str(told.why)
    finally:
        moved.rename(data)


def test_command_writes_the_table_and_shows_some(with_ids: tuple[Path, Path], tmp_path: Path) -> None:
    run, file = with_ids[0], tmp_path / "samples.csv"
    answer = here("status", run, "--samples", "--output", file, "--json")
    assert answer.code == 0, answer.err
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["id"] for row in rows] == [one["id"] for one in answer.json["samples"]]
    assert list(rows[0]) == ["id", "label", "shard", "file", "row"]
    shown = here("status", run, "--samples").out
    assert all(sample_id(n) in shown for n in FEW)
    here("status", run, "--samples", "--output", tmp_path / "ids.txt").complains(2, ".parquet or .csv")
    here("status", run, "--output", file).complains(2, "--output and --data are of --samples")
    here("status", run, "--samples", "--rejected").complains(2, "give one of them")


def test_many_samples_are_counted() -> None:
    row = {"id": "cat/1.png", "label": "cat", "shard": 0, "file": "cat/1.png", "row": 0}
    text = str(Samples.from_json({"run": "r", "samples": [row] * 1234, "without_id": 0, "why": None}))
    assert len(text.splitlines()) < 30
    assert text.endswith("and 1,214 samples more; --output FILE.csv has all")


def test_run_without_data_is_told(tmp_path: Path, spec_of: Callable[..., Any]) -> None:
    write_spec(Store(str(tmp_path / "run")), spec_of(tmp_path).to_json())
    with pytest.raises(UsageError, match="has read no data in yet"):
        tr.Run(tmp_path / "run").samples()


# --- an id that is none of the run's


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, make: Callable[[Path], Path]) -> Path:
    return make(write_class_folder(tmp_path_factory.mktemp("data") / "pictures", FEW))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("train/cat/002.png", r"Did you mean 'cat/002\.png'\?"),
        ("002.png", r"Did you mean 'cat/002\.png'\?"),
        ("cat/2.png", r"Did you mean 'cat/002\.png' or 'cat/\d+\.png'\?"),
        ("something else", r"Ids of this run are such as 'ant/000\.png' and 'ant/003\.png'"),
    ],
)
def test_hint_is_an_id_of_the_run(wrong: str, hint: str, pictures: Path) -> None:
    for verb in (tr.Run(pictures).estimate, tr.Run(pictures).forget):
        with pytest.raises(UnknownSample, match=rf"{hint}.*ll ids: taft-ray status .* --samples$"):
            verb([wrong])


def test_hint_where_the_data_has_ids_of_its_own_says_where_they_are(with_ids: tuple[Path, Path]) -> None:
    with pytest.raises(
        UnknownSample, match=r"in its data, in the column 'id'.*; all ids: taft-ray status .* --samples$"
    ) as told:
        tr.Run(with_ids[0]).estimate(["train/cat/1.png"])
    assert str(told.value).count("cat/1.png") == 1, "no example that is none of the run's"


@pytest.mark.parametrize("asked", [{"ids": ["nobody"]}, {"owners": ["nobody"]}])
def test_estimate_speaks_of_an_estimate(asked: dict[str, list[str]], with_ids: tuple[Path, Path]) -> None:
    run = tr.Run(with_ids[0])
    with pytest.raises(UnknownSample, match="there is nothing to estimate") as told:
        run.estimate(**asked)  # type: ignore[arg-type]
    assert "forgotten" not in str(told.value)
    with pytest.raises(UnknownSample, match="; nothing was forgotten"):
        run.forget(**asked)  # type: ignore[arg-type]

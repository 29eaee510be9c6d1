"""Columns and fields that say a row's split, in Parquet and tars alike: read together never, chosen by ``?split=``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from taft_ray import data
from taft_ray.errors import DataError, UsageError

Write = Callable[[Path, dict[str, list[Any]]], Path]


@pytest.fixture(params=["parquet", "tar"])
def write(request: pytest.FixtureRequest, pictures: list[bytes], write_parquet: Any, write_tar: Any) -> Write:
    """Four rows with these columns, or with these fields in their JSON."""

    def parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
        return write_parquet(path.with_suffix(".parquet"), {"image": pictures[:4], "label": [0, 1, 0, 1], **columns})

    def tar(path: Path, columns: dict[str, list[Any]]) -> Path:
        rows = [{"label": i % 2, **{name: values[i] for name, values in columns.items()}} for i in range(4)]
        members = [((f"{i}.jpg", pictures[i]), (f"{i}.json", json.dumps(row).encode())) for i, row in enumerate(rows)]
        return write_tar(path.with_suffix(".tar"), [member for pair in members for member in pair])

    return parquet if request.param == "parquet" else tar


def _rows(uri: Path | str) -> list[int]:
    """The rows of what is read, after it passed the manifest's checks."""
    index = data.index_files(data.open_source(str(uri)).files)
    data.build_manifest(index, classes=["0", "1"], seed=0, shards=1)
    return index["row"].to_pylist()


FLAGS = [
    ({"is_test": [True, False, False, None]}, {"test": [0], "train": [1, 2]}),
    ({"test": [0, 1, 0, 0]}, {"test": [1], "train": [0, 2, 3]}),
    ({"train": [True, True, False, True]}, {"train": [0, 1, 3], "test": [2]}),
    ({"is_training_image": [1, 0, 1, 1]}, {"train": [0, 2, 3], "training": [0, 2, 3], "test": [1]}),
    ({"isVal": ["False", "True", "False", "False"]}, {"val": [1], "validation": [1], "train": [0, 2, 3]}),
    ({"in_holdout_set": [0.0, 1.0, 0.0, None]}, {"holdout": [1], "train": [0, 2]}),
    (
        {"is_val": [True, False, False, False], "is_test": [False, True, False, False]},
        {"val": [0], "test": [1], "train": [2, 3]},
    ),
    (
        {"trainval": [True, True, False, True], "train": [True, False, False, True]},
        {"train": [0, 3], "trainval": [1], "test": [2]},
    ),
]
NUMBERS = [
    ({"split": [0, 1, 0, 2]}, {"0": [0, 2], "1": [1], "2": [3]}),
    ({"partition": ["0", "1", "1", None]}, {"0": [0], "1": [1, 2]}),
    ({"Split": [0.0, 1.0, 1.0, None]}, {"0": [0], "1": [1, 2]}),
    ({"split": [True, False, True, True]}, {"true": [0, 2, 3], "false": [1]}),
    ({"fold": [1, 2, 3, 3]}, {"1": [0], "3": [2, 3]}),
    ({"split": ["support", "query", "query", "query"]}, {"support": [0], "query": [1, 2, 3]}),
]


@pytest.mark.parametrize(("columns", "chosen"), FLAGS + NUMBERS, ids=lambda value: "+".join(value))
def test_the_splits_of_a_column_are_read_one_at_a_time(
    tmp_path: Path, write: Write, columns: dict[str, list[Any]], chosen: dict[str, list[int]]
) -> None:
    path = write(tmp_path / "a", columns)
    with pytest.raises(DataError, match=r"which would be read together: .*--split .*Rename the column") as error:
        _rows(path)
    assert all(repr(name) in str(error.value) for name in columns)
    for name, rows in chosen.items():
        assert _rows(f"{path}?split={name}") == rows
    assert _rows(f"{path}?split=all") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "columns",
    [
        {"test_score": [0, 1, 0, 1]},
        {"test": [7, 8, 9, 7]},
        {"is_test": [False] * 4},
        {"split": [0] * 4},
        {"subset": ["indoor", "outdoor"] * 2},
        {"is_test": [None] * 4},
        {"train": ["ICE", "TGV", "ICE", "TGV"]},
    ],
    ids=str,
)
def test_columns_that_say_no_two_splits_stop_nobody(
    tmp_path: Path, write: Write, columns: dict[str, list[Any]]
) -> None:
    assert _rows(write(tmp_path / "a", columns)) == [0, 1, 2, 3]


def test_one_split_a_file_is_several_all_the_same(tmp_path: Path, write: Write) -> None:
    for at in range(2):
        write(tmp_path / f"d/{at}", {"is_test": [bool(at)] * 4})
    with pytest.raises(DataError, match="'is_test' of the data says that its rows belong to the splits test, train"):
        _rows(tmp_path / "d")
    assert _rows(f"{tmp_path}/d?split=test") == [0, 1, 2, 3]


def test_flags_that_contradict_are_refused_with_the_row(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "a", {"is_test": [False, False, True, False], "is_train": [True] * 4})
    with pytest.raises(DataError, match=r"row 2 .* is in the splits test and train, .* is_test, is_train"):
        _rows(f"{path}?split=test")


def test_a_file_of_the_chosen_split_gives_up_rows_of_another(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "d/train", {"is_val": [True, False, False, False]})
    write(tmp_path / "d/test", {})
    assert _rows(f"{tmp_path}/d?split=train") == [1, 2, 3]
    assert _rows(f"{tmp_path}/d?split=test") == [0, 1, 2, 3]
    if path.suffix == ".parquet":
        assert _rows(f"{path}?split=val") == [0]
    with pytest.raises(UsageError, match="no files of a split 'dev'; it has test, train"):
        _rows(f"{tmp_path}/d?split=dev")


def test_numbers_of_a_split_may_have_names(tmp_path: Path, pictures: list[bytes], write_parquet: Any) -> None:
    features = {"split": {"names": ["train", "test"], "_type": "ClassLabel"}, "label": {"dtype": "int64"}}
    path = write_parquet(
        tmp_path / "a.parquet",
        {"image": pictures[:3], "label": [0, 1, 0], "split": pa.array([0, 1, 0], pa.int64())},
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    with pytest.raises(DataError, match="splits test, train"):
        _rows(path)
    assert _rows(f"{path}?split=test") == [1]


@pytest.mark.parametrize(
    ("folders", "test"),
    [
        (("is_test=0", "is_test=1"), "test"),
        (("split=0", "split=1"), "1"),
        (("train=true", "train=false"), "test"),
        (("split=base", "split=novel"), "novel"),
    ],
)
def test_folders_of_a_partitioned_table_are_splits(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any, folders: tuple[str, str], test: str
) -> None:
    for folder in folders:
        write_parquet(tmp_path / "t" / folder / "part-0.parquet", {"image": pictures[:2], "label": [0, 1]})
        for label in ("cat", "dog"):
            (tmp_path / "f" / folder / label).mkdir(parents=True)
            (tmp_path / "f" / folder / label / "1.jpg").write_bytes(pictures[0])
    for kind in "tf":
        with pytest.raises(DataError, match="splits"):
            data.open_source(f"{tmp_path}/{kind}")
        files = data.open_source(f"{tmp_path}/{kind}?split={test}").files
        assert {file.relative.split("/")[0] for file in files} == {folders[1]}


def test_a_folder_and_a_field_that_say_different_splits_are_a_rejected_row(
    tmp_path: Path, pictures: list[bytes], write_tar: Any
) -> None:
    said = [("train", "test"), ("train", "training"), ("trainval", "val"), ("val", "validation"), ("test", "train")]
    members = [
        member
        for at, (folder, field) in enumerate(said)
        for member in (
            (f"{folder}/{at}.jpg", pictures[at]),
            (f"{folder}/{at}.json", json.dumps({"label": at, "split": field}).encode()),
        )
    ]
    index = data.index_files(data.open_source(str(write_tar(tmp_path / "a.tar", members))).files)
    differ = "splits that differ"
    assert index["reason"].to_pylist() == [differ, None, None, None, differ]

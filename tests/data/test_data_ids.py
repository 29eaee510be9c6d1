"""Ids are bytes that somebody else chose: read exactly, or refused by name; no request names another sample."""

import datetime
import json
import logging
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from taft_ray import data
from taft_ray.errors import DataError


def _index(path: Path) -> pa.Table:
    return data.index_files(data.open_source(str(path)).files)


def _table(pictures: list[bytes], **columns: Any) -> dict[str, Any]:
    return {"image": pictures[:3], "label": [0, 1, 2], **columns}


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        (pa.array([" a", "a", "pad  "]), [" a", "a", "pad  "]),
        (pa.array(["x\u2028y", "x\x85y", "z\ufeff"]), ["x\u2028y", "x\x85y", "z\ufeff"]),
        (pa.array(["e\u0301", "\u00e9", "E"]), ["e\u0301", "\u00e9", "E"]),
        (pa.array(["a,b", "@c", "#d"], pa.large_string()), ["a,b", "@c", "#d"]),
        (pa.array(["v", "w", "u"]).dictionary_encode(), ["v", "w", "u"]),
        (pa.array([2**63, 1, 0], pa.uint64()), ["9223372036854775808", "1", "0"]),
        (pa.array([10**20, 1, 0], pa.decimal128(30, 0)), ["1" + "0" * 20, "1", "0"]),
        (pa.array([uuid.UUID(int=n).bytes for n in range(3)], pa.uuid()), [str(uuid.UUID(int=n)) for n in range(3)]),
        (pa.array([b"\x00\xff", b"a", b"\n"], pa.binary()), ["00ff", "61", "0a"]),
        (pa.array([bytes(4), b"\xff" * 4, b"abcd"], pa.binary(4)), ["00000000", "ffffffff", "61626364"]),
        (pa.array([datetime.date(2026, 1, day) for day in (1, 2, 3)]), ["2026-01-01", "2026-01-02", "2026-01-03"]),
    ],
)
def test_ids_are_kept_as_they_are(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any, ids: pa.Array, texts: list[str]
) -> None:
    index = _index(write_parquet(tmp_path / "a.parquet", _table(pictures, id=ids, owner=ids)))
    assert index["id"].to_pylist() == texts
    assert index["owner"].to_pylist() == texts


@pytest.mark.parametrize("column", ["id", "owner"])
@pytest.mark.parametrize(
    "values",
    [
        pa.array([7e17, None, 12345.0]),
        pa.array([1.0, 2.0, 3.0], pa.float32()),
        pa.array([1, 2, 3], pa.decimal128(9, 2)),
        pa.array([True, False, None]),
        pa.array([[1], [2], [3]]),
        pa.array([{"a": 1}] * 3),
        pa.array([[("k", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
        pa.array([1.5, 2.5, 3.5]).dictionary_encode(),
    ],
    ids=lambda values: str(values.type).partition("<")[0],
)
def test_what_names_nothing_exactly_is_refused_by_column(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any, column: str, values: pa.Array
) -> None:
    path = write_parquet(tmp_path / "a.parquet", _table(pictures, **{column: values}))
    with pytest.raises(DataError, match=rf"column '{column}' of .*a\.parquet holds"):
        _index(path)


@pytest.mark.parametrize("odd", ["", "a\nb", "a\r", "nul\x00", "\ufeffa"])
def test_ids_that_no_line_can_name_are_refused_by_row(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any, odd: str
) -> None:
    path = write_parquet(tmp_path / "a.parquet", _table(pictures, id=["x", odd, "y"]))
    with pytest.raises(DataError, match=r"1 id is empty, holds a line break, or begins with a byte.*a\.parquet row 1"):
        _index(path)


def test_a_file_whose_name_no_line_can_name_is_refused(tmp_path: Path, pictures: list[bytes]) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a\nb.jpg").write_bytes(pictures[0])
    with pytest.raises(DataError, match="rename the files"):
        _index(tmp_path)


@pytest.mark.parametrize("odd", [1.5, True, ["a"], {"a": 1}, "\ud800"])
@pytest.mark.parametrize("field", ["id", "owner"])
def test_ids_of_tars_are_text_or_whole_numbers(
    tmp_path: Path, pictures: list[bytes], write_tar: Any, odd: Any, field: str
) -> None:
    members = [("0.jpg", pictures[0]), ("0.json", json.dumps({"label": 1, field: odd}).encode())]
    with pytest.raises(DataError, match=rf"0\.json in .*a\.tar has the {field}"):
        _index(write_tar(tmp_path / "a.tar", members))


def test_an_empty_id_of_a_tar_is_refused(tmp_path: Path, pictures: list[bytes], write_tar: Any) -> None:
    path = write_tar(tmp_path / "a.tar", [("0.jpg", pictures[0]), ("0.json", b'{"label": 1, "id": ""}')])
    with pytest.raises(DataError, match="1 id is empty"):
        _index(path)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, pictures: list[bytes]) -> None:
    import pyarrow.parquet as pq

    columns = [pa.array(pictures[:3]), pa.array([0, 1, 2]), pa.array(["a", "b", "c"]), pa.array(["d", "e", "f"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["image", "label", "id", "id"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="several columns 'id'"):
        _index(tmp_path / "a.parquet")


def test_blanks_at_the_ends_are_pointed_out_once(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    index = _index(write_parquet(tmp_path / "a.parquet", _table(pictures, id=[" a", "a", "b\u00a0"])))
    with caplog.at_level(logging.WARNING):
        data.build_manifest(index, classes=["0", "1", "2"], seed=0, shards=2)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("2 ids begin or end with a blank, such as ' a'")

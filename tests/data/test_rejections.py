"""Rejected rows by name: in the error, and in the list of all."""

import pyarrow as pa
import pytest

from taft_ray import data
from taft_ray.data.rejections import examples, place_of, read_list, rejected_rows, write_list
from taft_ray.errors import DataError, TooManyRejected


def _manifest(rows: list[tuple[str, int, str | None]]) -> pa.Table:
    index = pa.table(
        {
            "id": [f"{relative}#{row}" for relative, row, _ in rows],
            "relative": [relative for relative, _, _ in rows],
            "row": [row for _, row, _ in rows],
            "label": ["ant"] * len(rows),
            "owner": [None] * len(rows),
            "bytes": [1] * len(rows),
            "reason": [reason for _, _, reason in rows],
            "split": [None] * len(rows),
        },
        data.INDEX_SCHEMA,
    )
    return data.build_manifest(index, classes=["ant"], seed=0, shards=2)


ROWS = [
    *((f"ant/{i}.jpg", 0, "truncated picture") for i in range(5)),
    ("t.parquet", 0, "no image"),
    ("t.parquet", 7, "no label"),
    ("ant/new\nline.jpg", 0, "empty file"),
    ("ant/good.jpg", 0, None),
]


def test_error_names_rows_of_every_reason() -> None:
    table = _manifest(ROWS)
    with pytest.raises(TooManyRejected) as error:
        data.check_rejected(data.counts(table), 0.01, examples(table))
    text = str(error.value)
    assert "truncated picture: 5, such as ant/0.jpg, ant/1.jpg, ant/2.jpg)" in text
    assert "no image: 1, such as t.parquet#0; " in text
    assert "no label: 1, such as t.parquet#7" in text
    assert "good" not in text
    assert "\n" not in text, "a name must not make a line of its own"


def test_list_has_every_rejected_row_and_comes_back() -> None:
    table = _manifest(ROWS)
    rows = rejected_rows(table)
    assert {(row["file"], row["row"], row["reason"]) for row in rows} == {row for row in ROWS if row[2]}
    assert read_list(write_list(table), "list") == rows
    assert write_list(table).count(b"\n") == len(rows)
    for damaged in (b"{", b"[]\n", b'{"file": "a"}\n', b"\xff\n"):
        with pytest.raises(DataError, match="list is not a list"):
            read_list(damaged, "list")


def test_a_row_is_where_a_person_finds_it() -> None:
    assert place_of({"file": "ant/0.jpg", "row": 0}) == "ant/0.jpg"
    assert place_of({"file": "a.tar", "row": 0}) == "a.tar#0"
    assert place_of({"file": "ant/\u202egpj.0", "row": 0}) == "'ant/\\u202egpj.0'"

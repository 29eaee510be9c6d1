"""The two labels of a tar's sample, and labels that say that there is none, however they are spelled."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from taft_ray import data
from taft_ray.data.no_label import is_below_zero
from taft_ray.errors import DataError

BELOW, DIFFER = "label below 0", "labels that differ"
SPELLINGS = ["-1", "-1.0", " -1 ", "-1.", "-1,0", "-1.000000000000000000e+00", "-1e0", "\u22121", "\u20131.0", "-100"]


def _tar(path: Path, write_tar: Any, pictures: list[bytes], samples: list[dict[str, bytes]]) -> pa.Table:
    members = [
        member
        for at, sample in enumerate(samples)
        for member in ((f"{at}.jpg", pictures[at]), *((f"{at}.{end}", text) for end, text in sample.items()))
    ]
    return data.index_files(data.open_source(str(write_tar(path, members))).files)


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_number_below_0_is_no_label_in_any_spelling(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any, write_tar: Any, text: str
) -> None:
    for others in (["0", "1"], ["0.0", "1.0"], ["cat", "dog"]):
        path = write_parquet(tmp_path / "a.parquet", {"image": pictures[:3], "label": [*others, text]})
        labels = data.index_files(data.open_source(str(path)).files)["label"].to_pylist()
        with pytest.raises(DataError, match="means that there is no label, or is a class"):
            data.resolve_classes(None, labels)
        with pytest.raises(DataError, match="means that there is no label, or is a class"):
            data.resolve_classes(sorted(labels), labels)  # as class folders
        assert len(data.resolve_classes(None, labels, sorted(labels))) == 3
    samples = [{"cls": text.encode()}, {"json": json.dumps({"label": text}).encode()}, {"json": b'{"label": -1.0}'}]
    assert _tar(tmp_path / "a.tar", write_tar, pictures, samples)["reason"].to_pylist() == [BELOW] * 3


@pytest.mark.parametrize("text", ["1", "-", "--1", "-a", "-1 degree", "1-2", "-0.5", "-1_0", "-1e9999", "- - 1", ""])
def test_other_names_are_no_numbers_below_0(text: str) -> None:
    assert not is_below_zero(text)


def test_minus_one_without_a_sign_is_told_from_a_class() -> None:
    with pytest.raises(DataError, match="65535 is -1 in 16 bits without a sign"):
        data.resolve_classes(None, ["0", "9", "65535"])
    assert len(data.resolve_classes(None, ["0", "40000", "65535"])) == 65536
    assert len(data.resolve_classes(None, ["0", "9", "255"])) == 256


@pytest.mark.parametrize("text", ["NA", "#N/A", "-nan"])
def test_missing_values_are_told_from_classes(text: str) -> None:
    with pytest.raises(DataError, match="is a missing value"):
        data.resolve_classes(None, ["cat", "dog", text])


@pytest.mark.parametrize("first", ["cls", "json"])
def test_two_labels_that_differ_are_a_rejected_row(
    tmp_path: Path, pictures: list[bytes], write_tar: Any, first: str
) -> None:
    cases: list[tuple[bytes, Any, str | None, str | None]] = [
        (b"1", 1, None, "1"),
        (b"1", "1", None, "1"),
        (b"01", 1, None, "01"),
        (b"1", 2, DIFFER, None),
        (b"cat", "dog", DIFFER, None),
        (b"cat\n", "cat", None, "cat"),
        (b"1", -1, DIFFER, None),
        (b"-1", 1, DIFFER, None),
        (b"-1", "cat", DIFFER, None),
        (b"-1", -1.0, BELOW, None),
        (b"", "cat", None, "cat"),
        (b"cat", None, None, "cat"),
        (b"cat", [1], None, "cat"),
        (b"5", "owl", None, "5"),  # a number and its name
        (b"6", "bee", DIFFER, None),  # with two names
        (b"6", "elk", DIFFER, None),
    ]
    samples = [{"cls": cls, "json": json.dumps({"label": label}).encode()} for cls, label, _, _ in cases]
    if first == "json":
        samples = [dict(reversed(sample.items())) for sample in samples]
    index = _tar(tmp_path / "a.tar", write_tar, pictures, samples)
    expected = [(reason, label) for _, _, reason, label in cases]
    assert list(zip(index["reason"].to_pylist(), index["label"].to_pylist(), strict=True)) == expected


def test_json_that_says_two_things_or_no_label_is_a_rejected_row(
    tmp_path: Path, pictures: list[bytes], write_tar: Any
) -> None:
    texts = [
        b'{"label": 1, "label": 2}',
        b'{"label": 1, "id": "a", "id": "b"}',
        b'{"label": 1, "label": 1, "caption": "a", "caption": "b"}',
        b'{"label": 1.5}',
        b'{"label": true}',
        b'{"label": [1]}',
        b'{"label": " "}',
        b'{"label": null}',
    ]
    index = _tar(tmp_path / "a.tar", write_tar, pictures, [{"json": text} for text in texts])
    unread, kind = "unreadable .json", "label of another type"
    assert index["reason"].to_pylist() == [unread, unread, None, kind, kind, kind, "no label", "no label"]

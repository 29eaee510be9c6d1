"""Every bad input is refused with what, where and the fix, or accounted for with a reason."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from taft_ray import data
from taft_ray.errors import DataError, StorageError, TooManyRejected, UsageError


def _refused(uri: Path | str, *words: str) -> None:
    with pytest.raises(DataError) as error:
        data.index_files(data.open_source(str(uri)).files)
    for word in words:
        assert word in str(error.value)


def test_missing_and_empty_data_are_refused(tmp_path: Path) -> None:
    _refused(tmp_path / "nowhere", "no data at", "nowhere")
    _refused(tmp_path, "no files", "a folder a class")
    _refused(f"{tmp_path}/*.parquet", "no files")


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("a/.DS_Store", "a/Thumbs.db", ".git/x.jpg"):
        (tmp_path / name).write_bytes(b"x")
    _refused(tmp_path, "no files")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/1.jpg", "b.parquet"], ["mixes formats", "a/1.jpg", "b.parquet"]),
        (["a.tar", "b.parquet"], ["mixes formats"]),
        (["a/1.npy"], ["no known data", "a/1.npy"]),
        (["1.jpg", "2.jpg"], ["no class folder", "1.jpg", "folder with the name of its class"]),
        (["train/a/1.jpg", "test/a/2.jpg"], ["splits", "test", "train"]),
        (["a.tar.gz"], ["compressed", "decompress"]),
        (["a.parquet", "b.safetensors"], ["parquet files and others", "b.safetensors"]),
    ],
)
def test_mixed_and_unknown_data_are_refused(tmp_path: Path, names: list[str], words: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    _refused(tmp_path, *words)


def test_a_single_picture_is_refused(tmp_path: Path, pictures: list[bytes]) -> None:
    (tmp_path / "1.jpg").write_bytes(pictures[0])
    _refused(tmp_path / "1.jpg", "no class folder")


def test_a_file_that_is_no_picture_is_rejected_not_lost(tmp_path: Path, pictures: list[bytes]) -> None:
    for name in ("a/1.jpg", "a/notes.txt", "b/2.jpg", "README", "3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pictures[0])
    source = data.open_source(str(tmp_path))
    index = data.index_files(source.files)
    assert dict(zip(index["id"].to_pylist(), index["reason"].to_pylist(), strict=True)) == {
        "3.jpg": "no label",
        "README": "not an image",
        "a/1.jpg": None,
        "a/notes.txt": "not an image",
        "b/2.jpg": None,
    }
    assert source.classes == ("a", "b")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"img": [b"x"], "label": [0]}, ["'image'", "['img', 'label']", "rename"]),
        ({"image": [b"x"]}, ["'label'"]),
        ({"image": [b"x"], "label": [0.5]}, ["double", "integers or strings"]),
        ({"image": ["a.jpg"], "label": [0]}, ["'image'", "string", "encoded pictures"]),
    ],
)
def test_wrong_columns_are_refused(
    tmp_path: Path, write_parquet: Any, columns: dict[str, list[Any]], words: list[str]
) -> None:
    _refused(write_parquet(tmp_path / "a.parquet", columns), "a.parquet", *words)


def test_rows_without_picture_or_label_are_rejected(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any, write_tar: Any
) -> None:
    columns = {"image": [pictures[0], None, pictures[1], pictures[2]], "label": ["a", "a", None, ""]}
    index = data.index_files(data.open_source(str(write_parquet(tmp_path / "a.parquet", columns))).files)
    assert index["reason"].to_pylist() == [None, "no image", "no label", "no label"]

    members = [("0.jpg", pictures[0]), ("1.cls", b"a"), ("2.jpg", pictures[1]), ("2.cls", b"a")]
    members += [("3.jpg", pictures[1]), ("3.json", b"{"), ("4.jpg", pictures[1]), ("4.cls", b"\xff")]
    index = data.index_files(data.open_source(str(write_tar(tmp_path / "a.tar", members))).files)
    assert index["reason"].to_pylist() == ["no label", "no image", None, "unreadable .json", "unreadable .cls"]


@pytest.mark.parametrize("damage", ["zero bytes", "not at all", "half", "middle"])
@pytest.mark.parametrize("name", ["part-0.parquet", "part-0.tar"])
def test_damaged_files_are_refused(three_formats: dict[str, Path], name: str, damage: str) -> None:
    path = three_formats[name.split(".")[1]] / name
    whole = path.read_bytes()
    broken = {
        "zero bytes": b"",
        "not at all": b"x" * 5000,
        "half": whole[: len(whole) // 2],
        "middle": whole[:2048] + b"x" * 9000,
    }
    path.write_bytes(broken[damage])
    _refused(path, name)


def test_a_damaged_tar_header_is_not_taken_for_the_end(tmp_path: Path, pictures: list[bytes], write_tar: Any) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{i}.{s}", b"x" * 512) for i in range(4) for s in ("jpg", "cls")])
    whole = path.read_bytes()
    path.write_bytes(whole[:2048] + b"\x01" * 512 + whole[2560:])
    _refused(path, "byte 2048", "write it again")
    path.write_bytes(whole[:4096])  # cut between two members
    _refused(path, "cut off")
    path.write_bytes(gzip.compress(whole))
    _refused(path, "uncompressed tar")


def test_rows_that_are_gone_are_refused(three_formats: dict[str, Path]) -> None:
    for name in ("parquet", "tar"):
        file = data.open_source(str(three_formats[name])).files[0]
        with pytest.raises(DataError, match=r"15 (rows|samples), row 15 was asked for"):
            data.read_images(file, [3, 15])


def test_labels_outside_the_classes_name_the_rows(three_formats: dict[str, Path]) -> None:
    source = data.open_source(str(three_formats["parquet"]))
    index = data.index_files(source.files)
    with pytest.raises(DataError, match=r"10 of 30 rows .* 2 classes \['ant', 'bee'\].*'cat' in part-1.parquet row 5"):
        data.label_column(index, ["ant", "bee"])
    with pytest.raises(DataError, match="'dog' is none of the 2 classes"):
        data.label_index("dog", ["ant", "bee"])


def test_unreachable_and_forbidden_storage_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, three_formats: dict[str, Path]
) -> None:
    file = data.open_source(str(three_formats["parquet"])).files[0]

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "not yours")

    monkeypatch.setattr("taft_ray.data.access.open_file", refuse)
    with pytest.raises(StorageError, match="not yours"):
        data.index_file(file)
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(StorageError, match="not yours"):
        data.open_source(str(tmp_path))


def test_unknown_protocols_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="address"):
        data.open_source("zz://bucket/data")


def test_too_many_rejected_names_counts_and_reasons() -> None:
    counts = {"rows": 100, "kept": 97, "rejected": 3, "reasons": {"no label": 2, "truncated picture": 1}}
    data.check_rejected(counts, 0.03)
    with pytest.raises(TooManyRejected, match=r"3 of 100 rows .*no label: 2, truncated picture: 1.*1\.00%"):
        data.check_rejected(counts, 0.01)
    with pytest.raises(TooManyRejected):
        data.check_rejected({"rows": 3, "kept": 0, "rejected": 3, "reasons": {"no label": 3}}, 1.0)


def test_impossible_numbers_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="shards >= 1, got 0"):
        data.assign([], shards=0)
    with pytest.raises(UsageError, match="needs the owners"):
        data.assign([b"0" * 16], shards=1, method="grouped", owners=[None])
    with pytest.raises(UsageError, match="unknown method"):
        data.assign([], shards=1, method="best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="seed"):
        data.sample_key("a", -1)
    with pytest.raises(UsageError, match="secret"):
        data.id_hash("a", b"")
    with pytest.raises(UsageError, match="different names"):
        data.resolve_classes(None, ["a"], ["a", "a"])
    with pytest.raises(DataError, match="no rows"):
        data.build_manifest(data.INDEX_SCHEMA.empty_table(), classes=["a"], seed=0, shards=1)


def test_a_damaged_page_of_pictures_is_refused(three_formats: dict[str, Path]) -> None:
    path = three_formats["parquet"] / "part-0.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])
    file = data.open_source(str(path)).files[0]
    with pytest.raises(DataError, match=r"part-0\.parquet"):
        data.read_images(file, [0])

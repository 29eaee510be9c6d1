"""The three formats hold the same: the same pictures, labels and counts, under ids that follow one rule."""

import json
import pickle  # noqa: TID251 - it is what Ray passes between its own stages; nothing is read from storage
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taft_ray import data


def _all(uri: Path | str) -> tuple[data.Source, pa.Table, list[bytes | None]]:
    source = data.open_source(str(uri))
    images = []
    for file in source.files:
        rows = data.index_file(file)["row"].to_pylist()
        images += data.read_images(file, rows)
    return source, data.index_files(source.files), images


def test_parity_of_the_three_formats(three_formats: dict[str, Path], pictures: list[bytes]) -> None:
    for uri in three_formats.values():
        source, index, images = _all(uri)
        assert images == pictures
        assert index.schema == data.INDEX_SCHEMA
        assert index["label"].to_pylist() == ["ant"] * 10 + ["bee"] * 10 + ["cat"] * 10
        assert index["reason"].null_count == 30
        assert min(index["bytes"].to_pylist()) > 0
        classes = data.resolve_classes(source.classes, index["label"].to_pylist(), None)
        assert classes == ("ant", "bee", "cat")


def test_ids_follow_the_contract(three_formats: dict[str, Path]) -> None:
    first = {name: _all(uri)[1]["id"].to_pylist() for name, uri in three_formats.items()}
    assert first["folder"][::10] == ["ant/00.jpg", "bee/10.jpg", "cat/20.jpg"]
    assert first["parquet"][::14] == ["part-0.parquet#0", "part-0.parquet#14", "part-1.parquet#13"]
    assert first["tar"][::14] == ["part-0.tar#0", "part-0.tar#14", "part-1.tar#13"]


def test_id_of_a_single_file_begins_with_its_name(three_formats: dict[str, Path]) -> None:
    for name in ("part-0.parquet", "part-0.tar"):
        source = data.open_source(str(next(p for p in three_formats.values() if (p / name).exists()) / name))
        assert data.index_file(source.files[0])["id"][3].as_py() == f"{name}#3"


def test_ids_do_not_depend_on_where_the_data_lies(
    three_formats: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, uri in three_formats.items():
        absolute, index, _ = _all(uri)
        relative, again, _ = _all(f"{name}/")
        assert index == again
        assert absolute.files == relative.files  # absolute, so that another process in another folder finds them


def test_wildcards_choose_files(three_formats: dict[str, Path]) -> None:
    source = data.open_source(f"{three_formats['parquet']}/part-*.parquet")
    assert [file.relative for file in source.files] == ["part-0.parquet", "part-1.parquet"]
    assert data.open_source(f"{three_formats['folder']}/*/*.jpg").classes == ("ant", "bee", "cat")


@pytest.mark.parametrize("order", ["backwards", "shuffled", "few", "repeated", "none"])
def test_images_come_in_the_order_asked(three_formats: dict[str, Path], pictures: list[bytes], order: str) -> None:
    rows = {
        "backwards": list(range(14, -1, -1)),
        "shuffled": np.random.default_rng(1).permutation(15).tolist(),
        "few": [13, 2],
        "repeated": [4, 4, 9, 4],
        "none": [],
    }[order]
    for name in ("parquet", "tar"):
        file = data.open_source(str(three_formats[name])).files[0]
        assert data.read_images(file, rows) == [pictures[row] for row in rows]


def test_only_the_row_groups_asked_for_are_read(
    three_formats: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    real = pq.ParquetFile.iter_batches

    def spy(self: Any, *args: Any, **options: Any) -> Any:
        read.append((options["row_groups"], options["columns"]))
        return real(self, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    file = data.open_source(str(three_formats["parquet"])).files[0]  # groups of 7, 7 and 1 rows
    data.index_file(file)
    data.read_images(file, [14, 0])
    assert read == [([0], ["image"]), ([2], ["image"])]


def test_hugging_face_parquet_is_the_same_data(tmp_path: Path, pictures: list[bytes], write_parquet: Any) -> None:
    features = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    image = [{"bytes": pictures[0], "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None, {"bytes": pictures[1]}]
    path = write_parquet(
        tmp_path / "hf.parquet", {"image": image, "label": [1, 0, 0, 0]}, {"huggingface": json.dumps(features)}
    )
    source, index, images = _all(path)
    assert source.classes == ("ant", "bee")
    assert images == [pictures[0], None, None, pictures[1]]
    assert index["reason"].to_pylist() == [None, "no image", "no image", None]
    assert index["label"].to_pylist() == ["bee", "ant", "ant", "ant"]


@pytest.mark.parametrize("metadata", ["ant\nbee", '["ant", "bee"]'])
def test_numbers_become_the_names_their_file_gives_them(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any, metadata: str
) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"image": pictures[:2], "label": [1, 0]}, {"classes": metadata})
    assert _all(path)[1]["label"].to_pylist() == ["bee", "ant"]


def test_own_ids_and_owners_are_kept(tmp_path: Path, pictures: list[bytes], write_parquet: Any, write_tar: Any) -> None:
    columns = {"image": pictures[:3], "label": [0, 1, 0], "id": [7, None, 9], "owner": ["eve", None, "bob"]}
    index = _all(write_parquet(tmp_path / "a.parquet", columns))[1]
    assert index["id"].to_pylist() == ["7", "a.parquet#1", "9"]
    assert index["owner"].to_pylist() == ["eve", None, "bob"]

    fields = {"label": 1, "id": "x", "owner": "eve"}
    members = [("0.json", json.dumps(fields).encode()), ("0.png", pictures[0]), ("1.jpg", pictures[1]), ("1.cls", b"0")]
    index = _all(write_tar(tmp_path / "a.tar", members))[1]
    assert index.select(["id", "label", "owner"]).to_pylist() == [
        {"id": "x", "label": "1", "owner": "eve"},
        {"id": "a.tar#1", "label": "0", "owner": None},
    ]


def test_tar_samples_are_found_whatever_the_order_of_members(
    tmp_path: Path, pictures: list[bytes], write_tar: Any
) -> None:
    members = [("d/0.jpg", pictures[0]), ("d/1.JPG", pictures[1]), ("d/0.cls", b"a"), ("d/1.cls", b"b")]
    members += [("d/1.JPG", pictures[2]), ("d/1.cls", b"c")]  # a second sample of one key
    _, index, images = _all(write_tar(tmp_path / "a.tar", members))
    assert images == pictures[:3]
    assert index["label"].to_pylist() == ["a", "b", "c"]


def test_names_with_wildcards_and_links_are_read(tmp_path: Path, pictures: list[bytes]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/photo [1].jpg").write_bytes(pictures[0])
    (tmp_path / "data").mkdir()
    (tmp_path / "data/ant").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "data/bee").mkdir()
    (tmp_path / "data/bee/*.jpg").symlink_to(tmp_path / "real/photo [1].jpg")
    (tmp_path / "data/bee/up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data/bee/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source, index, images = _all(tmp_path / "data")
    assert index["id"].to_pylist() == ["ant/photo [1].jpg", "bee/*.jpg", "bee/gone.jpg"]
    assert images == [pictures[0], pictures[0], None]
    assert source.classes == ("ant", "bee")


def test_what_stages_pass_on_is_picklable(three_formats: dict[str, Path]) -> None:
    for uri in three_formats.values():
        source = data.open_source(str(uri))
        assert pickle.loads(pickle.dumps(source)) == source
    error = pickle.loads(pickle.dumps(data.Undecodable("empty file")))
    assert error.reason == "empty file"


def test_real_pictures_are_indexed_fast(assets: Path) -> None:
    source = data.open_source(str(assets / "cifar10_jpeg_train.parquet"))
    start = time.perf_counter()
    index = data.index_files(source.files)
    assert time.perf_counter() - start < 2
    assert index.num_rows == 50_000
    assert source.classes is not None
    assert source.classes[0] == "airplane"
    labels = data.label_column(index, source.classes)
    assert np.bincount(labels).tolist() == [5000] * 10
    (picture,) = data.read_images(source.files[0], [49_999])
    assert picture is not None
    assert data.decode_image(picture, 224).shape == (3, 224, 224)

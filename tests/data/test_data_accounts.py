"""No row is lost or read twice without being counted: rows are what a plain listing of the source has, whatever the names."""

import io
import json
import subprocess
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taft_ray import data
from taft_ray.errors import DataError

# characters that people, cameras and other programs put into names; no separator of paths, no control character
_ODD = st.text(st.sampled_from("aZ9 .:_-#?*[]@',\"{}%é\u0301\u2028\u0085🐈=~+"), min_size=1, max_size=9)
NAMES = st.lists(_ODD.filter(lambda name: name[0] not in "._"), min_size=2, max_size=8, unique=True)


def _tar(path: Path, members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def _read(uri: Path | str) -> tuple[pa.Table, dict[str, bytes | None]]:
    """The index, and the bytes of every kept row by id."""
    source = data.open_source(str(uri))
    index = data.index_files(source.files)
    assert len({(row["relative"], row["row"]) for row in index.to_pylist()}) == index.num_rows
    found: dict[str, bytes | None] = {}
    for file in source.files:
        rows = [row for row in index.to_pylist() if row["relative"] == file.relative and row["reason"] is None]
        images = data.read_images(file, [row["row"] for row in rows])
        found |= {row["id"]: image for row, image in zip(rows, images, strict=True)}
    return index, found


@settings(max_examples=40, deadline=None)
@given(names=NAMES, classes=NAMES)
def test_a_class_folder(tmp_path_factory: pytest.TempPathFactory, names: list[str], classes: list[str]) -> None:
    root = tmp_path_factory.mktemp("folder")
    written = {}
    for at, (name, label) in enumerate((n, c) for n in names for c in classes[:3]):
        (root / label).mkdir(exist_ok=True)
        relative = f"{label}/{name}.jpg"
        written[relative] = b"picture %d" % at
        (root / relative).write_bytes(written[relative])
    index, found = _read(root)
    assert found == written
    assert index.num_rows == len(written) == sum(1 for path in root.rglob("*") if path.is_file())


@settings(max_examples=40, deadline=None)
@given(names=NAMES, rows=st.integers(1, 3))
def test_parquet_files(tmp_path_factory: pytest.TempPathFactory, names: list[str], rows: int) -> None:
    root = tmp_path_factory.mktemp("parquet")
    written = {}
    for name in names:
        images = [f"{name} {row}".encode() for row in range(rows)]
        written |= {f"{name}.parquet#{row}": image for row, image in enumerate(images)}
        pq.write_table(pa.table({"image": images, "label": [0] * rows}), root / f"{name}.parquet")
    index, found = _read(root)
    assert found == written
    assert index.num_rows == len(names) * rows


@settings(max_examples=80, deadline=None)
@given(keys=NAMES, name=_ODD.filter(lambda name: name[0] not in "._"), more=NAMES, shuffle=st.randoms())
def test_tars_and_glued_tars(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], name: str, more: list[str], shuffle: Any
) -> None:
    root = tmp_path_factory.mktemp("tar")
    halves = []
    for part, part_keys in enumerate((keys, more)):
        members = [(f"{key}.jpg", f"{part} {key}".encode()) for key in part_keys]
        members += [(f"{key}.cls", f"{part} {key}".encode()) for key in part_keys]
        shuffle.shuffle(members)
        halves.append(_tar(root / f"{name}.tar", members))
    (root / f"{name}.tar").write_bytes(b"".join(halves))
    index, found = _read(root)
    assert index["reason"].null_count == index.num_rows == len(keys) + len(more)
    # each picture has its own label, and none is there twice
    labels = dict(zip(index["id"].to_pylist(), index["label"].to_pylist(), strict=True))
    assert {id: (image or b"").decode().strip() for id, image in found.items()} == labels
    assert Counter(found.values()) == Counter(
        f"{part} {key}".encode() for part, part_keys in enumerate((keys, more)) for key in part_keys
    )


def _reasons(index: pa.Table) -> dict[str | None, int]:
    return dict(Counter(index["reason"].to_pylist()))


def test_dotted_keys_without_labels_are_counted(tmp_path: Path, pictures: list[bytes]) -> None:
    members = [(f"n01.{i}.jpg", pictures[i]) for i in range(5)] + [("n01.2.cls", b"a")]
    _tar(tmp_path / "a.tar", members)
    index, found = _read(tmp_path)
    assert _reasons(index) == {None: 1, "no label": 4}
    assert list(found.values()) == [pictures[2]]


def test_dotted_keys_of_a_format_that_is_not_read_are_counted(tmp_path: Path) -> None:
    _tar(tmp_path / "a.tar", [m for i in range(5) for m in ((f"n01.{i}.heic", b"x"), (f"n01.{i}.cls", b"a"))])
    assert _reasons(_read(tmp_path)[0]) == {"HEIC is not read here": 5}


def test_a_key_may_have_a_sample_and_dotted_ones_beside_it(tmp_path: Path, pictures: list[bytes]) -> None:
    members = [("a.jpg", pictures[0]), ("a.cls", b"x"), ("a.b.jpg", pictures[1]), ("a.b.cls", b"y"), ("a.c.jpg", b"c")]
    _tar(tmp_path / "a.tar", members)
    index, found = _read(tmp_path)
    assert list(found.values()) == pictures[:2]
    assert index["label"].to_pylist() == ["x", "y", None]


def test_pictures_beside_a_samples_own_are_counted_and_limit_nothing(tmp_path: Path, pictures: list[bytes]) -> None:
    members = []
    for i in range(3):
        members += [
            (f"{i}.jpg", pictures[i]),
            (f"{i}.seg.png", b"mask"),
            (f"{i}.png", b"depth"),
            (f"{i}.cls", b"%d" % (i % 2)),
        ]
    _tar(tmp_path / "a.tar", members)
    index, found = _read(tmp_path)
    assert found == {f"a.tar#{i}": pictures[i] for i in range(3)}  # rows are numbered as if nothing lay beside them
    assert _reasons(index) == {None: 3, "another picture of a sample": 6}
    data.check_rejected(data.counts(data.build_manifest(index, classes=["0", "1"], seed=0, shards=1)), 0.0)


def test_what_follows_a_tar_is_read_or_refused(tmp_path: Path, pictures: list[bytes]) -> None:
    whole = _tar(tmp_path / "a.tar", [("0.jpg", pictures[0]), ("0.cls", b"a")])
    other = _tar(tmp_path / "b.tar", [("0.jpg", pictures[1]), ("0.cls", b"b")])
    (tmp_path / "b.tar").unlink()
    (tmp_path / "a.tar").write_bytes(whole + bytes(3 << 20) + other)
    assert list(_read(tmp_path)[1].values()) == pictures[:2]
    (tmp_path / "a.tar").write_bytes(whole + b"not a tar" * 100)
    with pytest.raises(DataError, match=r"a\.tar is cut off or damaged at byte \d+"):
        _read(tmp_path)
    (tmp_path / "a.tar").write_bytes(whole + other[:700])
    with pytest.raises(DataError, match=r"a\.tar"):
        _read(tmp_path)


def test_hostile_json_of_a_sample_is_counted(tmp_path: Path, pictures: list[bytes]) -> None:
    odd = [b"[" * 200_000, b"\xff", b"1", b'{"label": "\\ud800"}', b"9" * 5000]
    members = [m for i, text in enumerate(odd) for m in ((f"{i}.jpg", pictures[i]), (f"{i}.json", text))]
    _tar(tmp_path / "a.tar", members)
    assert _reasons(_read(tmp_path)[0]) == {"unreadable .json": 5}


@pytest.mark.parametrize("folder", ["_temporary/0/_temporary/attempt_0", "_tmp", ".spark-staging"])
def test_folders_of_unfinished_writers_are_not_read_twice(tmp_path: Path, pictures: list[bytes], folder: str) -> None:
    rows = {"image": pictures[:2], "label": ["a", "b"]}
    (tmp_path / "data" / folder).mkdir(parents=True)
    for name in ("part-0.parquet", f"{folder}/part-0.parquet", "_metadata"):
        pq.write_table(pa.table(rows), tmp_path / "data" / name)
    source = data.open_source(str(tmp_path / "data"))
    assert [file.relative for file in source.files] == ["part-0.parquet"]
    assert len(source.notes) == 1
    assert source.notes[0].startswith("1 ")
    assert folder in source.notes[0]


def test_pictures_in_such_a_folder_are_rejected_rows_and_no_class(tmp_path: Path, pictures: list[bytes]) -> None:
    for name in ("cat/1.jpg", "dog/1.jpg", "_temporary/2.jpg", "cat/_old/3.jpg", "_annotations/1.xml", "cat/.4.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pictures[0])
    source = data.open_source(str(tmp_path))
    assert source.classes == ("cat", "dog")
    assert _reasons(data.index_files(source.files)) == {None: 2, "in a folder that begins with _ or .": 2}
    assert any("1 hidden files" in note for note in source.notes)


def test_a_file_without_a_suffix_beside_parquet_may_be_data(tmp_path: Path, pictures: list[bytes]) -> None:
    table = pa.table({"image": pictures[:2], "label": ["a", "b"]})
    pq.write_table(table, tmp_path / "part-0.parquet")
    (tmp_path / "README").write_text("a data set")
    assert data.open_source(str(tmp_path)).files[0].relative == "part-0.parquet"
    pq.write_table(table, tmp_path / "part-1")
    with pytest.raises(DataError, match="part-1"):
        data.open_source(str(tmp_path))


@pytest.mark.parametrize("root", ["a::b", "zip::file", "s3:", "x?split=", "file::memory"])
def test_double_colons_are_part_of_a_name_at_any_level(tmp_path: Path, pictures: list[bytes], root: str) -> None:
    written = {}
    for at, name in enumerate(("cat/1.jpg", "cat/1.jpg::b.jpg", "c::d/2.jpg", "c::d/e::f/3.jpg", "c::d/file::4.jpg")):
        path = tmp_path / root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures[at])
        written[name] = pictures[at]
    assert _read(tmp_path / root)[1] == written
    chosen = data.open_source(f"{tmp_path}/{root}/*/*.jpg").files
    assert {file.uri for file in chosen} == {f"{tmp_path}/{root}/{name}" for name in written if name.count("/") == 1}


def test_labels_of_other_encodings_are_read(tmp_path: Path, pictures: list[bytes]) -> None:
    texts = ["cat".encode(code) for code in ("utf-8", "utf-8-sig", "utf-16", "utf-32")]
    members = [m for i, text in enumerate(texts) for m in ((f"{i}.jpg", pictures[i]), (f"{i}.cls", text))]
    members += [("9.jpg", pictures[9]), ("9.json", json.dumps({"label": "cat"}).encode("utf-8-sig"))]
    _tar(tmp_path / "a.tar", members)
    assert _read(tmp_path)[0]["label"].to_pylist() == ["cat"] * 5


def test_hidden_pictures_and_masks_of_dotted_keys_are_counted_and_limit_nothing(
    tmp_path: Path, pictures: list[bytes]
) -> None:
    members = [
        (".5.jpg", b"hidden"),
        ("n.1.jpg", pictures[0]),
        ("n.1.seg.png", b"mask"),
        ("n.1.cls", b"0"),
        ("n.2.jpg", pictures[1]),
        ("n.2.cls", b"1"),
    ]
    _tar(tmp_path / "a.tar", members)
    index, found = _read(tmp_path)
    assert list(found.values()) == pictures[:2]
    assert _reasons(index) == {None: 2, "another picture of a sample": 1, "hidden picture": 1}
    data.check_rejected(data.counts(data.build_manifest(index, classes=["0", "1"], seed=0, shards=1)), 0.0)


def test_pictures_of_unfinished_writers_in_a_tar_are_rejected_at_their_numbers(
    tmp_path: Path, pictures: list[bytes]
) -> None:
    names = ["_temporary/0", "a/1", ".ipynb_checkpoints/2", "./b/3"]
    _tar(
        tmp_path / "a.tar",
        [m for n, p in zip(names, pictures, strict=False) for m in ((f"{n}.jpg", p), (f"{n}.cls", b"x"))],
    )
    index, found = _read(tmp_path)
    assert found == {"a.tar#1": pictures[1], "a.tar#3": pictures[3]}
    assert _reasons(index) == {None: 2, "in a folder that begins with _ or .": 2}


def test_a_member_with_holes_is_not_read_for_another(tmp_path: Path, pictures: list[bytes]) -> None:
    with (tmp_path / "0.bmp").open("wb") as file:
        file.write(b"BM")
        file.truncate(1 << 20)
    (tmp_path / "0.cls").write_text("x")
    command = ["tar", "-S", "--format=gnu", "-cf", str(tmp_path / "a.tar"), "-C", str(tmp_path), "0.bmp", "0.cls"]
    subprocess.run(command, check=True)
    (tmp_path / "0.bmp").unlink()
    (tmp_path / "0.cls").unlink()
    if (tmp_path / "a.tar").stat().st_size > 1 << 19:
        pytest.skip("this file system keeps no holes")
    assert _reasons(_read(tmp_path)[0]) == {"not an image": 1}


@pytest.mark.parametrize(
    "log", ["_delta_log/0.json", ".hoodie/hoodie.properties", "_spark_metadata/0", "metadata/v1.metadata.json"]
)
def test_a_table_with_a_log_is_not_read_file_by_file(tmp_path: Path, pictures: list[bytes], log: str) -> None:
    pq.write_table(pa.table({"image": pictures[:2], "label": ["a", "b"]}), tmp_path / "part-0.parquet")
    (tmp_path / log).parent.mkdir()
    (tmp_path / log).write_text("{}")
    with pytest.raises(DataError, match="a table with a log"):
        data.open_source(str(tmp_path))


def test_a_folder_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path, pictures: list[bytes]) -> None:
    for folder, image in (("w[1]", pictures[0]), ("w1", pictures[1])):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"image": [image], "label": ["a"]}), tmp_path / folder / "train-0.parquet")
    assert _read(f"{tmp_path}/w[1]/train-*.parquet")[1] == {"train-0.parquet#0": pictures[0]}
    assert _read(f"{tmp_path}/w?/train-*.parquet")[1] == {"w1/train-0.parquet#0": pictures[1]}


def test_labels_with_zero_bytes_are_unreadable(tmp_path: Path, pictures: list[bytes]) -> None:
    _tar(tmp_path / "a.tar", [("0.jpg", pictures[0]), ("0.cls", "cat".encode("utf-16-le"))])
    assert _reasons(_read(tmp_path)[0]) == {"unreadable .cls": 1}

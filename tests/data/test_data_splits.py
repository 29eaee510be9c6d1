"""No class by accident: splits, wrapper folders and missing labels are refused with both readings, and ?split= picks one."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from taft_ray import data
from taft_ray.errors import DataError, UsageError


def _files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def _classes(uri: Path | str) -> tuple[str, ...]:
    source = data.open_source(str(uri))
    return data.resolve_classes(source.classes, data.index_files(source.files)["label"].to_pylist())


def _tables(root: Path, pictures: list[bytes], write_parquet: Any, *names: str) -> Path:
    for name in names:
        write_parquet(root / name, {"image": pictures[:2], "label": [0, 1]})
    return root


SPLITS = [
    ("train", "test"),
    ("Train", "VAL"),
    ("training", "valid"),
    ("train", "validation"),
    ("train", "dev"),
    ("train", "eval"),
    ("train2017", "val2017"),
    ("train2017", "train2018"),
    ("train_images", "test_images"),
    ("images-train", "images-test"),
    ("trainval", "holdout"),
]


@pytest.mark.parametrize("names", SPLITS, ids="+".join)
@pytest.mark.parametrize("inside", ["{}/1.jpg", "{}/cat/1.jpg", "set/{}/cat/1.jpg", "cat/{}/1.jpg"])
def test_split_folders_are_no_classes(tmp_path: Path, names: tuple[str, ...], inside: str) -> None:
    pictures = [inside.format(name) for name in names]
    _files(tmp_path, *pictures, "README.md", "annotations/1.xml", f"{names[0]}/labels.csv")
    with pytest.raises(DataError, match=r"splits .*--split .*rename the folders if they are classes") as error:
        data.open_source(str(tmp_path))
    assert all(name in str(error.value) for name in names)


def test_a_folder_of_another_name_beside_a_split_is_told_by_what_is_in_it(tmp_path: Path) -> None:
    _files(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "fresh/cat/2.jpg")
    with pytest.raises(DataError, match="'train', a split or a class of this name, and 'fresh' with the same folders"):
        data.open_source(str(tmp_path))


@pytest.mark.parametrize(
    "names",
    [
        ("seg_train", "seg_test"),
        ("pets-train", "pets-test"),
        ("split=train", "split=test"),
        ("1-train", "2-test"),
        ("train_v2", "test_v2"),
        ("trainA", "testA"),
        ("public_train", "private_test"),
        ("imagesTr", "imagesTs"),
        ("trn", "tst"),
        ("train (1)", "val (1)"),
    ],
    ids="+".join,
)
def test_splits_are_told_by_a_word_in_a_folders_name(tmp_path: Path, names: tuple[str, str]) -> None:
    _files(tmp_path, *(f"{name}/{label}/1.jpg" for name in names for label in ("cat", "dog")), "extra/1.jpg")
    with pytest.raises(DataError, match="holds the splits"):
        data.open_source(str(tmp_path))
    source = data.open_source(f"{tmp_path}?split={names[0]}")
    assert (len(source.files), source.classes) == (2, ("cat", "dog"))


def test_classes_with_such_words_are_classes(tmp_path: Path) -> None:
    classes = ("bullet train", "cat", "pregnancy test")
    assert _classes(_files(tmp_path, *(f"{name}/1.jpg" for name in classes))) == classes


def test_folders_of_kinds_of_files_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kinds of files and no classes"):
        data.open_source(str(_files(tmp_path, "images/1.jpg", "masks/1.png")))


def test_classes_before_and_behind_the_split_have_two_readings(tmp_path: Path) -> None:
    _files(tmp_path, *(f"{a}/train/{b}/1.jpg" for a in ("A", "B") for b in ("cat", "dog")))
    with pytest.raises(DataError, match="which are the classes"):
        data.open_source(f"{tmp_path}?split=train")


def test_one_class_that_is_named_as_a_split_is_a_class(tmp_path: Path) -> None:
    assert _classes(_files(tmp_path, "bus/1.jpg", "car/1.jpg", "train/ice/1.jpg")) == ("bus", "car", "train")


PATTERNS = [
    "data/{}-00000-of-00001",
    "{}",
    "{}/part-0",
    "set_{}",
    "cifar10.{}",
    "x-{}-0",
    "{}set",
    "pets{}",
    "split={}/p",
]


@pytest.mark.parametrize(
    ("names", "pattern"), [(("Train", "Test") if "pets" in p else SPLITS[i % 6], p) for i, p in enumerate(PATTERNS)]
)
def test_split_files_are_not_read_together(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any, names: tuple[str, ...], pattern: str
) -> None:
    chosen = [pattern.format(name) for name in names]
    _tables(tmp_path, pictures, write_parquet, *(f"{name}.parquet" for name in [*chosen, "more"]))
    with pytest.raises(DataError, match=r"files of the splits .*read together.*--split"):
        data.open_source(str(tmp_path))
    source = data.open_source(f"{tmp_path}?split={names[0]}")
    assert [file.relative for file in source.files] == [f"{chosen[0]}.parquet"]
    assert len(data.open_source(f"{tmp_path}?split=all").files) == 3
    assert len(data.open_source(f"{tmp_path}/{chosen[1]}.parquet").files) == 1  # one file by its own name


def test_a_split_is_chosen_by_its_spelling_or_by_its_common_name(tmp_path: Path) -> None:
    _files(tmp_path, "train2017/cat/1.jpg", "train2018/dog/1.jpg", "val2017/cat/1.jpg")
    for chosen, count in (("train2017", 1), ("train", 2), ("TRAIN", 2), ("val", 1), ("all", 3)):
        assert len(data.open_source(f"{tmp_path}?split={chosen}").files) == count


def test_a_lone_split_file_beside_others_has_two_readings(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any
) -> None:
    _tables(tmp_path, pictures, write_parquet, "images.parquet", "images_test.parquet")
    with pytest.raises(DataError, match=r"the split test and others, such as images\.parquet"):
        data.open_source(str(tmp_path))
    assert len(data.open_source(f"{tmp_path}?split=test").files) == 1


def test_splits_inside_one_tar_are_not_read_together(tmp_path: Path, pictures: list[bytes], write_tar: Any) -> None:
    folders = [
        m
        for i, name in enumerate(("train/0", "test/0"))
        for m in ((f"{name}.jpg", pictures[i]), (f"{name}.cls", b"%d" % i))
    ]
    fields = [
        m
        for i, name in enumerate(("train", "test"))
        for m in ((f"{i}.jpg", pictures[i]), (f"{i}.json", json.dumps({"label": i, "split": name}).encode()))
    ]
    for members in (folders, fields):
        path = write_tar(tmp_path / "a.tar", members)
        with pytest.raises(DataError, match="belong to the splits test, train"):
            _manifest(path)
        source = data.open_source(f"{path}?split=test")
        index = data.index_files(source.files)
        assert index["id"].to_pylist() == ["a.tar#1"]
        assert data.read_images(source.files[0], [1]) == [pictures[1]]


def test_a_file_that_cannot_tell_the_chosen_split_is_refused(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any
) -> None:
    write_parquet(tmp_path / "b.parquet", {"image": pictures[:2], "label": [0, 1], "Split": ["train", "test"]})
    _tables(tmp_path, pictures, write_parquet, "a.parquet")
    with pytest.raises(DataError, match=r"no column of .*a\.parquet says which rows belong to the split 'train'"):
        data.index_files(data.open_source(f"{tmp_path}?split=train").files)
    with pytest.raises(DataError, match="no rows"):
        _manifest(f"{tmp_path / 'b.parquet'}?split=tset")


def test_split_tars_are_not_read_together(tmp_path: Path, pictures: list[bytes], write_tar: Any) -> None:
    for name in ("shard-train-0", "shard-test-0"):
        write_tar(tmp_path / f"{name}.tar", [("0.jpg", pictures[0]), ("0.cls", b"1")])
    with pytest.raises(DataError, match="splits test, train"):
        data.open_source(str(tmp_path))
    assert [file.relative for file in data.open_source(f"{tmp_path}?split=test").files] == ["shard-test-0.tar"]


@pytest.mark.parametrize("layout", ["{split}/{label}", "{label}/{split}", "pets/{split}/{label}"])
def test_a_chosen_split_has_its_own_pictures_and_classes(tmp_path: Path, layout: str) -> None:
    names = {
        split: [f"{layout.format(split=split, label=label)}/1.jpg" for label in ("cat", "dog")]
        for split in ("train", "test")
    }
    _files(tmp_path, *names["train"], *names["test"])
    source = data.open_source(f"{tmp_path}?split=train")
    index = data.index_files(source.files)
    assert sorted(index["id"].to_pylist()) == sorted(
        names["train"]
    )  # with the split's folder: unlike the test pictures' ids
    assert source.classes == ("cat", "dog")
    assert sorted(index["label"].to_pylist()) == ["cat", "dog"]
    everything = data.open_source(f"{tmp_path}?split=all")
    assert (len(everything.files), everything.classes) == (4, ("cat", "dog"))


def test_a_split_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any
) -> None:
    _files(tmp_path / "folder", "train/cat/1.jpg", "test/cat/1.jpg")
    with pytest.raises(UsageError, match="no pictures of a split 'dev'; it has test, train"):
        data.open_source(f"{tmp_path}/folder?split=dev")
    _tables(tmp_path / "files", pictures, write_parquet, "train.parquet", "test.parquet")
    with pytest.raises(UsageError, match="no files of a split 'dev'; it has test, train"):
        data.open_source(f"{tmp_path}/files?split=dev")
    for odd in ("", "a/b"):
        with pytest.raises(UsageError, match="expected a name such as train"):
            data.with_split("pets", odd)
    with pytest.raises(UsageError, match="names a split already"):
        data.with_split("pets?split=train", "test")


def _manifest(uri: Path | str) -> pa.Table:
    return data.build_manifest(data.index_files(data.open_source(str(uri)).files), classes=["0", "1"], seed=0, shards=1)


@pytest.mark.parametrize("column", ["split", "subset", "set"])
def test_a_column_of_splits_is_not_read_as_one(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any, column: str
) -> None:
    columns = {"image": pictures[:4], "label": [0, 1, 0, 1], column: ["train", "train", "test", "train"]}
    path = write_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError, match="belong to the splits test, train"):
        _manifest(path)
    source = data.open_source(f"{path}?split=train")
    index = data.index_files(source.files)
    assert index["id"].to_pylist() == ["a.parquet#0", "a.parquet#1", "a.parquet#3"]
    assert data.read_images(source.files[0], index["row"].to_pylist()) == [pictures[0], pictures[1], pictures[3]]
    assert _manifest(f"{path}?split=all").num_rows == 4
    # one split a file is several all the same
    for number, name in enumerate(("train", "test")):
        write_parquet(tmp_path / f"two/{number}.parquet", {**columns, column: [name] * 4})
    with pytest.raises(DataError, match="belong to the splits test, train"):
        _manifest(tmp_path / "two")
    assert _manifest(f"{tmp_path / 'two'}?split=test").num_rows == 4


@pytest.mark.parametrize("name", ["test", "val", "eval", "unlabeled"])
def test_one_folder_that_is_named_as_a_split_has_two_readings(tmp_path: Path, name: str) -> None:
    _files(tmp_path, "cat/1.jpg", "dog/1.jpg", f"{name}/1.jpg")
    with pytest.raises(DataError, match=f"'{name}', a split or a class of this name"):
        data.open_source(str(tmp_path))
    assert data.open_source(f"{tmp_path}?split=all").classes == ("cat", "dog")


def test_a_wrapper_folder_is_not_the_only_class(tmp_path: Path) -> None:
    source = data.open_source(str(_files(tmp_path, "pets/cat/1.jpg", "pets/dog/1.jpg", "labels.csv")))
    assert source.notes == (
        f"all pictures are in the one class folder 'pets', in folders of its own: did you mean {tmp_path}/pets?",
    )
    for layout in (["pets/cat/1.jpg", "pets/dog/1.jpg"], ["images/1.jpg", "images/2.jpg"], ["train/cat/1.jpg"]):
        root = _files(tmp_path / layout[0].replace("/", "-"), *layout)
        with pytest.raises(DataError, match="only one class"):
            _classes(root)


def test_folders_without_pictures_are_no_classes(tmp_path: Path) -> None:
    assert _classes(_files(tmp_path, "cat/1.jpg", "dog/2.jpg", "docs/a.txt", "meta/deep/b.json")) == ("cat", "dog")


@pytest.mark.parametrize("negative", [-1, -100])
def test_numbers_below_0_are_no_labels(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any, write_tar: Any, negative: int
) -> None:
    labels = [0, 1, 2, 10, negative, None]
    for column in (pa.array(labels, pa.int64()), pa.array(labels, pa.int64()).dictionary_encode()):
        path = write_parquet(tmp_path / "a.parquet", {"image": pictures[:6], "label": column})
        index = data.index_files(data.open_source(str(path)).files)
        assert index["reason"].to_pylist() == [None] * 4 + ["label below 0", "no label"]
        assert data.resolve_classes(None, index["label"].to_pylist()) == tuple(map(str, range(11)))
    members = [
        ("0.jpg", pictures[0]),
        ("0.cls", b"%d" % negative),
        ("1.jpg", pictures[1]),
        ("1.json", b'{"label": -1}'),
    ]
    index = data.index_files(data.open_source(str(write_tar(tmp_path / "a.tar", members))).files)
    assert index["reason"].to_pylist() == ["label below 0"] * 2


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (["0", "1", "-1"], "'-1' means that there is no label, or is a class"),
        (["cat", "dog", "nan"], "'nan' is a missing value"),
        (["cat", "0", "1"], "some labels are numbers, such as '0', and some are names, such as 'cat'"),
        (["1", "01", "2"], "'01' and '1' are one number"),
        (["cat", "cat"], "only one class, 'cat'"),
        (["cat", "cat ", "dog"], "'cat' and 'cat ' differ in blanks"),
        (["cat", "\ufeffcat", "dog"], "differ in blanks or a byte order mark"),
    ],
)
def test_labels_with_two_readings_are_refused_unless_classes_are_named(labels: list[str], word: str) -> None:
    with pytest.raises(DataError, match=word) as error:
        data.resolve_classes(None, labels)
    assert "--classes" in str(error.value)
    assert data.resolve_classes(None, labels, sorted(set(labels))) == tuple(sorted(set(labels)))


def test_parts_with_numbers_beside_parts_with_names_are_refused(
    tmp_path: Path, pictures: list[bytes], write_parquet: Any
) -> None:
    write_parquet(tmp_path / "a.parquet", {"image": pictures[:2], "label": [0, 1]})
    write_parquet(tmp_path / "b.parquet", {"image": pictures[:2], "label": ["cat", "dog"]})
    with pytest.raises(DataError, match="some labels are numbers"):
        _classes(tmp_path)
    write_parquet(tmp_path / "b.parquet", {"image": pictures[:2], "label": [0, 1]}, {"classes": "dog\ncat"})
    with pytest.raises(DataError, match="some labels are numbers"):
        _classes(tmp_path)


def _numbered(labels: list[str], classes: list[str]) -> list[int]:
    rows = [
        {"id": str(i), "relative": "f", "row": i, "label": label, "owner": None, "bytes": 1, "reason": None}
        for i, label in enumerate(labels)
    ]
    return data.label_column(pa.Table.from_pylist(rows, data.INDEX_SCHEMA), classes).tolist()


def test_a_number_means_one_class_whichever_labels_are_there() -> None:
    folders = sorted(str(n) for n in range(1, 13))  # 1, 10, 11, 12, 2, …
    for labels in (["1", "12"], ["1", "2", "10"], ["5"]):
        assert [folders[number] for number in _numbered(labels, folders)] == labels
    padded = [f"{n:02}" for n in range(1, 13)]
    assert [padded[number] for number in _numbered(["1", "2", "12"], padded)] == ["01", "02", "12"]
    for outside in ("0", "13"):
        for classes in (folders, padded, [*folders, "cat"]):
            with pytest.raises(DataError, match="outside"):
                _numbered(["1", outside], classes)
            with pytest.raises(DataError, match="none of the"):
                data.label_index(outside, classes)
    assert data.label_index("2", padded) == 1


@pytest.mark.parametrize(
    "classes",
    [
        ["001.Albatross", "002.Auk", "003.Bat"],
        ["1_cat", "10_fish", "2_dog"],
        ["1st", "2nd", "3rd"],
        ["1.0", "2.0", "3.0"],
        ["class_1", "class_2", "other"],
        ["\uff11", "\uff12", "\uff13"],
    ],
    ids=lambda classes: ascii(classes[0]),
)
def test_a_number_at_either_end_of_a_name_has_two_readings(classes: list[str]) -> None:
    with pytest.raises(DataError, match="positions among the classes, or the numbers in the names"):
        _numbered(["1", "2"], classes)
    assert _numbered(["0", "1"], ["boeing 737", "airbus a320"]) == [0, 1]


def test_numbers_that_no_class_has_are_refused(tmp_path: Path, pictures: list[bytes], write_parquet: Any) -> None:
    path = write_parquet(
        tmp_path / "a.parquet", {"image": pictures[:2], "label": pa.array([2**64 - 1, 0], pa.uint64())}
    )
    for labels in (data.index_files(data.open_source(str(path)).files)["label"].to_pylist(), ["9" * 5000, "0"]):
        with pytest.raises(DataError, match=r"some labels are numbers|too large"):
            data.resolve_classes(None, labels)
        with pytest.raises(DataError, match="outside"):
            _numbered(labels, ["cat", "dog"])


def test_a_number_beside_numbers_in_names_has_two_readings() -> None:
    classes = sorted(f"class_{n}" for n in range(1, 13))
    for ask in (lambda: _numbered(["1", "2"], classes), lambda: data.label_index("1", classes)):
        with pytest.raises(DataError, match="positions among the classes, or the numbers in the names"):
            ask()
    assert _numbered(["0", "9"], [f"c{n}" for n in range(10)]) == [0, 9]  # both readings agree
    assert _numbered(["class_2"], classes) == [classes.index("class_2")]


def test_classes_alike_but_for_case_are_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": "a", "relative": "f", "row": 0, "label": "Cat", "owner": None, "bytes": 1, "reason": None}]
    index = pa.Table.from_pylist(rows, data.INDEX_SCHEMA)
    data.build_manifest(index, classes=["Cat", "cat", "dog"], seed=0, shards=1)
    assert caplog.messages == [
        "1 class differs from others in case, blanks or Unicode form alone, such as ['Cat', 'cat']; are they the same?"
    ]

"""The paper's seven data sets, made tiny in the layouts they are unpacked in; and what is said of ones that are not whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from taft_ray.data import build_manifest, counts, datasets, index_files, open_source, read_images, resolve_classes
from taft_ray.data.datasets import LAYOUTS
from taft_ray.errors import DataError, UsageError

# split -> {relative path: class}; a picture's bytes are its path, so that a test can tell which was read
Expected = dict[str, dict[str, str]]


def put(root: Path, relative: str) -> None:
    file = root / relative
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(relative.encode())


def text(root: Path, relative: str, *lines: str) -> None:
    file = root / relative
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def cells(*values: str) -> np.ndarray:
    """A column of strings, as MATLAB's cells come."""
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def caltech(root: Path) -> Expected:
    expected: Expected = {"train": {}, "test": {}, "all": {}}
    for label, count in (("001.ak47", 62), ("002.american-flag", 61)):
        for number in range(1, count + 1):
            relative = f"{label}/{label[:3]}_{number:04d}.jpg"
            put(root, relative)
            expected["train" if number <= 60 else "test"][relative] = label
            expected["all"][relative] = label
    put(root, "257.clutter/257_0001.jpg")
    put(root, "001.ak47/.DS_Store")
    return expected


def mit(root: Path) -> Expected:
    expected = {
        split: {f"Images/{label}/{split}.jpg": label for label in ("airport inside", "bar")}
        for split in ("train", "test")
    }
    for split, name in (("train", "TrainImages.txt"), ("test", "TestImages.txt")):
        text(root, name, *(relative.removeprefix("Images/") for relative in expected[split]))
    return expected


def pets(root: Path) -> Expected:
    expected = {
        split: {f"images/{breed}_{number}.jpg": breed for breed in ("Abyssinian", "american_bulldog")}
        for number, split in ((7, "trainval"), (201, "test"))
    }
    for split, pictures in expected.items():
        numbered = [f"{Path(p).stem} {1 + (breed != 'Abyssinian')} 1 1" for p, breed in pictures.items()]
        text(root, f"annotations/{split}.txt", *numbered)
    return expected


def dogs(root: Path) -> Expected:
    expected = {
        split: {f"Images/{breed}/n02_{split}.jpg": breed for breed in ("n02085620-Chihuahua", "n02110958-pug")}
        for split in ("train", "test")
    }
    for split, pictures in expected.items():
        lines = [relative.removeprefix("Images/") for relative in pictures]
        savemat(root / f"{split}_list.mat", {"file_list": cells(*lines), "labels": np.array([[1], [2]], np.uint8)})
    return expected


def cub(root: Path) -> Expected:
    labels = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    listed = [(f"{label}/{split}.jpg", label, split) for label in labels for split in ("train", "test")]
    text(root, "images.txt", *(f"{i} {relative}" for i, (relative, _, _) in enumerate(listed, 1)))
    text(root, "image_class_labels.txt", *(f"{i} {labels.index(one) + 1}" for i, (_, one, _) in enumerate(listed, 1)))
    text(root, "train_test_split.txt", *(f"{i} {int(split == 'train')}" for i, (_, _, split) in enumerate(listed, 1)))
    text(root, "classes.txt", *(f"{i} {label}" for i, label in enumerate(labels, 1)))
    return {
        split: {f"images/{relative}": label for relative, label, of in listed if of == split}
        for split in ("train", "test")
    }


def aircraft(root: Path) -> Expected:
    variants = ("707-320", "DHC-8-100", "Eurofighter Typhoon")
    expected: Expected = {
        split: {f"images/{at}{i}.jpg": variant for i, variant in enumerate(variants)}
        for at, split in enumerate(("train", "val", "test"), start=100)
    }
    for split, pictures in expected.items():
        text(root, f"images_variant_{split}.txt", *(f"{Path(p).stem} {variant}" for p, variant in pictures.items()))
    expected["trainval"] = {**expected["train"], **expected["val"]}
    both = [f"{Path(p).stem} {variant}" for p, variant in expected["trainval"].items()]
    text(root, "images_variant_trainval.txt", *both)
    text(root, "variants.txt", *variants)
    return expected


def cars(root: Path) -> Expected:
    names = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit/cars_meta.mat", {"class_names": cells(*names).T})
    for file in ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"):
        kind = np.dtype([("bbox_x1", object), ("class", object), ("fname", object)])
        rows = np.array([[(1, 1, "00001.jpg"), (1, 2, "00002.jpg")]], kind)
        savemat(root / file, {"annotations": rows})
    return {
        split: {f"cars_{split}/0000{i}.jpg": name for i, name in enumerate(names, 1)} for split in ("train", "test")
    }


MAKERS: dict[str, Callable[[Path], Expected]] = {
    "caltech-256": caltech,
    "mit-67": mit,
    "oxford-pets": pets,
    "stanford-dogs": dogs,
    "cub-200": cub,
    "fgvc-aircraft": aircraft,
    "stanford-cars": cars,
}


def make(name: str, root: Path) -> Expected:
    root.mkdir(parents=True)
    expected = MAKERS[name](root)
    for pictures in expected.values():
        for relative in pictures:
            put(root, relative)
    return expected


def test_every_layout_is_tested():
    assert MAKERS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("name", MAKERS)
def test_each_split_has_its_pictures_with_their_classes(name: str, tmp_path: Path):
    expected = make(name, tmp_path / "data")
    assert set(LAYOUTS[name].splits) == set(expected)
    put(tmp_path / "data", "images/in-no-list.jpg")
    classes = set()
    for split, pictures in expected.items():
        source = open_source(f"{name}:{tmp_path / 'data'}?split={split}")
        index = index_files(source.files)
        rows = zip(index["id"].to_pylist(), index["label"].to_pylist(), index["reason"].to_pylist(), strict=True)
        assert sorted(rows) == sorted((relative, label, None) for relative, label in pictures.items())
        assert [read_images(file, [0]) for file in source.files] == [[file.relative.encode()] for file in source.files]
        assert set(source.classes or ()) == set(pictures.values())
        classes.add(source.classes)
        manifest = build_manifest(index, classes=resolve_classes(source.classes, []), seed=0, shards=2)
        assert counts(manifest)["kept"] == len(pictures)
    assert len(classes) == 1  # whatever the split, for a model is trained on one and measured on another


@pytest.mark.parametrize("name", MAKERS)
def test_the_first_split_is_the_default_and_splits_share_no_picture(name: str, tmp_path: Path):
    expected = make(name, tmp_path / "data")
    default = open_source(f"{name}:{tmp_path / 'data'}")
    assert {file.relative for file in default.files} == expected[LAYOUTS[name].splits[0]].keys()
    assert not expected[LAYOUTS[name].splits[0]].keys() & expected["test"].keys()


@pytest.mark.parametrize("name", MAKERS)
def test_an_empty_folder_is_not_the_data_set(name: str, tmp_path: Path):
    put(tmp_path, "something/else.jpg")
    with pytest.raises(DataError, match="expected"):
        open_source(f"{name}:{tmp_path}")


MISSING = [
    ("mit-67", "TestImages.txt"),
    ("oxford-pets", "annotations/trainval.txt"),
    ("stanford-dogs", "train_list.mat"),
    ("cub-200", "train_test_split.txt"),
    ("cub-200", "classes.txt"),
    ("fgvc-aircraft", "images_variant_trainval.txt"),
    ("fgvc-aircraft", "variants.txt"),
    ("stanford-cars", "devkit/cars_meta.mat"),
    ("stanford-cars", "devkit/cars_train_annos.mat"),
]


@pytest.mark.parametrize(("name", "file"), MISSING)
def test_a_missing_list_is_named(name: str, file: str, tmp_path: Path):
    make(name, tmp_path / "data")
    (tmp_path / "data" / file).unlink()
    with pytest.raises(DataError, match=f"{Path(file).name} is missing; expected the folder that holds"):
        open_source(f"{name}:{tmp_path / 'data'}")


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "caltech-256"])
def test_a_listed_picture_that_is_not_there_is_named(name: str, tmp_path: Path):
    expected = make(name, tmp_path / "data")
    gone = next(iter(expected[LAYOUTS[name].splits[0]]))
    (tmp_path / "data" / gone).unlink()
    with pytest.raises(DataError, match=r"names 1 of .* pictures that is not there, such as '.*jpg'"):
        open_source(f"{name}:{tmp_path / 'data'}")


@pytest.mark.parametrize("name", ["mit-67", "oxford-pets", "fgvc-aircraft"])
def test_a_class_without_a_picture_in_the_split_is_named(name: str, tmp_path: Path):
    make(name, tmp_path / "data")
    lists = {"mit-67": "TrainImages.txt", "oxford-pets": "annotations/trainval.txt"}
    file = tmp_path / "data" / lists.get(name, "images_variant_trainval.txt")
    lines = file.read_text(encoding="utf-8").splitlines()
    label = lines[-1].split("/")[0] if name == "mit-67" else lines[-1].split()[-1]
    file.write_text("\n".join(line for line in lines if label not in line or line == lines[0]), encoding="utf-8")
    if name == "oxford-pets":
        file.write_text(lines[0], encoding="utf-8")
    with pytest.raises(DataError, match="has no picture of 1 of"):
        open_source(f"{name}:{tmp_path / 'data'}")


def test_a_class_outside_the_list_of_classes(tmp_path: Path):
    make("fgvc-aircraft", tmp_path / "air")
    text(tmp_path / "air", "variants.txt", "707-320")
    with pytest.raises(DataError, match="not among the 1 known: 'DHC-8-100'"):
        open_source(f"fgvc-aircraft:{tmp_path / 'air'}")
    make("cub-200", tmp_path / "cub")
    text(tmp_path / "cub", "classes.txt", "1 001.Black_footed_Albatross")
    with pytest.raises(DataError, match="does not have class 2"):
        open_source(f"cub-200:{tmp_path / 'cub'}")


def test_lists_that_are_not_what_they_are_called(tmp_path: Path):
    make("stanford-dogs", tmp_path / "dogs")
    (tmp_path / "dogs/train_list.mat").write_bytes(b"\0" * 200)
    with pytest.raises(DataError, match=r"train_list.mat in .* is not a MATLAB file"):
        open_source(f"stanford-dogs:{tmp_path / 'dogs'}")
    savemat(tmp_path / "dogs/train_list.mat", {"other": 1})
    with pytest.raises(DataError, match="has no variable file_list"):
        open_source(f"stanford-dogs:{tmp_path / 'dogs'}")
    make("cub-200", tmp_path / "cub")
    text(tmp_path / "cub", "train_test_split.txt", "1 1")
    with pytest.raises(DataError, match="does not have picture 2"):
        open_source(f"cub-200:{tmp_path / 'cub'}")
    text(tmp_path / "cub", "images.txt", "1")
    with pytest.raises(DataError, match=r"line 1 of images.txt .* expected 2 fields, got '1'"):
        open_source(f"cub-200:{tmp_path / 'cub'}")
    make("mit-67", tmp_path / "mit")
    (tmp_path / "mit/TrainImages.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"TrainImages.txt in .* is not text"):
        open_source(f"mit-67:{tmp_path / 'mit'}")


def test_the_cars_list_without_labels_is_refused(tmp_path: Path):
    make("stanford-cars", tmp_path / "cars")
    rows = np.array([[(1, "00001.jpg")]], np.dtype([("bbox_x1", object), ("fname", object)]))
    savemat(tmp_path / "cars/cars_test_annos_withlabels.mat", {"annotations": rows})
    with pytest.raises(DataError, match="give the list with labels"):
        open_source(f"stanford-cars:{tmp_path / 'cars'}?split=test")


def test_what_is_no_picture_among_caltechs_is_accounted_for(tmp_path: Path):
    make("caltech-256", tmp_path / "data")
    put(tmp_path / "data", "001.ak47/RENAME2")
    index = index_files(open_source(f"caltech-256:{tmp_path / 'data'}").files)
    assert [r for r in index["reason"].to_pylist() if r] == ["not an image"]


def test_a_picture_listed_twice(tmp_path: Path):
    make("mit-67", tmp_path / "mit")
    text(tmp_path / "mit", "TrainImages.txt", "bar/train.jpg", "bar/train.jpg", "airport inside/train.jpg")
    with pytest.raises(DataError, match="names 1 picture twice"):
        open_source(f"mit-67:{tmp_path / 'mit'}")


@pytest.mark.parametrize("rest", ["", "/x?split=", "?split=train"])
def test_a_name_without_a_place_or_a_split(rest: str):
    with pytest.raises(UsageError, match="expected mit-67:<path or URI>"):
        open_source(f"mit-67:{rest}")


def test_an_unknown_split_names_those_there_are(tmp_path: Path):
    with pytest.raises(UsageError, match=r"no split 'validation'; expected \?split=trainval or test"):
        open_source(f"oxford-pets:{tmp_path}?split=validation")


def test_names_and_places():
    def resolve(place: str) -> str:
        return place if "://" in place else f"/here/{place}"

    assert datasets.absolute("cub-200:birds?split=test", resolve) == "cub-200:/here/birds?split=test"
    assert datasets.absolute("cub-200:s3://b/birds", resolve) == "cub-200:s3://b/birds"
    assert datasets.is_named("cub-200:s3://b/birds")
    assert not any(
        map(datasets.is_named, ("/data/cub-200", "s3://bucket/cub-200", "birds:x", r"C:\cub-200", "./cub-200:x"))
    )

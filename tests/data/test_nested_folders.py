"""Class folders with folders of their own: one reading is taken, two are refused by name, and --classes settles it."""

from pathlib import Path

import pytest

from taft_ray import data
from taft_ray.errors import DataError


def _classes(root: Path, names: list[str], split: str = "", given: list[str] | None = None) -> tuple[str, ...]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    source = data.open_source(f"{root}{split}")
    labels = data.index_files(source.files)["label"].to_pylist()
    return data.resolve_classes(source.classes, labels, given, source.two_readings)


TWO_READINGS = {
    "a wrapper beside pictures": (["pets/cat/1.jpg", "pets/dog/1.jpg", "samples/1.jpg"], "pets", "cat, dog"),
    "a wrapper beside two": (["pets/cat/1.jpg", "pets/dog/1.jpg", "samples/1.jpg", "docs/1.jpg"], "pets", "cat, dog"),
    "a deeper wrapper": (["pets/v2/cat/1.jpg", "pets/v2/dog/1.jpg", "samples/1.jpg"], "pets/v2", "cat, dog"),
    "beside a chain": (["pets/cat/1.jpg", "pets/dog/1.jpg", "samples/new/1.jpg"], "pets", "cat, dog"),
    "a copy of some": (["a/1.jpg", "b/1.jpg", "c/1.jpg", "old/a/1.jpg", "old/x/1.jpg"], "old", "a, x"),
    "two wrappers": (["x/cat/1.jpg", "x/dog/1.jpg", "y/oak/1.jpg", "y/elm/1.jpg", "z/1.jpg"], "x", "cat, dog"),
    "domains": (["photo/cat/1.jpg", "photo/dog/1.jpg", "sketch/cat/1.jpg", "sketch/dog/1.jpg"], "photo", "cat, dog"),
}
PLAIN = {
    "flat": ["cat/1.jpg", "dog/1.jpg"],
    "a folder beside its own pictures": ["cat/indoor/1.jpg", "cat/2.jpg", "dog/3.jpg"],
    "two folders beside its own pictures": ["cat/in/1.jpg", "cat/out/1.jpg", "cat/2.jpg", "dog/3.jpg"],
    "chains": ["cat/indoor/1.jpg", "dog/3.jpg"],
    "all in chains": ["cat/images/1.jpg", "dog/images/2.jpg"],
    "one nested class of many": ["cat/in/1.jpg", "cat/out/1.jpg", "dog/1.jpg", "elk/1.jpg", "owl/1.jpg"],
    "nested with names of their own": ["cat/tom/1.jpg", "cat/kit/1.jpg", "dog/rex/1.jpg", "dog/bello/1.jpg"],
    "no pictures": ["cat/1.jpg", "dog/1.jpg", "notes/a/1.txt", "notes/b/1.txt"],
    "writers": ["cat/1.jpg", "dog/1.jpg", "_old/a/1.jpg", "_old/b/1.jpg"],
}


@pytest.mark.parametrize(("names", "path", "inner"), TWO_READINGS.values(), ids=list(TWO_READINGS))
def test_two_readings_are_refused_with_both(tmp_path: Path, names: list[str], path: str, inner: str) -> None:
    with pytest.raises(DataError, match="two ways") as error:
        _classes(tmp_path, names)
    tops = sorted({name.split("/")[0] for name in names})
    for part in (", ".join(tops), inner, f"{tmp_path}/{path}", "as the data", "--classes"):
        assert part in str(error.value)
    assert _classes(tmp_path, names, given=tops) == tuple(tops)
    if path != "old":
        assert data.open_source(f"{tmp_path}/{path}").classes == tuple(inner.split(", "))


@pytest.mark.parametrize("names", PLAIN.values(), ids=list(PLAIN))
def test_one_reading_is_taken(tmp_path: Path, names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names if name.endswith(".jpg") and not name.startswith("_")}
    assert _classes(tmp_path, names) == tuple(sorted(tops))


def test_folders_of_a_chosen_split_are_looked_at_behind_it(tmp_path: Path) -> None:
    names, _, inner = TWO_READINGS["a wrapper beside pictures"]
    with pytest.raises(DataError, match=f"samples, or the folders in 'pets', {inner}"):
        _classes(tmp_path / "a", [f"{split}/{name}" for split in ("train", "test") for name in names], "?split=train")
    splits = [f"{label}/{split}/1.jpg" for label in ("cat", "dog") for split in ("train", "test")]
    for chosen in ("?split=train", "?split=all"):
        assert _classes(tmp_path / "b", splits, chosen) == ("cat", "dog")

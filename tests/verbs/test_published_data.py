"""A run on a published data set, named on the command line: its split is trained on, with the data set's own classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plain import plain_train
from tiny import CLASSES, picture

from taft_ray.run.address import data_address
from taft_ray.storage import Store, read_manifest


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Twenty-four pictures of three breeds to train on, and three to test on."""
    root = tmp_path / "pets"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for split, numbers in (("trainval", range(24)), ("test", range(100, 103))):
        lines = []
        for number in numbers:
            name = f"{CLASSES[number % 3]}_{number}"
            (root / f"images/{name}.jpg").write_bytes(picture(number))
            lines.append(f"{name} {number % 3 + 1} 1 1")
        (root / f"annotations/{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    return root


def test_a_split_is_trained_on_with_the_data_sets_classes(
    pets: Path, spec_of: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    composer = plain_train(run, spec_of(data_address(f"oxford-pets:{pets}"), shards=2, trainable="head"))
    assert composer.class_names() == list(CLASSES)
    found = read_manifest(Store(str(run)))
    assert found is not None
    rows = found.table.to_pylist()
    assert sorted((row["uri_relative"], CLASSES[row["label"]]) for row in rows) == sorted(
        (f"images/{CLASSES[number % 3]}_{number}.jpg", CLASSES[number % 3]) for number in range(24)
    )
    assert sum(shard.samples for shard in composer.snapshot().in_model) == 24


def test_the_place_becomes_absolute_and_the_name_stays(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pets.parent)
    assert data_address("oxford-pets:pets?split=test") == f"oxford-pets:{pets}?split=test"
    assert data_address("oxford-pets:s3://bucket/pets") == "oxford-pets:s3://bucket/pets"
    assert data_address("pets") == str(pets)

"""The demo's digits: every picture once, every label on both sides, the same bytes each time."""

import io
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from taft_ray.embedded import write_digits
from taft_ray.errors import UsageError


def test_deterministic(tmp_path):
    for first, second in zip(write_digits(tmp_path / "a"), write_digits(tmp_path / "b"), strict=True):
        assert Path(first).read_bytes() == Path(second).read_bytes()


def test_seed_decides_the_split_but_not_the_ids(tmp_path):
    first, second = (
        {
            row["id"]: (row["image"], row["label"], row["owner"])
            for uri in uris
            for row in pq.read_table(uri).to_pylist()
        }
        for uris in (write_digits(tmp_path / "a", seed=0), write_digits(tmp_path / "b", seed=1))
    )
    assert first == second
    ids_a, ids_b = (set(pq.read_table(tmp_path / side / "test.parquet")["id"].to_pylist()) for side in "ab")
    assert ids_a != ids_b


@pytest.mark.parametrize("fraction", [0.001, 0.25, 0.999])
def test_every_picture_once_and_every_label_present(tmp_path, fraction):
    train, test = (pq.read_table(uri) for uri in write_digits(tmp_path, test_fraction=fraction))
    ids = train["id"].to_pylist() + test["id"].to_pylist()
    assert sorted(ids) == [f"digit-{index:04d}" for index in range(1797)]
    assert abs(test.num_rows - fraction * 1797) <= 10
    for table in (train, test):
        assert set(table["label"].to_pylist()) == set(range(10))


def test_label_and_picture_belong_to_the_id(tmp_path):
    digits = cast(Bunch, load_digits())  # a tuple only with return_X_y
    for uri in write_digits(tmp_path):
        for row in pq.read_table(uri).slice(0, 20).to_pylist():
            index = int(row["id"].removeprefix("digit-"))
            assert row["label"] == digits.target[index]
            with Image.open(io.BytesIO(row["image"])) as picture:
                assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (32, 32))
                shrunk = np.asarray(picture.convert("L").resize((8, 8), Image.Resampling.BOX), float)
            assert np.corrcoef(shrunk.ravel(), digits.images[index].ravel())[0, 1] > 0.95


def test_owners(tmp_path):
    owners = [owner for uri in write_digits(tmp_path) for owner in pq.read_table(uri)["owner"].to_pylist()]
    names, counts = np.unique(owners, return_counts=True)
    assert names.tolist() == [f"writer-{number:02d}" for number in range(40)]
    assert counts.min() >= 44


def test_class_names_in_the_schema(tmp_path):
    for uri in write_digits(tmp_path):
        assert pq.read_schema(uri).metadata[b"classes"].decode().split("\n")[7] == "seven"


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5])
def test_impossible_fraction_is_refused(tmp_path, fraction):
    with pytest.raises(UsageError, match="test_fraction"):
        write_digits(tmp_path, test_fraction=fraction)

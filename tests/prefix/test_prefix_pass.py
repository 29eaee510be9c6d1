"""The prefix pass: what a killed one finished is not made again, and the one that goes on ends with the same parts."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from plain import InlinePasses

from taft_ray.data import Stripe, decode_image
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.prefix import cache
from taft_ray.prefix.passes import index_source
from taft_ray.prefix.pictures import Decode, pictures_of, pixels_of
from taft_ray.progress import silent
from taft_ray.storage import Store, write_spec
from taft_ray.storage import rundir as names

ROWS = 8  # a part, so that the tiny data set has many


class Killed(BaseException):
    """As a kill: nothing of ours runs after it."""


class Pass:
    """`build_cache` without Ray, which is killed when ``limit`` parts are done; ``made``: the parts it made."""

    def __init__(self, run: Path, spec: Any) -> None:
        self.store, self.run, self.spec = Store(str(run)), str(run), spec
        write_spec(self.store, spec.to_json())
        self.made: list[tuple[int, int]] = []

    def __call__(self, limit: int | None = None) -> cache.CacheResult:
        made = self.made

        class UntilKilled(InlinePasses):
            def parts(
                self, pieces: Sequence[Stripe], run: str, spec: RunSpec, classes: int, folders: str, workers: int
            ) -> Iterator[dict[str, Any]]:
                for answer in super().parts(pieces, run, spec, classes, folders, workers):
                    made.append((answer["shard"], answer["part"]))
                    if len(made) == limit:
                        raise Killed
                    yield answer

        with mock.patch.object(cache, "PART_ROWS", ROWS):
            return cache.build_cache(
                UntilKilled(), self.store, self.run, self.spec, source=index_source(UntilKilled(), self.spec.data, None),
                shards=self.spec.shards, assignment="hash", folders=f"{names.CACHE_FOLDER}/shard={{shard:05d}}", tombstones=RunState(), secret=None,
                workers=1, report=silent,
            )  # fmt: skip


@pytest.fixture
def undisturbed(tmp_path: Path, spec_of: Callable[..., Any], parquet: Path) -> tuple[Pass, cache.CacheResult]:
    whole = Pass(tmp_path / "whole", spec_of(parquet))
    return whole, whole()


def test_a_killed_pass_goes_on_with_what_is_missing(
    tmp_path: Path, spec_of: Callable[..., Any], parquet: Path, undisturbed: tuple[Pass, cache.CacheResult]
) -> None:
    whole, expected = undisturbed
    cut_off = Pass(tmp_path / "cut-off", spec_of(parquet))
    with pytest.raises(Killed):
        cut_off(limit=5)
    finished, cut_off.made = cut_off.made, []
    damaged = finished.pop()  # marked, but its part did not survive
    (part,) = (info.key for info in cut_off.store.list(f"cache/shard={damaged[0]:05d}/part-{damaged[1]:03d}-"))
    cut_off.store.delete(part)
    again = cut_off()
    assert sorted(cut_off.made) == sorted(set(whole.made) - set(finished))
    assert again.parts == expected.parts
    assert again.table.equals(expected.table)


def test_a_finished_pass_makes_nothing(undisturbed: tuple[Pass, cache.CacheResult]) -> None:
    whole, expected = undisturbed
    whole.made.clear()
    assert whole().parts == expected.parts
    assert whole.made == []


def test_pixels_of_a_part_are_not_copied(class_folder: Path) -> None:
    pictures = [path.read_bytes() for path in sorted(class_folder.rglob("*.png"))[:3]]
    part = pa.table({"part": [0], "images": pa.array([[*pictures, b"", b"no picture"]], pa.list_(pa.large_binary()))})
    decoder = Decode(8)
    made = []
    one_part = decoder._part
    with mock.patch.object(decoder, "_part", lambda images: made.append(one_part(images)) or made[-1]):
        decoded = decoder(part)
    pixels, reasons = made[0]
    assert reasons == ["", "", "", "no image", "not a picture"]
    twice = pa.concat_tables([decoded, decoded])  # a call has several parts
    assert [np.shares_memory(view, pixels) for view in pixels_of(twice["pixels"], 8)] == [True, True]
    assert all(np.array_equal(view, pixels) for view in pixels_of(twice["pixels"][1:], 8))


def test_orientation_is_applied_by_the_actor_and_by_decoding_tasks_alike() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    batch = pa.table({"images": pa.array([[buffer.getvalue()]], pa.list_(pa.large_binary()))})
    for orientation in ("ignore", "apply"):
        expected = decode_image(buffer.getvalue(), 8, orientation)
        for given in (batch, Decode(8, orientation)(batch)):
            ((picture,),) = pictures_of(given, 8, orientation)
            assert np.array_equal(picture, expected)
    assert not np.array_equal(decode_image(buffer.getvalue(), 8, "ignore"), expected)

"""The steps that Ray Data's tasks run before the prefix: indexing, reading, decoding. Imports no torch, so that tasks start quickly."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from taft_ray.data import Stripe, Undecodable, decode_image, index_files, read_stripe
from taft_ray.data.keys import picture_digest


def index_chunk(batch: Any) -> pa.Table:
    return index_files(list(batch["files"][0]))


def read_parts(batch: Any) -> Iterator[pa.Table]:
    """A stripe's parts, one row each."""
    stripe: Stripe = batch["stripe"][0]
    for part in read_stripe(stripe):
        yield pa.table(
            {
                "shard": pa.array([part["shard"]]),
                "part": pa.array([part["part"]]),
                "keys": pa.array([b"".join(part["keys"])], pa.large_binary()),
                "labels": pa.array([part["labels"].astype("<i8").tobytes()], pa.large_binary()),
                "contents": pa.array(
                    [b"".join(picture_digest(image or b"") for image in part["images"])], pa.large_binary()
                ),
                "images": pa.array([[image or b"" for image in part["images"]]], pa.list_(pa.large_binary())),
            }
        )


def decoded(images: Iterable[bytes], size: int, exif_orientation: str = "ignore") -> Iterator[np.ndarray | str]:
    """The pixels of each picture, uint8 (3, size, size), or the reason why it has none; decoded when asked for."""
    for image in images:
        try:
            yield decode_image(image, size, exif_orientation) if image else "no image"
        except Undecodable as error:
            yield error.reason


class Decode:
    """Encoded pictures to pixels, with the reason of each that cannot be decoded: columns that a task hands on."""

    def __init__(self, size: int, exif_orientation: str = "ignore") -> None:
        self.size, self.exif_orientation = size, exif_orientation

    def __call__(self, batch: pa.Table) -> pa.Table:
        parts = [self._part(images) for images in batch["images"].to_pylist()]
        return (
            batch.drop_columns("images")
            .append_column("pixels", pa.chunked_array([_as_one_row(pixels) for pixels, _ in parts]))
            .append_column("reasons", pa.array([json.dumps(reasons) for _, reasons in parts]))
        )

    def _part(self, images: list[bytes]) -> tuple[np.ndarray, list[str]]:
        pixels = np.zeros((len(images), 3, self.size, self.size), np.uint8)
        reasons = [""] * len(images)
        for row, found in enumerate(decoded(images, self.size, self.exif_orientation)):
            if isinstance(found, str):
                reasons[row] = found
            else:
                pixels[row] = found
        return pixels, reasons


def pictures_of(batch: pa.Table, size: int, exif_orientation: str = "ignore") -> list[Iterator[np.ndarray | str]]:
    """Per part what `decoded` says of its pictures: decoded when asked for, or by `Decode` before."""
    if "images" in batch.column_names:
        return [decoded(images, size, exif_orientation) for images in batch["images"].to_pylist()]
    reasons = [json.loads(text) for text in batch["reasons"].to_pylist()]
    parts = zip(pixels_of(batch["pixels"], size), reasons, strict=True)
    return [(why or picture for picture, why in zip(pixels, whys, strict=True)) for pixels, whys in parts]


def _as_one_row(pixels: np.ndarray) -> pa.Array:
    """The bytes of the array as a column of one row, uncopied."""
    ends = pa.py_buffer(np.array([0, pixels.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(pixels)])


def pixels_of(column: pa.ChunkedArray, size: int) -> Iterator[np.ndarray]:
    """uint8 (n, 3, size, size) of each part in `Decode`'s column ``pixels``: views (a scalar of pyarrow would be a copy)."""
    for chunk in column.chunks:
        _, ends, data = chunk.buffers()
        ends = np.frombuffer(ends, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        for start, end in itertools.pairwise(ends):
            yield np.frombuffer(data, np.uint8)[start:end].reshape(-1, 3, size, size)

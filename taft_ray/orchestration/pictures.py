"""What Ray Data's tasks run before the prefix: indexing, reading, decoding. Imports no torch, so that tasks start quickly."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from taft_ray.data import Stripe, Undecodable, decode_image, index_files, read_stripe


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
                "images": pa.array([[image or b"" for image in part["images"]]], pa.list_(pa.large_binary())),
            }
        )


class Decode:
    """Encoded pictures to pixels, with the reason of each that cannot be decoded."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, batch: pa.Table) -> pa.Table:
        decoded = [self._part(images) for images in batch["images"].to_pylist()]
        return (
            batch.drop_columns("images")
            .append_column("pixels", pa.chunked_array([_as_one_row(pixels) for pixels, _ in decoded]))
            .append_column("reasons", pa.array([json.dumps(reasons) for _, reasons in decoded]))
        )

    def _part(self, images: list[bytes]) -> tuple[np.ndarray, list[str]]:
        pixels = np.zeros((len(images), 3, self.size, self.size), np.uint8)
        reasons = [""] * len(images)
        for row, image in enumerate(images):
            try:
                if not image:
                    raise Undecodable("no image")
                pixels[row] = decode_image(image, self.size)
            except Undecodable as error:
                reasons[row] = error.reason
        return pixels, reasons


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

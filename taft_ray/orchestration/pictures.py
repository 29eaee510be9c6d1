"""What Ray Data's tasks run before the prefix: indexing, reading, decoding. Imports no torch, so that tasks start quickly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from taft_ray.data import Stripe, Undecodable, decode_image, index_files, read_stripe


def index_chunk(batch: Any) -> pa.Table:
    return index_files(list(batch["files"][0]))


def read_parts(batch: Any) -> Iterator[dict[str, Any]]:
    """A stripe's parts, one row each, as Arrow-friendly bytes."""
    stripe: Stripe = batch["stripe"][0]
    for part in read_stripe(stripe):
        yield {
            "shard": np.array([part["shard"]]),
            "part": np.array([part["part"]]),
            "keys": pa.array([b"".join(part["keys"])], pa.large_binary()),
            "labels": pa.array([part["labels"].astype("<i8").tobytes()], pa.large_binary()),
            "images": pa.array([[image or b"" for image in part["images"]]], pa.list_(pa.large_binary())),
        }


class Decode:
    """Encoded pictures to pixels, with the reason of each that cannot be decoded."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, batch: Any) -> dict[str, Any]:
        pixels, reasons = [], []
        for images in batch["images"]:
            stack, why = [], []
            for image in images:
                try:
                    if not image:
                        raise Undecodable("no image")
                    stack.append(decode_image(image, self.size))
                    why.append("")
                except Undecodable as error:
                    stack.append(np.zeros((3, self.size, self.size), np.uint8))
                    why.append(error.reason)
            pixels.append(np.stack(stack).tobytes())
            reasons.append(json.dumps(why))
        kept = {name: batch[name] for name in ("shard", "part", "keys", "labels")}
        return {**kept, "pixels": pa.array(pixels, pa.large_binary()), "reasons": pa.array(reasons)}

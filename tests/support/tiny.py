"""A tiny data set: 120 pictures of 3 classes, as Parquet and as a class folder."""

import io
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("ant", "bee", "cat")
SIZE = 32
SAMPLES = 120
SHARDS = 4
MODEL = "test_vit"  # timm's own 0.4 M parameter ViT: depth 6, width 64


def picture(number: int) -> bytes:
    """A 32 px PNG: a class's colour under noise, so that there is something to learn and no two are equal."""
    random = np.random.default_rng(number)
    colour = np.zeros(3)
    colour[number % 3] = 90
    pixels = np.clip(random.normal(90, 60, (SIZE, SIZE, 3)) + colour, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def owner_of(number: int) -> str:
    return f"owner-{number % 10}"


def sample_id(number: int) -> str:
    return f"person-{number:03d}"


def write_parquet(folder: Path, numbers: Collection[int]) -> Path:
    """Pictures of these numbers with ids and owners, in two files."""
    folder.mkdir(parents=True)
    numbers = list(numbers)
    for part, rows in enumerate((numbers[::2], numbers[1::2])):
        table = pa.table(
            {
                "image": [picture(n) for n in rows],
                "label": [CLASSES[n % 3] for n in rows],
                "id": [sample_id(n) for n in rows],
                "owner": [owner_of(n) for n in rows],
            }
        )
        pq.write_table(table, folder / f"part-{part}.parquet", row_group_size=16)
    return folder


def write_class_folder(folder: Path, numbers: Collection[int]) -> Path:
    """The same pictures as a folder a class; a picture's id is its relative path."""
    for n in numbers:
        file = folder / CLASSES[n % 3] / f"{n:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(n))
    return folder

"""One data set, the files it lies in, and the index every format is brought to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from taft_ray.data.formats import IMAGE_SUFFIXES as IMAGE_SUFFIXES

Format = Literal["image", "parquet", "webdataset"]

NO_IMAGE = "no image"
NO_LABEL = "no label"
NOT_AN_IMAGE = "not an image"
BELOW_ZERO = "label below 0"  # "no label", as published test sets write it
NOT_A_LABEL = "label of another type"  # a fraction, a list, a boolean: what a Parquet column is refused for
TWO_LABELS = "labels that differ"
TWO_SPLITS = "splits that differ"
BESIDE = "another picture of a sample"
HIDDEN = "hidden picture"
WRITERS_FOLDER = "in a folder that begins with _ or ."

INDEX_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("relative", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("owner", pa.string()),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("split", pa.string()),  # what the row itself says and by which column, where no split was chosen
    ]
)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file: a picture, a Parquet file or a tar. ``relative`` is its path relative to the data, and begins ids.

    label: of a picture whose class a list of the data set or the split's layout gives; the folder gives it otherwise.

    split: of a Parquet file or tar: the one whose rows are asked for. None takes all rows, as long as they say no two splits.
    """

    uri: str
    relative: str
    format: Format
    size: int  # bytes; 0 where the storage does not say
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Source:
    """A data set: its files in the order of their relative paths, and the classes it names itself, if it does.

    notes: sentences that a person who reads the data in should see, such as how many files were passed over.

    two_readings: why the classes can be read in two ways, as `resolve_classes` takes it; "" where they cannot.
    """

    uri: str
    format: Format
    files: tuple[SourceFile, ...]
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    two_readings: str = ""


def row_ids(relative: str, rows: int) -> pa.Array:
    """The ids of rows that bring none: ``<relative>#<row number>``."""
    return pa.array([f"{relative}#{row}" for row in range(rows)], pa.string())


def index_table(columns: dict[str, Any]) -> pa.Table:
    columns.setdefault("split", pa.nulls(len(columns["id"]), pa.string()))
    return pa.table(columns, schema=INDEX_SCHEMA)


def one_file_index(
    file: SourceFile,
    *,
    ids: Any,
    labels: Any,
    owners: Any,
    sizes: Any,
    reasons: Sequence[str | None],
    split: pa.Array | None = None,
):
    """The index of a file of many rows, numbered in the order given."""
    rows = len(reasons)
    return index_table(
        {
            "id": ids,
            "relative": pa.repeat(pa.scalar(file.relative), rows),
            "row": pa.array(range(rows), pa.int64()),
            "label": labels,
            "owner": owners,
            "bytes": sizes,
            "reason": pa.array(reasons, pa.string()),
            "split": pa.nulls(rows, pa.string()) if split is None else split,
        }
    )

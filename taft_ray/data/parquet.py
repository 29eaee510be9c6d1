"""Parquet: columns image (encoded bytes, or Hugging Face's struct of bytes and path), label, optional id and owner."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from taft_ray.data import access, split_columns, splits
from taft_ray.data.ids import texts
from taft_ray.data.source_file import BELOW_ZERO, NO_IMAGE, NO_LABEL, SourceFile, one_file_index, row_ids
from taft_ray.errors import DataError

_READ_ROWS = 256  # rows of pictures decoded from a row group at a time: bounds memory where a group is gigabytes
_BUFFER_BYTES = 4 * 2**20


def index(file: SourceFile) -> pa.Table:
    """Reads the small columns only; ``bytes`` is the mean of the row's group, from the footer.

    Rows of another split than the chosen one are left out; without a choice, ``split`` is what the rows say.
    """
    with _opened(file) as parquet:
        schema = parquet.schema_arrow
        leaf = _check(file, schema)
        rows = parquet.metadata.num_rows
        of_split = columns_of_split(schema)
        wanted = [name for name in ("label", "id", "owner", *of_split) if name in schema.names]
        table = parquet.read(columns=wanted, use_threads=False)
        missing, sizes = _missing_images(parquet, leaf), _mean_sizes(parquet, leaf)
        names = class_names(file, schema)
        told = None if file.split == splits.ALL else _told(file, table.select(of_split))
    labels, below = _label_strings(table["label"], names)
    ids = row_ids(file.relative, rows)
    if "id" in wanted:
        ids = pc.coalesce(texts(table["id"], "id", file.uri), ids)
    reasons: list[str | None] = [None] * rows
    for row in np.flatnonzero(labels.is_null().to_numpy(zero_copy_only=False)):
        reasons[row] = BELOW_ZERO if below[row] else NO_LABEL
    for row in np.flatnonzero(missing):
        reasons[row] = NO_IMAGE
    owners = texts(table["owner"], "owner", file.uri) if "owner" in wanted else pa.nulls(rows, pa.string())
    owners = pc.if_else(pc.equal(owners, ""), None, owners)  # nobody's, as in a tar
    said = told if file.split is None else None
    index = one_file_index(
        file,
        ids=ids,
        labels=labels,
        owners=owners,
        sizes=sizes,
        reasons=reasons,
        split=said and split_columns.with_source(said.splits, said.by),
    )
    if told is None or file.split is None:
        return index
    return index.filter(split_columns.are_chosen(told.splits, file.split, file.relative))


def _told(file: SourceFile, table: pa.Table) -> split_columns.Told | None:
    """The splits that the columns tell; DataError where a split was chosen and neither a column nor the name can tell."""
    columns: dict[str, pa.Array] = {}
    for name in table.column_names:
        values = split_columns.texts_of(table[name])
        if values is not None:
            names = None if _is_text(table.schema.field(name).type) else _names_of(table.schema, name)
            columns[name] = values if names is None else _named(values, names)
    told = split_columns.told(columns, file.split, file.uri)
    if told is None and file.split is not None and not splits.meant([splits.split_of_file(file.relative)], file.split):
        raise DataError(
            f"no column of {file.uri} says which rows belong to the split {file.split!r}; add a column 'split', or move the file"
        )
    return told


def columns_of_split(schema: pa.Schema) -> list[str]:
    """The columns that may say which split a row belongs to."""
    return [
        name
        for name in schema.names
        if split_columns.may_tell(name) and not pa.types.is_nested(schema.field(name).type)
    ]


def has_split_column(file: SourceFile) -> bool:
    """Whether a column says which split a row belongs to."""
    with _opened(file) as parquet:
        return bool(columns_of_split(parquet.schema_arrow))


def read(file: SourceFile, rows: Sequence[int]) -> list[bytes | None]:
    """The picture of each row, in the order asked; only the row groups that hold one are read."""
    images: list[bytes | None] = [None] * len(rows)
    asked = np.asarray(rows, np.int64)
    order = np.argsort(asked, kind="stable")
    ascending = asked[order]
    with _opened(file) as parquet:
        leaf = _check(file, parquet.schema_arrow)
        groups = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        if len(rows) and not 0 <= ascending[0] <= ascending[-1] < starts[-1]:
            raise DataError(
                f"{file.uri} has {starts[-1]} rows, row {ascending[-1]} was asked for: it changed after it was indexed"
            )
        for group in range(len(groups)):
            first, last = np.searchsorted(ascending, starts[group : group + 2])
            if first == last:
                continue
            start = int(starts[group])
            for batch in parquet.iter_batches(_READ_ROWS, row_groups=[group], columns=[leaf], use_threads=False):
                stop = first + int(np.searchsorted(ascending[first:last], start + batch.num_rows))
                if stop > first:
                    picked = _binary(batch.column(0)).take(pa.array(ascending[first:stop] - start)).to_pylist()
                    for position, image in zip(order[first:stop], picked, strict=True):
                        images[position] = image
                first, start = stop, start + batch.num_rows
                if first == last:
                    break
    return images


def pictures(file: SourceFile) -> Iterator[tuple[list[str], list[bytes | None]]]:
    """Ids and pictures of all rows, some at a time; labels need not be there."""
    with _opened(file) as parquet:
        schema = parquet.schema_arrow
        _check_one(file, schema, "image")
        wanted = [_image_leaf(file, schema), *(["id"] if schema.names.count("id") == 1 else [])]
        done = 0
        for batch in parquet.iter_batches(_READ_ROWS, columns=wanted, use_threads=False):
            ids = row_ids(file.relative, done + batch.num_rows).slice(done)
            if "id" in batch.schema.names:
                ids = pc.coalesce(texts(pa.chunked_array([batch["id"]]), "id", file.uri), ids)
            yield ids.to_pylist(), _binary(batch["image"]).to_pylist()
            done += batch.num_rows


def classes_of(file: SourceFile) -> tuple[str, ...] | None:
    """Check that the file holds pictures and labels, and read the names of the classes if it brings them."""
    with _opened(file) as parquet:
        _check(file, parquet.schema_arrow)
        return class_names(file, parquet.schema_arrow)


def class_names(file: SourceFile, schema: pa.Schema) -> tuple[str, ...] | None:
    """From the schema metadata: key ``classes`` (a name a line, or a JSON list), or Hugging Face's ClassLabel."""
    metadata = schema.metadata or {}
    names: list[Any] | None = None
    try:
        if b"classes" in metadata:
            text = metadata[b"classes"].decode()
            names = json.loads(text) if text.lstrip().startswith("[") else text.strip("\n").split("\n")
        else:
            names = _names_of(schema, "label")
    except (ValueError, RecursionError):
        names = None  # other people's metadata: without names the labels speak for themselves
    if not names:
        return None
    if len(set(names)) != len(names) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"the class names in the metadata of {file.uri} are not different strings: {names}")
    return tuple(names)


def _names_of(schema: pa.Schema, column: str) -> list[Any] | None:
    """The names that Hugging Face's ClassLabel gives to a column's numbers; None where there are none."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column].get("names")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@contextlib.contextmanager
def _opened(file: SourceFile) -> Iterator[pq.ParquetFile]:
    with access.reading(file.uri), access.open_file(file.uri) as handle:
        try:
            # A bounded buffer and no pre_buffer, which would hold the whole column of a row group in memory.
            yield pq.ParquetFile(handle, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except pa.ArrowException as error:
            raise DataError(f"{file.uri} is not a Parquet file that can be read: {error}; write it again") from error
        except OSError as error:
            # pyarrow reports a damaged page as an OSError without a number; storage's own have one
            if type(error) is not OSError or error.errno is not None:
                raise
            raise DataError(f"{file.uri} is damaged: {error}; write it again") from error


def _check(file: SourceFile, schema: pa.Schema) -> str:
    """The name of the Parquet column that holds the encoded pictures; DataError unless labels are there, too."""
    _check_one(file, schema, "image")
    _check_one(file, schema, "label")
    twice = [name for name in ("id", "owner", *columns_of_split(schema)) if schema.names.count(name) > 1]
    if twice:
        raise DataError(f"{file.uri} has several columns {twice[0]!r}; rename all but one")
    label = schema.field("label").type
    if pa.types.is_dictionary(label):
        label = label.value_type
    if not (pa.types.is_integer(label) or _is_text(label)):
        raise DataError(f"the column 'label' of {file.uri} holds {label}; it must hold integers or strings")
    return _image_leaf(file, schema)


def _check_one(file: SourceFile, schema: pa.Schema, name: str) -> None:
    if schema.names.count(name) != 1:
        raise DataError(f"{file.uri} needs one column {name!r} and has the columns {schema.names}; rename or add it")


def _image_leaf(file: SourceFile, schema: pa.Schema) -> str:
    image = schema.field("image").type
    if _is_binary(image):
        return "image"
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0 and _is_binary(image.field("bytes").type):
        return "image.bytes"
    raise DataError(
        f"the column 'image' of {file.uri} holds {image}; it must hold encoded pictures (JPEG, PNG…) as binary"
    )


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _binary(column: pa.Array) -> pa.Array:
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _label_strings(column: pa.ChunkedArray, names: tuple[str, ...] | None) -> tuple[pa.Array, np.ndarray]:
    """The labels as text, null where there is none, and which of those are numbers below 0.

    A number becomes the name the file itself gives it: files with their classes in another order then agree.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    labels = pa.concat_arrays([pa.array([], column.type), *column.chunks])
    below = np.zeros(len(labels), bool)
    numbered = pa.types.is_integer(labels.type)
    if numbered and pa.types.is_signed_integer(labels.type):
        below = pc.fill_null(pc.less(labels, 0), False).to_numpy(zero_copy_only=False)
    labels = labels.cast(pa.string())
    if names is not None and numbered:
        labels = _named(labels, names)
    return pc.if_else(pc.or_(pc.equal(pc.utf8_trim_whitespace(labels), ""), pa.array(below)), None, labels), below


def _named(numbers: pa.Array, names: Sequence[str]) -> pa.Array:
    """The names of numbers given as text; a number that has none stays."""
    positions = pc.index_in(numbers, pa.array([str(i) for i in range(len(names))]))
    return pc.coalesce(pa.array(names, pa.string()).take(positions), numbers)


def _leaf_chunks(parquet: pq.ParquetFile, leaf: str) -> Iterator[Any]:
    for group in range(parquet.num_row_groups):
        metadata = parquet.metadata.row_group(group)
        chunks = (metadata.column(i) for i in range(metadata.num_columns))
        yield next(chunk for chunk in chunks if chunk.path_in_schema == leaf)


def _missing_images(parquet: pq.ParquetFile, leaf: str) -> np.ndarray:
    """True where the picture is null; a group's pictures are read only where its statistics do not rule that out."""
    missing: list[np.ndarray] = []
    for group, chunk in enumerate(_leaf_chunks(parquet, leaf)):
        statistics = chunk.statistics
        if statistics is not None and statistics.has_null_count and statistics.null_count == 0:
            missing.append(np.zeros(chunk.num_values, bool))
        else:
            batches = parquet.iter_batches(_READ_ROWS, row_groups=[group], columns=[leaf], use_threads=False)
            missing.extend(_binary(b.column(0)).is_null().to_numpy(zero_copy_only=False) for b in batches)
    return np.concatenate([np.zeros(0, bool), *missing])


def _mean_sizes(parquet: pq.ParquetFile, leaf: str) -> np.ndarray:
    chunks = list(_leaf_chunks(parquet, leaf))
    means = [chunk.total_uncompressed_size // max(chunk.num_values, 1) for chunk in chunks]
    return np.repeat(np.array(means, np.int64), np.array([chunk.num_values for chunk in chunks], np.int64))

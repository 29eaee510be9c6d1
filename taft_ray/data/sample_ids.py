"""The ids of a manifest's samples. It holds their keys: an id is taken only where its key is the sample's."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from taft_ray.data.keys import sample_keys
from taft_ray.data.source_file import SourceFile
from taft_ray.data.sources import index_files


def ids_by_place(manifest: pa.Table, seed: int) -> list[str | None]:
    """The id of each row where it is the row's place: a file's path, or FILE#ROW. None where the data has another one."""
    relative, rows, keys = (manifest[name].to_pylist() for name in ("uri_relative", "row", "key"))
    found: list[str | None] = [None] * len(keys)
    for names in (relative, [f"{path}#{row}" for path, row in zip(relative, rows, strict=True)]):
        same = zip(sample_keys(names, seed), keys, names, strict=True)
        found = [known or (name if made == key else None) for known, (made, key, name) in zip(found, same, strict=True)]
    return found


def ids_of_source(files: Sequence[SourceFile], seed: int) -> dict[bytes, str]:
    """The id of every row of these files, by its key; no picture of Parquet or a class folder is read."""
    names = index_files(files)["id"].to_pylist()
    return dict(zip(sample_keys(names, seed), names, strict=True))

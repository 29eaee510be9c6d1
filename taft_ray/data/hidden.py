"""Files that are no data by their names: hidden ones, and what unfinished or other writers keep in folders of their own."""

import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from taft_ray.data.image_folder import in_writers_folder, is_image
from taft_ray.errors import DataError

T = TypeVar("T")

_TABLE_LOGS = frozenset({"_delta_log", ".hoodie", "_spark_metadata"})
_SYSTEM = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})


def visible(files: Mapping[str, T], is_data: Callable[[str], bool]) -> tuple[dict[str, T], tuple[str, ...]]:
    """The files that are looked at, by relative path, and a sentence on each kind of data file that is passed over.

    Pictures in a folder that begins with an underscore stay: they are counted, as rejected rows.
    """
    hidden = {name for name in files if _is_hidden(name)}
    writers = {name for name in files if name not in hidden and _is_writers(name)}
    notes = (
        _note([name for name in hidden if is_data(name)], "hidden files"),
        _note([name for name in writers if is_data(name)], "files whose names or folders begin with an underscore"),
    )
    shown = {name: found for name, found in files.items() if name not in hidden and name not in writers}
    return shown, tuple(note for note in notes if note)


def check_no_table(uri: str, files: Iterable[str]) -> None:
    """DataError for a table whose log says which of its files hold: the others, removed ones too, would be read as well."""
    for name in files:
        folders = name.split("/")[:-1]
        log = next((part for part in folders if part in _TABLE_LOGS), None)
        if log is not None or (name.endswith(".metadata.json") and "metadata" in folders):
            raise DataError(
                f"{uri} is a table with a log ({log or name}), which says which of its files hold. The files alone would bring "
                "deleted rows back: write the current version out as plain Parquet"
            )


def _is_hidden(relative: str) -> bool:
    parts = relative.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1].lower() in _SYSTEM


def _is_writers(relative: str) -> bool:
    """As Hadoop, Spark and Hive name what is not the table: _temporary, _SUCCESS, _metadata."""
    return not is_image(relative) and (in_writers_folder(relative) or posixpath.basename(relative).startswith("_"))


def _note(names: list[str], what: str) -> str:
    return f"{len(names):,} {what} are passed over, such as {min(names)!r}" if names else ""

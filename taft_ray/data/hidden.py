"""Files that are no data by their names: hidden ones, and what unfinished or other writers keep in folders of their own."""

import posixpath
from collections.abc import Callable, Mapping
from typing import TypeVar

from taft_ray.data.image_folder import in_writers_folder, is_image

T = TypeVar("T")

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


def _is_hidden(relative: str) -> bool:
    parts = relative.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1].lower() in _SYSTEM


def _is_writers(relative: str) -> bool:
    """As Hadoop, Spark and Hive name what is not the table: _temporary, _SUCCESS, _metadata."""
    return not is_image(relative) and (in_writers_folder(relative) or posixpath.basename(relative).startswith("_"))


def _note(names: list[str], what: str) -> str:
    return f"{len(names):,} {what} are passed over, such as {min(names)!r}" if names else ""

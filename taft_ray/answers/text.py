"""How answers are written for a person: tables in columns, dates, and counted things."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime


def columns(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    """A table as plain text, as wide as the terminal. numbers: columns that are aligned to the right. None is a dash."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*("–" if cell is None else str(cell) for cell in row))
    written = io.StringIO()
    Console(file=written, width=shutil.get_terminal_size((120, 24)).columns, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def moment(unix: float | None) -> str | None:
    """A time for a person, in UTC, to the minute."""
    return None if unix is None else f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M} UTC"


def short(digest: str | None) -> str | None:
    """Enough of a digest to tell two apart."""
    return None if digest is None else digest[:12]


def some(names: Sequence[str], most: int = 6) -> str:
    """Names with commas, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

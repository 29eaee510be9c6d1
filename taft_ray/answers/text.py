"""How answers are written for a person: tables in columns, dates, and counted things."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from taft_ray.counting import plural


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


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """A line per name and value, the values below each other; without those that are None."""
    known = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in known)


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


def written_moment(iso: str) -> str:
    """`moment` of a time in ISO 8601; what is none stays as it is."""
    try:
        return moment(datetime.fromisoformat(iso).timestamp()) or iso
    except ValueError:
        return iso


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.15 s, 75 s, 3 min, 2.5 h, 3 days."""
    for unit, length in (("days", 172800.0), ("h", 7200.0), ("min", 180.0)):
        if seconds >= length:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.3g} {unit}"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def size(count: int) -> str:
    """Bytes as people say them: 512 bytes, 1.23 MB."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= length:
            return f"{count / length:.3g} {unit}"
    return plural(count, "byte")


def listed(title: str, lines: Sequence[str]) -> str | None:
    """A title and a line per item below it; None where there is none."""
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else None


def paragraphs(*parts: str | None) -> str:
    """The parts that there are, with an empty line between them."""
    return "\n\n".join(part for part in parts if part)

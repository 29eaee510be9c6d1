"""How a page shows what was recorded: every value carries the place that it comes from.

A number is a `data` element, a time a `time` element, a text a `bdi` or `code` element. Each has `data-from`, a JSON pointer
(RFC 6901) into the document beside the page: report.json, a certificate, a sweep's summary. A count of entries has
`data-count-of` instead. So a test can follow every number of a page back to its measurement.

Guarantees: every text that comes from outside is escaped; the same document gives the same markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from taft_ray.evaluation.notation import ABSENT, percent, recorded, seconds, value_of

LONG = 20  # a table with more rows is folded away
NONE = Markup('<span class="quiet">none</span>')

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_FEW = 8  # entries of a list that stand in a line


@dataclass(frozen=True)
class Table:
    """Rows of cells. numeric, prose: numbers of columns."""

    caption: str
    head: tuple[str, ...]
    rows: list[list[Any]]
    numeric: frozenset[int] = field(default_factory=frozenset)
    prose: frozenset[int] = field(default_factory=frozenset)

    @property
    def folded(self) -> bool:
        return len(self.rows) > LONG

    def kind(self, column: int) -> str:
        return "n" if column in self.numeric else "t" if column in self.prose else ""


def table(caption: str, head: Any, rows: Any, *, numeric: Any = (), prose: Any = ()) -> Table:
    return Table(caption, tuple(head), [list(row) for row in rows], frozenset(numeric), frozenset(prose))


def pointer(path: str, root: str = "") -> str:
    """``shards[3].seconds`` as ``/shards/3/seconds``."""
    return root + "".join(f"/{_part(key or index)}" for key, index in _STEP.findall(path))


def _part(key: Any) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")


class Shown:
    """The values of one JSON document, by path. root: the pointer of the part that paths start from."""

    def __init__(self, document: Any, root: str = "") -> None:
        self.document = document
        self.root = root

    def raw(self, path: str) -> Any:
        """The value, or None where there is none."""
        here = self.document
        for key, index in _STEP.findall(path):
            try:
                here = here[key] if key else here[int(index)]
            except (KeyError, IndexError, TypeError):
                return None
        return here

    def at(self, path: str, form: str = "recorded", absent: Any = ABSENT) -> Markup:
        """The value at ``path`` in one of `FORMS`; ``absent`` where none was recorded."""
        value = self.raw(path)
        return escape(absent) if value is None else marked(value, pointer(path, self.root), FORMS[form](value))

    def text(self, path: str, absent: Any = ABSENT) -> Markup:
        """The value in the way that fits its type."""
        value = self.raw(path)
        return escape(absent) if value is None else plain(value, pointer(path, self.root))

    def count(self, path: str) -> Markup:
        """How many entries are at ``path``."""
        entries = self.raw(path)
        return counted(len(entries) if isinstance(entries, list | dict) else 0, pointer(path, self.root))

    def some(self, path: str, noun: str = "others") -> Markup:
        """The first few entries at ``path``, and how many more there are."""
        entries = self.raw(path)
        if not isinstance(entries, list) or not entries:
            return NONE
        shown = [plain(one, f"{pointer(path, self.root)}/{i}") for i, one in enumerate(entries[:_FEW])]
        more = Markup(" and more: {} {} in all").format(self.count(path), noun) if len(entries) > _FEW else ""
        return Markup(", ").join(shown) + more

    def below(self, path: str) -> Shown:
        return Shown(self.raw(path), pointer(path, self.root))


def derived(report: dict[str, Any], name: str, *, short: bool = False) -> Markup:
    """A derived number of a report with its unit, or the reason why there is none."""
    number, where = report["derived"][name], f"/derived/{_part(name)}"
    if number["value"] is None:
        return Markup("–") if short else marked(number["reason"], f"{where}/reason")
    return marked(number["value"], f"{where}/value", value_of(number))


def marked(value: Any, where: str, text: Any = None) -> Markup:
    """``value`` shown as ``text``, with the pointer to it."""
    text = value if text is None else text
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return Markup('<bdi data-from="{}">{}</bdi>').format(where, text)
    return Markup('<data value="{}" data-from="{}">{}</data>').format(json.dumps(value), where, text)


def counted(number: int, where: str) -> Markup:
    return Markup('<data value="{}" data-count-of="{}">{}</data>').format(number, where, f"{number:,}")


def code(value: Any, where: str | None = None) -> Markup:
    """A text of the machine: an id, a path, a digest, a command."""
    if where is None:
        return Markup("<code>{}</code>").format(value)
    return Markup('<code data-from="{}">{}</code>').format(where, value)


def digest(value: Any, where: str) -> Markup:
    """Enough of a digest to tell two apart; a pointer and a title have it whole."""
    text = str(value)
    if len(text) <= 20:
        return code(text, where)
    return Markup('<code data-from="{}" title="{}">{}…</code>').format(where, text, text[:19])


def moment(value: Any) -> str:
    """A point in time, from unix seconds or ISO 8601, in UTC and to the second."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(float(value), UTC)
        return at.astimezone(UTC).strftime("%-d %B %Y, %H:%M:%S UTC")
    except (TypeError, ValueError, OverflowError, OSError):
        return str(value) if isinstance(value, str) and value else ABSENT


def time_of(value: Any, where: str) -> Markup:
    return Markup('<time data-from="{}">{}</time>').format(where, moment(value))


def plain(value: Any, where: str) -> Markup:
    """A scalar, or a list of few scalars, as text; identifiers such as digests as code."""
    if isinstance(value, list | tuple) and value:
        return Markup(", ").join(plain(item, f"{where}/{i}") for i, item in enumerate(value))
    if value is None or isinstance(value, dict | list | tuple):
        return NONE
    if isinstance(value, bool):
        return marked(value, where, "yes" if value else "no")
    if isinstance(value, str) and " " not in value and (len(value) > 24 or "/" in value):
        return code(value, where)
    return marked(value, where, str(value) if not isinstance(value, str) else value)


def title(key: Any) -> str:
    """``what_it_does_not_cover`` as a heading; a key that is a path or digest stays as it is."""
    words = str(key).replace("_", " ").strip()
    return words[:1].upper() + words[1:] if words and "/" not in words and len(words) <= 60 else str(key)


def deep(value: Any) -> bool:
    """Whether a value needs a place of its own, and not a cell."""
    if isinstance(value, dict):
        return bool(value)
    if not isinstance(value, list | tuple):
        return False
    sentences = any(isinstance(item, str) and item.count(" ") > 2 for item in value)
    return sentences or len(value) > _FEW or any(isinstance(item, dict | list | tuple) for item in value)


def records(value: Any) -> Table | None:
    """A list of flat mappings as a table; None for any other list. The cells are pairs of key and value."""
    if not all(isinstance(item, dict) and not any(map(deep, item.values())) for item in value):
        return None
    keys = list(dict.fromkeys(str(key) for item in value for key in item))
    if not keys:
        return None
    rows = [[(key, item[key]) if key in item else None for key in keys] for item in value]
    return table("Each entry", [title(key) for key in keys], rows)


FORMS: dict[str, Callable[[Any], str]] = {
    "recorded": recorded,
    "percent": percent,
    "seconds": seconds,
    "moment": moment,
    "whole": lambda value: f"{value:,}" if isinstance(value, int) else str(value),
    "plain": str,
}

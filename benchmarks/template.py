"""Pages that are made: a template's ``{{words}}`` are replaced by what was measured, and its paragraphs are wrapped."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable

COLUMNS = 100
_MARK = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_ITEM = re.compile(r"( *)([*-]|\d+\.) +")
_MARKER = re.compile(r"(?<=\S) (?=([*+-]|\d+[.)]) )")
_VERBATIM = ("|", "#", "<", "!", "    ")  # tables, headings, HTML, pictures, code


def filled(template: str, said: Callable[[str], str]) -> str:
    """The page. ``said`` gives the text of a mark, and raises what it cannot say.

    A mark that is alone in its paragraph may give several lines, which are kept as they are.
    """
    return "\n\n".join(_paragraph(block, said) for block in re.split(r"\n{2,}", template.strip("\n"))) + "\n"


def _paragraph(block: str, said: Callable[[str], str]) -> str:
    alone = _MARK.fullmatch(block.strip())
    if alone is not None:
        return said(_name(alone)).strip("\n")
    text = _MARK.sub(lambda found: said(_name(found)), block)
    if block.startswith(_VERBATIM):
        return text
    return "\n".join(_wrapped(item) for item in _items(text))


def _name(found: re.Match[str]) -> str:
    return " ".join(found[1].split())


def _items(text: str) -> list[str]:
    """The items of a list, or one paragraph."""
    items: list[str] = []
    for line in text.splitlines():
        if items and not _ITEM.match(line):
            items[-1] += f" {line.strip()}"
        else:
            items.append(line)
    return items


def _wrapped(text: str) -> str:
    item = _ITEM.match(text)
    hang = " " * len(item[0]) if item else ""
    held = _MARKER.sub("\0", text).replace(" = ", "\0=\0")  # no line may begin with a mark of a list
    lines = textwrap.fill(held, COLUMNS, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False)
    return lines.replace("\0", " ")

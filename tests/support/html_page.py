"""A page taken apart: tags, attributes, text, and where each value says that it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "br", "input", "img", "hr"}
INLINE = {"a", "bdi", "code", "data", "span", "strong", "time"}
VALUES = {"bdi", "code", "data", "time"}


@dataclass
class Value:
    """An element with a value. at: its pointer. of: the pointer of the entries that it counts."""

    tag: str
    value: str | None
    at: str | None
    of: str | None
    text: str = ""


class Page(HTMLParser):
    """Fails on tags that do not nest. loose: the text outside of values, drawings and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.loose: list[str] = []
        self.open: list[str] = []
        self.values: list[Value] = []
        self._inside: list[Value] = []
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag in VALUES:
            known: dict[str, Any] = dict(attrs)
            self._inside.append(Value(tag, known.get("value"), known.get("data-from"), known.get("data-count-of")))
            self.values.append(self._inside[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in VALUES:
            self._inside.pop()
        if tag not in INLINE:
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if {"style", "svg"} & set(self.open):
            return
        self.words.append(data)
        if self._inside:
            self._inside[-1].text += data
        elif "title" not in self.open:
            self.loose.append(data)

    def _seen(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in INLINE:
            self.words.append(" ")

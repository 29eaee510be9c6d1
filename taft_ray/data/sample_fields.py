"""The label, id, owner and split that the ``.cls`` and ``.json`` of a tar's sample give, and where they contradict."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from taft_ray.data import split_columns
from taft_ray.data.ids import json_text
from taft_ray.data.no_label import is_below_zero
from taft_ray.data.source_file import BELOW_ZERO, NO_LABEL, NOT_A_LABEL
from taft_ray.data.text import decode_text

LABELS = (".cls", ".json")
_ONE_VALUE = ("label", "id", "owner")


@dataclass
class Said:
    """labels: by the member's suffix, as it is written, also a number below 0. splits: fields that may tell a split.

    reason: why there is no label, where there is none.
    """

    labels: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str | None] = field(default_factory=dict)
    id: str | None = None
    owner: str | None = None
    reason: str = NO_LABEL

    @property
    def label(self) -> str | None:
        """The label of the ``.cls``, else of the ``.json``; none for a number below 0."""
        label = self.labels.get(".cls") or self.labels.get(".json")
        return None if label is None or is_below_zero(label) else label

    def add(self, suffix: str, content: bytes, where: str) -> None:
        """Take in one member; DataError for an id or owner that names nothing."""
        try:
            text = decode_text(content).strip()
            if suffix == ".cls":
                self._add_label(suffix, text)
                return
            fields = json.loads(text, object_pairs_hook=_fields)
            if not isinstance(fields, dict):
                raise ValueError("not an object")
            self._add_label(suffix, fields.get("label"))
            told = {
                name: split_columns.text_of(value) for name, value in fields.items() if split_columns.may_tell(name)
            }
            self.splits |= told
        except (ValueError, RecursionError):
            self.reason = f"unreadable {suffix}"
            return
        self.id = json_text(fields.get("id"), "id", where)
        self.owner = json_text(fields.get("owner"), "owner", where) or None

    def _add_label(self, suffix: str, value: Any) -> None:
        if isinstance(value, float) and value.is_integer() and value < 0:
            value = int(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            self.reason = NOT_A_LABEL
            return
        text = "" if value is None else str(value)
        if "\0" in text:
            raise ValueError("binary")
        text.encode()  # UnicodeEncodeError, a ValueError, for half a surrogate pair of a JSON escape
        if text.strip():
            self.labels[suffix] = text
            if is_below_zero(text):
                self.reason = BELOW_ZERO


def contradictions(samples: Sequence[Said]) -> list[bool]:
    """Which samples have two labels that differ. A number beside a name is one class as long as each goes with one other."""
    names: dict[str, set[str]] = defaultdict(set)  # that go with a number, and the reverse
    pairs = [
        tuple(said.labels[suffix].strip() for suffix in LABELS) if len(said.labels) == 2 else None for said in samples
    ]
    kinds = [pair and _kind(*pair) for pair in pairs]
    for pair, kind in zip(pairs, kinds, strict=True):
        if pair and kind == "number and name":
            names[f"cls {pair[0]}"].add(pair[1])
            names[f"json {pair[1]}"].add(pair[0])
    return [
        kind == "different"
        or bool(
            pair and kind == "number and name" and max(len(names[f"cls {pair[0]}"]), len(names[f"json {pair[1]}"])) > 1
        )
        for pair, kind in zip(pairs, kinds, strict=True)
    ]


def _kind(one: str, other: str) -> str:
    if one == other or (is_below_zero(one) and is_below_zero(other)):
        return "same"
    numbers = [label.isascii() and label.isdecimal() for label in (one, other)]
    if all(numbers) and one.lstrip("0") == other.lstrip("0"):
        return "same"
    below = is_below_zero(one) or is_below_zero(other)
    return "number and name" if numbers[0] != numbers[1] and not below else "different"


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A field written twice with different values means the first to one reader and the last to another."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields and fields[name] != value and (name in _ONE_VALUE or split_columns.may_tell(name)):
            raise ValueError("a field is there twice")
        fields[name] = value
    return fields

"""The base of all answers: the JSON that a command prints, and a text for a person."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from taft_ray.counting import plural
from taft_ray.errors import AnswerMismatch
from taft_ray.jsonable import JsonObject

_AT_MOST = 8  # entries of a list that are shown to a person


@dataclasses.dataclass(frozen=True)
class Answer(JsonObject):
    """An answer or a part of one; AnswerMismatch where the JSON is not one of its kind."""

    MISMATCH = AnswerMismatch

    def __str__(self) -> str:
        return "\n".join(lines(self.to_json()))


def lines(answer: Any, indent: str = "") -> list[str]:
    """An answer for a person: short values per line, long lists counted."""
    told: list[str] = []
    for name, value in answer.items():
        if isinstance(value, Mapping):
            told += [f"{indent}{name}:", *lines(value, indent + "  ")]
        elif isinstance(value, list) and len(value) > _AT_MOST:
            told.append(f"{indent}{name}: {plural(len(value), 'entry', 'entries')} (--json shows them)")
        elif isinstance(value, list) and _are_long(value):
            told.append(f"{indent}{name}:")
            told += [f"{indent}  {item if isinstance(item, str) else json.dumps(item)}" for item in value]
        else:
            told.append(f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")
    return told


def _are_long(values: Sequence[Any]) -> bool:
    return any(isinstance(item, Mapping) or " " in str(item) for item in values)

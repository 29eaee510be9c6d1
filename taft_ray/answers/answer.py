"""The base of all answers: a frozen dataclass, the JSON that a command prints, and a text for a person."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from taft_ray.errors import AnswerMismatch

_MORE, _ABSENT = "_more", "_absent"  # of what was read: fields that this version does not know, and those it lacked
_UNKNOWN: frozenset[str] = frozenset()
_AT_MOST = 8  # entries of a list that are shown to a person
_OPTIONAL = {"optional": True}


def optional(default: Any = None) -> Any:
    """A field that is left out of the JSON where it has this value."""
    return dataclasses.field(default=default, metadata=_OPTIONAL)


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer or a part of one. ``from_json`` and ``to_json`` lose nothing: fields of a newer version are kept."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """An answer from the JSON that a command printed; AnswerMismatch where a field of it is missing."""
        if not isinstance(values, Mapping):
            raise AnswerMismatch(f"expected the JSON object of {cls.__name__}, got {type(values).__name__}")
        hints = _hints(cls)
        missing = [
            field.name
            for field in dataclasses.fields(cls)
            if field.name not in values and field.default is dataclasses.MISSING
        ]
        if missing:
            raise AnswerMismatch(
                f"{cls.__name__} lacks {', '.join(missing)}: another command's answer, or another version's of taft_ray"
            )
        made = cls(**{name: _read(hints[name], values[name]) for name in hints if name in values})
        object.__setattr__(made, _MORE, {name: value for name, value in values.items() if name not in hints})
        object.__setattr__(made, _ABSENT, frozenset(hints.keys() - values.keys()))
        return made

    def to_json(self) -> dict[str, Any]:
        """The object that the command prints with ``--json``."""
        absent = getattr(self, _ABSENT, _UNKNOWN)
        told: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in absent or (absent is _UNKNOWN and field.metadata == _OPTIONAL and value == field.default):
                continue
            told[field.name] = _written(value)
        return {**told, **getattr(self, _MORE, {})}

    def __str__(self) -> str:
        return "\n".join(lines(self.to_json(), whole=self._whole()))

    def _whole(self) -> frozenset[str]:
        """Lists that are shown to a person from end to end."""
        return frozenset()


@cache
def _hints(cls: type[Answer]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: hint for name, hint in get_type_hints(cls).items() if name in names}


def _read(hint: Any, value: Any) -> Any:
    """A value of JSON as its type says; numbers, texts and mappings stay as they are."""
    if value is None:
        return None
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read(next(one for one in get_args(hint) if one is not type(None)), value)
    if origin is tuple:
        return tuple(_read(get_args(hint)[0], one) for one in value)
    if origin is Mapping and _holds_answers(hint):
        return {name: _read(get_args(hint)[1], one) for name, one in value.items()}
    if isinstance(hint, type) and issubclass(hint, Answer):
        return hint.from_json(value)
    return value


def _holds_answers(hint: Any) -> bool:
    held = get_args(hint)[1:]
    return bool(held) and isinstance(held[0], type) and issubclass(held[0], Answer)


def _written(value: Any) -> Any:
    if isinstance(value, Answer):
        return value.to_json()
    if isinstance(value, dict):
        return {name: _written(one) for name, one in value.items()}
    return [_written(one) for one in value] if isinstance(value, tuple) else value


def lines(answer: Any, indent: str = "", whole: frozenset[str] = frozenset()) -> list[str]:
    """An answer for a person: short values per line, long lists counted."""
    told: list[str] = []
    for name, value in answer.items():
        if isinstance(value, Mapping):
            told += [f"{indent}{name}:", *lines(value, indent + "  ")]
        elif isinstance(value, list) and len(value) > _AT_MOST and name not in whole:
            told.append(f"{indent}{name}: {len(value)} entries (--json shows them)")
        elif isinstance(value, list) and _are_long(value):
            told.append(f"{indent}{name}:")
            told += [f"{indent}  {item if isinstance(item, str) else json.dumps(item)}" for item in value]
        else:
            told.append(f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")
    return told


def _are_long(values: Sequence[Any]) -> bool:
    return any(isinstance(item, Mapping) or " " in str(item) for item in values)

"""Frozen dataclasses that are JSON objects. Nothing is lost on the way: fields of a newer version are kept."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

_MORE, _ABSENT = "_more", "_absent"  # of what was read: fields that this version does not know, and those it lacked
_MADE: frozenset[str] = frozenset({"(made, not read)"})
_WHOLE: frozenset[str] = frozenset()
_OPTIONAL = {"optional": True}


def optional(default: Any = None) -> Any:
    """A field that is left out of the JSON where it has this value; dict: where it is empty."""
    if default is dict:
        return dataclasses.field(default_factory=dict, metadata=_OPTIONAL)
    return dataclasses.field(default=default, metadata=_OPTIONAL)


@dataclasses.dataclass(frozen=True)
class JsonObject:
    """A JSON object with known fields. ``from_json`` and ``to_json`` are each other's inverse."""

    MISMATCH: ClassVar[type[Exception]] = ValueError
    """What ``from_json`` raises for another object."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The object with these fields; `MISMATCH` where one is missing that has no default."""
        if not isinstance(values, Mapping):
            raise cls.MISMATCH(f"expected the JSON object of {cls.__name__}, got {type(values).__name__}")
        hints = _hints(cls)
        absent = hints.keys() - values.keys()
        missing = [name for name in hints if name in absent and name in _required(cls)]
        if missing:
            raise cls.MISMATCH(
                f"{cls.__name__} lacks {', '.join(missing)}: it is of another kind, or of another version of taft_ray"
            )
        made = cls(**{name: _read(hint, values[name]) for name, hint in hints.items() if name in values})
        object.__setattr__(made, _ABSENT, frozenset(absent) if absent else _WHOLE)
        if len(values) + len(absent) > len(hints):
            object.__setattr__(made, _MORE, {name: value for name, value in values.items() if name not in hints})
        return made

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        absent = getattr(self, _ABSENT, _MADE)
        told: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in absent or (absent is _MADE and field.metadata == _OPTIONAL and _is_default(field, value)):
                continue
            told[field.name] = _written(value)
        return {**told, **getattr(self, _MORE, {})}


@cache
def _hints(cls: type[JsonObject]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@cache
def _required(cls: type[JsonObject]) -> frozenset[str]:
    missing = dataclasses.MISSING
    fields = dataclasses.fields(cls)
    return frozenset(f.name for f in fields if f.default is missing and f.default_factory is missing)


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    made = field.default_factory
    return value == (field.default if made is dataclasses.MISSING else made())


def _read(hint: Any, value: Any) -> Any:
    """A value of JSON as its type says; numbers, texts and mappings of them stay as they are."""
    if value is None:
        return None
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read(next(one for one in get_args(hint) if one is not type(None)), value)
    if origin is tuple:
        held = get_args(hint)[0]
        return tuple(_read(held, one) for one in value)
    if origin is Mapping:
        held = get_args(hint)[1]
        return {name: _read(held, one) for name, one in value.items()} if _is_read(held) else value
    return hint.from_json(value) if hasattr(hint, "from_json") else value


def _is_read(hint: Any) -> bool:
    """Whether values of this type differ from their JSON."""
    return get_origin(hint) is tuple or hasattr(hint, "from_json")


def _written(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, dict):
        return {name: _written(one) for name, one in value.items()}
    return [_written(one) for one in value] if isinstance(value, tuple) else value

"""JSON that came from storage: read strictly, for somebody else may have written it."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from taft_ray.errors import IntegrityError

MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError)
"""What reading hostile JSON, or fields that are not those of the record, raises."""


def parse_json(data: bytes | str) -> Any:
    """The value of this JSON; keys are shared, so that in ten thousand ledger entries each is in memory once.

    Raises one of `MALFORMED` for what is not UTF-8, nests too deep, has a field twice, or has NaN or infinities.
    """
    text = data if isinstance(data, str) else bytes(data).decode("utf-8")
    return json.loads(text, object_pairs_hook=_fields, parse_constant=_no_number, parse_float=_finite)


def json_object(data: bytes | str, where: str, way_out: str = "restore it from a copy") -> dict[str, Any]:
    """The JSON object in an object of storage; `IntegrityError` naming ``where``, and the way out, for anything else."""
    try:
        found = parse_json(data)
    except MALFORMED as error:
        raise IntegrityError(f"{where} is damaged: it is not JSON ({_short(error)}); {way_out}") from error
    if not isinstance(found, dict):
        raise IntegrityError(f"{where} is damaged: expected a JSON object, got a {type(found).__name__}; {way_out}")
    return found


def _fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Fields by name. ValueError for one written twice: one reader would take the first and another the last."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError("a field is there twice")
        fields[sys.intern(name)] = value
    return fields


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:80]}"

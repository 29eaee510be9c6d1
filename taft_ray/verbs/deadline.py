"""When a request has to be carried out, as people say it."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from taft_ray.errors import UsageError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_EXPECTED = "expected 30d, 12h, 90m, 60s, or a time such as 2027-01-31T12:00"


def unix_deadline(when: str | float | datetime | timedelta | None, option: str = "deadline") -> float | None:
    """A deadline as unix seconds: how long from now (30d, 12h, 90m, 60s; a timedelta), a time (ISO 8601; a datetime), or
    unix seconds themselves. UsageError, which names the ``option``, for what is none of them."""
    if when is None:
        return None
    if isinstance(when, timedelta):
        return time.time() + when.total_seconds()
    if isinstance(when, datetime):
        return when.astimezone().timestamp()
    if isinstance(when, bool) or not isinstance(when, int | float | str):
        raise UsageError(f"--{option} {when!r}: {_EXPECTED}, or a datetime")
    try:
        seconds = float(when) if isinstance(when, int | float) else _parsed(when)
        datetime.fromtimestamp(seconds)  # refuses nan, inf and what no calendar has
        return seconds
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"--{option} {when!r}: {_EXPECTED}") from error


def _parsed(text: str) -> float:
    if text[-1:] in _UNITS:
        return time.time() + float(text[:-1]) * _UNITS[text[-1]]
    return datetime.fromisoformat(text).astimezone().timestamp()

"""Log records that say which run, operation, shard and generation they belong to.

Records come from loggers of the standard library below ``taft_ray``, so that a program configures them as any other.
`CONTEXT_FIELDS` are attributes of every record; None where a record belongs to none.

Guarantees: no record of a verb, a commit or a fit names a sample or its id.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import wraps
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

FORMAT = "TAFT_RAY_LOG"
"""Names the variable that makes a log's lines JSON, where it is "json"."""
CONTEXT_FIELDS = ("run", "operation", "shard", "generation")
_CONTEXT: ContextVar[Mapping[str, Any]] = ContextVar("taft_ray.log", default=MappingProxyType({}))


class _InContext(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        fields = {**dict.fromkeys(CONTEXT_FIELDS), **_CONTEXT.get(), **(kwargs.get("extra") or {})}
        return msg, {**kwargs, "extra": fields}


def logger_of(name: str) -> logging.LoggerAdapter[logging.Logger]:
    """The logger of a module, whose records have the context's fields."""
    return _InContext(logging.getLogger(name))


_log = logger_of(__name__)


@contextmanager
def context(**fields: Any) -> Iterator[None]:
    """Put fields into every record of this thread until the end of a block; blocks nest, and None says nothing new."""
    if unknown := fields.keys() - set(CONTEXT_FIELDS):
        raise TypeError(f"expected fields among {CONTEXT_FIELDS}, got {sorted(unknown)}")
    known = {name: value for name, value in fields.items() if value is not None}
    token = _CONTEXT.set({**_CONTEXT.get(), **known})
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def current_operation() -> str | None:
    """The verb that this thread is in."""
    return _CONTEXT.get().get("operation")


def operation(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A verb, whose first argument is a run's address: its begin and its end are logged at INFO.

    A verb inside another belongs to the outer one. The kind of an error is logged, and not its text, which may name samples.
    """

    def decorate(verb: Callable[P, T]) -> Callable[P, T]:
        @wraps(verb)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            if current_operation() is not None:
                return verb(*args, **kwargs)
            with context(run=str(args[0] if args else kwargs["run"]), operation=name):
                began = time.monotonic()
                _log.info("%s begins", name)
                try:
                    answer = verb(*args, **kwargs)
                except BaseException as error:
                    _log.info("%s failed after %.2f s: %s", name, time.monotonic() - began, type(error).__name__)
                    raise
                _log.info("%s ended after %.2f s", name, time.monotonic() - began)
                return answer

        return call

    return decorate


def level() -> int:
    """The level from which on records of taft_ray are wanted in this process."""
    return logging.getLogger("taft_ray").getEffectiveLevel()


def write_from(wanted: int) -> None:
    """In a process that nobody has configured: write records from this level on to stderr, with their fields."""
    logger = logging.getLogger("taft_ray")
    if wanted >= logging.WARNING or logger.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if is_json() else WithContext("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(wanted)


def is_json() -> bool:
    """Whether lines for a log are wanted as JSON."""
    return os.environ.get(FORMAT, "").lower() == "json"


class JsonLines(logging.Formatter):
    """A JSON object per record: time (ISO 8601, UTC), level, logger, message, and the fields that are known."""

    def format(self, record: logging.LogRecord) -> str:
        known = {name: value for name in CONTEXT_FIELDS if (value := getattr(record, name, None)) is not None}
        said = {"time": f"{datetime.fromtimestamp(record.created, UTC).isoformat(timespec='milliseconds')}"}
        said |= {"level": record.levelname, "logger": record.name, "message": record.getMessage()}
        error = {"error": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps({**said, **known, **error}, default=str)


class WithContext(logging.Formatter):
    """A line for a person: the message, and the fields that are known."""

    def format(self, record: logging.LogRecord) -> str:
        known = [(name, getattr(record, name, None)) for name in CONTEXT_FIELDS]
        fields = " ".join(f"{name}={value}" for name, value in known if value is not None)
        return f"{super().format(record)} [{fields}]" if fields else super().format(record)

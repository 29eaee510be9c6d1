"""Calls into Ray whose errors come back as the package's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from taft_ray.errors import StorageError, TaftError


def own_error(error: BaseException) -> TaftError | None:
    """The package's own error inside whatever Ray wrapped around it."""
    seen: set[int] = set()
    stack: list[Any] = [error]
    while stack:
        current = stack.pop()
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray raises a class that is both its own error and ours, whose text is a remote traceback: ours is its cause
        if isinstance(current, TaftError) and not isinstance(current, RayTaskError):
            return current
        stack += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        stack += list(getattr(current, "worker_failures", {}).values())
    return None


@contextmanager
def own_errors(died: str = "an actor of this run died ({error}); run the same command again") -> Iterator[None]:
    """Raise the package's own errors out of what Ray wrapped around them; StorageError where an actor died of something else."""
    try:
        yield
    except (RayTaskError, RayActorError) as error:
        own = own_error(error)
        if own is not None:
            raise own from None
        if isinstance(error, RayTaskError):
            raise
        raise StorageError(died.format(error=error)) from error


def fetch(ref: Any) -> Any:
    """`ray.get`, which raises the package's own errors as they are."""
    with own_errors():
        return ray.get(ref)

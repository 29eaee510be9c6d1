"""Actors that may die or leave at any time: what is asked of one is asked again of the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayActorError

from taft_ray.errors import StorageError
from taft_ray.orchestration.calls import ask

_TRIES, _PAUSE_S = 6, 0.25  # of a call whose actor has died or left; a pause doubles


class Standing:
    """A named actor, made again where it has died or left. For actors whose calls may be repeated.

    find: the actor of this name, made where there is none.
    """

    def __init__(self, find: Callable[[], Any]) -> None:
        self.find = find
        self.actor = find()

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the actor and wait."""
        for attempt in range(_TRIES):
            try:
                return ask(getattr(self.actor, method), *args, **kwargs)
            except StorageError as error:
                if not isinstance(error.__cause__, RayActorError):
                    raise
            time.sleep(_PAUSE_S * 2**attempt)
            self.actor = self.find()
        return ask(getattr(self.actor, method), *args, **kwargs)

"""Actors that may die, hang or leave at any time: what is asked of one is asked again of the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from taft_ray.errors import StorageError
from taft_ray.log import logger_of
from taft_ray.orchestration.calls import fetch

_TRIES, _PAUSE_S = 7, 0.25  # of a call whose actor has died or left; a pause doubles
_LIFE = "life"  # a thread of the actor that says it is there, whatever its calls do
_SILENT_S, _SIGN_S = 15.0, 30.0  # of a call, after which its actor is asked whether it is there; in which it says so

_log = logger_of(__name__)


class Standing:
    """A named actor, made again where it has died or left. For actors whose calls may be repeated."""

    def __init__(self, find: Callable[[], Any], tries: int = _TRIES) -> None:
        """find: the actor of this name, made where there is none, which is `giving_signs`. tries: of one call."""
        self.find, self.tries = find, tries
        self.actor = find()

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the actor and wait."""
        for attempt in range(self.tries):
            try:
                if attempt:
                    time.sleep(_PAUSE_S * 2 ** (attempt - 1))
                    self.actor = self.find()
                answer = getattr(self.actor, method).remote(*args, **kwargs)
                self.wait(answer)
                return fetch(answer)
            except StorageError as error:
                if not isinstance(error.__cause__, RayActorError) or attempt == self.tries - 1:
                    raise
                if isinstance(error.__cause__, ActorUnavailableError) and attempt == self.tries - 2:
                    self.out_of_reach()
        raise AssertionError("no try is left, and the last one raises")

    def out_of_reach(self) -> None:
        """End an actor that stays out of reach: one that was stopped before this process asked it for the first time, say."""
        _log.warning("an actor of this run cannot be reached and is ended")
        ray.kill(self.actor)

    def wait(self, answer: Any) -> None:
        """Wait until the actor has answered, or is lost; one that hangs is ended."""
        while not ray.wait([answer], timeout=_SILENT_S, fetch_local=False)[0]:
            sign = self.actor.ready.options(concurrency_group=_LIFE).remote()
            if not ray.wait([answer, sign], timeout=_SIGN_S, fetch_local=False)[0] and _is_made(self.actor):
                _log.warning("an actor of this run says nothing for %d s and is ended", _SILENT_S + _SIGN_S)
                ray.kill(self.actor)  # also one that was stopped; its name is free at once


def _is_made(actor: Any) -> bool:
    """Whether its process has begun to take calls: it may still wait for a place, or import torch."""
    from ray._private.state import actors  # there is no public way

    return actors(actor._ray_actor_id.hex()).get("State") == "ALIVE"


def giving_signs(cls: type) -> Any:
    """The actor class of a `Warm` one, which answers ``ready`` while a call is at work. Calls run in a thread of their own."""
    with_life: Any = ray.remote(concurrency_groups={_LIFE: 1})  # type: ignore[call-overload]  # Ray's stubs lack it
    return with_life(cls)

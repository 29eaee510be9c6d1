"""Asking replicas, as a gateway does: another one where one has died or may not answer, and never later than the drain allows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from taft_ray.serving.requests import Refused

_AGAIN_S = 0.05  # between two questions; a replica that died is known to Ray Serve by then
_LOST = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)

Answer = Mapping[str, Any]


async def ask(call: Callable[[], Awaitable[Answer]], drain: float) -> Answer:
    """The first answer that is one; Refused (503) where none came within ``drain`` seconds.

    Guarantees: an answer that took longer than ``drain`` from its question on is thrown away.
    """
    loop = asyncio.get_running_loop()
    first = loop.time()
    why = "no replica answered in time; ask again later"
    while (left := first + drain - loop.time()) > 0:
        try:
            answer = await asyncio.wait_for(_awaited(call), left)
        except TimeoutError:
            break
        except BackPressureError:
            raise Refused(503, "too many requests are waiting; ask again later") from None
        except _LOST:
            why = "the replica that was asked is gone, and no other answered in time; ask again later"
        else:
            if loop.time() - first > drain:
                break
            if "unconfirmed" not in answer:
                return answer
            why = str(answer["unconfirmed"])
        await asyncio.sleep(_AGAIN_S)
    raise Refused(503, why)


async def _awaited(call: Callable[[], Awaitable[Answer]]) -> Answer:
    return await call()

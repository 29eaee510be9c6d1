"""The verbs themselves, with the composer and the worker as plain objects in this process instead of Ray's actors."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from folder import at
from plain import inline_pass

from taft_ray.orchestration import features, measuring, repair, requests, run, session
from taft_ray.orchestration.composer import Composer
from taft_ray.orchestration.worker import ShardWorker


def call(method: Any, *args: Any, **kwargs: Any) -> Any:
    return method(*args, **kwargs)


@contextmanager
def without_ray(folder: Path | str, worker: ShardWorker, composer: Composer | None = None) -> Iterator[None]:
    """`forget`, `repair`, `status` and `evaluate` of this run; every call has a composer that starts from storage.

    composer: one that stays warm instead. worker: as of `plain_train`.
    """
    with ExitStack() as patches:

        def put(module: Any, name: str, value: Any) -> None:
            patches.enter_context(mock.patch.object(module, name, value))

        for module in (run, requests, repair, measuring):
            put(module, "ask", call)
        for module in (run, requests, repair):
            put(module, "composer_for", lambda address: composer or Composer(address))
        for module in (measuring, requests, repair):
            put(module, "worker_for", lambda address, *_: at(worker, address))
        put(session, "connect", lambda: None)
        put(session, "resources", lambda: (1, 0))
        put(requests, "_sweep_workers", lambda address: {"nodes": 0, "removed": 0})
        put(features, "_pass", inline_pass)
        yield

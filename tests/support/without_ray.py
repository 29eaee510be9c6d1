"""The verbs themselves, with the composer and the worker as plain objects in this process instead of Ray's actors."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from folder import at
from plain import InlinePasses

from taft_ray.composer.composer import Composer
from taft_ray.orchestration import actors, places, prefix_pass, session
from taft_ray.verbs import evaluate, forget, repair, status
from taft_ray.workers.row_worker import RowWorker
from taft_ray.workers.shard_worker import ShardWorker


@contextmanager
def without_ray(
    folder: Path | str, worker: ShardWorker | RowWorker, composer: Composer | None = None
) -> Iterator[None]:
    """`forget`, `repair`, `status` and `evaluate` of this run; every call has a composer that starts from storage.

    composer: one that stays warm instead. worker: as of `plain_train`.
    """
    with ExitStack() as patches:

        def put(module: Any, name: str, value: Any) -> None:
            patches.enter_context(mock.patch.object(module, name, value))

        for module in (evaluate, repair):
            put(module, "composer_of", lambda address: composer or Composer(address))
        for module in (forget, status):
            put(module, "Composer", lambda address: composer or Composer(address))
        put(forget, "in_cluster", lambda: False)
        put(forget, "_sweep", lambda address: {"nodes": 0, "removed": 0})
        put(actors, "worker_for", lambda address, *_: at(worker, address))
        put(session, "connected", nullcontext)
        put(places, "resources", lambda *_: (1, 0))
        put(prefix_pass, "passes", lambda *_: InlinePasses())
        yield

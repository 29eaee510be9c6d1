"""Ray put around the plain classes: where each actor runs, its name, and how its errors come back."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any, cast

import ray
from ray.actor import ActorProxy
from ray.exceptions import RayActorError, RayTaskError

from taft_ray.errors import StorageError, TaftError
from taft_ray.orchestration.composer import Composer
from taft_ray.orchestration.session import HEAD, NAMESPACE
from taft_ray.orchestration.worker import ShardWorker
from taft_ray.plans.spec import RunSpec

WORKER_IDLE_S = 600.0  # a retrain actor stays warm this long after its last call
CROWDED_IDLE_S = 3.0  # … and only this long once another run wants its CPUs or GPU
_TRIES = 3


def actor_name(run: str, role: str) -> str:
    """A cluster-wide name for a run's actor; the run's address is hashed, for it may be private."""
    return f"taft_ray/{hashlib.blake2b(run.encode(), digest_size=8).hexdigest()}/{role}"


def composer_for(run: str) -> ActorProxy[Composer]:
    """The run's composer: named, detached, without a CPU, restarted by Ray when it dies, on the head."""
    return (
        ray.remote(Composer)
        .options(
            name=actor_name(run, "composer"),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            resources=HEAD,
            max_restarts=-1,
            max_task_retries=_TRIES,
        )
        .remote(run)
    )


def worker_for(run: str, spec: RunSpec, classes: int, index: int = 0) -> ActorProxy[ShardWorker]:
    """A warm shard actor for retrains and evaluation: one GPU, or ``threads`` CPUs; leaves after ten idle minutes."""
    on_gpu, name = spec.device == "cuda", actor_name(run, f"worker-{index}")
    with suppress(ValueError):  # there is none yet
        return ray.get_actor(name, namespace=NAMESPACE)
    make_room(run, spec)
    return (
        ray.remote(ShardWorker)
        .options(
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0 if on_gpu else spec.threads,
            num_gpus=1 if on_gpu else 0,
            max_restarts=0,
        )
        .remote(run, classes, WORKER_IDLE_S)
    )


def make_room(run: str, spec: RunSpec, workers: int = 1) -> None:
    """Where so many workers of this run do not find a GPU (or ``threads`` CPUs) each, ask the warm ones of other runs to leave as soon as
    they have nothing to do."""
    what, each = ("GPU", 1) if spec.device == "cuda" else ("CPU", spec.threads)
    if ray.available_resources().get(what, 0) >= workers * each:
        return
    mine = actor_name(run, "worker-")
    listed = cast(list[dict[str, str]], ray.util.list_named_actors(all_namespaces=True))
    for actor in listed:
        name = actor["name"]
        if actor["namespace"] != NAMESPACE or "/worker-" not in name or name.startswith(mine):
            continue
        with suppress(ValueError):  # it has just left
            ray.get_actor(name, namespace=NAMESPACE).leave_sooner.remote(CROWDED_IDLE_S)


def release_worker(run: str, index: int = 0) -> None:
    """Let the warm shard actor, if there is one, drop the pictures that it keeps between calls."""
    try:
        ask(ray.get_actor(actor_name(run, f"worker-{index}"), namespace=NAMESPACE).release)
    except (ValueError, StorageError):
        return  # none is there, or it has just left: then nothing is kept


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


def ask(method: Any, *args: Any, **kwargs: Any) -> Any:
    """Call an actor's method and wait; the package's own errors come back as themselves."""
    try:
        return ray.get(method.remote(*args, **kwargs))
    except (RayTaskError, RayActorError) as error:
        own = own_error(error)
        if own is not None:
            raise own from None
        if isinstance(error, RayTaskError):
            raise
        raise StorageError(f"an actor of this run died ({error}); run the same command again") from error

"""Ray put around the plain classes: where each actor runs, its name, and calls to it as plain calls."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from taft_ray.composer.composer import Composer
from taft_ray.composer.leases import LEAST_S, LOSSES
from taft_ray.errors import StorageError, TaftError
from taft_ray.log import level, write_from
from taft_ray.orchestration.metrics import RunMetrics
from taft_ray.orchestration.nodes import is_going
from taft_ray.orchestration.places import has_room
from taft_ray.orchestration.pulse import WARM, looked_after, wait_for, with_pulse
from taft_ray.orchestration.session import HEAD, NAMESPACE, head_memory
from taft_ray.orchestration.solver import RemoteSolver
from taft_ray.orchestration.standing import Standing, giving_signs
from taft_ray.orchestration.waiting import told_while
from taft_ray.plans.lane_resources import LaneResources
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.run.record import Record
from taft_ray.workers.warm import Warm, in_use

if TYPE_CHECKING:
    from taft_ray.workers.shard_worker import ShardWorker

WORKER_IDLE_S = 180.0  # a retrain actor stays warm this long after its last call
CROWDED_IDLE_S = 3.0  # … and only this long once another run wants its CPUs or GPU
COMPOSER_IDLE_S = 180.0  # a composer without a call leaves; it is rebuilt from the ledger in a moment
_PAUSE_S = 1.0  # between two tries to reach a worker
_TOLD_AT_ONCE = ("compose", "conclude_forget", "request_forget")  # the last calls of a command, and of a request
COMPOSER_MEMORY = 200 << 20  # bytes, of a small run (benchmarks/README.md)


def actor_name(run: str, role: str) -> str:
    """A cluster-wide name for a run's actor; the run's address is hashed, for it may be private."""
    return f"taft_ray/{hashlib.blake2b(run.encode(), digest_size=8).hexdigest()}/{role}"


class ComposerActor(Warm):
    """A composer in a process of its own, which leaves when nobody has called for a while."""

    def __init__(self, run: str, idle_s: float) -> None:
        self.solver = RemoteSolver()
        self.composer = Composer(run, self.solver, gone=is_going)
        self.metrics = RunMetrics(self.composer)
        super().__init__(idle_s)

    @in_use
    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the composer."""
        if name == "begin":
            self.solver.start()  # a training composes in the end
        self.metrics.begin()
        answer = getattr(self.composer, name)(*args, **kwargs)
        with suppress(TaftError):
            self.metrics.tell(at_once=name in _TOLD_AT_ONCE)
        return answer


class RemoteComposer(Standing):
    """The methods of a run's `Composer`, as plain calls to its actor. Every operation has an id and is done once."""

    def __init__(self, run: str) -> None:
        super().__init__(partial(_composer_actor, run))
        self.run = run
        self._record: Record | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return partial(self.ask, "call", name)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteComposer, (self.run,)

    def snapshot(self) -> RunState:
        """The state, read from the ledger here: it may be large, and no process has to ask another for it."""
        if self._record is None or self._record.was_exchanged():
            self._record = Record(self.run)
        self._record.refresh()
        return self._record.state

    def tell(self, name: str, *args: Any) -> None:
        """Call a method and do not wait; nobody hears of an error."""
        self.actor.call.remote(name, *args)


def composer_for(run: str) -> RemoteComposer:
    """The run's composer: named, detached, without a CPU, on the head."""
    return RemoteComposer(run)


def _composer_actor(run: str) -> Any:
    return _logging_as_here(
        giving_signs(ComposerActor)
        .options(
            name=actor_name(run, "composer"),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            memory=head_memory(COMPOSER_MEMORY) or None,
            resources=HEAD,
            max_restarts=0,
        )
        .remote(run, COMPOSER_IDLE_S)
    )


class RemoteWorker(Standing):
    """The methods of a warm worker, as plain calls to its actor. Where it is lost, the next one is asked the same."""

    def __init__(self, run: str, index: int, find: Callable[[], Any]) -> None:
        self.run, self.index = run, index
        super().__init__(find, LOSSES)  # a fit may be what kills it

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return partial(self.ask, name)

    def out_of_reach(self) -> None:
        """Wait until the worker can be reached again, or is ended where it was stopped."""
        until = time.monotonic() + LEAST_S
        with looked_after("a worker", _signs_of(self.run, self.index), run=self.run):
            while self._is_out_of_reach() and time.monotonic() < until:
                time.sleep(_PAUSE_S)

    def _is_out_of_reach(self) -> bool:
        sign = self.actor.ready.remote()
        ray.wait([sign], fetch_local=False)
        try:
            ray.get(sign)
        except ActorUnavailableError:
            return True
        except RayActorError:
            return False
        return False

    def wait(self, answer: Any) -> None:
        """Wait for the answer, by signs of life of its process: calls run in the thread whose settings of torch they need."""
        wait_for(answer, "a worker", _signs_of(self.run, self.index), self.run)


def _signs_of(run: str, index: int) -> str:
    """The group of signs of a warm worker."""
    return f"{WARM}/{actor_name(run, f'worker-{index}')}"


def worker_for(run: str, spec: RunSpec, classes: int, per_lane: LaneResources, index: int = 0) -> ShardWorker:
    """A warm shard actor for retrains and evaluation, which takes as much as a lane; leaves when it is idle."""
    return cast("ShardWorker", RemoteWorker(run, index, partial(_worker_actor, run, spec, classes, per_lane, index)))


def _worker_actor(run: str, spec: RunSpec, classes: int, per_lane: LaneResources, index: int) -> Any:
    from taft_ray.workers.kinds import worker_class  # with torch and timm, which a composer's process can do without

    name = actor_name(run, f"worker-{index}")
    with suppress(ValueError):  # there is none yet
        return ray.get_actor(name, namespace=NAMESPACE)
    make_room(run, spec, per_lane)
    taken = per_lane.for_worker(spec)
    actor = _logging_as_here(
        ray.remote(with_pulse(worker_class(spec), _signs_of(run, index)))
        .options(
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=0,
            **taken,
        )
        .remote(run, classes, WORKER_IDLE_S)
    )
    what = per_lane.said(spec.device, spec.threads)
    with told_while(run, "a worker", what, lambda: not has_room(taken, per_lane)):
        # also where it dies, which whoever asks it first will hear
        wait_for(actor.ready.remote(), "a worker", _signs_of(run, index), run)
    return actor


def _logging_as_here(actor: Any) -> Any:
    """The actor, which writes its records to Ray's worker logs from the level of this process on."""
    if level() < logging.WARNING:
        actor.__ray_call__.remote(_write_from, level())
    return actor


def _write_from(actor: Any, wanted: int) -> None:
    write_from(wanted)


def make_room(run: str, spec: RunSpec, per_lane: LaneResources, workers: int = 1) -> None:
    """Ask the warm workers of other runs to leave as soon as they have nothing to do.

    They are asked where so many workers of this run do not find the GPU (or the CPUs) that each takes.
    """
    what, each = ("GPU", per_lane.gpus) if spec.device == "cuda" else ("CPU", per_lane.cores(spec.threads))
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
    name = actor_name(run, f"worker-{index}")
    try:
        RemoteWorker(run, index, partial(ray.get_actor, name, namespace=NAMESPACE)).release()
    except (ValueError, StorageError):
        return  # none is there, or it has just left: then nothing is kept

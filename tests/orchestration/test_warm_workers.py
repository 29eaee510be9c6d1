"""A warm worker stays for the next call, but not in the way of another run."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from taft_ray.workers.warm import Warm, in_use


def is_there(run: str) -> bool:
    import ray

    from taft_ray.orchestration import actors, session

    try:
        ray.get_actor(actors.actor_name(run, "worker-0"), namespace=session.NAMESPACE)
    except ValueError:
        return False
    return True


@pytest.mark.slow
def test_a_warm_worker_leaves_when_another_run_wants_its_room(
    ridge: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from taft_ray.orchestration import actors
    from taft_ray.plans.lane_resources import ANYWHERE
    from taft_ray.run.address import run_address
    from taft_ray.run.spec import run_spec
    from taft_ray.storage import Store

    monkeypatch.setattr(actors, "CROWDED_IDLE_S", 0.2)
    run = run_address(str(ridge[0]))
    spec, another = run_spec(Store(run)), run + "-another"
    worker = actors.worker_for(run, spec, 3, ANYWHERE)
    assert worker.ready()
    cpus = int(ray.cluster_resources()["CPU"])
    # there is room for nobody more: other tests' workers may hold all the rest
    actors.make_room(another, spec, ANYWHERE, 0)
    actors.make_room(run, spec, ANYWHERE, cpus + 1)  # its own run
    time.sleep(2)
    assert is_there(run)
    actors.make_room(another, spec, ANYWHERE, cpus + 1)
    until = time.monotonic() + 20
    while is_there(run) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_there(run)
    assert actors.worker_for(run, spec, 3, ANYWHERE).ready()  # and is made again when it is needed


@pytest.mark.slow  # it starts four workers
def test_what_a_killed_worker_was_asked_is_asked_of_the_next_and_not_for_ever(
    ridge: tuple[Path, dict[str, Any]],
) -> None:
    import ray

    from taft_ray.composer.leases import LOSSES
    from taft_ray.errors import StorageError
    from taft_ray.orchestration import actors
    from taft_ray.plans.lane_resources import ANYWHERE
    from taft_ray.run.address import run_address
    from taft_ray.run.spec import run_spec
    from taft_ray.storage import Store

    run = run_address(str(ridge[0]))
    worker: Any = actors.worker_for(run, run_spec(Store(run)), 3, ANYWHERE)
    assert worker.ready()
    ray.kill(worker.actor)
    assert worker.ready()
    made = []

    def find(real: Any = worker.find) -> Any:
        made.append(real())
        return made[-1]

    worker.find = find
    with pytest.raises(StorageError, match="died"):
        worker.ask("__ray_call__", lambda actor: os._exit(1))
    assert len(made) == LOSSES - 1


def test_a_worker_never_leaves_in_the_middle_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    left = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: left.set())
    during = []

    class Busy(Warm):
        @in_use
        def work(self) -> None:
            self.leave_sooner(0.1)
            during.append(left.wait(1.5))

    Busy(idle_s=50.0).work()
    assert during == [False]
    assert left.wait(5)

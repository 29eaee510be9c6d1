"""A warm worker that was stopped while it had nothing to do holds up no command: no other run's, nor its own's."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, spawned
from folder import delta_digests, plain_forget
from node_cluster import NodeCluster, node_cluster
from processes import command_line, named
from tiny import sample_id

from taft_ray.proof.verify_run import verify
from taft_ray.verbs.status import status

pytestmark = pytest.mark.slow  # commands on a cluster


@pytest.fixture
def cluster() -> Iterator[NodeCluster]:
    """With one CPU."""
    with node_cluster({"PYTHONPATH": str(ROOT)}, nodes=1) as cluster:
        yield cluster


def stop(actor: str, cluster: NodeCluster) -> int:
    [pid] = named(cluster.processes(), actor)
    os.kill(pid, signal.SIGSTOP)
    return pid


def forget(run: Path, number: int, mode: str, cluster: NodeCluster) -> None:
    done = spawned("forget", run, "--ids", sample_id(number), "--mode", mode, env=cluster.env())
    assert done.code == 0, done.err


def check_that_they_are_alike(run: Path, undisturbed: Path) -> None:
    assert delta_digests(run) == delta_digests(undisturbed)
    assert status(str(run))["composed"] == status(str(undisturbed))["composed"]
    assert verify(str(run))["problems"] == []


def test_a_stopped_idle_worker_does_not_hold_the_place_of_another_run(
    cluster: NodeCluster, train_plainly: Callable[..., Any], parquet: Path, test_parquet: Path, copy_of: Callable[..., Path]
) -> None:  # fmt: skip
    trained, _ = train_plainly(parquet)
    run, other, undisturbed = (copy_of(trained, name) for name in ("run", "other", "undisturbed"))
    plain_forget(undisturbed, [sample_id(0)], "retrain")
    done = spawned("evaluate", run, "--data", test_parquet, env=cluster.env())
    assert done.code == 0, done.err
    stopped = stop("ShardWorker", cluster)
    forget(other, 0, "retrain", cluster)
    assert not command_line(stopped)
    check_that_they_are_alike(other, undisturbed)


def test_a_stopped_idle_worker_holds_up_no_later_command_of_its_run(
    cluster: NodeCluster, train_plainly: Callable[..., Any], parquet: Path, copy_of: Callable[..., Path]
) -> None:
    """Nor does it keep pictures of a run that forgets some. An idle composer is no other."""
    trained, _ = train_plainly(parquet)
    run, undisturbed = copy_of(trained, "run"), copy_of(trained, "undisturbed")
    for number, mode in ((0, "retrain"), (1, "retrain"), (2, "drop")):
        plain_forget(undisturbed, [sample_id(number)], mode)
    forget(run, 0, "retrain", cluster)
    stopped = stop("ShardWorker", cluster)
    forget(run, 1, "retrain", cluster)
    assert not command_line(stopped)
    both = [stop(actor, cluster) for actor in ("ShardWorker", "ComposerActor")]
    forget(run, 2, "drop", cluster)
    assert not any(map(command_line, both))
    check_that_they_are_alike(run, undisturbed)

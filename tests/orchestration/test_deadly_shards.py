"""On real Ray: a fit that kills its worker, and one that never ends, cost the run no other shard."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import spawned, started
from folder import delta_digests, only_cached, state_of
from processes import descendants, named, wait_for

from taft_ray.composer.leases import LOSSES

Trained = tuple[Path, dict[str, Any]]
_HOOK = """
import importlib.abc
import importlib.util
import os
import signal
import sys
import time

NAME = "taft_ray.workers.shard_worker"


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            real = module.ShardWorker.fit

            def fit(self, task, *arguments, **options):
                if task["shard"] == 1:
                    {what}
                return real(self, task, *arguments, **options)

            module.ShardWorker.fit = fit

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""
KILLS, HANGS = "os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(100_000)"


@pytest.fixture
def fault(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """The environment of a command whose workers do this where they are to fit shard 1."""

    def make(what: str) -> dict[str, str]:
        folder = tmp_path / "fault"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_HOOK.replace("{what}", what))
        return {"PYTHONPATH": str(folder)}

    return make


def check_the_others(run: Path, whole: Path) -> None:
    state = state_of(run)
    assert [shard.shard for shard in state.quarantined] == [1]
    others = {shard: digest for shard, digest in delta_digests(whole).items() if shard != 1}
    assert delta_digests(run) == others


@pytest.mark.slow
def test_shard_that_kills_its_workers_is_put_aside_and_tried_again(
    ridge: Trained, copy_of: Callable[..., Path], fault: Callable[[str], dict[str, str]]
) -> None:
    run = only_cached(copy_of(ridge[0]))
    answer = spawned("train", run, "--lanes", 1, "--json", env=fault(KILLS))
    assert answer.code == 1
    assert answer.json["ok"] is False
    [ill] = answer.json["quarantined"]
    assert (ill["shard"], ill["reason"]) == (1, f"{LOSSES} workers were lost while they fitted it")
    check_the_others(run, ridge[0])
    healthy = spawned("train", run, "--lanes", 1, "--json")
    assert healthy.code == 0, healthy.err
    assert healthy.json["composed"] == ridge[1]["composed"]
    assert delta_digests(run) == delta_digests(ridge[0])


@pytest.mark.slow
def test_fit_that_never_ends_is_named_ended_and_put_aside(
    ridge: Trained, copy_of: Callable[..., Path], fault: Callable[[str], dict[str, str]]
) -> None:
    run = only_cached(copy_of(ridge[0]))
    answer = spawned("train", run, "--lanes", 1, "--fit-timeout", 4, "--json", env=fault(HANGS))
    assert answer.code == 1, answer.err
    assert answer.err.count("says nothing of shard 1 for") >= LOSSES
    assert "and is ended" in answer.err
    check_the_others(run, ridge[0])


@pytest.mark.slow
def test_lane_that_was_stopped_is_ended_and_its_shard_fitted_by_the_next(
    ridge: Trained, copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    """SIGSTOP: the process is there, and neither answers nor dies by itself."""
    run = only_cached(copy_of(ridge[0]))
    log, options = tmp_path / "log", ("--lanes", 1, "--fit-timeout", 5)
    with started(log, "train", run, *options) as command:
        worker = wait_for(lambda: named(descendants(command.pid), "RayTrainWorker"))[0]
        wait_for(lambda: any(run.glob("deltas/shard=*/*")))
        os.kill(worker, signal.SIGSTOP)
        assert command.wait(240) == 0, log.read_text()
    assert "is ended" in log.read_text()
    assert delta_digests(run) == delta_digests(ridge[0])

"""Lanes: each is one Ray Train trainer with one worker, which takes shards from the composer until none is left.

A lost lane restarts alone (one trainer a lane), and what it had not committed is fitted again by whoever asks next. The composer
counts what was lost: a shard that takes its workers with it is put aside (`composer/leases.py`). A lane that says nothing for long
is ended, and restarts like one that was lost. A lane on a machine that is to go ends its fit, and goes on elsewhere.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError  # there is no public name
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from taft_ray.composer.leases import Worker
from taft_ray.counting import which
from taft_ray.errors import IntegrityError, ObjectMissing, TaftError
from taft_ray.log import level, logger_of, write_from
from taft_ray.orchestration.actors import RemoteComposer, composer_for
from taft_ray.orchestration.calls import own_error
from taft_ray.orchestration.nodes import alive, end_worker
from taft_ray.orchestration.pulse import WARM, looked_after
from taft_ray.orchestration.waiting import PATIENCE_S, Notice
from taft_ray.plans.lane_resources import LaneResources
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import MONOLITH
from taft_ray.progress import Report
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store
from taft_ray.workers.kinds import new_worker

MAX_FAILURES = 3  # restarts of one lane, without a step of the training between them, before the lane fails
TOGETHER = 64  # pictures of small shards that a lane fits in one go
_POLL_S = 0.5
# Ray misses a machine after 15 s where its calls are refused, and after 65 s where it says nothing. A lane is started four times
# meanwhile, and so waits for longer than that
_NOTICED_S = 20.0
_WAIT_S = 0.2
_PROGRESS_S = 1.0

_log = logger_of(__name__)


def lane_loop(config: Mapping[str, Any]) -> bool:
    """Work of a lane's worker; whether nothing is left for the lane, which else goes on in another worker."""
    write_from(config["log"])
    composer = composer_for(config["run"])
    lane, name, worker, missed = config["lane"], _name_of(config["lane"]), None, None
    here = Worker(uuid4().hex, ray.get_runtime_context().get_node_id(), os.getpid())
    said = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > _PROGRESS_S:
            said = time.monotonic()
            composer.tell("progress", lane, done, total)

    results: list[dict[str, Any]] = []
    while True:
        task, results = composer.take(lane, results, TOGETHER, here), []
        if task is None:
            return True
        if "leave" in task:
            return False
        if "wait" in task:
            time.sleep(_WAIT_S)
            continue
        if worker is None:
            worker = new_worker(config["run"], run_spec(Store(config["run"])), composer.class_count())
        try:
            results = (
                worker.fit_several(task["several"], name) if "several" in task else [worker.fit(task, progress, name)]
            )
        except (ObjectMissing, IntegrityError) as error:
            # damaged: its shard is in quarantine from here on, and the next task is another
            if composer.examine(_shards_of(task)):
                continue
            # a forget purged what the task names: the next one names what is left. Twice the same: it is truly missing
            if task == missed or isinstance(error, IntegrityError):
                raise
            missed = task
        except Exception as error:
            composer.failed(lane, type(error).__name__)
            raise


def _name_of(lane: str) -> str:
    """A lane's name for a person."""
    return lane.partition("#")[0]


def _shards_of(task: Mapping[str, Any]) -> list[int] | None:
    """The shards that a task reads; None: all of them."""
    numbers = [one["shard"] for one in task.get("several", [task])]
    return None if MONOLITH in numbers else numbers


@dataclass
class Lanes:
    """Running lanes. ``wait`` blocks until the queue is empty and every lane has gone home."""

    composer: RemoteComposer
    threads: list[threading.Thread]
    errors: list[BaseException]
    started: float  # by the composer's clock
    count: int
    notice: Notice
    what: str  # that a lane waits for
    ended: float | None = None  # when the last shard was committed, by the same
    # lane: since when it waits (unix seconds), and when that was seen last
    waits: dict[str, tuple[float, float]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)  # workers of which was said that they are silent
    _given_up: set[str] = field(default_factory=set)

    def wait(self, report: Report) -> list[float]:
        """When each lane asked for its first task (unix seconds); the first lane's error when work is left that no lane can do."""
        with looked_after("lanes", WARM):  # they may hold the lanes' places
            self._wait(report)
        self.notice.says(None)
        status = self._say(report)
        self.ended = status["ended"]
        if status["left"] and self.errors:
            raise own_error(self.errors[0]) or TaftError(f"a lane failed {MAX_FAILURES + 1} times: {self.errors[0]}")
        return sorted(status["ready"].values())

    def _wait(self, report: Report) -> None:
        while any(thread.is_alive() for thread in self.threads):
            status = self._say(report)
            self._look_after(status["silent"])
            self._say_who_waits()
            if self.errors and len(self.errors) == self.count:
                break
            self.threads[0].join(_POLL_S) if self.threads[0].is_alive() else time.sleep(_POLL_S)

    def _say(self, report: Report) -> dict[str, Any]:
        status = self.composer.training_status()
        report("lanes", min(len(status["ready"]), self.count), self.count)
        report("shards", status["trained"], status["shards"])
        if status["monolith"] is not None:
            report("monolith", int(status["monolith"]), 1)
        return status

    def _look_after(self, silent: Sequence[Mapping[str, Any]]) -> None:
        """Say which lanes are silent, and end the workers of those that are overdue: their lanes restart."""
        for one in silent:
            lane, worker, of = _name_of(one["lane"]), one["worker"], _named(one["held"])
            if worker is None:
                continue
            if worker.life not in self._told:
                self._told.add(worker.life)
                _log.warning("%s says nothing%s for %d s", lane, of, one["seconds"])
            if one["overdue"] and worker.life not in self._given_up:
                self._given_up.add(worker.life)
                _log.warning("%s says nothing%s for %d s and is ended", lane, of, one["seconds"])
                end_worker(worker.node, worker.pid)

    def _say_who_waits(self) -> None:
        """Keep the note of what lanes wait for; one that was not seen to wait for longer than an attempt takes has its place."""
        now = time.time()
        waiting = {lane: since for lane, (since, seen) in list(self.waits.items()) if now - seen < 1.5 * PATIENCE_S}
        if not waiting:
            self.notice.says(None)
            return
        many = "" if len(waiting) == 1 else f", each of {len(waiting)} lanes"
        self.notice.says(self.what + many, min(waiting.values()))

    def send_home(self) -> None:
        """Stop the lanes after what they are doing: the run failed elsewhere."""
        self.composer.close_queue()
        for thread in self.threads:
            thread.join()
        self.notice.says(None)
        self.composer.close_queue(False)


def _named(held: Sequence[int | str]) -> str:
    """The lane's fits, for a sentence."""
    if MONOLITH in held:
        return " of the comparison model"
    return f" of {which('shard', [one for one in held if isinstance(one, int)])}" if held else ""


def start_lanes(run: str, spec: RunSpec, composer: RemoteComposer, count: int, per_lane: LaneResources) -> Lanes:
    """Start ``count`` lanes in the background, which take so much each."""
    # A spot notice is worth a watching actor only where nodes are pre-emptible; a CPU lane restarts in seconds
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(PATIENCE_S))
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1" if spec.device == "cuda" else "0")
    notice, what = Notice(run, "lanes"), per_lane.said(spec.device, spec.threads)
    lanes = Lanes(composer, [], [], composer.now(), count, notice, what)
    training = uuid4().hex[:8]  # lanes of an earlier one may still wait for a place
    for number in range(count):
        lane = f"lane-{number}#{training}"
        thread = threading.Thread(target=_run_lane, args=(run, spec, per_lane, lane, lanes), name=lane, daemon=True)
        thread.start()
        lanes.threads.append(thread)
    return lanes


def _run_lane(run: str, spec: RunSpec, per_lane: LaneResources, lane: str, lanes: Lanes) -> None:
    began, failures = time.time(), 0
    try:
        while True:
            steps, nodes = lanes.composer.steps(), alive()
            try:
                if _run_once(run, spec, per_lane, lane):
                    return
                _log.info("%s leaves a machine that is to go", _name_of(lane))
                began, failures = time.time(), 0
                continue
            except Exception as error:
                if _is_without_a_place(error):
                    lanes.waits[lane] = began, time.time()
                    _log.warning("%s has waited for %s for %d s", _name_of(lane), lanes.what, time.time() - began)
                # shards that took their workers with them, and machines that went, are no failures of the lane
                elif lanes.composer.steps() != steps or _has_gone(nodes, _NOTICED_S if _is_of_ray(error) else 0.0):
                    began, failures = time.time(), 0
                else:
                    failures += 1
                    if not isinstance(error, ControllerError) or failures > MAX_FAILURES:
                        raise
                    _log.warning("%s could not be started, and is tried again: %s", _name_of(lane), error)
            if not lanes.composer.training_status()["open"]:
                return
    except Exception as error:
        # handed to the driver's thread, which raises it when no other lane finishes the work
        lanes.errors.append(error)
        lanes.composer.tell("give_up", lane)


def _is_without_a_place(error: Exception) -> bool:
    return isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)


def _is_of_ray(error: Exception) -> bool:
    """Whether it may come of a machine that has gone: calls to its workers fail before Ray misses the machine."""
    if isinstance(error, WorkerGroupError):
        return any(isinstance(one, RayActorError) for one in error.worker_failures.values())
    return isinstance(error, ControllerError)


def _has_gone(nodes: set[str], seconds: float) -> bool:
    """Whether one of these machines has gone, or goes within so many seconds."""
    until = time.monotonic() + seconds
    while nodes <= alive():
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_S)
    return True


def _run_once(run: str, spec: RunSpec, per_lane: LaneResources, lane: str) -> bool:
    """Run a lane until the queue is empty, or until it was restarted too often; False where it is to go on elsewhere."""
    with tempfile.TemporaryDirectory(prefix="taft-ray-lane-") as scratch:  # Train wants a folder; nothing is kept
        ended = TorchTrainer(
            lane_loop,
            train_loop_config={"run": run, "lane": lane, "log": level()},
            scaling_config=ScalingConfig(
                num_workers=1,
                use_gpu=spec.device == "cuda",
                resources_per_worker=per_lane.for_lane(spec),
                accelerator_type=per_lane.accelerator_type,
                label_selector=dict(per_lane.label_selector) or None,
            ),
            run_config=RunConfig(
                name=_name_of(lane),
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=0),
            ),
        ).fit()
        return ended.return_value is not False

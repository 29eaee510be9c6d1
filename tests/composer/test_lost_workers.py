"""A shard that takes its workers with it does not take the run: it comes last, then into quarantine, and is tried again when asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_run import EVERYONE, SHARDS, composed_of, fit, make_run, shard_of

from taft_ray.composer.composer import Composer
from taft_ray.composer.leases import LEAST_S, LONGEST_S, LOSSES, SAID_S, Leases, Worker
from taft_ray.composer.queue import LEAVE
from taft_ray.plans.state import QUARANTINED
from taft_ray.proof.verify_run import verify
from taft_ray.verbs.repair import repair
from taft_ray.verbs.status import status


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Machines:
    """Lanes whose workers die over some shards; ``lost``: nodes that are gone."""

    def __init__(self, run: Path, deadly: set[int], nodes: Callable[[int], str] = lambda life: "node") -> None:
        self.deadly, self.nodes, self.lost = deadly, nodes, set[str]()
        self.composer = Composer(str(run), clock=Clock(), gone=self.lost.__contains__)
        self.composer.begin({}, self.composer.snapshot().identity)
        self.lives = 0
        self.tried: list[int] = []

    def worker(self) -> Worker:
        self.lives += 1
        return Worker(f"life-{self.lives}", self.nodes(self.lives), self.lives)

    def run(self, lane: str = "lane", most: int = 100) -> int:
        """Work until nothing is left; how many workers died."""
        worker, results, died = self.worker(), [], 0
        while (task := self.composer.take(lane, results, 0, worker)) is not None:
            results = []
            self.tried.append(task["shard"])
            if task["shard"] in self.deadly:
                died += 1
                assert died < most
                worker = self.worker()
            else:
                results = [fit(self.composer.record.store, task)]
        return died


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path / "run")
    return tmp_path / "run"


def everyone(shards: set[int]) -> list[set[str]]:
    return [{name for name in EVERYONE if shard_of(name) == shard} for shard in sorted(shards)]


def test_others_are_fitted_before_a_shard_is_tried_again(run: Path) -> None:
    machines = Machines(run, {0})
    assert machines.run() == LOSSES
    assert machines.tried == [0, *range(1, SHARDS), *[0] * (LOSSES - 1)]
    assert machines.composer.composed_digest() == composed_of(everyone(set(range(1, SHARDS))))


def test_quarantine_says_why_and_what_helps(run: Path) -> None:
    machines = Machines(run, {1})
    machines.run()
    machines.composer.compose()
    told = status(str(run))
    assert told["ok"] is False
    assert [one["shard"] for one in told["quarantined"]] == [1]
    assert told["quarantined"][0]["reason"] == f"{LOSSES} workers were lost while they fitted it"
    assert told["quarantined"][0]["objects"] == []
    assert any("shard 1 could not be fitted" in line and "taft-ray train" in line for line in told["to_do"])
    assert any("shard 1 could not be fitted" in line for line in verify(str(run))["problems"])


def test_kind_of_error_is_told_and_no_text(run: Path) -> None:
    machines = Machines(run, set())
    for _ in range(LOSSES):
        worker = machines.worker()
        while (task := machines.composer.take("lane", (), 0, worker)) and task["shard"] != 0:
            machines.composer.finished(fit(machines.composer.record.store, task))
        machines.composer.failed("lane", "OutOfMemoryError")
    machines.composer.take("lane", (), 0, machines.worker())
    [ill] = state_of(run).quarantined
    assert ill.quarantine is not None
    assert ill.quarantine.reason == f"{LOSSES} workers were lost while they fitted it, one by OutOfMemoryError"


@pytest.mark.parametrize("other", [False, True], ids=["the same composer", "another one"])
def test_next_training_tries_it_again_in_the_same_generation(run: Path, other: bool) -> None:
    machines = Machines(run, {0})
    machines.run()
    composer = Composer(str(run)) if other else machines.composer
    composer.begin({}, composer.snapshot().identity)
    task = composer.take("lane", (), 0, Worker("new", "node", 1))
    assert task is not None
    assert (task["shard"], task["generation"]) == (0, 1)
    assert composer.finished(fit(composer.record.store, task))
    assert composer.composed_digest() == composed_of(everyone(set(range(SHARDS))))
    assert not state_of(run).quarantined


def test_may_be_put_aside_and_brought_back_again_and_again(run: Path) -> None:
    for _ in range(3):
        machines = Machines(run, {0})
        assert machines.run() == LOSSES
        assert state_of(run).shards[0].state == QUARANTINED
    assert Machines(run, set()).run() == 0
    assert len(state_of(run).in_model) == SHARDS


def test_repair_leaves_it_to_training(run: Path) -> None:
    machines = Machines(run, {0})
    machines.run()
    found = machines.composer.examine_everything()
    assert found["shards"] == {}
    assert state_of(run).shards[0].state == QUARANTINED
    assert repair  # which fits what `examine_everything` names


def test_workers_lost_with_their_machines_cost_nothing(run: Path) -> None:
    machines = Machines(run, {0}, nodes=lambda life: f"node-{life}")
    machines.composer = Composer(str(run), gone=lambda node: node in machines.lost)
    machines.composer.begin({}, machines.composer.snapshot().identity)
    worker = machines.worker()
    for _ in range(20):
        task = machines.composer.take("lane", (), 0, worker)
        assert task is not None
        assert task["shard"] == 0
        machines.lost.add(worker.node)
        worker = machines.worker()
    assert not state_of(run).quarantined


def test_machine_that_is_to_go_ends_its_fit_and_gets_no_other(run: Path) -> None:
    machines = Machines(run, set())
    staying, going = Worker("a", "stays", 1), Worker("b", "goes", 2)
    task = machines.composer.take("lane-1", (), 0, going)
    assert task is not None
    machines.lost.add("goes")
    made = [fit(machines.composer.record.store, task)]
    assert machines.composer.take("lane-1", made, 0, going) == LEAVE
    assert [shard.shard for shard in state_of(run).in_model] == [task["shard"]]
    others = []
    while (left := machines.composer.take("lane-0", (), 0, staying)) is not None:
        others.append(left["shard"])
        machines.composer.finished(fit(machines.composer.record.store, left))
    assert sorted([task["shard"], *others]) == list(range(SHARDS))
    assert machines.composer.take("lane-1", (), 0, going) is None, "nothing is left that it could hand to another"
    assert not machines.composer.queue.leases.losses


def test_worker_that_outlived_its_machine_takes_nothing_from_the_next(run: Path) -> None:
    """Its raylet was stopped, say: Ray gave the machine up, the lane restarted elsewhere, and the old process goes on."""
    machines = Machines(run, set())
    old, new = Worker("a", "given up", 1), Worker("b", "there", 2)
    assert machines.composer.take("lane", (), 0, old)
    machines.lost.add("given up")
    task = machines.composer.take("lane", (), 0, new)
    assert task is not None
    assert machines.composer.take("lane", (), 0, old) == LEAVE
    assert task["shard"] in machines.composer.queue.leases
    again = machines.composer.take("other", (), 0, Worker("c", "there", 3))
    assert again is not None
    assert again["shard"] != task["shard"]
    assert not machines.composer.queue.leases.losses


def test_lost_worker_of_many_shards_leaves_each_to_be_tried_alone(run: Path) -> None:
    leases = Leases(Clock())
    leases.arrive("lane", Worker("a", "n", 1))
    leases.lend("lane", [0, 1, 2])
    assert leases.arrive("lane", Worker("b", "n", 2)) == [0, 1, 2]
    assert dict(leases.losses) == {0: 1, 1: 1, 2: 1}


def test_worker_that_goes_on_has_lost_nothing(run: Path) -> None:
    """It met damage, say, and asks for another task."""
    leases, worker = Leases(Clock()), Worker("a", "n", 1)
    leases.arrive("lane", worker)
    leases.lend("lane", [0])
    assert leases.arrive("lane", worker) == []
    assert not leases.losses


def test_after_two_losses_in_a_row_the_smallest_shard_is_tried(run: Path) -> None:
    """The largest of many may need more memory than there is; then the others must not wait for every large one."""
    machines = Machines(run, set(range(SHARDS)))
    worker = machines.worker()
    tried = []
    for _ in range(3):
        task = machines.composer.take("lane", (), 0, worker)
        assert task is not None
        tried.append(task["shard"])
        worker = machines.worker()
    assert tried[2] == list(state_of(run).pending)[-1]


def test_queue_that_loses_every_worker_makes_no_step(run: Path) -> None:
    """By that a lane tells that the fault lies with the run, and not with a shard."""
    machines = Machines(run, set(range(SHARDS)))
    worker = machines.worker()
    for _ in range(SHARDS):
        machines.composer.take("lane", (), 0, worker)
        worker = machines.worker()
    assert machines.composer.steps() == 0


@settings(deadline=None, max_examples=25)
@given(deadly=st.sets(st.integers(0, SHARDS - 1)), lanes=st.integers(1, 3))
def test_any_deadly_shards_are_the_ones_in_quarantine(
    deadly: set[int], lanes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tmp_path_factory.mktemp("any") / "run"
    make_run(run)
    machines = Machines(run, deadly)
    workers = {f"lane-{n}": machines.worker() for n in range(lanes)}
    results: dict[str, list[Any]] = {lane: [] for lane in workers}
    home: set[str] = set()
    for _ in range(200):
        for lane in sorted(workers.keys() - home):
            task = machines.composer.take(lane, results[lane], 0, workers[lane])
            results[lane] = []
            if task is None:
                home.add(lane)
            elif task["shard"] in deadly:
                workers[lane] = machines.worker()
            else:
                results[lane] = [fit(machines.composer.record.store, task)]
        if len(home) == lanes:
            break
    state = state_of(run)
    assert {shard.shard for shard in state.quarantined} == deadly
    assert {shard.shard for shard in state.in_model} == set(range(SHARDS)) - deadly


# --- signs of life


def test_silence_is_told_and_then_ends(run: Path) -> None:
    clock = Clock()
    leases, worker = Leases(clock), Worker("a", "n", 1)
    leases.arrive("lane", worker)
    leases.lend("lane", [4])
    for silent, told, overdue in ((SAID_S - 1, False, False), (SAID_S + 1, True, False), (LONGEST_S + 1, True, True)):
        clock.now = 1000 + silent
        assert [(one["held"], one["overdue"], one["worker"]) for one in leases.silent()] == (
            [([4], overdue, worker)] if told else []
        )
    leases.hear("lane")
    assert leases.silent() == []


def test_patience_follows_the_silences_of_fits_that_ended(run: Path) -> None:
    clock = Clock()
    leases = Leases(clock)
    assert leases.patience == LONGEST_S
    leases.arrive("lane", None)
    for seconds, expected in ((1.0, LEAST_S), (100.0, 2000.0), (2.0, 2000.0)):
        leases.lend("lane", [0])
        clock.now += seconds
        leases.ended(0)
        assert leases.patience == expected
    leases.timeout = 7.0
    assert leases.patience == 7.0


def test_timeout_of_a_training_holds_for_it_alone(run: Path) -> None:
    composer = Composer(str(run))
    composer.begin({}, composer.snapshot().identity, 12.5)
    assert composer.queue.leases.patience == 12.5
    composer.begin({}, composer.snapshot().identity)
    assert composer.queue.leases.patience == LONGEST_S


def test_lane_that_waits_is_heard_until_it_goes_home(run: Path) -> None:
    clock = Clock()
    leases, worker = Leases(clock), Worker("a", "n", 1)
    leases.arrive("lane", worker)
    clock.now += LONGEST_S + 1
    assert [(one["held"], one["overdue"]) for one in leases.silent()] == [([], True)]
    leases.arrive("lane", worker)
    assert leases.silent() == []
    leases.leave("lane")
    clock.now += LONGEST_S + 1
    assert leases.silent() == []

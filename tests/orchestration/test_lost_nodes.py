"""A process or a machine is lost in the middle of each stage of a run, and no bit of the run changes.

Commands join a cluster whose nodes are processes of this machine: a head without CPUs, and two workers of one CPU each. A piece
of work is held where it begins. Then something is lost, and whatever is left goes on. The command, or the same one again where
the loss took it along, ends with the facts of a run that nothing happened to. Only pieces that were in hand are done again, once.

Cases that are not there:

* A sweep has no composer.
* A node that is stopped is lost for Ray when it has missed some health checks, which the cluster here has more often than others.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import watch_hook
from command import spawned, started
from folder import delta_digests, entries_of, kinds, only_cached, plain_forget, shard_of, state_of
from node_cluster import NodeCluster, node_cluster
from plain import plain_train
from processes import command_line, descendants, named, wait_for
from tiny import sample_id, write_parquet
from watch_hook import Held, Watch

from taft_ray.proof.verify_run import verify
from taft_ray.run.record import Record
from taft_ray.storage import Store, write_spec
from taft_ray.verbs.status import status

pytestmark = pytest.mark.slow  # each case is a command or two on a cluster

PICTURES, SHARDS = 56, 7  # a part per shard, six of which share a call of the prefix
KINDS = ("part", "fit", "measure", "trial")
FORGOTTEN = [
    next(name for name in map(sample_id, range(PICTURES)) if shard_of(name, SHARDS) == shard) for shard in (0, 1)
]
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Stage:
    """A verb at work. kind, nth: the piece of work in hand when the loss comes."""

    kind: str
    nth: int
    begins: str  # "new", "cached" or "trained": the run before
    options: tuple[object, ...] = ()  # of its spec
    resumes: bool = True  # a command that is given again does not begin again


STAGES = {
    "prefix pass": Stage("part", 2, "new"),
    "additive pass": Stage("part", 2, "new additive"),
    "training": Stage("fit", 3, "cached"),
    "retrain": Stage("fit", 2, "trained"),
    "evaluation": Stage("measure", 2, "trained", resumes=False),
    "sweep": Stage("trial", 2, "trained"),
}


class Runs:
    """Runs that nothing happened to, and runs as they are where a stage begins."""

    def __init__(self, home: Path, data: Path, test_data: Path, spec_of: Callable[..., Any]) -> None:
        self.home, self.data, self.test_data = home, data, test_data
        self.specs = {
            "new": spec_of(data, shards=SHARDS),
            "new additive": spec_of(data, shards=SHARDS, solver="additive"),
        }
        self._made: dict[str, Path] = {}

    def command(self, stage: str, run: Path) -> tuple[object, ...]:
        if stage == "retrain":
            return "forget", run, *(f"--ids={name}" for name in FORGOTTEN), "--mode", "retrain"
        if stage == "evaluation":
            return "evaluate", run, "--data", self.test_data
        if stage == "sweep":
            return "sweep", run, "--vary", "penalty=0.001,0.01,0.1", "--scheduler", "none"
        return "train", run, "--lanes", 1

    def begun(self, stage: str, to: Path) -> Path:
        begins = STAGES[stage].begins
        if begins in self.specs:
            write_spec(Store(str(to)), self.specs[begins].to_json())
            return to
        run = Path(copytree(self.undisturbed("prefix pass"), to))
        return only_cached(run) if begins == "cached" else run

    def undisturbed(self, stage: str) -> Path:
        """After the stage."""
        stage = "prefix pass" if stage == "training" else stage
        if stage not in self._made:
            run, begins = self.home / stage.replace(" ", "-") / "run", STAGES[stage].begins
            if begins in self.specs:
                plain_train(run, self.specs[begins])
            elif stage == "retrain":
                plain_forget(self.begun(stage, run), FORGOTTEN, "retrain")
            else:
                done = spawned(*self.command(stage, self.begun(stage, run)))
                assert done.code == 0, done.err
            self._made[stage] = run
        return self._made[stage]


def facts(run: Path) -> dict[str, Any]:
    """All of a run that no clock and no secret is in."""
    state, manifest = state_of(run), Record(str(run)).manifest()
    secret = {name for name in manifest.table.column_names if name in ("id_hash", "content")}
    return {
        "composed": status(str(run))["composed"],
        "deltas": delta_digests(run),
        "generations": {number: shard.current for number, shard in state.shards.items()},
        "sums": sums_of(run),
        "rows": manifest.table.drop_columns(list(secret)).to_pylist(),
        "parts": {shard: [part["digest"] for part in parts] for shard, parts in manifest.parts.items()},
        "evaluated": [
            {**one["body"], "by_composition": {m: c["accuracy"] for m, c in one["body"]["by_composition"].items()}}
            for one in entries_of(run, "evaluated")
        ],
        "trials": [
            [(one["number"], one["settings"], one["accuracy"], one["curve"]) for one in json.loads(file.read_text())["trials"]]
            for file in sorted(run.glob("reports/sweeps/*/sweep.json"))
        ],
    }  # fmt: skip


def sums_of(run: Path) -> dict[str, Any]:
    from taft_ray.composer.composer import Composer

    composer = Composer(str(run))
    composer.composition.level()
    return {"computed": composer.composition.computed_digest()}


def entries(run: Path) -> Counter[str]:
    """How many entries of each kind the ledger has, without those that measure the wall clock of a whole training."""
    return Counter(kind for kind in kinds(run) if kind != "training-finished")


@dataclass
class Case:
    """A command at work on a cluster, with a piece of work in hand."""

    cluster: NodeCluster
    watch: Watch
    command: subprocess.Popen[bytes]
    kind: str
    held: Held

    @property
    def raylet(self) -> int:
        return self.cluster.raylets[self.cluster.node_of(self.held.pid)]

    @property
    def composer(self) -> int:
        [pid] = named(self.cluster.processes(), "ComposerActor")
        return pid

    def given_to_another(self) -> None:
        """Wait until it is. Processes of a lost node may live on, and go on with it too."""
        before = len(self.watch.marks(self.kind))
        wait_for(lambda: len(self.watch.marks(self.kind)) > before or self.command.poll() is not None)


def lose_node(case: Case) -> None:
    case.cluster.tell("lose", case.cluster.node_of(case.held.pid))
    wait_for(lambda: not command_line(case.held.pid))


def kill_worker(case: Case) -> None:
    os.kill(case.held.pid, signal.SIGKILL)


def stop_worker(case: Case) -> None:
    os.kill(case.held.pid, signal.SIGSTOP)


def kill_composer(case: Case) -> None:
    os.kill(case.composer, signal.SIGKILL)


def stop_composer(case: Case) -> None:
    os.kill(case.composer, signal.SIGSTOP)


def kill_raylet(case: Case) -> None:
    os.kill(case.raylet, signal.SIGKILL)
    case.given_to_another()


def stop_raylet(case: Case) -> None:
    os.kill(case.raylet, signal.SIGSTOP)
    case.given_to_another()


def kill_driver(case: Case) -> None:
    case.command.kill()
    case.command.wait()


LOSSES = (lose_node, kill_worker, stop_worker, kill_composer, stop_composer, kill_raylet, stop_raylet, kill_driver)


def is_possible(stage: str, loss: Callable[[Case], None]) -> bool:
    return stage != "sweep" or loss not in (kill_composer, stop_composer)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, spec_of: Callable[..., Any], test_parquet: Path) -> Runs:
    home = tmp_path_factory.mktemp("runs")
    return Runs(home, write_parquet(home / "data", range(PICTURES)), test_parquet, spec_of)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watch, dict[str, str]]:
    """A watch, and the environment of processes that it sees."""
    folder = tmp_path_factory.mktemp("watch") / "watch"
    return Watch(folder), watch_hook.install(folder)


@pytest.fixture
def watch(watched: tuple[Watch, dict[str, str]]) -> Watch:
    watched[0].clear()
    return watched[0]


@pytest.fixture(scope="module")
def shared(watched: tuple[Watch, dict[str, str]]) -> Iterator[NodeCluster]:
    with node_cluster(watched[1], nodes=0) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: NodeCluster) -> Iterator[NodeCluster]:
    """With two new nodes."""
    for _ in range(2):
        shared.tell("add")
    yield shared
    for pid in named(shared.processes(), "ComposerActor"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for node in list(shared.raylets):
        left = descendants(shared.raylets[node])
        shared.tell("lose", node)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def in_hand(watch: Watch, stage: str, ended: Callable[[], str | None]) -> Held:
    """The piece of work that is held, once all that came before it is settled. ended: why nothing will come."""

    def settled() -> Held | str | None:
        held = watch.held()
        if held is None:
            return ended()
        answered = {piece for pieces in watch.marks("answer", "end") for piece in pieces}
        before = {piece for pieces in watch.marks("part") for piece in pieces} - set(held.pieces)
        return held if STAGES[stage].kind != "part" or before <= answered else ended()

    held = wait_for(settled, every=0.2)
    assert isinstance(held, Held), held
    return held


def held_in(stage: str, watch: Watch, runs: Runs, to: Path) -> tuple[Path, Path, tuple[object, ...]]:
    """A run where a stage begins, a file for the log, and the command of the stage, which will be held in the middle."""
    run = runs.begun(stage, to / "run")
    runs.undisturbed(stage)
    watch.hold(STAGES[stage].kind, STAGES[stage].nth)
    return run, to / "log", runs.command(stage, run)


def check(stage: str, run: Path, runs: Runs, watch: Watch, held: Held, repeated: bool) -> None:
    """The run is one that nothing happened to, and nothing was done twice but what was in hand."""
    assert facts(run) == facts(runs.undisturbed(stage))
    assert verify(str(run))["problems"] == []
    assert entries(run) == entries(runs.undisturbed(stage))
    for kind in KINDS:
        times = watch.times(kind)
        assert not times or max(times.values()) <= 2, times
        again = {piece for piece, count in times.items() if count > 1}
        if kind != STAGES[stage].kind:
            assert again == set(), kind
        elif STAGES[stage].resumes or not repeated:
            assert again <= set(held.pieces)


@pytest.mark.parametrize(
    ("stage", "loss"),
    [
        pytest.param(stage, loss, id=f"{stage}-{loss.__name__}")
        for stage in STAGES for loss in LOSSES if is_possible(stage, loss)
    ],
)  # fmt: skip
def test_a_loss_changes_no_bit(
    stage: str, loss: Callable[[Case], None], cluster: NodeCluster, watch: Watch, runs: Runs, tmp_path: Path
) -> None:
    run, log, command = held_in(stage, watch, runs, tmp_path)
    options = ("--fit-timeout", 5) if loss is stop_worker and stage == "training" else ()
    with started(log, *command, *options, env=cluster.env()) as process:
        held = in_hand(watch, stage, lambda: log.read_text() if process.poll() is not None else None)
        loss(Case(cluster, watch, process, STAGES[stage].kind, held))
        watch.go()
        code = process.wait(300)
    if loss is kill_driver:
        with started(log, *command, env=cluster.env()) as process:
            code = process.wait(300)
    assert code == 0, log.read_text()
    if loss is stop_worker:
        assert not command_line(held.pid), "a worker that was given up may go on, and write"
        assert "is ended" in log.read_text()
    check(stage, run, runs, watch, held, loss is kill_driver)


@pytest.mark.parametrize("stage", ["training", "retrain", "evaluation"])
def test_a_machine_that_ray_misses_late_changes_no_bit(
    stage: str, watched: tuple[Watch, dict[str, str]], watch: Watch, runs: Runs, tmp_path: Path
) -> None:
    """With Ray's own health checks: calls to the machine's workers fail many seconds before the machine is given up."""
    run, log, command = held_in(stage, watch, runs, tmp_path)
    with node_cluster(watched[1], soon=False) as cluster, started(log, *command, env=cluster.env()) as process:
        held = in_hand(watch, stage, lambda: log.read_text() if process.poll() is not None else None)
        os.kill(Case(cluster, watch, process, STAGES[stage].kind, held).raylet, signal.SIGKILL)
        watch.go()
        code = process.wait(400)
    assert code == 0, log.read_text()
    check(stage, run, runs, watch, held, repeated=False)


def test_a_machine_that_goes_while_a_lane_starts_there_fails_no_lane(
    watched: tuple[Watch, dict[str, str]], watch: Watch, runs: Runs, tmp_path: Path
) -> None:
    """Ray Train takes it for an error of its controller, which it does not try again, and Ray for a machine that is there."""
    run, log = runs.begun("training", tmp_path / "run"), tmp_path / "log"
    runs.undisturbed("training")
    with (
        node_cluster(watched[1], nodes=1, soon=False) as cluster,
        started(log, *runs.command("training", run), env=cluster.env()) as process,
    ):
        wait_for(lambda: named(cluster.processes(), "RayTrainWorker") or process.poll() is not None)
        [raylet] = cluster.raylets.values()
        os.kill(raylet, signal.SIGKILL)
        cluster.tell("add")
        code = process.wait(400)
    assert code == 0, log.read_text()
    assert facts(run) == facts(runs.undisturbed("training"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_restart_of_the_head_changes_no_bit(
    stage: str, watched: tuple[Watch, dict[str, str]], watch: Watch, runs: Runs, tmp_path: Path
) -> None:
    run, log, command = held_in(stage, watch, runs, tmp_path)
    with node_cluster(watched[1], nodes=1) as cluster, started(log, *command, env=cluster.env()) as process:
        held = in_hand(watch, stage, lambda: log.read_text() if process.poll() is not None else None)
        cluster.end()
        watch.go()
        assert process.wait(300) != 0
    with node_cluster(watched[1], nodes=1) as cluster, started(log, *command, env=cluster.env()) as process:
        assert process.wait(300) == 0, log.read_text()
    check(stage, run, runs, watch, held, True)


@pytest.mark.parametrize(
    ("lanes", "watcher"), [(1, "0"), (1, "1"), (2, "0")], ids=["one lane", "beside Ray Train's watcher", "two lanes"]
)
def test_a_notice_that_a_node_will_go_costs_no_fit(
    lanes: int, watcher: str, cluster: NodeCluster, watch: Watch, runs: Runs, tmp_path: Path
) -> None:
    """The lane there ends the fit in hand, takes no other, and goes on elsewhere."""
    run, log = runs.begun("training", tmp_path / "run"), tmp_path / "log"
    watch.hold("fit", 3)
    env = {
        **cluster.env(),
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": watcher,
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2",
    }
    with started(log, "train", run, "--lanes", lanes, env=env) as process:
        held = in_hand(watch, "training", lambda: log.read_text() if process.poll() is not None else None)
        cluster.drain(cluster.node_of(held.pid), seconds=120)
        before = watch.marks("fit", by=held.pid)
        watch.go()
        assert process.wait(300) == 0, log.read_text()
    assert watch.marks("fit", by=held.pid) == before
    assert max(watch.times("fit").values()) == 1
    check("training", run, runs, watch, held, False)


def test_a_node_that_goes_before_its_fit_ends_hands_it_back(
    cluster: NodeCluster, watch: Watch, runs: Runs, tmp_path: Path
) -> None:
    run, log = runs.begun("training", tmp_path / "run"), tmp_path / "log"
    watch.hold("fit", 3)
    with started(log, "train", run, "--lanes", 1, env=cluster.env()) as process:
        held = in_hand(watch, "training", lambda: log.read_text() if process.poll() is not None else None)
        node = cluster.node_of(held.pid)
        cluster.drain(node, seconds=1)
        cluster.tell("lose", node)
        wait_for(lambda: not command_line(held.pid))
        watch.go()
        assert process.wait(300) == 0, log.read_text()
    check("training", run, runs, watch, held, False)


@pytest.fixture(scope="module")
def with_dashboard(watched: tuple[Watch, dict[str, str]]) -> Iterator[NodeCluster]:
    with node_cluster(watched[1], nodes=2, dashboard=True) as cluster:
        wait_for(lambda: job(cluster, "submit", "--", "true").returncode == 0, every=1)  # its agent comes last
        yield cluster


def job(cluster: NodeCluster, verb: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`ray job`, as a user gives it."""
    return subprocess.run(
        [RAY, "job", verb, "--address", cluster.dashboard, *map(str, arguments)],
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_that_was_stopped_and_is_submitted_again_changes_no_bit(
    stage: str, with_dashboard: NodeCluster, watch: Watch, runs: Runs, tmp_path: Path
) -> None:
    from ray.job_submission import JobSubmissionClient

    run, name = runs.begun(stage, tmp_path / "run"), f"stopped-{stage.replace(' ', '-')}"
    runs.undisturbed(stage)
    watch.hold(STAGES[stage].kind, STAGES[stage].nth)
    command = ("--", sys.executable, "-m", "taft_ray.cli", *runs.command(stage, run))
    begun = job(with_dashboard, "submit", "--no-wait", "--submission-id", name, *command)
    assert begun.returncode == 0, begun.stderr
    asked = JobSubmissionClient(with_dashboard.dashboard)
    held = in_hand(watch, stage, lambda: asked.get_job_logs(name) if asked.get_job_status(name).is_terminal() else None)
    stopped = job(with_dashboard, "stop", name)
    assert stopped.returncode == 0, stopped.stderr
    watch.go()
    again = job(with_dashboard, "submit", *command)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    check(stage, run, runs, watch, held, True)

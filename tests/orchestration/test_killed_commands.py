"""Law 4 with real processes: a process of a command's own Ray dies at a write, the command is given again, and all is well.

And point blank: the same command twice at the same instant, each with a Ray of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_hook import install
from folder import holders, kinds, state_of
from processes import descendants, end
from tiny import MODEL, SIZE, sample_id, write_parquet

from taft_ray.data import sample_key
from taft_ray.proof.verify_run import verify
from taft_ray.verbs.gc import gc

pytestmark = pytest.mark.slow  # each case is one or two commands with a Ray of their own

ROOT = Path(__file__).resolve().parents[2]
PICTURES, SHARDS, TRIES = 24, 2, 3
FORGOTTEN = [sample_id(0), sample_id(1)]
TRAIN = [(role, where) for role in ("driver", "composer") for where in ("first", "middle", "last")]
TRAIN += [(role, where) for role in ("prefix actor", "lane") for where in ("first", "last")]
FORGET = [("composer", "first"), ("composer", "middle"), ("composer", "last"), ("retrain actor", "first")]


class Command:
    """`taft-ray …` with a Ray of its own; every process that it started is ended by its id."""

    def __init__(self, log: Path, *arguments: object, **environment: str) -> None:
        self.log, self.out = log, log.with_suffix(".json")
        self.pids: set[int] = set()
        with self.log.open("wb") as err, self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "taft_ray.cli", *map(str, arguments), "--json"],
                cwd=ROOT,
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def wait(self, seconds: float = 240) -> int:
        """Its exit status, when all that it started is gone."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self.pids |= set(descendants(self.process.pid))
            time.sleep(0.2)
        if self.process.poll() is None:
            self.process.kill()
        end(self.pids, patience=10)
        return self.process.wait()

    def answer(self) -> dict[str, Any]:
        return json.loads(self.out.read_text())


class Commands:
    """Commands on one data set whose processes are watched, and die where they are told to."""

    def __init__(self, home: Path, weights: Path) -> None:
        self.home = home
        data = write_parquet(home / "data", range(PICTURES))
        (home / "hook").mkdir()
        install(home / "hook")
        self.train = ["--data", data, "--model", MODEL, "--weights", weights, "--image-size", SIZE, "--epochs", 3]
        self.train += ["--shards", SHARDS, "--lanes", 1, "--device", "cpu"]
        self.count = 0

    def start(self, verb: str, run: Path, at: str = "::") -> Command:
        self.count += 1
        options = self.train if verb == "train" else [*(f"--ids={name}" for name in FORGOTTEN), "--mode", "retrain"]
        path = os.pathsep.join([str(self.home / "hook"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {"PYTHONPATH": path, "TAFT_CRASH_AT": at, "TAFT_CRASH_LOG": str(self.changed())}
        return Command(self.home / f"log-{self.count}", verb, run, *options, **environment)

    def changed(self) -> Path:
        return self.home / f"changes-{self.count}"

    def changes(self) -> Counter[str]:
        """How many changes of storage each role made in the latest command."""
        return Counter(self.changed().read_text().splitlines())

    def until_done(self, verb: str, run: Path, at: str = "::") -> dict[str, Any]:
        """Give the command until it succeeds; its answer."""
        said = []
        for _ in range(TRIES):
            command = self.start(verb, run, at)
            if command.wait() == 0:
                return command.answer()
            said.append(command.log.read_text()[-2000:])
        raise AssertionError(f"{verb} failed {TRIES} times:\n" + "\n---\n".join(said))


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Commands:
    return Commands(tmp_path_factory.mktemp("commands"), weights)


@pytest.fixture(scope="module")
def trained(commands: Commands) -> tuple[Path, str, Counter[str]]:
    """An undisturbed training: its run, its digest, and how many changes of storage each role made."""
    run = commands.home / "trained" / "run"
    return run, commands.until_done("train", run)["composed"], commands.changes()


@pytest.fixture(scope="module")
def forgotten(commands: Commands, trained: tuple[Path, str, Counter[str]]) -> tuple[Path, str, Counter[str]]:
    run = copy(trained[0], commands.home / "forgotten")
    return run, commands.until_done("forget", run)["composed_after"], commands.changes()


def copy(run: Path, to: Path) -> Path:
    shutil.copytree(run.parent, to)  # with its tombstones
    return to / run.name


@pytest.fixture
def case(commands: Commands, tmp_path: Path) -> Iterator[Callable[[str, str, Counter[str]], str]]:
    """Where a process is to die, as the hook wants it; afterwards, that it did."""
    marker = tmp_path / "died"

    def at(role: str, where: str, made: Counter[str]) -> str:
        assert made[role] > 0, f"the undisturbed command made no change as {role}: {made}"
        n = {"first": 1, "middle": 1 + made[role] // 2, "last": made[role]}[where]
        return f"{role}:{n}:{marker}"

    yield at
    assert marker.exists(), "the command was never disturbed"


def clean(run: Path) -> None:
    gc(str(run))
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize(("role", "where"), TRAIN)
def test_train_killed(commands: Commands, trained: Any, tmp_path: Path, case: Any, role: str, where: str) -> None:
    run = tmp_path / "run"
    answer = commands.until_done("train", run, case(role, where, trained[2]))
    assert answer["composed"] == trained[1]
    assert kinds(run).count("trained") == SHARDS
    clean(run)


@pytest.mark.parametrize(("role", "where"), FORGET)
def test_forget_killed(
    commands: Commands, trained: Any, forgotten: Any, tmp_path: Path, case: Any, role: str, where: str
) -> None:
    run = copy(trained[0], tmp_path / "copy")
    answer = commands.until_done("forget", run, case(role, where, forgotten[2]))
    assert answer["composed_after"] == forgotten[1]
    assert kinds(run).count("forgotten") == 1
    clean(run)
    for name in FORGOTTEN:
        assert holders(run, sample_key(name, 0)) == []


def test_commands_given_twice_at_the_same_instant(
    commands: Commands, trained: Any, forgotten: Any, tmp_path: Path
) -> None:
    """Two trainings of one run, then two forgets of the same ids: each ends well, with one set of facts between them."""
    run = tmp_path / "run"
    for verb, field, expected in (("train", "composed", trained[1]), ("forget", "composed_after", forgotten[1])):
        both = [commands.start(verb, run) for _ in range(2)]
        for command in both:
            assert command.wait() == 0, command.log.read_text()[-3000:]
        assert [command.answer()[field] for command in both] == [expected] * 2
        assert kinds(run).count("cached") == 1
    assert kinds(run).count("trained") == SHARDS + len({s for r in state_of(run).requests.values() for s in r.shards})
    assert kinds(run).count("forgotten") == 1
    assert len(list((run / "certificates").iterdir())) == 1
    clean(run)

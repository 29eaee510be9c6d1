"""Every command and every job answers --help, and says what its options are."""

import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, here

from taft_ray.cli import main
from taft_ray.cli.commands import LINES
from taft_ray.plans.forget import default_mode
from taft_ray.plans.spec import RunSpec

JOBS = sorted(path for path in (ROOT / "jobs").glob("*.py"))


def test_the_contract_has_its_commands() -> None:
    expected = {"demo", "train", "evaluate", "estimate", "forget", "status", "verify", "report", "gc"}
    assert expected <= set(main.commands)


@pytest.mark.parametrize("command", sorted(main.commands))
def test_command_answers_help(command: str) -> None:
    answer = here(command, "--help")
    assert answer.code == 0
    assert "--json" in answer.out
    for parameter in main.commands[command].params:
        for name in parameter.opts:
            assert name in answer.out or name.upper() in answer.out


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    for name, line in LINES.items():
        command = main.commands[name]
        assert command.name == name
        assert (command.help or "").partition("\n\n")[0].replace("\n", " ") == line.help


def test_train_says_which_kind_of_run_it_makes_and_how_that_forgets() -> None:
    spec = RunSpec(data="data", model="model")
    told = " ".join(here("train", "--help").out.split())
    assert f"By default (--solver {spec.solver}, --compose {spec.compose})" in told
    assert f"A forget without --mode {default_mode(spec)}s a picture from the sums." in told
    deltas = RunSpec(data="data", model="model", compose="gram")
    assert (
        f"With --compose gram the deltas are the model: no rows are kept. A forget without --mode {default_mode(deltas)}s"
        in told
    )
    assert "forgets a picture by a subtraction" not in told, "which is said of the composition, and not of one solver"


def test_version_and_help_of_the_program() -> None:
    assert here("--version").code == 0
    answer = here("--help")
    assert answer.code == 0
    for name in main.commands:
        assert name in answer.out


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.name)
def test_job_answers_help(job: Path) -> None:
    done = subprocess.run([sys.executable, job, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
    assert len(job.read_text().splitlines()) <= 60


def test_there_is_a_job_for_each_verb_of_the_issue() -> None:
    assert {"shard_train.py", "forget.py", "evaluate.py", "report.py"} <= {job.name for job in JOBS}

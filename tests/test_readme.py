"""README and docs cannot rot: their Python runs, their commands parse, and every command and job is told of."""

import ast
import dataclasses
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import reference

import taft_ray as tr
from taft_ray.cli import main

ROOT = Path(__file__).parents[1]
# those of clusters/ have tests of their own, in tests/cluster
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "clusters"),
]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
COMMANDS = dict.fromkeys(re.findall(r"^    taft-ray ([^#>|&\n]+)", TEXT, re.MULTILINE))
JOBS = re.findall(r"python (jobs/\w+\.py) (.+)$", TEXT, re.MULTILINE)
JOB_COMMANDS = {
    "shard_train": "train",
    **{name: name for name in ("audit", "forget", "evaluate", "report", "reproduce", "sweep")},
}


def parse(command: str, arguments: list[str]) -> None:
    """Parse without running; click raises for an option or a choice that is not there."""
    found = main.commands[command]
    found.make_context(command, list(arguments))


def examples(path: str) -> list[str]:
    return re.findall(r"```python\n(.+?)```", (ROOT / path).read_text(encoding="utf-8"), re.DOTALL)


def test_python_example_runs():
    code = examples("docs/how-to/library.md")[-1]
    code += "\nassert tangent.shape == (12, 3) and bool(torch.isfinite(primal + tangent).all())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", ["README.md", "docs/how-to/library.md"])
def test_examples_call_what_is_there_with_arguments_that_it_takes(path):
    calls = [node for node in ast.walk(ast.parse(examples(path)[0])) if isinstance(node, ast.Call)]
    found = [(node, node.func) for node in calls if isinstance(node.func, ast.Attribute)]
    assert found
    for node, called in found:
        owner = tr if ast.unparse(called.value) == "tr" else tr.Run
        keywords = {str(word.arg): word.value for word in node.keywords}
        signature = inspect.signature(getattr(owner, called.attr))
        signature.bind(*([None] if owner is tr.Run else []), *node.args, **keywords)
        if called.attr == "train":
            assert keywords.keys() - {"data", "monolithic", "lanes"} <= {f.name for f in dataclasses.fields(tr.RunSpec)}


@pytest.mark.parametrize("line", [*COMMANDS])
def test_commands_parse(line):
    command, *arguments = shlex.split(line)
    parse(command, arguments)


@pytest.mark.parametrize(("job", "rest"), JOBS)
def test_jobs_parse_as_their_commands(job, rest):
    parse(JOB_COMMANDS[Path(job).stem], shlex.split(rest))


def test_every_command_is_in_the_reference_and_on_some_page():
    page = reference.commands()
    assert set(re.findall(r"^### (\S+)$", page, re.MULTILINE)) == set(main.commands)
    assert all(f"`{option}" in page for option in ("--last-blocks", "--deadline", "--never-seen", "--held-out"))
    assert {line.split()[0] for line in COMMANDS} == set(main.commands)


def test_the_readme_is_short_and_leads_to_the_commands():
    readme = PAGES[0].read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 100
    assert "docs/reference/" in readme
    assert "taft-ray --help" in readme


def test_every_job_is_named():
    assert {job for job, _ in JOBS} == {f"jobs/{path.name}" for path in (ROOT / "jobs").glob("*.py")}


def test_a_wrong_option_would_be_found():
    with pytest.raises(click.UsageError):
        parse("train", ["runs/pets", "--data", "pets", "--no-such-option"])


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_jobs_answer_help_and_are_short(job):
    assert len(job.read_text(encoding="utf-8").splitlines()) <= 60
    done = subprocess.run(
        [sys.executable, str(job), "--help"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0
    assert "Usage" in done.stdout

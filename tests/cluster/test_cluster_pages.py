"""The pages in docs/clusters cannot rot: their commands parse, and the files and sections that they name are there."""

import re
import shlex
from pathlib import Path

import pytest
from ray.scripts.scripts import cli as ray_commands

from taft_ray.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/how-to/clusters").glob("*.md"))
JOBS = {"shard_train": "train", "evaluate": "evaluate", "forget": "forget"}


def commands(page):
    """The words of each command: lines of code, continued ones joined, without comments."""
    code = "\n".join(re.findall(r"^    (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)).replace("\\\n", " ")
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        while words and (re.fullmatch(r"[A-Z_]+=\S*", words[0]) or words[0] == "export"):
            words = words[1:]
        yield [word for word in words if word != "&"]


def starting_with(*first):
    found = [(page, words) for page in PAGES for words in commands(page)]
    cases = [(page.stem, words) for page, words in found if words[: len(first)] == [*first]]
    return [pytest.param(words, id=f"{page}: {' '.join(words)[:60]}") for page, words in cases]


def check(words):
    """click raises for a command, an option or an argument that is not there."""
    if words[:2] == ["python", f"jobs/{Path(words[1]).name}"]:
        words = ["taft-ray", JOBS[Path(words[1]).stem], *words[2:]]
    group = {"ray": ray_commands, "taft-ray": main}[words[0]]
    name, arguments = words[1], words[2:]
    command = group.commands[name]
    while hasattr(command, "commands"):
        name, arguments = arguments[0], arguments[1:]
        command = command.commands[name]
    context = command.make_context(name, list(arguments))
    return command, context.params


@pytest.mark.parametrize("words", starting_with("taft-ray"))
def test_our_commands_parse(words):
    check(words)


@pytest.mark.parametrize("words", starting_with("ray"))
def test_rays_commands_parse(words):
    command, params = check(words)
    if command.name == "submit":
        check([*params["entrypoint"]])
    if command.name == "exec":
        check(shlex.split(params["cmd"]))
    if "cluster_config_file" in params:
        assert (ROOT / params["cluster_config_file"]).is_file()


def test_each_page_goes_from_nothing_to_a_run_and_back_to_nothing():
    for page in PAGES:
        text = " ".join(page.read_text(encoding="utf-8").split())
        assert "## What it costs" in text
        assert "reached in making this page.**" in text or "The commands for one machine were run" in text
        lines = [" ".join(words) for words in commands(page)]
        work = [number for number, line in enumerate(lines) if "shard_train.py" in line or "kuberay-job" in line]
        end = [n for n, line in enumerate(lines) if line.startswith(("ray down", "ray stop", "kubectl delete -f"))]
        token = [number for number, line in enumerate(lines) if "auth_token" in line or "get-auth-token" in line]
        assert work
        assert end
        assert min(work) < max(end)
        assert token
        assert "RAY_AUTH_MODE=token" in text  # without it `ray job submit` sends no token


def test_files_that_are_named_are_there():
    for page in [*PAGES, ROOT / "cluster/README.md"]:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"(?:cluster|jobs|tests|docs)/[\w./-]*\w", text):
            if not name.startswith("docs/lost"):
                assert (ROOT / name).exists() or name.startswith("tests/"), f"{page.name}: {name}"
        for target, section in re.findall(r"\]\(([\w./-]+)(?:#([\w-]+))?\)", text):
            linked = page.parent / target
            assert linked.exists(), f"{page.name}: {target}"
            if section:
                headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
                assert section in [heading.lower().replace(" ", "-") for heading in headings]


def test_every_file_of_the_folder_belongs_to_a_page():
    named = "".join(page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "cluster/README.md"])
    for path in (ROOT / "cluster").iterdir():
        assert path.name == "README.md" or path.name in named, path.name


def test_a_wrong_option_would_be_found():
    with pytest.raises(Exception, match="No such option"):
        check(["ray", "start", "--heads"])

"""constraints.txt, the Makefile and what `ray job submit --working-dir .` sends."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from taft_ray.version import VERSION

ROOT = Path(__file__).parents[2]
OF_THE_WHEEL = re.compile(r"nvidia-|cuda-|triton$")  # torch's wheel names them itself, see constraints.txt


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def installed(requirement, seen):
    """Every installed distribution that the requirement needs, itself included, as name -> version."""
    for extra in ("", *requirement.extras):
        key = (canonicalize_name(requirement.name), extra)
        if key in seen:
            continue
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            return
        seen[key] = found.version
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                installed(needed, seen)


def test_what_runs_is_what_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    seen = {}
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["dev"], *extras["docs"]]:
        installed(Requirement(text), seen)
    versions = {name: version for (name, _), version in seen.items() if not OF_THE_WHEEL.match(name)}
    assert len(versions) > 50
    # a wheel from another index may add a local part: torch 2.14.1+cpu is 2.14.1
    differ = {name: v for name, v in versions.items() if pins().get(name) != v.partition("+")[0]}
    assert not differ, f"installed but not pinned so: {differ}; renew constraints.txt or run `make test`"


def test_constraints_are_plain_pins():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line
    names = [*pins()]
    assert names == sorted(names)
    assert not [name for name in names if OF_THE_WHEEL.match(name)]


def make(*arguments, cwd=ROOT):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def test_every_target_is_explained():
    text = (ROOT / "Makefile").read_text()
    phony = next(line for line in text.splitlines() if line.startswith(".PHONY:")).split()[1:]
    shown = make("help").stdout
    for target in phony:
        assert f"  make {target} " in shown


def test_an_old_python_is_named_with_the_fix(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    result = make("demo", f"PYTHON={old}", cwd=tmp_path)
    assert result.returncode != 0
    assert "expected Python >= 3.11" in result.stderr
    assert "Python 3.9.1" in result.stderr
    assert "make PYTHON=" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_pre_commit_runs_what_check_runs():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["entry"] for hook in repo["hooks"]}
    rule = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("check:"))
    assert hooks == {f"make {target}" for target in rule.partition("##")[0].split()[1:]}


def test_every_folder_of_tests_has_its_place_in_the_order():
    (folders,) = re.findall(r"^TEST_FOLDERS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    there = {file.relative_to(ROOT / "tests").parts[0] for file in (ROOT / "tests").glob("*/**/test_*.py")}
    assert sorted(folders.replace("\\", "").split()) == sorted(there)


def test_one_folder_has_a_target_and_ci_wants_no_skips():
    """`make --assume-old` takes the tools for installed."""
    shown = make("--dry-run", "--assume-old=.venv/.stamp-dev", "test-composer", "PYTEST_ARGS=--exitfirst").stdout
    assert shown.split()[1:] == ["-m", "pytest", "--durations=25", "--exitfirst", "tests/composer"]
    everything = make("--dry-run", "--assume-old=.venv/.stamp-dev", "test").stdout
    assert "tests/bits tests/cli tests/orchestration tests/composer" in everything
    assert "tests/test_readme.py" in everything
    ci = (ROOT / ".ci/run").read_text()
    assert "make check test examples PYTEST_ARGS=--expected-skips-only" in ci


def test_what_the_documents_show_is_run_in_ci():
    shown = make("--dry-run", "--assume-old=.venv/.stamp-dev", "examples").stdout.split()
    assert "slow or not slow" in " ".join(shown).replace('"', "")
    for path in ("tests/prose/test_notebook.py", "tests/examples", "tests/doctests/test_docstrings_on_ray.py"):
        assert path in shown
        assert (ROOT / path).exists()


def test_pages_for_contributors_name_what_is_there():
    text = "".join(
        (ROOT / name).read_text()
        for name in ("CONTRIBUTING.md", "SECURITY.md", "docs/project/releasing.md", "docs/project/compatibility.md")
    )
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets |= {f"test-{folder.name}" for folder in (ROOT / "tests").iterdir() if folder.is_dir()}
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for path in set(re.findall(r"\b(?:tests|docs|taft_ray|tangent|plans)/[\w./-]+\w", text)):
        assert (ROOT / path).exists() or (ROOT / "taft_ray" / path).exists(), path


def test_citation_has_the_version_and_the_licence_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (VERSION, project["project"]["license"])
    assert citation["title"] == project["project"]["name"]


def test_the_package_ships_its_types_and_a_list_of_what_is_new():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["taft_ray"]
    assert "py.typed" in patterns
    assert all(list((ROOT / "taft_ray").glob(pattern)) for pattern in patterns)
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text()


def test_ci_is_executable():
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_no_tests_is_a_failure(tmp_path):
    """make fails for any status but 0, and pytest's for an empty collection is 5."""
    (tmp_path / "empty.py").touch()
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "empty.py"], cwd=tmp_path, capture_output=True, timeout=60
    )
    assert result.returncode == 5


@pytest.fixture
def tree(tmp_path):
    """A tree with the files that matter, and what must not be sent."""
    kept = ["jobs/shard_train.py", "taft_ray/__init__.py", "taft_ray/embedded/tiny.safetensors"]
    left = [".venv/lib/torch.so", "runs/first/keys/id.key", ".git/config", "taft_ray/__pycache__/a.pyc"]
    root = tmp_path / "tree"
    for name in kept + left:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    shutil.copy(ROOT / ".gitignore", root)
    return root, kept


def test_submit_sends_the_code_and_no_secrets(tree, tmp_path):
    """Ray leaves out what .gitignore names, so no .rayignore is needed; keys/id.key of a local run must not travel."""
    root, kept = tree
    package = tmp_path / "package.zip"
    create_package(str(root), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    shutil.unpack_archive(package, tmp_path / "sent")
    sent = {str(path.relative_to(tmp_path / "sent")) for path in (tmp_path / "sent").rglob("*") if path.is_file()}
    assert sent == {*kept, ".gitignore"}


def test_images_are_named_by_the_version_of_the_package():
    named = [
        tag
        for path in [*(ROOT / "cluster").rglob("*"), *(ROOT / "docs").rglob("*.md")]
        if path.is_file()
        for tag in re.findall(r"taft-ray:(\d[\w.]*)", path.read_text())
    ]
    assert len(named) > 5
    assert set(named) == {VERSION}

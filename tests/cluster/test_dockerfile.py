"""cluster/Dockerfile, as far as it can be read without building it, and what a build is sent."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from ray.scripts.scripts import cli as ray_commands

from taft_ray.version import VERSION

ROOT = Path(__file__).parents[2]

# pip's questions to a package, in a process that does not find this checkout.
ASK = """
import os, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in f"{finder} {type(finder)}"]
sys.path[:] = [place for place in sys.path if not os.path.exists(os.path.join(place, "taft_ray", "verbs"))]
from setuptools import build_meta
build_meta.prepare_metadata_for_build_wheel(".")
"""


def instructions():
    """(instruction, words) of each; comments are left out and continued lines are joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "cluster/Dockerfile").read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def of(name):
    return [rest for found, rest in instructions() if found == name]


def pinned(package):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def copied():
    for line in of("COPY"):
        *sources, _ = [word for word in shlex.split(line) if not word.startswith("--")]
        yield from sources


def test_image_copies_what_exists():
    assert {"taft_ray", "jobs", "constraints.txt", "pyproject.toml"} <= set(copied())
    for source in copied():
        assert (ROOT / source).exists(), source


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_bases_have_the_ray_that_is_pinned(device):
    """A digest may be added to the tag, which somebody could move."""
    defaults = dict(line.split("=") for line in of("ARG") if "=" in line)
    base = defaults[f"{device.upper()}_BASE"]
    assert re.fullmatch(rf"rayproject/ray:{re.escape(pinned('ray'))}-py311-{device}(@sha256:[0-9a-f]{{64}})?", base)
    assert f"${{{device.upper()}_BASE}} AS base-{device}" in of("FROM")
    assert of("FROM")[-1] == "base-${DEVICE}"
    assert defaults["DEVICE"] == "gpu"


def test_processes_are_not_root():
    assert of("USER")[-1] not in ("root", "0")
    names = [name for name, _ in instructions()]
    assert names.index("USER") < min(names.index("COPY"), names.index("RUN"))
    for line in of("COPY"):
        assert "--chown=ray:users" in line
    assert not [line for line in of("RUN") if re.search(r"\bsudo\b|apt-get", line)]


def test_health_is_asked_of_ray():
    (check,) = of("HEALTHCHECK")
    command, subcommand = json.loads(check[check.index("[") :])
    assert command == "ray"
    ray_commands.commands[subcommand].make_context(subcommand, [])


def test_packages_are_those_that_are_pinned():
    installs = [line for line in of("RUN") if "pip install" in line]
    for line in installs:
        assert "-c constraints.txt" in line or "--no-deps --force-reinstall ." in line
    assert any(' ".[serve]" gcsfs adlfs' in line for line in installs)


def test_a_build_is_sent_what_it_copies_and_nothing_else():
    """Keys of a run in runs/ would otherwise travel to the builder, and a careless COPY into the image."""
    everything, *patterns = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert everything == "*"
    kept = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    assert kept == {Path(source).parts[0] for source in copied()}
    left = [pattern.removeprefix("**/") for pattern in patterns if not pattern.startswith("!")]
    for name in ("__pycache__", "shard_train.cpython-311.pyc"):
        assert any(fnmatch(name, pattern) for pattern in left)


def test_the_package_is_known_from_what_is_copied_first(tmp_path):
    """Dependencies are installed before the code is there."""
    first = next(number for number, (name, rest) in enumerate(instructions()) if rest.endswith(" taft_ray taft_ray"))
    for name, rest in list(instructions())[:first]:
        if name == "COPY":
            *sources, target = [word for word in shlex.split(rest) if not word.startswith("--")]
            (tmp_path / target).mkdir(exist_ok=True)
            for source in sources:
                shutil.copy(ROOT / source, tmp_path / target)
    done = subprocess.run([sys.executable, "-c", ASK], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    assert f"\nVersion: {VERSION}\n" in metadata.read_text()

"""The targets that install: pip is seen at work, and what it cannot do fails. Python here is a script that plays pip."""

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"
PLAYS_PIP = """#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"-m pip"*)
    echo "Obtaining file:///here"
    for name in 'torch==2.14.1' 'numpy>=1.26' 'fsspec[http]<2027'; do
      echo "Collecting $name (from taft_ray==0.2.0)"; echo "  Downloading it.whl (1.0 GB)"
    done
    echo "Installing collected packages: torch, numpy, fsspec"
    exit $PIP_ENDS ;;
  *--version*) echo "Python 3.11" ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(MAKEFILE, tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "python").write_text(PLAYS_PIP)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def made(folder: Path, target: str, pip_ends: int) -> subprocess.CompletedProcess[str]:
    command = ["make", target, f"PYTHON={folder / 'python'}"]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PIP_ENDS": str(pip_ends)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("target", [".venv/.stamp-run", ".venv/.stamp-dev"])
def test_packages_are_named_as_pip_collects_them(folder: Path, target: str) -> None:
    done = made(folder, target, 0)
    assert done.returncode == 0, done.stderr
    assert "collecting torch numpy fsspec\ninstalling them\n" in done.stdout
    assert "Downloading" not in done.stdout
    assert (folder / target).exists()


def test_what_pip_cannot_install_fails(folder: Path) -> None:
    assert made(folder, ".venv/.stamp-run", 1).returncode != 0
    assert not (folder / ".venv/.stamp-run").exists()

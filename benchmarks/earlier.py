"""An earlier version of the package beside this one: its files, and commands run with them."""

from __future__ import annotations

import os
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def files_of(version: str, folder: Path) -> Path:
    """The root of an earlier version: ``version`` itself where it is a folder, else a commit that is unpacked into ``folder``."""
    if Path(version).is_dir():
        return Path(version).resolve()
    packed = subprocess.run(["git", "archive", version], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def environment_of(root: Path) -> dict[str, str]:
    """This process's environment for a process of the version in ``root``, outside any cluster."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, "PYTHONPATH": str(root), "RAY_USAGE_STATS_ENABLED": "0"}

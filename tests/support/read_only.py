"""A folder that this process cannot write to, as one on a storage that is mounted read-only or belongs to others."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def read_only(folder: Path, *readable: Path) -> Iterator[None]:
    """Nobody may write there inside the block. Root may write everywhere, so this process is nobody meanwhile.

    readable: files that it reads all the same.
    """
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    passed = {path for file in readable for path in (file, *file.parents) if path.stat().st_mode & 45 != 45}
    before = {path: path.stat().st_mode for path in (*folders, *passed)}
    for path in folders:
        path.chmod(0o555)
    for path in passed:
        path.chmod(before[path] | 0o055)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(NOBODY)
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in before.items():
            path.chmod(mode)

"""Local copies of remote objects: gone with their process, and swept when it was killed; a living one's stay."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taft_ray.storage import Store, copies, sweep_copies

FETCH = """
import os, sys
from taft_ray.storage import Store
store = Store("memory://run")
store.write("cache/part", b"x" * 1000)
print(store.fetch("cache/part"), flush=True)
{then}
sys.stdin.read()
"""

Holder = Callable[..., tuple["subprocess.Popen[str]", Path]]


@pytest.fixture
def holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Holder]:
    """Processes that hold a copy in a temporary folder of this test's own, and that copy."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it remembers the folder it found first
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    running: list[subprocess.Popen[str]] = []

    def hold(then: str = "") -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", FETCH.format(then=then)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        running.append(process)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    yield hold
    for process in running:
        process.kill()
        process.communicate()


def folder_of(copy: Path) -> Path:
    return copy.parents[1]


def test_copies_of_a_killed_process_are_swept_and_those_of_a_living_one_are_not(holder: Holder) -> None:
    (dead, its_copy), (_, living_copy) = holder(), holder()
    assert folder_of(its_copy).name.startswith(f"taft-ray-copies-{dead.pid}-")
    assert sweep_copies() == []
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert its_copy.read_bytes() == b"x" * 1000  # a kill leaves it
    assert sweep_copies() == [str(folder_of(its_copy))]
    assert not folder_of(its_copy).exists()
    assert living_copy.read_bytes() == b"x" * 1000
    assert sweep_copies() == []


def test_copies_go_when_their_process_exits(holder: Holder) -> None:
    process, copy = holder()
    process.communicate("")
    assert process.returncode == 0
    assert not folder_of(copy).exists()


def test_copies_of_a_killed_process_are_swept_though_its_forked_child_lives(holder: Holder) -> None:
    process, copy = holder("if os.fork() == 0:\n    print(os.getpid(), flush=True)\n    sys.stdin.read()")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        assert sweep_copies() == []
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(child, 0)
        assert sweep_copies() == [str(folder_of(copy))]
    finally:
        os.kill(child, signal.SIGKILL)


def test_own_copies_survive_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("memory://own-copies")
    store.write("x", b"1")
    copy = store.fetch("x")
    assert sweep_copies().count(str(copy.parent)) == 0
    assert copy.read_bytes() == b"1"


def test_nothing_of_others_is_swept(holder: Holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tmp"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"1")
    (folder / "taft-ray-copies-1-link").symlink_to(precious, target_is_directory=True)
    (folder / "taft-ray-copies-1-file").write_bytes(b"1")
    (folder / "taft-ray-demo-1").mkdir()
    assert sweep_copies() == []
    (folder / "taft-ray-copies-1-theirs").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 4242)
        assert sweep_copies() == []
    assert sweep_copies() == [str(folder / "taft-ray-copies-1-theirs")]
    assert (precious / "file").exists()
    assert {path.name for path in folder.iterdir()} == {
        "taft-ray-copies-1-file",
        "taft-ray-copies-1-link",
        "taft-ray-demo-1",
    }


def test_a_folder_swept_before_it_was_locked_is_made_again(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = copies._open
    swept: list[list[str]] = []

    def open_late(folder: Path) -> int:
        if not swept:
            monkeypatch.setattr(copies, "_open", opened)
            descriptor = opened(folder)
            swept.append(sweep_copies())  # another process sweeps between the making and the lock
            return descriptor
        return opened(folder)

    monkeypatch.setattr(copies, "_open", open_late)
    folder, descriptor = copies._locked_folder(os.getpid())
    try:
        assert [Path(path).name[:16] for path in swept[0]] == ["taft-ray-copies-"]
        assert folder.is_dir()
        assert sweep_copies() == []
    finally:
        os.close(descriptor)
    assert sweep_copies() == [str(folder)]

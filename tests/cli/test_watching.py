"""`status --watch` follows another process's work to its end; an interrupted command says what stands."""

import contextlib
import os
import pty
import subprocess
import threading
import time
from pathlib import Path

import pytest
from command import COMMAND, ROOT, here
from processes import wait_for
from toy_run import EVERYONE, SHARDS, fit, make_run

from taft_ray.cli import run as commands
from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.verbs.interrupted import what_is_left


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path / "run")
    return tmp_path / "run"


def fit_all(run: Path, pause: float = 0.0) -> None:
    composer = Composer(str(run))
    while task := composer.take("lane"):
        time.sleep(pause)
        composer.finished(fit(composer.record.store, task))


def test_watch_shows_every_change_until_nothing_is_under_way(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "WATCH_S", 0.05)
    other = threading.Thread(target=fit_all, args=(run, 0.3))
    other.start()
    answer = here("status", run, "--watch", "--json")
    other.join()
    assert answer.code == 0, answer.err
    assert {shard["state"] for shard in answer.json["shards"]} == {"trained"}
    assert f"{SHARDS} pending" in answer.err
    assert answer.err.count("UTC") >= 2, "it changed on the way"


def test_watch_in_a_terminal_shows_one_status_in_place(run: Path) -> None:
    """A pseudo-terminal: the status is drawn over itself, and what is left at the end is the last one, on stdout."""
    leader, follower = pty.openpty()
    seen = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end was closed
            while chunk := os.read(leader, 4096):
                seen.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    with subprocess.Popen(
        [*COMMAND, "status", str(run), "--watch"], cwd=ROOT, stdout=subprocess.PIPE, stderr=follower, text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:  # fmt: skip
        os.close(follower)
        wait_for(lambda: f"{SHARDS} pending".encode() in seen, 60)
        fit_all(run, 0.5)
        out, _ = process.communicate(timeout=120)
    reader.join(10)
    os.close(leader)
    assert process.returncode == 0
    assert f"{SHARDS} trained" in out
    assert b"\x1b[" in seen, "it moves the cursor"
    assert f"{SHARDS} trained".encode() not in seen


def test_watch_ends_at_once_where_nothing_is_under_way(run: Path) -> None:
    fit_all(run)
    Composer(str(run)).request_forget(Selection(ids=(EVERYONE[0],)), "retrain", time.time() + 10_000)
    answer = here("status", run, "--watch")
    assert answer.code == 0, answer.err
    assert "waits until" in answer.out
    assert answer.err == ""


def test_interrupted_command_says_what_stands_and_what_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(run: object, metrics: object = None) -> None:
        raise KeyboardInterrupt

    composer = Composer(str(run))
    for _ in range(2):
        task = composer.take("lane")
        assert task is not None
        composer.finished(fit(composer.record.store, task))
    request = composer.request_forget(Selection(ids=(EVERYONE[0],)), "retrain")["request"]
    monkeypatch.setattr("taft_ray.verbs.run.Run.status", interrupted)
    answer = here("status", run)
    assert answer.code == 1
    assert "interrupted; " in answer.err
    assert f"request {request} is recorded; taft-ray forget {run} --due goes on" in answer.err
    assert "run the same command again to go on" in answer.err


def test_what_is_left_of_a_run_at_each_stage(run: Path, tmp_path: Path) -> None:
    assert what_is_left(str(tmp_path / "nothing")) == "nothing was recorded"
    assert what_is_left(str(run)) == f"0 of {SHARDS} shards done"
    fit_all(run)
    assert what_is_left(str(run)) == f"{SHARDS} of {SHARDS} shards done"
    next((run / "ledger").iterdir()).write_bytes(b"{")
    assert what_is_left(str(run)) == ""

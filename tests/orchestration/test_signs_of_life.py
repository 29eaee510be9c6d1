"""A silent worker is looked at. It is given up when it was silent for much longer than any that went on.

A stopped process is ended whenever it is looked at; one that is merely slow is not.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import wait_for

from taft_ray.composer.leases import LEAST_S, TIMES
from taft_ray.orchestration.nodes import ENDED, GONE, RUNS, born, end_silent
from taft_ray.orchestration.signs import LOOK_S, SILENT_S, Signs

WORKERS = "ab"
LOOKS = st.lists(
    # seconds since the look before, in which a command may have been held up, and who gave a sign in them
    st.tuples(st.floats(0.1, 10_000) | st.just(LOOK_S), st.sets(st.sampled_from(WORKERS))),
    max_size=200,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Heard:
    """Two workers, as a command hears them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.signs = Signs(self.clock)
        self.counts = dict.fromkeys(WORKERS, 0)
        self.signs.hear(self.counts)

    def after(self, seconds: float, who: set[str]) -> dict[str, float]:
        self.clock.now += seconds
        for worker in who:
            self.counts[worker] += 1
        return self.signs.hear(self.counts)


@given(LOOKS)
def test_a_worker_that_gave_a_sign_since_the_last_look_is_not_silent(looks: list[tuple[float, set[str]]]) -> None:
    heard = Heard()
    for seconds, who in looks:
        assert not heard.after(seconds, who).keys() & who


@given(LOOKS)
def test_a_command_that_was_held_up_takes_no_worker_for_silent(looks: list[tuple[float, set[str]]]) -> None:
    """One look is never enough, however late it comes: the workers may have been held up with it."""
    heard, missed = Heard(), dict.fromkeys(WORKERS, 0)
    for seconds, who in looks:
        silent = heard.after(seconds, who)
        missed = {worker: 0 if worker in who else missed[worker] + 1 for worker in WORKERS}
        assert all(missed[worker] * 2 * LOOK_S >= SILENT_S and missed[worker] > 1 for worker in silent)


@given(LOOKS)
def test_a_silence_is_as_long_as_somebody_listened_and_patience_longer_than_any_that_ended(
    looks: list[tuple[float, set[str]]],
) -> None:
    heard, since, longest = Heard(), dict.fromkeys(WORKERS, 0.0), 0.0
    for seconds, who in looks:
        silent = heard.after(seconds, who)
        counted = min(seconds, 2 * LOOK_S)
        for worker in WORKERS:
            since[worker] += counted
            if worker in who:
                longest, since[worker] = max(longest, since[worker]), 0.0
        assert silent == pytest.approx({worker: s for worker, s in since.items() if s >= SILENT_S})
        assert heard.signs.patience == pytest.approx(max(LEAST_S, TIMES * longest))


@given(LOOKS)
def test_every_wait_for_a_worker_without_signs_ends(looks: list[tuple[float, set[str]]]) -> None:
    heard = Heard()
    for seconds, who in looks:
        heard.after(seconds, who)
    heard.after(LOOK_S, {"b"})
    most = int(heard.signs.patience / LOOK_S) + 2
    for _ in range(most):
        silent = heard.after(LOOK_S, {"b"})
    assert silent["a"] > heard.signs.patience


def test_a_worker_that_has_gone_is_nobody_to_wait_for() -> None:
    heard = Heard()
    del heard.counts["a"]
    assert all("a" not in heard.after(LOOK_S, {"b"}) for _ in range(100))


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A process that computes without an end."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def state(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_busy_process_is_left_alone_and_a_stopped_one_is_ended_for_good(busy: subprocess.Popen[bytes]) -> None:
    since = born(busy.pid)
    assert since is not None
    assert end_silent(busy.pid, since, overdue=False) == RUNS
    assert busy.poll() is None
    os.kill(busy.pid, signal.SIGSTOP)
    wait_for(lambda: state(busy) == "T")
    assert end_silent(busy.pid, since, overdue=False) == ENDED
    os.kill(busy.pid, signal.SIGCONT)
    assert busy.wait() == -signal.SIGKILL
    assert end_silent(busy.pid, since, overdue=False) == GONE


def test_a_process_that_was_stopped_and_goes_on_is_left_alone(busy: subprocess.Popen[bytes]) -> None:
    os.kill(busy.pid, signal.SIGSTOP)
    wait_for(lambda: state(busy) == "T")
    os.kill(busy.pid, signal.SIGCONT)
    wait_for(lambda: state(busy) != "T")
    assert end_silent(busy.pid, born(busy.pid), overdue=False) == RUNS
    assert busy.poll() is None


def test_another_process_of_the_same_number_is_left_alone(busy: subprocess.Popen[bytes]) -> None:
    os.kill(busy.pid, signal.SIGSTOP)
    wait_for(lambda: state(busy) == "T")
    since = born(busy.pid)
    assert since is not None
    assert end_silent(busy.pid, since + 1, overdue=True) == GONE
    assert busy.poll() is None


def test_an_overdue_process_is_ended(busy: subprocess.Popen[bytes]) -> None:
    assert end_silent(busy.pid, born(busy.pid), overdue=True) == ENDED
    assert busy.wait() == -signal.SIGKILL

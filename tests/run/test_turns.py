"""The turn to carry out a run's requests: one command at a time has it, and nobody waits for one that has gone."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from taft_ray.run import turn
from taft_ray.run.turn import Turn, Turns
from taft_ray.storage import Store
from taft_ray.storage.rundir import TURN_KEY


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def put(store: Store, kept: Turn) -> None:
    store.write(TURN_KEY, json.dumps(kept.to_json()).encode())


def elsewhere(told: float) -> Turn:
    return Turn("another", "another-host", 1, told)


def no_wait(turn: Turn) -> bool:
    return True


def test_one_at_a_time_has_it_and_the_next_one_after(store: Store) -> None:
    with Turns(store).turn() as mine:
        assert mine
        with Turns(store).turn(no_wait) as also:
            assert also is None
        assert store.exists(TURN_KEY), "whoever did not get it does not end it"
    assert not store.exists(TURN_KEY)
    with Turns(store).turn() as mine:
        assert mine


def test_of_many_that_ask_at_once_one_has_it(store: Store) -> None:
    start, end = threading.Barrier(8), threading.Barrier(8)
    got: list[bool] = []

    def ask() -> None:
        start.wait()
        with Turns(store).turn(no_wait) as mine:
            got.append(mine is not None)
            end.wait()

    _each_in_a_thread([ask] * 8)
    assert sorted(got) == [False] * 7 + [True]


def test_all_that_wait_have_it_in_turn(store: Store) -> None:
    inside: list[int] = []
    most: list[int] = []

    def ask() -> None:
        with Turns(store).turn() as mine:
            assert mine
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    _each_in_a_thread([ask] * 8)
    assert most == [1] * 8


def test_whoever_asks_sees_that_the_holder_waits(store: Store) -> None:
    with Turns(store).turn() as mine:
        assert mine
        seen: list[bool] = []

        def unless(turn: Turn) -> bool:
            seen.append(turn.waits)
            mine.waits()
            return turn.waits

        with Turns(store).turn(unless) as also:
            assert also is None
    assert (seen[0], seen[-1]) == (False, True)


def test_that_of_a_killed_process_is_over_at_once(store: Store, tmp_path: Path) -> None:
    holds = (
        "import os; from taft_ray.run.turn import Turns; from taft_ray.storage import Store\n"
        f"with Turns(Store({str(tmp_path)!r})).turn() as mine:\n    assert mine; os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", holds], check=False).returncode == 9
    assert store.exists(TURN_KEY)
    assert Turns(store).left_over()
    with Turns(store).turn() as mine:
        assert mine


def test_that_of_another_machine_lasts_while_it_gives_signs_of_life(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000_000.0]
    monkeypatch.setattr(turn.time, "time", lambda: now[0])
    monkeypatch.setattr(turn.time, "monotonic", lambda: now[0])
    waiting = Turns(store)
    put(store, elsewhere(now[0]))
    for _ in range(3):
        assert waiting.taken_elsewhere()
        now[0] += turn.SILENT_S - 1
        put(store, elsewhere(now[0]))
    assert waiting.taken_elsewhere()
    now[0] += turn.SILENT_S + 1
    assert not waiting.taken_elsewhere()
    assert Turns(store).taken_elsewhere(), "who has only come cannot know yet"
    now[0] += turn.FRESH_S
    assert not Turns(store).taken_elsewhere()


def test_signs_of_life_are_given_while_it_is_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "BEAT_S", 0.01)
    with Turns(store).turn():
        assert not Turns(store).taken_elsewhere(), "it is this process's"
        first = store.read(TURN_KEY)
        assert _soon(lambda: store.read(TURN_KEY) != first)


def test_whoever_was_overtaken_leaves_the_newer_turn_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "BEAT_S", 0.01)
    with Turns(store).turn():
        newer = replace(elsewhere(turn.time.time()), holder="newer")
        assert _soon(lambda: put(store, newer) or Turn.from_json(json.loads(store.read(TURN_KEY))) == newer)
        put(store, newer)
    assert store.exists(TURN_KEY)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[1]", b'{"holder": 1}', b"\xff", b'{"holder": "a", "host": "b", "pid": "c", "told": 1}']
)
def test_a_damaged_one_holds_nobody_up(damage: bytes, store: Store) -> None:
    store.write(TURN_KEY, damage)
    assert not Turns(store).taken_elsewhere()
    assert Turns(store).left_over()
    with Turns(store).turn() as mine:
        assert mine


def test_a_storage_that_takes_no_note_holds_nobody_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from taft_ray.errors import StorageError

    def full(*_: object) -> None:
        raise StorageError("no space")

    monkeypatch.setattr(Store, "create", full)
    with Turns(store).turn() as mine:
        assert mine


def _each_in_a_thread(calls: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _soon(holds: Callable[[], bool]) -> bool:
    """Whether it comes true before the test's patience ends."""
    ended = threading.Event()
    return any(holds() or ended.wait(0.01) for _ in range(500) if not ended.is_set())

"""Notes of what commands wait for: shown while they are fresh, and in nobody's way."""

import time
from pathlib import Path

import pytest
from command import here
from toy_run import make_run

from taft_ray.orchestration import waiting
from taft_ray.orchestration.waiting import Notice, told_while
from taft_ray.run.waiting import AGAIN_S, FRESH_S, Wait, remove, stale, waits, write
from taft_ray.storage import Store
from taft_ray.storage.rundir import WAITING_FOLDER

NOW = 1_000_000.0


def wait(told: float = NOW, since: float = NOW - 60) -> Wait:
    return Wait("train: lanes", "a GPU", since, told)


def test_notes_are_told_until_they_are_removed_or_nobody_renews_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, "one", wait())
    write(store, "two", wait(since=NOW - 90))
    assert [one.since for one in waits(store, NOW + AGAIN_S)] == [NOW - 90, NOW - 60], "the longest first"
    assert waits(store, NOW + FRESH_S + 1) == []
    assert len(stale(store, NOW + FRESH_S + 1)) == 2
    assert stale(store, NOW) == []
    remove(store, "two")
    assert len(waits(store, NOW)) == 1


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[1]", b'{"by": 1}', b"\xff\xfe", b'{"by": "a", "what": "b", "since": "x", "told": "y"}']
)
def test_damaged_notes_hold_nothing_up(damage: bytes, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    store = Store(str(tmp_path / "run"))
    write(store, "one", wait(time.time(), time.time()))
    (tmp_path / "run" / WAITING_FOLDER / "two.json").write_bytes(damage)
    assert len(here("status", tmp_path / "run", "--json").json["waiting"]) == 1
    removed = here("gc", tmp_path / "run", "--json").json["removed"]
    assert removed == [f"{WAITING_FOLDER}/two.json"]
    assert here("verify", tmp_path / "run").code == 0


def test_status_says_what_waits_and_since_when(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    since = time.time() - 600
    assert "waiting" not in here("status", tmp_path / "run", "--json").json
    write(Store(str(tmp_path / "run")), "one", wait(time.time(), since))
    told = here("status", tmp_path / "run").out
    assert "waiting: train: lanes has waited for a GPU since" in told
    (one,) = here("status", tmp_path / "run", "--json").json["waiting"]
    assert one == {"by": "train: lanes", "what": "a GPU", "since": since}


def test_a_wait_is_told_again_and_again_and_its_note_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.02)
    store, held = Store(str(tmp_path)), [True]

    def until(count: int) -> None:
        while len(waits(store, time.time())) != count:
            time.sleep(0.01)

    with told_while(str(tmp_path), "a worker", "a GPU", lambda: held[0]):
        until(1)
        held[0] = False
        until(0)
        held[0] = True
        until(1)
    until(0)
    assert len([one for one in caplog.messages if one.startswith("a worker has waited for a GPU for")]) >= 2


def test_what_does_not_change_is_not_written_at_every_look(tmp_path: Path) -> None:
    notice = Notice(str(tmp_path), "lanes")
    notice.says("a GPU", NOW)
    (first,) = waits(notice.store, time.time())
    notice.says("a GPU", NOW)
    assert waits(notice.store, time.time()) == [first]
    notice.says("a GPU, each of 2 lanes", NOW)
    assert waits(notice.store, time.time())[0].what == "a GPU, each of 2 lanes"
    notice.says(None)
    assert waits(notice.store, time.time()) == []


def test_a_storage_that_does_not_take_notes_holds_nothing_up(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("no folder")
    notice = Notice(str(tmp_path), "lanes")
    notice.says("a GPU", NOW)
    notice.says(None)

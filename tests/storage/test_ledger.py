"""The ledger: a chain without gaps, one winner a number, every damage found and named."""

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_digest import JSON

from taft_ray.errors import CommitConflict, CommitUnknown, IntegrityError, StorageError, UsageError
from taft_ray.storage import Entry, Ledger, Store, entry_key
from taft_ray.storage.ledger import GENESIS


def filled(store: Store, count: int) -> Ledger:
    ledger = Ledger(store)
    for number in range(count):
        ledger.append("kind", {"n": number}, op=f"op-{number}")
    return ledger


def test_append_then_read(store: Store) -> None:
    ledger = Ledger(store)
    assert ledger.entries() == []
    assert ledger.head() is None
    first = ledger.append("created", {"shards": [1, 2]}, op="a")
    second = ledger.append("trained", {"x": None}, op="b")
    assert (first.number, first.prev, first.kind, first.op, first.body) == (
        0,
        GENESIS,
        "created",
        "a",
        {"shards": [1, 2]},
    )
    assert (second.number, second.prev) == (1, first.digest)
    assert datetime.fromisoformat(first.time).utcoffset() is not None
    assert Ledger(store).entries() == ledger.entries() == ledger.known == [first, second]
    assert Ledger(store).head() == second
    assert [info.key for info in store.list("ledger/")] == [entry_key(0), entry_key(1)]


def test_refresh_gives_only_new_entries(store: Store) -> None:
    reader = Ledger(store)
    assert reader.refresh() == []
    writer = filled(store, 3)
    assert [e.number for e in reader.refresh()] == [0, 1, 2]
    assert reader.refresh() == []
    for number in range(3, 25):  # more than are looked for one by one
        writer.append("kind", {}, op=f"op-{number}")
    assert [e.number for e in reader.refresh()] == list(range(3, 25))
    assert reader.known == writer.known


def test_find_by_operation(store: Store) -> None:
    ledger = filled(store, 3)
    fresh = Ledger(store)
    found = fresh.find("op-1")
    assert found is not None
    assert found.number == 1
    assert fresh.find("op-9") is None
    ledger.append("kind", {}, op="op-9")
    assert fresh.find("op-9") == ledger.head()


def test_stale_writer_gets_a_conflict_and_commits_after_refresh(store: Store) -> None:
    one, two = filled(store, 1), Ledger(store)
    two.refresh()
    one.append("kind", {}, op="one")
    with pytest.raises(CommitConflict, match=entry_key(1)):
        two.append("kind", {}, op="two")
    two.refresh()
    assert two.append("kind", {}, op="two").number == 2
    assert len(Ledger(store).entries()) == 3


def test_writer_that_saw_an_empty_ledger_gets_a_conflict(store: Store) -> None:
    late = Ledger(store)
    assert late.refresh() == []
    filled(store, 1)
    with pytest.raises(CommitConflict, match=entry_key(0)):
        late.append("kind", {}, op="late")


@pytest.mark.parametrize(("processes", "facts"), [(2, 1), (6, 2), pytest.param(32, 2, marks=pytest.mark.slow)])
def test_racing_processes_commit_every_fact_once(store: Store, tmp_path: Path, processes: int, facts: int) -> None:
    go = tmp_path / "go"
    racer = [sys.executable, str(Path(__file__).with_name("racer.py")), store.uri]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
    racers = [
        subprocess.Popen(
            [*racer, f"racer{number}", str(go), str(facts)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for number in range(processes)
    ]
    won: dict[str, list[int]] = {}
    try:
        for process in racers:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        go.touch()
        for number, process in enumerate(racers):
            out, _ = process.communicate(timeout=540)
            assert process.returncode == 0
            won[f"racer{number}"] = [int(entry) for entry in out.split()]
    finally:
        for process in racers:
            if process.poll() is None:
                process.kill()
                process.communicate()
    chain = Ledger(store).entries()  # no gap, and every link verified
    assert sorted(entry.op for entry in chain) == sorted(f"{name}-{n}" for name in won for n in range(facts))
    assert {name: [e.number for e in chain if e.body["by"] == name] for name in won} == won
    assert sorted(number for numbers in won.values() for number in numbers) == list(range(processes * facts))


def _damage(data: bytes, how: str) -> bytes:
    if how == "truncated":
        return data[: len(data) // 2]
    if how == "empty":
        return b""
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    return bytes(flipped)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_damaged_entry_is_found_and_named(store: Store, how: str) -> None:
    filled(store, 4)
    key = entry_key(2)
    store.write(key, _damage(store.read(key), how))
    with pytest.raises(IntegrityError, match=key):
        Ledger(store).entries()
    with pytest.raises(IntegrityError, match=key):
        Ledger(store).refresh()


def test_missing_entry_is_found_and_named(store: Store) -> None:
    filled(store, 4)
    store.delete(entry_key(1))
    with pytest.raises(IntegrityError, match=entry_key(1)):
        Ledger(store).entries()


def test_exchanged_entry_is_found_and_named(store: Store, tmp_path: Path) -> None:
    filled(store, 3)
    other = Store(str(tmp_path / "other"))
    filled(other, 3)
    store.write(entry_key(1), other.read(entry_key(1)))  # a valid entry, of another chain
    with pytest.raises(IntegrityError, match=entry_key(1)):
        Ledger(store).entries()
    store.write(entry_key(1), store.read(entry_key(2)))  # a valid entry, of another number
    with pytest.raises(IntegrityError, match=entry_key(1)):
        Ledger(store).entries()


def test_a_reader_notices_removed_and_rewritten_history(store: Store, tmp_path: Path) -> None:
    reader = filled(store, 3)
    store.delete(entry_key(2))
    with pytest.raises(IntegrityError, match=entry_key(2)):
        reader.entries()
    other = Store(str(tmp_path / "other"))
    filled(other, 3)
    for number in range(3):
        store.write(entry_key(number), other.read(entry_key(number)))
    with pytest.raises(IntegrityError, match=entry_key(0)):
        reader.entries()


def test_body_must_be_json(store: Store) -> None:
    ledger = Ledger(store)
    for body in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(UsageError, match="JSON"):
            ledger.append("kind", body, op="x")
    assert ledger.entries() == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=5), st.dictionaries(st.text(max_size=5), JSON, max_size=3)), max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, facts: list[tuple[str, dict]]) -> None:
    store = Store(str(tmp_path_factory.mktemp("ledger")))
    ledger = Ledger(store)
    written = [ledger.append(kind, body, op=str(n)) for n, (kind, body) in enumerate(facts)]
    assert Ledger(store).entries() == written
    assert [(entry.kind, entry.body) for entry in written] == facts


class Unsure(Store):
    """A store whose next create ends in doubt, in one of the ways it can."""

    way = ""

    def create(self, key: str, data: bytes | memoryview) -> None:
        way, self.way = self.way, ""
        if way in ("written", "sent twice"):
            super().create(key, data)
        if way == "sent twice":
            raise CommitConflict("it already exists")
        if way == "other":
            super().create(key, Store.read(self, "rival"))
        if way:
            raise CommitUnknown("the connection broke")
        super().create(key, data)


def test_unknown_outcome_is_resolved(tmp_path: Path) -> None:
    store = Unsure(str(tmp_path / "run"))
    ledger = Ledger(store)
    for way in ("written", "lost", "sent twice"):
        store.way = way
        entry = ledger.append("kind", {"way": way}, op=way)
        assert Ledger(store).head() == entry
    # another writer's entry for number 3, made in a copy of the chain
    copy = Store(str(tmp_path / "copy"))
    for number in range(3):
        copy.write(entry_key(number), store.read(entry_key(number)))
    Ledger(copy).append("kind", {}, op="rival")
    store.write("rival", copy.read(entry_key(3)))
    store.way = "other"
    with pytest.raises(CommitConflict, match=entry_key(3)):
        ledger.append("kind", {}, op="mine")
    assert [e.op for e in Ledger(store).entries()] == ["written", "lost", "sent twice", "rival"]


def test_unknown_outcome_stays_unknown_when_storage_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Unsure(str(tmp_path / "run"))
    ledger = Ledger(store)
    ledger.append("kind", {}, op="a")

    def gone(key: str) -> bytes:
        raise StorageError("gone")

    store.way = "written"
    with monkeypatch.context() as patch:
        patch.setattr(store, "read", gone)
        with pytest.raises(CommitUnknown):
            ledger.append("kind", {}, op="b")
    found = ledger.find("b")
    assert isinstance(found, Entry)
    assert found.number == 1


def test_ten_thousand_entries_are_read_in_seconds(tmp_path: Path) -> None:
    from taft_ray.storage.digest import seal

    store = Store(str(tmp_path))
    prev = GENESIS
    (tmp_path / "ledger").mkdir()
    for number in range(10_000):
        fields = {"number": number, "prev": prev, "kind": "k", "op": f"{number}", "time": "2026-01-01T00:00:00+00:00"}
        data = seal({**fields, "body": {"shard": number, "digest": "0" * 64}}, "digest")
        (tmp_path / entry_key(number)).write_bytes(data)
        prev = json.loads(data)["digest"]
    started = time.monotonic()
    assert len(Ledger(store).entries()) == 10_000
    assert time.monotonic() - started < 10

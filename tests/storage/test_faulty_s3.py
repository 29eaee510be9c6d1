"""A road to S3 on which calls fail: nothing is lost, nothing is done twice, and what remains is exactly right."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import boto3
import pytest
from faulty_s3 import (
    CUT_AFTER,
    CUT_BEFORE,
    CUT_WITHIN,
    FAULTS,
    SILENT,
    SILENT_AFTER,
    SILENT_BEFORE,
    SLOW_DOWN,
    UNSEEN,
    FaultyS3,
    faulty_s3,
)
from s3_server import S3Server

from taft_ray.errors import CommitConflict, CommitUnknown, StorageError
from taft_ray.storage import Ledger, Store, remote

T = TypeVar("T")
Road = Callable[..., "tuple[FaultyS3, Store, Store]"]


@pytest.fixture
def road(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Road]:
    """A proxy, a store behind it, and the same store by the direct way."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "READ_TIMEOUT_S", 0.75)
    monkeypatch.setattr(remote, "PAUSE_S", 0.05)
    proxies: list[FaultyS3] = []

    def build(fraction: float, *faults: str, seed: int = 0) -> tuple[FaultyS3, Store, Store]:
        proxies.append(FaultyS3(s3.endpoint, fraction=fraction, seed=seed, faults=faults or FAULTS))
        uri = f"s3://{s3.bucket}/{uuid.uuid4().hex}"
        return proxies[-1], Store(uri, endpoint_url=proxies[-1].endpoint), Store(uri)

    yield build
    for proxy in proxies:
        proxy.stop()


def until_it_works(call: Callable[[], T]) -> T:
    """Do what a user does: run it again."""
    for _ in range(20):
        try:
            return call()
        except (CommitConflict, CommitUnknown):
            raise
        except StorageError:
            continue
    return call()


def commit(ledger: Ledger, op: str) -> None:
    """One fact, whoever else writes: read after a conflict, look before doing again what may have happened."""
    while until_it_works(lambda: ledger.find(op)) is None:
        try:
            until_it_works(lambda: ledger.append("kind", {"op": op}, op=op))
        except (CommitConflict, CommitUnknown):
            continue


def test_a_clean_road_changes_nothing(road: Road) -> None:
    proxy, store, direct = road(0.0)
    store.write("a/x", b"\0\r\n\r\n" * 10_000)
    store.create("a/y", b"")
    assert direct.read("a/x") == store.read("a/x") == b"\0\r\n\r\n" * 10_000
    assert store.list() == direct.list()
    assert store.fetch("a/x").read_bytes() == direct.read("a/x")
    with pytest.raises(CommitConflict):
        store.create("a/y", b"")
    store.erase(["a/x", "a/y"])
    assert direct.list() == []
    assert proxy.counts.keys() == {"requests"}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_what_it_is_called(road: Road, fault: str) -> None:
    proxy, store, direct = road(1.0, fault)
    started = time.monotonic()
    error = StorageError if fault == SLOW_DOWN else CommitUnknown
    with pytest.raises(error) as caught:
        store.create("x", b"1")
    assert direct.exists("x") == (fault not in UNSEEN)
    assert isinstance(caught.value, CommitUnknown) == (fault != SLOW_DOWN)
    assert (time.monotonic() - started >= 0.75) or fault not in SILENT
    requests = {SLOW_DOWN: remote.ATTEMPTS}.get(fault, 1)
    # aiohttp sends a request again on its own when a connection that was used before breaks
    assert proxy.count(fault, method="PUT") == proxy.counts["requests"] >= requests


def test_faults_are_drawn_from_the_seed(road: Road) -> None:
    counts = []
    for seed in (1, 1, 2):
        proxy, store, _ = road(0.3, SLOW_DOWN, CUT_BEFORE, seed=seed)
        for number in range(20):
            store.write(f"x{number}", b"1")
        counts.append([proxy.counts, proxy.count(SLOW_DOWN), proxy.count(CUT_BEFORE)])
    assert counts[0] == counts[1] != counts[2]


def test_a_server_that_stays_silent_is_asked_again_however_long_that_takes(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    # with the real numbers one silence (15 s) already lasts longer than the time an endpoint has to be connected to
    monkeypatch.setattr(remote, "LAST_CONNECT_S", 0.5)
    proxy, store, direct = road(1.0, SILENT_BEFORE)

    def lift() -> None:
        while proxy.count(SILENT_BEFORE) < 2:
            time.sleep(0.02)
        proxy.fraction = 0.0

    lifting = threading.Thread(target=lift, daemon=True)
    lifting.start()
    store.write("x", b"1")
    lifting.join()
    assert proxy.count(SILENT_BEFORE) == 2
    assert direct.read("x") == b"1"


@pytest.mark.parametrize(("fraction", "facts"), [(0.2, 30), pytest.param(0.05, 150, marks=pytest.mark.slow)])
def test_two_writers_commit_every_fact_once(road: Road, fraction: float, facts: int) -> None:
    proxy, store, direct = road(fraction)
    ops = [[f"{name}-{number}" for number in range(facts)] for name in "ab"]
    failed: list[BaseException] = []

    def write(mine: list[str]) -> None:
        ledger = Ledger(store)
        try:
            for op in mine:
                commit(ledger, op)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(mine,)) for mine in ops]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    chain = Ledger(direct).entries()
    assert sorted(entry.op for entry in chain) == sorted(op for mine in ops for op in mine)
    for mine in ops:
        assert [entry.op for entry in chain if entry.op in set(mine)] == mine
    assert Ledger(store).entries() == chain
    assert proxy.count(*FAULTS) > fraction * facts
    assert proxy.count(CUT_AFTER, CUT_WITHIN, SILENT_AFTER, method="PUT") > 0  # a commit whose answer was lost


@pytest.mark.parametrize(("fraction", "count"), [(0.2, 30), pytest.param(0.05, 100, marks=pytest.mark.slow)])
def test_objects_end_exactly_right(road: Road, tmp_path: Path, fraction: float, count: int) -> None:
    proxy, store, direct = road(fraction)
    expected: dict[str, bytes] = {}
    for number in range(count):
        key, data = f"{number % 5}/{number:03d}", os.urandom(number * 100)
        if number % 3 == 0:
            try:
                until_it_works(lambda key=key, data=data: store.create(key, data))
            except (CommitConflict, CommitUnknown):  # it may have been put by the attempt whose answer was lost
                if not until_it_works(lambda key=key: store.exists(key)):
                    until_it_works(lambda key=key, data=data: store.write(key, data))
        elif number % 3 == 1:
            until_it_works(lambda key=key, data=data: store.write(key, data))
        else:
            source = tmp_path / "source"
            source.write_bytes(data)
            until_it_works(lambda key=key, source=source: store.upload(source, key))
        expected[key] = data
        assert until_it_works(lambda key=key: store.read(key)) == data
        assert until_it_works(lambda key=key: store.fetch(key, tmp_path / "into")).read_bytes() == data
        if number % 7 == 6:
            doomed = sorted(expected)[::3]
            assert until_it_works(lambda doomed=doomed: store.erase(doomed)).beyond is None
            assert until_it_works(lambda doomed=doomed: store.remaining(doomed)) == []
            for gone in doomed:
                del expected[gone]
        assert {i.key: i.size for i in until_it_works(store.list)} == {k: len(v) for k, v in expected.items()}
    assert {info.key: direct.read(info.key) for info in direct.list()} == expected
    assert proxy.count(*FAULTS) > 2 * fraction * count


def test_versions_are_erased_over_a_faulty_road(s3: S3Server, road: Road) -> None:
    proxy, _, _ = road(0.2)
    client = boto3.client("s3", endpoint_url=s3.endpoint)
    bucket = f"faulty-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    direct, store = Store(f"s3://{bucket}/run"), Store(f"s3://{bucket}/run", endpoint_url=proxy.endpoint)
    keys = [f"{number % 4}/{number}" for number in range(24)]
    for key in [*keys, *keys, "0/other", "0/other"]:
        direct.write(key, b"1")
    removed = 0
    for start in range(0, 24, 3):
        erased = until_it_works(lambda start=start: store.erase(keys[start : start + 3]))
        assert erased.beyond is None
        removed += erased.versions
    assert removed == 24
    left = client.list_object_versions(Bucket=bucket)
    assert Counter(version["Key"] for version in left["Versions"]) == {"run/0/other": 2}
    assert "DeleteMarkers" not in left
    assert proxy.count(*FAULTS) > 5


def test_other_processes_take_the_road_and_its_short_timeout(s3: S3Server, tmp_path: Path) -> None:
    code = (
        "import sys; from taft_ray.storage import Store, remote; Store(sys.argv[1]).write('x', b'1');"
        "print(remote.READ_TIMEOUT_S)"
    )
    uri = f"s3://{s3.bucket}/{uuid.uuid4().hex}"
    with faulty_s3(s3.endpoint, fraction=0.0, seed=0) as proxy:
        environment = {**os.environ, **proxy.environment(s3, tmp_path / "site", read_timeout_s=1.5)}
        environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[2])
        out = subprocess.run([sys.executable, "-c", code, uri], env=environment, capture_output=True, text=True)
        assert out.stdout == "1.5\n", out.stderr
        assert proxy.counts["requests"] >= 1

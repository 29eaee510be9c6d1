"""5% of all calls to S3 fail while a run is trained and forgets: busy, cut and silent. At the end the bits are the same."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from faulty_s3 import FAULTS, faulty_s3
from folder import at, delta_digests, plain_forget, shard_of
from plain import plain_train
from s3_server import S3Server
from tiny import SAMPLES, SHARDS, sample_id

from taft_ray.composer.composer import Composer
from taft_ray.errors import StorageError
from taft_ray.proof.verify_run import verify
from taft_ray.storage import remote
from taft_ray.workers.shard_worker import ShardWorker

T = TypeVar("T")
TRIES = 5


def of_shard(shard: int, count: int) -> list[str]:
    return [sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard][:count]


STEPS = (("drop", of_shard(0, 2)), ("retrain", [*of_shard(1, 1), *of_shard(2, 1)]), ("resolve", of_shard(3, 1)))
Bits = list[tuple[dict[int, str], str | None]]


class Patient:
    """A user who runs a command again when storage gave up, and counts how often."""

    def __init__(self) -> None:
        self.repeated: list[str] = []

    def does(self, call: Callable[[], T]) -> T:
        for _ in range(TRIES):
            try:
                return call()
            except StorageError as error:
                self.repeated.append(str(error))
        return call()


def whole_life(run: str, spec: Any, worker: ShardWorker | None, user: Patient) -> Bits:
    """Train, then forget in every way: deltas and composed digest after each step."""
    bits: Bits = []
    composer = user.does(lambda: plain_train(run, spec, worker and [worker]))
    if worker is None:
        worker = ShardWorker(run, user.does(composer.class_count))
    bits.append(user.does(lambda: (delta_digests(run), composer.composed_digest())))
    for mode, ids in STEPS:
        certificate = user.does(lambda mode=mode, ids=ids: plain_forget(run, ids, mode, worker=worker))
        digests = user.does(lambda: delta_digests(run))
        assert certificate["mode"] == mode
        bits.append((digests, certificate["composed_after"]))
    return bits


@pytest.fixture(scope="module")
def local(
    tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]
) -> tuple[Bits, ShardWorker]:
    """The same life on local files, where nothing fails; and a worker."""
    run = str(tmp_path_factory.mktemp("local") / "run")
    bits = whole_life(run, spec_of(parquet), None, Patient())
    return bits, ShardWorker(run, 3)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent call costs less than a second."""
    monkeypatch.setattr(remote, "READ_TIMEOUT_S", 0.75)
    monkeypatch.setattr(remote, "PAUSE_S", 0.05)


@pytest.mark.parametrize("seed", range(3))
def test_training_and_forgetting_end_with_the_same_bits(
    s3: S3Server,
    quick: None,
    local: tuple[Bits, ShardWorker],
    parquet: Path,
    spec_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    run = f"s3://{s3.bucket}/{uuid.uuid4().hex}"
    expected, worker = local
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    user = Patient()
    with faulty_s3(s3.endpoint, fraction=0.05, seed=seed) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert whole_life(run, spec_of(parquet), at(worker, run), user) == expected
        assert proxy.count(*FAULTS) >= 5, proxy.counts
        print(f"seed {seed}: {proxy.counts}; run again {len(user.repeated)} times")
    assert user.repeated == [], "at this rate no command has to be run again"
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert verify(run)["problems"] == []
    assert Composer(run).composed_digest() == expected[-1][1]


@pytest.mark.slow
def test_one_call_in_seven_fails_and_commands_are_run_again_until_they_finish(
    s3: S3Server,
    quick: None,
    local: tuple[Bits, ShardWorker],
    parquet: Path,
    spec_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So much that calls fail for good, in the middle of everything."""
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    run = f"s3://{s3.bucket}/{uuid.uuid4().hex}"
    expected, worker = local
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    user = Patient()
    with faulty_s3(s3.endpoint, fraction=0.15, seed=11) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setattr("test_faulty_storage.TRIES", 60)
        bits = whole_life(run, spec_of(parquet), at(worker, run), user)
        print(f"{proxy.counts}; run again {len(user.repeated)} times")
    assert user.repeated, "else this test is no other than the one above"
    assert bits == expected
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert [problem for problem in verify(run)["problems"] if "nothing refers to" not in problem] == []

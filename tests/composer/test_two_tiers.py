"""A run that keeps rows and deltas: a picture leaves the sums at once, and its shard's delta is fitted again behind it.

Law 2 holds to the bit for both: sums, deltas and compositions are those of a run that never saw the picture.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from folder import delta_digests, holders, plain_forget, shard_of, state_of
from plain import plain_train
from tiny import SAMPLES, SHARDS, sample_id, write_parquet

from taft_ray.composer.composer import Composer
from taft_ray.data import sample_key
from taft_ray.plans.state import TRAINED
from taft_ray.proof.verify_run import verify
from taft_ray.workers.both_worker import BothWorker

FEATURES = 48


@pytest.fixture(scope="module")
def both(spec_of: Callable[..., Any]) -> Callable[..., Any]:
    def make(data: Path | str, **changes: Any) -> Any:
        return spec_of(data, **{"compose": "additive", "features": FEATURES, "trainable": "head", **changes})

    return make


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, parquet: Path, both: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("both") / "run"
    plain_train(run, both(parquet))
    return run


@pytest.fixture(scope="module")
def worker(trained: Path) -> BothWorker:
    return BothWorker(str(trained), 3)


def digests(run: Path | str) -> dict[str, Any]:
    """All models of a run and its deltas, from what is stored and not as the ledger has it."""
    composer = Composer(str(run))
    modes = composer.record.spec.modes
    return {mode: composer.composition.computed_digest(mode) for mode in modes} | {"deltas": delta_digests(run)}


@pytest.fixture(scope="module")
def never_seen(
    tmp_path_factory: pytest.TempPathFactory, both: Callable[..., Any], worker: BothWorker
) -> Callable[[Sequence[int]], dict[str, Any]]:
    """The digests of a run on the data without these samples."""
    known: dict[tuple[int, ...], dict[str, Any]] = {}

    def train(gone: Sequence[int]) -> dict[str, Any]:
        key = tuple(sorted(gone))
        if key not in known:
            folder = tmp_path_factory.mktemp("never")
            data = write_parquet(folder / "data", [n for n in range(SAMPLES) if n not in key])
            plain_train(folder / "run", both(data), [worker])
            known[key] = digests(folder / "run")
        return known[key]

    return train


@pytest.mark.parametrize("gone", [[3], list(range(3, 13))])
def test_subtraction_equals_never_seen_in_both_tiers(
    gone: list[int], trained: Path, copy_of: Callable[..., Path], never_seen: Any, worker: BothWorker
) -> None:
    run = copy_of(trained)
    told = plain_forget(run, [sample_id(n) for n in gone], "subtract", worker=worker)
    assert digests(run) == never_seen(gone)
    assert told["composed_after"] == never_seen(gone)["additive"]
    assert told["beside"] == {"composition": "joint", "composed_after": never_seen(gone)["joint"]}
    touched = sorted({shard_of(sample_id(n), SHARDS) for n in gone})
    assert [fit["shard"] for fit in told["retrained"]] == touched
    assert all(shard.state == TRAINED for shard in state_of(run).shards.values())
    assert not [name for n in gone for name in holders(run, sample_key(sample_id(n), 0))]
    assert verify(str(run), retrain=True)["problems"] == []

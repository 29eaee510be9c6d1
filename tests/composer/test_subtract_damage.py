"""Damage of one object holds up no subtraction that does not need it, and a repair gives the model back to the bit."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import flip_a_byte, holders, shard_of, state_of
from plain import plain_train
from tiny import SAMPLES, SHARDS, sample_id, write_parquet
from without_ray import without_ray

from taft_ray.composer.composer import Composer
from taft_ray.data import sample_key
from taft_ray.proof.verify_run import verify
from taft_ray.verbs import forget as requests
from taft_ray.verbs.forget import Selection
from taft_ray.verbs.repair import repair
from taft_ray.workers.row_worker import RowWorker

ILL = 2  # the shard whose objects are damaged
OF = [[n for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard] for shard in range(SHARDS)]
GONE = [members[0] for members in OF]
KINDS = {
    "rows": f"cache/shard={ILL:05d}/*.arrow",
    "record": f"deltas/shard={ILL:05d}/*.safetensors",
    "sums": "composed/*.safetensors",
    "description": "manifest/_MANIFEST.json",
}
HOW: dict[str, Callable[[Path], Any]] = {"flipped": flip_a_byte, "gone": Path.unlink}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("additive-damage") / "run"
    plain_train(run, spec_of(parquet, solver="additive", features=48))
    return run


@pytest.fixture(scope="module")
def never_seen(tmp_path_factory: pytest.TempPathFactory, spec_of: Callable[..., Any]) -> Callable[[set[int]], str]:
    """The digest of a run on the data without these samples."""

    def train(gone: set[int]) -> str:
        folder = tmp_path_factory.mktemp("never")
        data = write_parquet(folder / "data", [n for n in range(SAMPLES) if n not in gone])
        plain_train(folder / "run", spec_of(data, solver="additive", features=48))
        return str(Composer(str(folder / "run")).composed_digest())

    return train


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_every_shard_forgets_whatever_is_damaged(
    kind: str, how: str, trained: Path, tmp_path: Path, never_seen: Callable[[set[int]], str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for path in sorted(run.glob(KINDS[kind])):
        HOW[how](path)
    worker = RowWorker(str(run), 3)
    with without_ray(run, worker):
        told = [requests.forget(str(run), Selection(ids=(sample_id(n),))) for n in GONE]
    assert [one["mode"] for one in told] == ["subtract"] * SHARDS
    assert [name for n in GONE for name in holders(run, sample_key(sample_id(n), 0))] == []
    lost = {shard.shard for shard in state_of(run).quarantined}
    assert lost <= {ILL}
    out = {n for shard in lost for n in OF[shard]}
    assert Composer(str(run)).composed_digest() == never_seen({*GONE, *out})
    with without_ray(run, worker):
        assert repair(str(run))["ok"] is True
    assert Composer(str(run)).composed_digest() == never_seen(set(GONE))
    assert verify(str(run))["problems"] == []
    assert [name for n in GONE for name in holders(run, sample_key(sample_id(n), 0))] == []

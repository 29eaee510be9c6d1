"""Damaged storage never holds up an erasure: each kind of object is damaged in each way, then every shard forgets.

Without Ray: the verbs themselves, on plain objects. One trained run, of which every test changes a copy.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import at, composed_without, delta_digests, flip_a_byte, holders, shard_of, state_of
from plain import plain_train
from tiny import SAMPLES, SHARDS, sample_id
from without_ray import without_ray

from taft_ray.data import sample_key
from taft_ray.orchestration import requests
from taft_ray.orchestration.composer import Composer
from taft_ray.orchestration.repair import repair
from taft_ray.orchestration.requests import Selection
from taft_ray.orchestration.run import evaluate, status
from taft_ray.orchestration.verify import verify
from taft_ray.orchestration.worker import ShardWorker

ILL = 2  # the shard whose objects are damaged
OF = [[sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard] for shard in range(SHARDS)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, parquet: Path, test_parquet: Path, spec_of: Any) -> Path:
    """A trained run with the comparison model and a cache of evaluation data."""
    run = tmp_path_factory.mktemp("damage") / "run"
    composer = plain_train(run, spec_of(parquet))
    worker = ShardWorker(str(run), 3)
    assert composer.want_monolith()
    composer.finished(worker.fit(composer.take("lane") or {}))
    with without_ray(run, worker):
        evaluate(str(run), str(test_parquet))
    return run


@pytest.fixture(scope="module")
def warm(whole: Path) -> ShardWorker:
    return ShardWorker(str(whole), 3)


@pytest.fixture
def worker(warm: ShardWorker, whole: Path) -> ShardWorker:
    return at(warm, whole)


@pytest.fixture
def run(whole: Path, copy_of: Callable[..., Path]) -> Path:
    return copy_of(whole)


@pytest.fixture(scope="module")
def undamaged(whole: Path, warm: ShardWorker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run is that was never damaged, after the same forgets: deltas and composed digest, by mode."""
    found = {}
    for mode in ("drop", "retrain"):
        run = Path(shutil.copytree(whole, tmp_path_factory.mktemp("undamaged") / "run"))
        forget_in_every_shard(run, warm, mode)
        found[mode] = delta_digests(run), Composer(str(run)).composed_digest()
    return found


def forget(run: Path, worker: ShardWorker, mode: str, ids: list[str], **selection: Any) -> dict[str, Any]:
    with without_ray(run, worker):
        return requests.forget(str(run), Selection(ids=tuple(ids), **selection), mode=mode)


def forget_in_every_shard(run: Path, worker: ShardWorker, mode: str) -> list[dict[str, Any]]:
    return [forget(run, worker, mode, [OF[shard][0]]) for shard in range(SHARDS)]


def mended(run: Path, worker: ShardWorker, **options: Any) -> dict[str, Any]:
    with without_ray(run, worker):
        return repair(str(run), **options)


def stands(run: Path, worker: ShardWorker) -> dict[str, Any]:
    with without_ray(run, worker):
        return status(str(run))


KINDS = {
    "cache part": f"cache/shard={ILL:05d}/*.arrow",
    "delta": f"deltas/shard={ILL:05d}/*.safetensors",
    "monolith": "deltas/monolith/*.safetensors",
    "snapshot": "composed/*.safetensors",
    "linearisation point": "base/base.safetensors",
    "description": "manifest/_MANIFEST.json",
    "evaluation rows": "eval/*/manifest/rows-*.parquet",
    "evaluation description": "eval/*/manifest/_MANIFEST.json",
    "evaluation part": "eval/*/shard=00000/*.arrow",
}
IN_A_SHARD = ("cache part", "delta")
HOW: dict[str, Callable[[Path], Any]] = {
    "flipped": flip_a_byte,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_every_shard_forgets_whatever_is_damaged(
    run: Path, worker: ShardWorker, undamaged: dict[str, Any], kind: str, how: str
) -> None:
    for path in run.glob(KINDS[kind]):
        HOW[how](path)
    certificates = forget_in_every_shard(run, worker, "retrain")
    assert [one["shards"] for one in certificates] == [[shard] for shard in range(SHARDS)]
    for shard in range(SHARDS):
        assert holders(run, sample_key(OF[shard][0], 0)) == []
    lost = {ILL} if kind == "cache part" else set()  # a shard whose delta alone was damaged is fitted from its cache
    state = state_of(run)
    assert {shard.shard for shard in state.quarantined} == lost
    answer = stands(run, worker)
    assert answer["ok"] is not bool(lost)
    assert [one["shard"] for one in answer["quarantined"]] == sorted(lost)
    assert answer["composed"] == composed_without(run, lost, "gram")
    assert {shard: digest for shard, digest in undamaged["retrain"][0].items() if shard not in lost} == delta_digests(
        run
    )
    found = verify(str(run))["problems"]
    assert any("quarantine" in problem for problem in found) == bool(lost), found

    assert mended(run, worker)["ok"] is True
    assert (delta_digests(run), Composer(str(run)).composed_digest()) == undamaged["retrain"]
    assert verify(str(run))["problems"] == []

"""Forgetting in a run whose shards have slices, without Ray: equal to never seen, and no checkpoint that saw the sample stays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import delta_digests, entries_of, files, flip_a_byte, holders, plain_forget, shard_of, state_of
from plain import plain_train
from tiny import SAMPLES, SHARDS, sample_id, write_parquet

from taft_ray.composer.composer import Composer
from taft_ray.data import sample_key, slice_of
from taft_ray.plans.spec import RunSpec
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Store
from taft_ray.verbs.gc import gc
from taft_ray.workers.shard_worker import ShardWorker

SLICES = 3
Copy = Callable[..., Path]


def slice_number(number: int) -> int:
    return int(slice_of([sample_key(sample_id(number), 0)], slices=SLICES, seed=0)[0])


def some_of(shard: int, part: int, count: int = 1) -> list[str]:
    """The first samples of a shard's slice."""
    names = [
        sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard and slice_number(n) == part
    ]
    return names[:count]


# shard 0 loses of its last slice, shard 1 of its first and last, shard 2 of its middle one, shard 3 nothing
LOST = [*some_of(0, 2, 2), *some_of(1, 0), *some_of(1, 2), *some_of(2, 1)]
FIRST_LOST = {0: 2, 1: 0, 2: 1}


@pytest.fixture(scope="module")
def spec(spec_of: Callable[..., RunSpec]) -> Callable[[Path], RunSpec]:
    return lambda data: spec_of(data, solver="adam", slices=SLICES, epochs=4, batch_size=8, compose="mean")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec: Callable[[Path], RunSpec]) -> Path:
    run = tmp_path_factory.mktemp("slices") / "run"
    plain_train(run, spec(parquet))
    return run


@pytest.fixture(scope="module")
def never_seen(tmp_path_factory: pytest.TempPathFactory, spec: Callable[[Path], RunSpec]) -> Path:
    data = write_parquet(
        tmp_path_factory.mktemp("data") / "never", [n for n in range(SAMPLES) if sample_id(n) not in LOST]
    )
    run = tmp_path_factory.mktemp("slices") / "never"
    plain_train(run, spec(data))
    return run


def checkpoints(run: Path) -> dict[int, dict[int, str]]:
    """Digests by shard and stage, from the ledger; what lies in the folder must be just that."""
    shards = state_of(run).shards.values()
    named = {ref.key for shard in shards for ref in shard.checkpoints}
    assert {str(path.relative_to(run)) for path in files(run, "checkpoints")} == named
    return {shard.shard: {ref.stage: ref.digest for ref in shard.checkpoints} for shard in shards}


def resumed(run: Path) -> dict[int, int]:
    return {shard.shard: shard.facts["resumed_stage"] for shard in state_of(run).in_model}


def test_training_leaves_every_checkpoint_in_the_ledger(trained: Path) -> None:
    assert {shard: sorted(stages) for shard, stages in checkpoints(trained).items()} == {
        shard: [1, 2] for shard in range(SHARDS)
    }
    answer = verify(str(trained))
    assert answer["problems"] == []
    assert answer["checks"]["slice checkpoints"] == 2 * SHARDS


@pytest.mark.parametrize("how", ["at once", "one by one", "drop, then retrain"])
def test_forget_equals_never_seen_down_to_the_checkpoints(
    trained: Path, never_seen: Path, copy_of: Copy, how: str
) -> None:
    run = copy_of(trained)
    if how == "one by one":
        for name in LOST:
            certificate = plain_forget(run, [name], "retrain")
    else:
        if how == "drop, then retrain":
            plain_forget(run, LOST, "drop")
            assert {s: sorted(c) for s, c in checkpoints(run).items()} == {0: [1, 2], 1: [], 2: [1], 3: [1, 2]}
        certificate = plain_forget(run, LOST, "retrain")
        assert resumed(run) == {**FIRST_LOST, 3: 0}
    assert delta_digests(run) == delta_digests(never_seen)
    assert checkpoints(run) == checkpoints(never_seen)
    assert certificate["composed_after"] == Composer(str(never_seen)).compose()["digest"]
    assert verify(str(run))["problems"] == []
    for name in LOST:
        assert holders(run, sample_key(name, 0)) == []


def test_certificate_lists_the_checkpoints_that_saw_the_samples_and_no_other(trained: Path, copy_of: Copy) -> None:
    run = copy_of(trained)
    before = {ref.key: ref for shard in state_of(run).shards.values() for ref in shard.checkpoints}
    certificate = plain_forget(run, LOST, "drop")
    removed = {one["key"]: one["digest"] for one in certificate["objects_removed"] if one["key"] in before}
    spoiled = {
        ref.key: ref.digest
        for shard, first in FIRST_LOST.items()
        for ref in state_of(trained).shards[shard].checkpoints
        if ref.stage > first
    }
    assert removed == spoiled
    assert len(spoiled) == 3
    assert next(entries_of(run, "dropped"))["body"]["slices"] == {"0": [2], "1": [0, 2], "2": [1]}


@pytest.mark.parametrize("cut", ["erase", "sweep"])
def test_purge_cut_off_after_the_manifest_was_rewritten_still_removes_them(
    trained: Path, never_seen: Path, copy_of: Copy, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next purge does not find the samples in the manifest any more: which slices they were in is in the ledger."""
    run = copy_of(trained)

    class Killed(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, cut, kill)
        with pytest.raises(Killed):
            plain_forget(run, LOST, "retrain")
    assert [entry["kind"] for entry in entries_of(run, "purged")] == []
    plain_forget(run, LOST, "retrain")
    assert checkpoints(run) == checkpoints(never_seen)
    assert delta_digests(run) == delta_digests(never_seen)
    assert verify(str(run))["problems"] == []


def test_fit_on_data_that_is_forgotten_meanwhile_leaves_no_checkpoint(trained: Path, copy_of: Copy) -> None:
    run = copy_of(trained)
    plain_forget(run, some_of(2, 1), "drop")
    slow, worker = Composer(str(run)), ShardWorker(str(run), 3)
    task = slow.task_for(2)
    assert task is not None
    assert task["resume"]["stage"] == 1
    result = worker.fit(task)
    plain_forget(run, some_of(2, 0), "drop")  # of an earlier slice: what the fit went on from had seen it
    late = [run / ref["key"] for ref in result["checkpoints"]]
    for path in late:  # the purge took them for leftovers; a worker that is slower still writes them after it
        path.write_bytes(b"what saw the sample")
    assert slow.finished(result) is False
    assert len(late) == 1
    assert checkpoints(run)[2] == {}
    assert verify(str(run))["problems"] == []


def test_shard_that_loses_its_last_sample_keeps_no_checkpoint(trained: Path, copy_of: Copy) -> None:
    run = copy_of(trained)
    plain_forget(run, [sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == 2], "retrain")
    assert checkpoints(run)[2] == {}
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_damaged_checkpoint_is_found_by_verify_and_made_again_by_a_forget(
    trained: Path, never_seen: Path, copy_of: Copy, how: str
) -> None:
    run = copy_of(trained)
    ref = state_of(run).shards[0].checkpoints[1]
    path = run / ref.key
    flip_a_byte(path) if how == "flipped" else path.unlink()
    answer = verify(str(run))
    assert answer["ok"] is False
    assert any(ref.key in problem for problem in answer["problems"])
    plain_forget(run, LOST, "retrain")  # shard 0 would go on from it
    assert resumed(run)[0] == 0
    assert delta_digests(run) == delta_digests(never_seen)
    assert checkpoints(run) == checkpoints(never_seen)
    assert verify(str(run))["problems"] == []


def test_gc_removes_a_planted_checkpoint_and_no_other(trained: Path, copy_of: Copy) -> None:
    run = copy_of(trained)
    planted = run / "checkpoints/shard=00001/001-dead.safetensors"
    planted.write_bytes(b"leftover")
    assert any(planted.name in problem for problem in verify(str(run))["problems"])
    assert gc(str(run))["removed"] == [str(planted.relative_to(run))]
    assert checkpoints(run) == checkpoints(trained)

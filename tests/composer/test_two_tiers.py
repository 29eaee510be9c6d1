"""A run that keeps rows and deltas: a picture leaves the sums at once, and its shard's delta is fitted again behind it.

Law 2 holds to the bit for both: sums, deltas and compositions are those of a run that never saw the picture.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
from folder import at, carry_out, delta_digests, files, flip_a_byte, holders, plain_forget, shard_of, state_of
from plain import plain_add, plain_train
from safetensors.torch import save_file
from tiny import SAMPLES, SHARDS, owner_of, sample_id, write_parquet
from without_ray import without_ray

import taft_ray as tr
from taft_ray.answers import Certificate
from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.data import sample_key
from taft_ray.errors import TaftError, UnsupportedModel, UsageError
from taft_ray.plans.state import DROPPED, EMPTY, TRAINED
from taft_ray.proof.verify_run import verify
from taft_ray.run.owned import sums_of_owners
from taft_ray.run.record import Record
from taft_ray.run.snapshots import snapshot_digest
from taft_ray.storage import Store
from taft_ray.verbs.evaluate import evaluate
from taft_ray.verbs.gc import gc
from taft_ray.verbs.pinned import pinned
from taft_ray.verbs.repair import repair
from taft_ray.verbs.train import check_new_classes
from taft_ray.workers.both_worker import BothWorker

FEATURES = 48


@pytest.fixture(scope="module")
def both(spec_of: Callable[..., Any]) -> Callable[..., Any]:
    def make(data: Path | str, **changes: Any) -> Any:
        return spec_of(
            data, **{"compose": "additive", "beside": "joint", "features": FEATURES, "trainable": "head", **changes}
        )

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


@pytest.fixture
def run(trained: Path, copy_of: Callable[..., Path]) -> Path:
    return copy_of(trained)


def members(shard: int) -> list[int]:
    return [n for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard]


def test_additive_model_is_that_of_a_lean_run_and_deltas_are_those_of_a_tangent_run(
    trained: Path, parquet: Path, tmp_path: Path, spec_of: Callable[..., Any]
) -> None:
    plain_train(tmp_path / "lean", spec_of(parquet, solver="additive", features=FEATURES, shards=2))
    plain_train(tmp_path / "tangent", spec_of(parquet, compose="joint", trainable="head"))
    found = digests(trained)
    assert found["additive"] == digests(tmp_path / "lean")["additive"]
    tangent = digests(tmp_path / "tangent")
    assert (found["joint"], found["mean"]) == (tangent["joint"], tangent["mean"])


def test_model_is_whole_before_any_fit(run: Path, never_seen: Any, worker: BothWorker) -> None:
    """The picture has left sums and storage; what waits is beside the model."""
    shard, composer = shard_of(sample_id(3), SHARDS), Composer(str(run))
    before = digests(run)
    asked = composer.request_forget(Selection(ids=(sample_id(3),)), "subtract")
    asked = composer.resume_forget(asked["request"])
    assert asked["retrain"] == [shard]
    assert digests(run)["additive"] == never_seen([3])["additive"]
    assert (run / "composed" / f"{never_seen([3])['additive']}.safetensors").exists()
    there = state_of(run).shards[shard]
    assert (there.state, there.delta, there.record is not None) == (DROPPED, None, True)
    assert digests(run)["deltas"] == {n: d for n, d in before["deltas"].items() if n != shard}
    assert holders(run, sample_key(sample_id(3), 0)) == []
    with pytest.raises(TaftError, match="still to be fitted"):
        composer.conclude_forget(asked["request"], {})
    told = tr.Run(run).status()
    assert told.shards[shard].state == "subtracted"
    assert f"{SAMPLES - 1} samples, {SAMPLES - 1} of them in the model" in str(told)
    assert gc(str(run))["removed"] == []
    carry_out(Composer(str(run)), worker=worker)
    assert digests(run) == never_seen([3])
    assert verify(str(run))["problems"] == []


def test_drop_takes_a_shard_out_of_both_and_retrain_brings_it_back(
    run: Path, never_seen: Any, worker: BothWorker
) -> None:
    shard = shard_of(sample_id(3), SHARDS)
    told = plain_forget(run, [sample_id(3)], "drop", worker=worker)
    assert digests(run) == never_seen(members(shard))
    assert len([ref for ref in told["deltas_removed"] if f"shard={shard:05d}" in ref["key"]]) == 2
    assert state_of(run).shards[shard].record is None
    # one more leaves a shard that is out: it stays out
    other = members(shard)[1]
    told = plain_forget(run, [sample_id(other)], "subtract", worker=worker)
    assert (told["retrained"], state_of(run).shards[shard].state) == ([], DROPPED)
    assert digests(run) == never_seen(members(shard))
    plain_forget(run, [sample_id(3)], "retrain", worker=worker)
    assert digests(run) == never_seen([3, other])
    assert verify(str(run))["problems"] == []


def test_drop_overtakes_the_fit_behind_a_subtraction(run: Path, never_seen: Any, worker: BothWorker) -> None:
    shard, composer = shard_of(sample_id(3), SHARDS), Composer(str(run))
    asked = composer.request_forget(Selection(ids=(sample_id(3),)), "subtract")
    composer.resume_forget(asked["request"])
    plain_forget(run, [], "drop", shards=(shard,), worker=worker)
    assert state_of(run).requests[asked["request"]].forgotten is not None
    assert state_of(run).shards[shard].state in (DROPPED, EMPTY)
    assert digests(run) == never_seen(members(shard))
    assert verify(str(run))["problems"] == []


def test_whole_shard_leaves_by_subtraction(run: Path, never_seen: Any, worker: BothWorker) -> None:
    told = plain_forget(run, [sample_id(n) for n in members(1)], "subtract", worker=worker)
    assert told["retrained"] == []
    assert state_of(run).shards[1].state == EMPTY
    assert digests(run) == never_seen(members(1))
    assert verify(str(run))["problems"] == []


def test_two_composers_subtract_and_both_are_level(run: Path, never_seen: Any, worker: BothWorker) -> None:
    first, second = Composer(str(run)), Composer(str(run))
    for composer in (first, second):
        composer.composition.level()
    for n, composer in ((3, first), (4, second), (5, first)):
        asked = composer.request_forget(Selection(ids=(sample_id(n),)), "subtract")
        carry_out(composer, [asked["request"]], worker)
    expected = never_seen([3, 4, 5])
    for composer in (first, second):
        composer.record.refresh()
        assert composer.composition.computed_digest() == expected["additive"]
        assert composer.composition.computed_digest("joint") == expected["joint"]
    assert verify(str(run))["problems"] == []


def test_older_copy_of_the_folder_forgets_again(
    trained: Path, tmp_path: Path, never_seen: Any, worker: BothWorker
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "runs" / "run"))
    plain_forget(run, [sample_id(3)], "subtract", worker=worker)
    shutil.rmtree(run)
    shutil.copytree(trained, run)
    composer = Composer(str(run))
    composer.recover()
    carry_out(composer, worker=worker)
    assert digests(run) == never_seen([3])
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("what", ["cache", "delta", "record"])
@pytest.mark.parametrize("how", [flip_a_byte, Path.unlink])
def test_damage_holds_up_no_forget_and_is_repaired(
    what: str, how: Callable[[Path], Any], run: Path, never_seen: Any, worker: BothWorker
) -> None:
    ill = state_of(run).shards[2]
    assert ill.delta is not None
    assert ill.record is not None
    key = {"delta": ill.delta.key, "record": ill.record.key}.get(what)
    how(run / key if key else files(run, "cache/shard=00002")[0])
    assert verify(str(run))["problems"]
    gone = [members(shard)[0] for shard in range(SHARDS)]
    for n in gone:
        plain_forget(run, [sample_id(n)], "subtract", worker=worker)
    assert [name for n in gone for name in holders(run, sample_key(sample_id(n), 0))] == []
    with without_ray(run, worker):
        told = repair(str(run))
    assert told["not_repaired"] == []
    assert digests(run) == never_seen(gone)
    assert verify(str(run))["problems"] == []


def test_forged_record_is_found(run: Path) -> None:
    """A record of another generation in the place of the one that the ledger has."""
    record = state_of(run).shards[0].record
    assert record is not None
    other = state_of(run).shards[1].record
    assert other is not None
    (run / record.key).write_bytes((run / other.key).read_bytes())
    assert any("shard 0" in problem for problem in verify(str(run))["problems"])


def test_comparison_model_leaves_by_a_subtraction(run: Path, worker: BothWorker) -> None:
    composer = Composer(str(run))
    composer.finished(at(worker, run).fit(composer.monolith_task()))
    assert state_of(run).monolith_delta is not None
    told = plain_forget(run, [sample_id(3)], "subtract", worker=worker)
    assert state_of(run).monolith_delta is None
    assert any(ref["key"].startswith("deltas/monolith/") for ref in told["deltas_removed"])
    assert verify(str(run))["problems"] == []


def test_fit_behind_a_subtraction_starts_at_the_slice_that_lost_the_sample(
    tmp_path: Path, parquet: Path, both: Callable[..., Any]
) -> None:
    spec = both(parquet, solver="adam", slices=3, epochs=2, beside="mean")
    plain_train(tmp_path / "run", spec)
    told = plain_forget(tmp_path / "run", [sample_id(n) for n in (3, 4)], "subtract")
    assert told["beside"]["composition"] == "mean"
    data = write_parquet(tmp_path / "data", [n for n in range(SAMPLES) if n not in (3, 4)])
    plain_train(tmp_path / "never", both(data, solver="adam", slices=3, epochs=2, beside="mean"))
    assert digests(tmp_path / "run") == digests(tmp_path / "never")
    assert verify(str(tmp_path / "run"))["problems"] == []


def test_added_pictures_are_in_both_tiers(
    tmp_path: Path, both: Callable[..., Any], never_seen: Any, worker: BothWorker
) -> None:
    first = write_parquet(tmp_path / "first", range(80))
    plain_train(tmp_path / "run", both(first), [worker])
    plain_add(tmp_path / "run", write_parquet(tmp_path / "more", range(80, SAMPLES)), 2)
    assert digests(tmp_path / "run")["additive"] == never_seen([])["additive"]
    assert sorted(delta_digests(tmp_path / "run")) == list(range(SHARDS + 2))
    plain_forget(tmp_path / "run", [sample_id(100), sample_id(2)], "subtract", worker=worker)
    assert digests(tmp_path / "run")["additive"] == never_seen([2, 100])["additive"]
    assert verify(str(tmp_path / "run"))["problems"] == []


def test_new_classes_are_refused(both: Callable[..., Any], spec_of: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="outputs of a tangent model are fixed"):
        check_new_classes(both("x"), "more", ["dog"])
    check_new_classes(both("x"), "more", [])
    check_new_classes(spec_of("x", solver="additive"), "more", ["dog"])


def test_evaluation_has_every_composition_side_by_side(run: Path, test_parquet: Path, worker: BothWorker) -> None:
    with without_ray(run, worker):
        told = evaluate(str(run), str(test_parquet))
        owners = [owner_of(0), owner_of(1)]
        alone = evaluate(str(run), str(test_parquet), owners=owners)
    assert list(told["by_composition"]) == ["additive", "joint", "mean"]
    assert told["accuracy"] == told["by_composition"]["additive"]["accuracy"] > 0.6
    assert {mode: one["composed"] for mode, one in told["by_composition"].items()} == {
        mode: digest for mode, digest in digests(run).items() if mode != "deltas"
    }
    assert [sorted(row) for row in told["by_shards"]] == [["additive", "joint", "mean", "shards"]] * SHARDS
    assert told["by_shards"][-1]["additive"] == told["accuracy"]
    assert told["by_shards"][-1]["joint"] == told["by_composition"]["joint"]["accuracy"]
    assert alone["composed"] == snapshot_digest(sums_of_owners(Record(str(run)), owners))
    assert verify(str(run))["problems"] == []


def test_certificate_speaks_of_both(run: Path, worker: BothWorker) -> None:
    told = plain_forget(run, [sample_id(3)], "subtract", worker=worker)
    said = str(Certificate.from_json(told))
    assert "by subtract" in said
    assert f"joint composition {told['beside']['composed_after'][:12]}" in said
    assert Certificate.from_json(told).address == f"{Store(str(run)).uri}/" + next(
        key for key in (info.key for info in Store(str(run)).list()) if key.startswith("certificates/")
    )
    assert "learn about the samples that left" in told["does_not_cover"][-1]
    assert "whoever has the deltas' composition of both times" in told["does_not_cover"][-1]


def test_network_without_a_class_token_needs_another_composition_beside(
    tmp_path: Path, parquet: Path, both: Callable[..., Any]
) -> None:
    """Told before a run is made; with the Gram composition such a network is as good as any."""
    spec = both(parquet, model="test_resnet", weights=None, image_size=32)
    network = timm.create_model("test_resnet")
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    spec = replace(spec, weights=str(tmp_path / "weights.safetensors"))
    with pytest.raises(UnsupportedModel, match="--beside gram"):
        pinned(Store(str(tmp_path / "run")), replace(spec, trainable="full"))
    spec, _ = pinned(Store(str(tmp_path / "run")), replace(spec, beside="gram", shards=2))
    plain_train(tmp_path / "run", spec)
    plain_forget(tmp_path / "run", [sample_id(3)], "subtract")
    data = write_parquet(tmp_path / "data", [n for n in range(SAMPLES) if n != 3])
    plain_train(tmp_path / "never", replace(spec, data=str(data)))
    assert digests(tmp_path / "run") == digests(tmp_path / "never")


def test_network_without_sites_is_told_what_it_can_have(
    tmp_path: Path, parquet: Path, both: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*arguments: Any, **options: Any) -> None:
        raise UnsupportedModel("it has no blocks")

    monkeypatch.setattr("taft_ray.additive.sites.sites_of", none)
    with pytest.raises(UnsupportedModel, match="it has no blocks; --compose gram makes a run of deltas alone"):
        pinned(Store(str(tmp_path / "run")), both(parquet))
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"size=1000000: expected 1\.\.1536.*set --features"):
        pinned(Store(str(tmp_path / "run")), both(parquet, features=10**6))
    assert pinned(Store(str(tmp_path / "run")), both(parquet, features=None))[0].features == 1536
    assert not (tmp_path / "run").exists()


def test_entries_of_other_runs_have_no_record(parquet: Path, tmp_path: Path, spec_of: Callable[..., Any]) -> None:
    plain_train(tmp_path / "run", spec_of(parquet, trainable="head"))
    for path in files(tmp_path / "run", "ledger"):
        assert b'"record"' not in path.read_bytes()
    assert "beside" not in spec_of(parquet).to_json()

"""Damaged storage never holds up an erasure: each kind of object is damaged in each way, then every shard forgets.

Without Ray: the verbs themselves, on plain objects. One trained run, of which every test changes a copy.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folder import (
    carry_out,
    composed_without,
    delta_digests,
    files,
    flip_a_byte,
    holders,
    kinds,
    shard_of,
    state_of,
)
from plain import plain_train
from store_faults import DIE_BEFORE, Fault, Killed, fault, faults_possible
from tiny import SAMPLES, SHARDS, picture, sample_id
from without_ray import without_ray

from taft_ray.composer.composer import Composer
from taft_ray.composer.tier import Tier
from taft_ray.data import sample_key
from taft_ray.errors import IntegrityError, StorageError, TaftError, UnknownSample
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Store, read_manifest
from taft_ray.storage.local import LocalFolder
from taft_ray.verbs import forget as requests
from taft_ray.verbs.evaluate import evaluate
from taft_ray.verbs.forget import Selection
from taft_ray.verbs.gc import gc
from taft_ray.verbs.repair import repair
from taft_ray.verbs.report import report
from taft_ray.verbs.status import status
from taft_ray.workers.shard_worker import ShardWorker

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
def undamaged(whole: Path, warm: ShardWorker, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """The deltas of a run that was never damaged, after a retrain without the first sample of each shard."""
    run = Path(shutil.copytree(whole, tmp_path_factory.mktemp("undamaged") / "run"))
    for shard in range(SHARDS):
        forget(run, warm, "retrain", [OF[shard][0]])
    return delta_digests(run)


def forget(run: Path, worker: ShardWorker, mode: str, ids: list[str], **selection: Any) -> dict[str, Any]:
    with without_ray(run, worker):
        return requests.forget(str(run), Selection(ids=tuple(ids), **selection), mode=mode)


def part_digests(run: Path) -> list[str]:
    found = read_manifest(Store(str(run)))
    assert found is not None
    return sorted(ref["digest"] for ref in found.refs)


def mended(run: Path, worker: ShardWorker, **options: Any) -> dict[str, Any]:
    with without_ray(run, worker):
        return repair(str(run), **options)


def stands(run: Path, worker: ShardWorker) -> dict[str, Any]:
    with without_ray(run, worker):
        return status(str(run))


KINDS = {
    "cache part": f"cache/shard={ILL:05d}/*.arrow",
    "delta": f"deltas/shard={ILL:05d}/*.safetensors",
    "cache part rewritten": f"cache/shard={ILL:05d}/generation=*/*.arrow",
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
EVERY = [
    pytest.param(kind, how, marks=() if kind in IN_A_SHARD or how == "flipped" else pytest.mark.slow)
    for kind in KINDS
    if kind != "cache part rewritten"
    for how in HOW
]


def damage(run: Path, kind: str, how: str = "flipped") -> None:
    found = sorted(run.glob(KINDS[kind]))
    assert found
    for path in found:
        HOW[how](path)


@pytest.mark.parametrize(("kind", "how"), EVERY)
def test_every_shard_forgets_whatever_is_damaged(
    run: Path, worker: ShardWorker, undamaged: dict[int, str], kind: str, how: str
) -> None:
    damage(run, kind, how)
    certificates = [forget(run, worker, "retrain", [OF[shard][0]]) for shard in range(SHARDS)]
    assert [one["shards"] for one in certificates] == [[shard] for shard in range(SHARDS)]
    for shard in range(SHARDS):
        assert holders(run, sample_key(OF[shard][0], 0)) == []
    lost = {ILL} if kind == "cache part" else set()  # a shard whose delta alone was damaged is fitted from its cache
    assert {shard.shard for shard in state_of(run).quarantined} == lost
    answer = stands(run, worker)
    assert answer["ok"] is not bool(lost)
    assert [one["shard"] for one in answer["quarantined"]] == sorted(lost)
    assert answer["composed"] == composed_without(run, lost, "gram")
    assert delta_digests(run) == {shard: digest for shard, digest in undamaged.items() if shard not in lost}
    found = verify(str(run))["problems"]
    assert any(f"shard {ILL} is in quarantine" in problem for problem in found) == bool(lost), found
    assert [one["samples"] for one in certificates[ILL]["damage"]["parts_removed_whole"]] == (
        [len(OF[ILL])] if lost else []
    )

    assert mended(run, worker)["ok"] is True
    assert delta_digests(run) == undamaged
    assert Composer(str(run)).composed_digest() == composed_without(run, set(), "gram")
    assert verify(str(run))["problems"] == []
    for shard in range(SHARDS):
        assert holders(run, sample_key(OF[shard][0], 0)) == []


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", IN_A_SHARD)
def test_repair_gives_the_bits_of_before(run: Path, whole: Path, worker: ShardWorker, kind: str, how: str) -> None:
    damage(run, kind, how)
    told = verify(str(run))
    assert told["ok"] is False
    assert any(f"shard {ILL} is damaged and not in quarantine yet" in problem for problem in told["problems"])
    answer = mended(run, worker)
    assert (answer["ok"], answer["repaired"], answer["not_repaired"]) == (True, [ILL], [])
    assert delta_digests(run) == delta_digests(whole)
    assert answer["composed"] == Composer(str(whole)).composed_digest()
    assert part_digests(run) == part_digests(whole)
    assert verify(str(run))["problems"] == []
    before = kinds(run)
    assert mended(run, worker)["repaired"] == []
    assert kinds(run) == before


def test_shards_may_lose_everything_they_have(run: Path, whole: Path, worker: ShardWorker) -> None:
    for shard in (0, ILL):
        shutil.rmtree(run / "cache" / f"shard={shard:05d}")
        shutil.rmtree(run / "deltas" / f"shard={shard:05d}")
    answer = stands(run, worker)
    assert answer["ok"] is False
    assert [one["shard"] for one in answer["quarantined"]] == [0, ILL]
    assert any("taft-ray repair" in line for line in answer["to_do"])
    assert answer["composed"] == composed_without(run, set(), "gram") != Composer(str(whole)).composed_digest()
    assert mended(run, worker)["repaired"] == [0, ILL]
    assert (delta_digests(run), part_digests(run)) == (delta_digests(whole), part_digests(whole))


@pytest.mark.parametrize("kind", IN_A_SHARD)
def test_damaged_shard_can_be_given_up(run: Path, worker: ShardWorker, kind: str) -> None:
    damage(run, kind)
    certificate = forget(run, worker, "drop", [], shards=(ILL,))
    assert certificate["samples"] == len(OF[ILL])
    assert certificate["shards_after"] == [{"shard": ILL, "state": "empty", "samples": 0}]
    assert certificate["composed_after"] == composed_without(run, {ILL}, "gram")
    assert stands(run, worker)["ok"] is True
    assert verify(str(run))["problems"] == []
    for name in OF[ILL]:
        assert holders(run, sample_key(name, 0)) == []


def test_dropped_shard_stays_dropped_through_a_repair_and_comes_back_by_a_retrain(
    run: Path, worker: ShardWorker, undamaged: dict[int, str]
) -> None:
    damage(run, "cache part", "gone")
    gone = OF[ILL][0]
    certificate = forget(run, worker, "drop", [gone])
    assert certificate["damage"]["quarantined"][0]["samples_without_tokens"] == len(OF[ILL]) - 1
    assert mended(run, worker)["ok"] is True
    assert state_of(run).shards[ILL].state == "dropped"
    forget(run, worker, "retrain", [gone])
    assert delta_digests(run)[ILL] == undamaged[ILL]
    assert verify(str(run))["problems"] == []


def test_request_that_meets_a_damaged_delta_is_written_first(
    run: Path, worker: ShardWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a ledger that has no digest of just these deltas, as that of an earlier version has none."""
    monkeypatch.setattr(Tier, "recorded", lambda tier, mode: None)
    damage(run, "delta")
    certificate = forget(run, worker, "drop", [OF[0][0]])
    assert certificate["composed_before"] is None
    assert "deltas/shard=00002/" in certificate["composed_before_unknown"]
    told = kinds(run)
    assert told.index("forget-requested") < told.index("quarantined") < told.index("dropped")
    assert certificate["composed_after"] == composed_without(run, set(), "gram")


def test_the_ledger_knows_the_model_before_a_request_whatever_is_damaged(run: Path, worker: ShardWorker) -> None:
    before = Composer(str(run)).composed_digest()
    damage(run, "delta")
    certificate = forget(run, worker, "drop", [OF[0][0]])
    assert certificate["composed_before"] == before is not None
    assert certificate["composed_before_unknown"] is None
    assert certificate["composed_after"] == composed_without(run, set(), "gram")
    assert kinds(run).count("quarantined") == 1


def test_composer_that_stays_warm_forgets_from_memory(run: Path, worker: ShardWorker) -> None:
    composer = Composer(str(run))
    composer.composed_digest()
    damage(run, "delta", "gone")
    with without_ray(run, worker, composer):
        certificate = requests.forget(str(run), Selection(ids=(OF[0][0],)), mode="drop")
        assert certificate["composed_after"] == composer.composed_digest()
        leaving = requests.forget(str(run), Selection(ids=(OF[ILL][0],)), mode="drop")
    assert leaving["composed_after"] == composed_without(run, {0, ILL}, "gram")
    assert verify(str(run))["problems"] == []


def test_shard_of_which_a_part_is_damaged_while_it_waits_for_its_fit(run: Path, worker: ShardWorker) -> None:
    forget(run, worker, "drop", [OF[ILL][0]])
    damage(run, "cache part rewritten")
    certificate = forget(run, worker, "retrain", [OF[ILL][1], OF[0][0]])
    assert [one["shard"] for one in certificate["retrained"]] == [0]
    assert [one["shard"] for one in certificate["damage"]["quarantined"]] == [ILL]
    assert mended(run, worker)["ok"] is True
    assert verify(str(run))["problems"] == []
    assert set(delta_digests(run)) == set(range(SHARDS))


# --- what is no damage


@pytest.mark.parametrize("kind", IN_A_SHARD)
def test_storage_that_does_not_answer_is_no_damage(run: Path, worker: ShardWorker, kind: str) -> None:
    real = LocalFolder.read

    def read(folder: LocalFolder, key: str) -> bytes:
        if key.startswith(KINDS[kind].partition("*")[0]):
            raise StorageError("the network is down")
        return real(folder, key)

    fetch = mock.patch.object(LocalFolder, "fetch", lambda folder, key: read(folder, key))
    with mock.patch.object(LocalFolder, "read", read), fetch, pytest.raises(StorageError, match="network is down"):
        forget(run, worker, "drop", [OF[ILL][0]])
    assert "quarantined" not in kinds(run)
    forget(run, worker, "drop", [OF[ILL][0]])
    assert verify(str(run))["problems"] == []


def test_folder_that_vanishes_under_a_warm_composer_is_no_damage(run: Path, worker: ShardWorker) -> None:
    composer = Composer(str(run))
    assert composer.composed_digest()
    moved = run.rename(run.with_name("elsewhere"))
    assert composer.examine() == []
    moved.rename(run)
    assert "quarantined" not in kinds(run)
    assert verify(str(run))["problems"] == []


def test_two_composers_find_one_damage_once(run: Path) -> None:
    one, other = Composer(str(run)), Composer(str(run))
    damage(run, "delta")
    assert one.snapshot().quarantined == other.snapshot().quarantined == []
    assert one.compose()["digest"] == other.compose()["digest"] == composed_without(run, set(), "gram")
    assert one.composed_digest() == other.composed_digest() == one.compose()["digest"]
    assert kinds(run).count("quarantined") == 1


def test_damaged_slice_checkpoints_cost_time_and_are_made_again(tmp_path: Path, parquet: Path, spec_of: Any) -> None:
    run = tmp_path / "run"
    plain_train(run, spec_of(parquet, solver="adam", compose="mean", slices=3, trainable="head"))
    worker, before = ShardWorker(str(run), 3), delta_digests(run)
    for place, path in enumerate(sorted(run.glob(f"checkpoints/shard={ILL:05d}/*"))):
        (flip_a_byte if place else Path.unlink)(path)
    other = Path(shutil.copytree(run, tmp_path / "other" / "run"))
    assert mended(run, worker)["repaired"] == [ILL]
    assert delta_digests(run) == before
    assert verify(str(run))["problems"] == []
    fits = [forget(one, worker, "retrain", [OF[ILL][0]])["retrained"][0]["delta"]["digest"] for one in (run, other)]
    assert fits[0] == fits[1]


# --- the source


def other_source(parquet: Path, target: Path, change: Callable[[dict[str, Any]], None], name: str) -> Path:
    """The same files, with one row changed."""
    target.mkdir()
    for path in sorted(parquet.glob("*.parquet")):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            if row["id"] == name:
                change(row)
        pq.write_table(pa.Table.from_pylist(rows, table.schema), target / path.name, row_group_size=16)
    return target


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "another id": (lambda row: row.update(id="somebody"), "another sample is there"),
    "another label": (lambda row: row.update(label="bee" if row["label"] != "bee" else "cat"), "it has another label"),
    "another picture": (lambda row: row.update(image=picture(999)), "a picture was changed"),
    "no picture": (lambda row: row.update(image=b"no picture"), "cannot be read again"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_source_that_is_not_as_it_was_leaves_the_shard_in_quarantine(
    run: Path, worker: ShardWorker, parquet: Path, tmp_path: Path, what: str
) -> None:
    change, why = CHANGES[what]
    damage(run, "cache part")
    source = other_source(parquet, tmp_path / "other", change, OF[ILL][5])
    answer = mended(run, worker, data=str(source))
    assert (answer["ok"], answer["repaired"]) == (False, [])
    assert any(why in line for line in answer["not_repaired"]), answer["not_repaired"]
    assert [one["shard"] for one in answer["quarantined"]] == [ILL]
    assert [path for path in files(run, "cache") if path.suffix == ".json" or "generation=" in str(path)] == []
    assert mended(run, worker)["ok"] is True
    assert verify(str(run))["problems"] == []


def test_sample_that_the_source_lost_can_be_forgotten_and_the_rest_is_repaired(
    run: Path, worker: ShardWorker, parquet: Path, tmp_path: Path, undamaged: dict[int, str]
) -> None:
    damage(run, "cache part", "gone")
    source = other_source(parquet, tmp_path / "other", lambda row: row.update(id="somebody"), OF[ILL][0])
    assert mended(run, worker, data=str(source))["ok"] is False
    forget(run, worker, "retrain", [OF[ILL][0]])
    assert mended(run, worker, data=str(source))["ok"] is True
    assert delta_digests(run)[ILL] == undamaged[ILL]
    assert verify(str(run))["problems"] == []


# --- what concerns no shard


@pytest.mark.parametrize("how", HOW)
def test_damaged_key_of_the_id_hashes_bars_nobody_who_is_in_the_run(run: Path, worker: ShardWorker, how: str) -> None:
    HOW[how](run / "keys" / "id.key")
    for shard in range(SHARDS):
        assert forget(run, worker, "drop", [OF[shard][0]])["shards"] == [shard]
    with pytest.raises(TaftError, match="key of the id hashes is damaged or was destroyed"):
        forget(run, worker, "drop", ["nobody"])


@pytest.mark.parametrize("how", HOW)
def test_damaged_tombstone_bars_nobody(run: Path, worker: ShardWorker, how: str) -> None:
    forget(run, worker, "drop", [OF[0][0]])
    (kept,) = files(run.parent, f"{run.name}.tombstones")
    good = kept.read_bytes()
    HOW[how](kept)
    assert forget(run, worker, "drop", [OF[1][0]])["shards"] == [1]
    if how != "gone":
        assert any(kept.name in problem for problem in verify(str(run))["problems"])
    assert mended(run, worker)["ok"] is True
    assert kept.read_bytes() == good
    assert verify(str(run))["problems"] == []


def test_damaged_tombstone_of_a_request_that_the_ledger_lost_bars_nobody(
    run: Path, whole: Path, worker: ShardWorker
) -> None:
    forget(run, worker, "drop", [OF[0][0]])
    (kept,) = files(run.parent, f"{run.name}.tombstones")
    shutil.rmtree(run)
    shutil.copytree(whole, run)
    kept.write_bytes(b"[" * 200_000)
    assert forget(run, worker, "drop", [OF[1][0]])["shards"] == [1]
    assert any(kept.name in problem for problem in verify(str(run))["problems"])


@pytest.mark.parametrize("how", HOW)
def test_damaged_certificate_bars_nobody_and_is_named(run: Path, worker: ShardWorker, how: str) -> None:
    forget(run, worker, "drop", [OF[0][0]])
    (path,) = run.glob("certificates/*.json")
    HOW[how](path)
    assert forget(run, worker, "drop", [OF[1][0]])["shards"] == [1]
    with pytest.raises(TaftError, match=path.name):
        forget(run, worker, "drop", [OF[0][0]])
    told = report(str(run))
    assert told["ok"] is False
    assert any(path.name in line for line in told["damaged"])


@pytest.mark.parametrize("name", ["run.json", "ledger/*03.json"])
def test_request_to_a_run_that_cannot_be_read_is_kept_beside_it_and_carried_out_later(
    run: Path, worker: ShardWorker, name: str
) -> None:
    (path,) = run.glob(name)
    good = path.read_bytes()
    path.write_bytes(b"[" * 200_000)
    with pytest.raises(IntegrityError, match=r"The request is kept in .*\.tombstones"):
        forget(run, worker, "retrain", [OF[0][0]])
    path.write_bytes(good)
    with without_ray(run, worker):
        (certificate,) = requests.forget_due(str(run))["certificates"]
    assert (certificate["mode"], certificate["shards"]) == ("retrain", [0])
    assert holders(run, sample_key(OF[0][0], 0)) == []
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("kind", ["snapshot", "evaluation part", "evaluation rows", "monolith", "delta"])
def test_evaluate_goes_round_damage(run: Path, whole: Path, worker: ShardWorker, test_parquet: Path, kind: str) -> None:
    damage(run, kind)
    with without_ray(run, worker):
        answer = evaluate(str(run), str(test_parquet))
    assert answer["n"] == 48
    assert answer["ok"] is (kind != "delta")
    assert answer["composed"] == composed_without(run, set(), "gram")
    assert (answer["monolith"] is None) == (kind == "monolith")
    assert mended(run, worker)["ok"] is True
    assert verify(str(run))["problems"] == []


def test_report_says_that_a_shard_is_in_quarantine(run: Path, worker: ShardWorker) -> None:
    damage(run, "delta")
    stands(run, worker)
    told = report(str(run))
    assert told["ok"] is False
    assert f"shard {ILL} is in quarantine" in (run / "reports" / "report.html").read_text()


def list_of_samples(run: Path) -> Path:
    return run / str(state_of(run).manifest_key)


@pytest.mark.parametrize("how", HOW)
def test_damaged_list_of_samples_leaves_requests_standing_and_out_of_the_model(
    run: Path, worker: ShardWorker, undamaged: dict[int, str], class_folder: Path, how: str
) -> None:
    path = list_of_samples(run)
    HOW[how](path)
    with pytest.raises(UnknownSample, match="nothing was forgotten"):
        forget(run, worker, "drop", ["nobody"])
    for shard in range(SHARDS):
        with pytest.raises(IntegrityError, match=r"Request \w+ is recorded and stands"):
            forget(run, worker, "retrain", [OF[shard][0]])
    state = state_of(run)
    assert [request.shards for request in state.requests.values()] == [(shard,) for shard in range(SHARDS)]
    assert state.in_model == []
    told = stands(run, worker)
    assert told["ok"] is False
    assert path.name in told["damaged"]
    with pytest.raises(IntegrityError, match=r"Restore it from a copy"):
        mended(run, worker, data=str(class_folder))
    assert any(path.name in problem for problem in verify(str(run))["problems"])
    mended(run, worker)  # from the source and the cache
    with without_ray(run, worker):
        assert len(requests.forget_due(str(run))["certificates"]) == SHARDS
    assert delta_digests(run) == undamaged
    assert verify(str(run))["problems"] == []


def test_composer_that_has_the_list_of_samples_in_memory_writes_it_again(run: Path, worker: ShardWorker) -> None:
    composer = Composer(str(run))
    composer.record.manifest()
    path = list_of_samples(run)
    good = path.read_bytes()
    path.unlink()
    with without_ray(run, worker, composer):
        assert repair(str(run))["ok"] is True
    assert path.read_bytes() == good
    assert verify(str(run))["problems"] == []


def test_list_of_samples_is_made_again_after_forgets_too(run: Path, worker: ShardWorker) -> None:
    forget(run, worker, "retrain", [OF[0][0], OF[1][3]])
    forget(run, worker, "drop", [OF[ILL][0]])
    path = list_of_samples(run)
    good = path.read_bytes()
    path.unlink()
    assert mended(run, worker)["ok"] is True
    assert path.read_bytes() == good
    assert verify(str(run))["problems"] == []


def test_rejected_rows_are_in_a_list_of_samples_made_again(
    tmp_path: Path, parquet: Path, spec_of: Any, worker: ShardWorker
) -> None:
    source = other_source(parquet, tmp_path / "source", lambda row: row.update(image=b"no picture"), OF[0][0])
    run = tmp_path / "run"
    plain_train(run, spec_of(source, trainable="head"))
    path = list_of_samples(run)
    good = path.read_bytes()
    flip_a_byte(path)
    assert mended(run, worker)["ok"] is True
    assert path.read_bytes() == good


def test_list_of_samples_of_an_earlier_version_is_made_again(
    tmp_path: Path, parquet: Path, spec_of: Any, worker: ShardWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures have no hashes of their bytes."""
    with monkeypatch.context() as patched:
        patched.setattr("taft_ray.prefix.cache.with_contents", lambda table, contents: table)
        plain_train(tmp_path / "run", spec_of(parquet, trainable="head"))
    path = list_of_samples(tmp_path / "run")
    good = path.read_bytes()
    flip_a_byte(path)
    assert mended(tmp_path / "run", worker)["ok"] is True
    assert path.read_bytes() == good


def test_request_whose_shards_nobody_can_tell_is_placed_later(
    tmp_path: Path, parquet: Path, spec_of: Any, worker: ShardWorker
) -> None:
    """By equal assignment a sample's shard stands in the list of samples alone."""
    run = tmp_path / "run"
    plain_train(run, spec_of(parquet, assignment="equal", trainable="head"))
    path = list_of_samples(run)
    good = path.read_bytes()
    path.write_bytes(good[:-3])
    composer = Composer(str(run))
    name = composer.request_forget(Selection(ids=(OF[0][0],)), "drop")["request"]
    assert composer.snapshot().requests[name].unplaced
    path.write_bytes(good)
    (certificate,) = carry_out(Composer(str(run))).values()
    assert kinds(run).count("placed") == 1
    assert len(certificate["shards"]) == 1
    assert holders(run, sample_key(OF[0][0], 0)) == []
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", IN_A_SHARD)
def test_forget_and_repair_killed_at_any_write_end_with_the_same_bits(
    whole: Path, worker: ShardWorker, undamaged: dict[int, str], tmp_path: Path, kind: str, step: int
) -> None:
    """Every ``step``-th change of storage is the last of a process; then both commands are given again."""
    with faults_possible():
        for n in range(1, 200, step):
            run = Path(shutil.copytree(whole, tmp_path / f"{n}" / "run"))
            damage(run, kind, "flipped")
            reached = False
            try:
                with fault(Fault(DIE_BEFORE, n)):
                    forget(run, worker, "retrain", [OF[ILL][0]])
                    mended(run, worker)
            except Killed:
                reached = True
            forget(run, worker, "retrain", [OF[ILL][0]])
            assert mended(run, worker)["ok"] is True
            assert delta_digests(run)[ILL] == undamaged[ILL], n
            gc(str(run))
            assert verify(str(run))["problems"] == [], n
            assert holders(run, sample_key(OF[ILL][0], 0)) == [], n
            shutil.rmtree(run.parent)
            if not reached:
                return
    raise AssertionError("no process survived")

"""An older copy of a run's folder is put back, wholly or over the newer one: what was forgotten is forgotten again."""

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from folder import at, carry_out, copy_run, delta_digests, files, holders, kinds, plain_forget, shard_of, state_of
from plain import plain_train
from proved import KEY
from tiny import SAMPLES, SHARDS, sample_id, write_parquet

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.data import sample_key
from taft_ray.errors import IntegrityError, TaftError
from taft_ray.proof.signature import sign_certificate
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Store, Tombstones, digest_bytes, id_key, write_spec
from taft_ray.verbs.gc import gc
from taft_ray.workers.shard_worker import ShardWorker

GONE = [sample_id(n) for n in (3, 14, 15)]
OWNER = "owner-9"
OWNED = [sample_id(n) for n in range(SAMPLES) if n % 10 == 9]
FORGOTTEN = sorted({*GONE, *OWNED})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    """A trained run, with the comparison model."""
    run = tmp_path_factory.mktemp("restored") / "run"
    plain_train(run, spec_of(parquet))
    with_monolith(run, ShardWorker(str(run), 3))
    return run


@pytest.fixture(scope="module")
def never_seen(
    tmp_path_factory: pytest.TempPathFactory, spec_of: Callable[..., Any], warm: ShardWorker
) -> tuple[dict[int, str], str | None]:
    """Deltas and composed digest of a run whose data never had what is forgotten here."""
    folder = tmp_path_factory.mktemp("never")
    data = write_parquet(folder / "data", [n for n in range(SAMPLES) if sample_id(n) not in FORGOTTEN])
    composer = plain_train(folder / "run", spec_of(data), [warm])
    return delta_digests(folder / "run"), composer.composed_digest()


def with_monolith(run: Path, worker: ShardWorker) -> None:
    composer = Composer(str(run))
    assert composer.want_monolith()
    composer.finished(at(worker, run).fit(composer.take("lane") or {}))


def forget_everything(run: Path, worker: ShardWorker) -> None:
    """Samples by drop and then by retrain, and an owner."""
    plain_forget(run, GONE[:2], "drop", worker=worker)
    plain_forget(run, GONE, "retrain", worker=worker)
    plain_forget(run, [], "retrain", worker=worker, owners=(OWNER,))


def put_back(whole: Path, run: Path, how: str) -> None:
    """The copy ``whole`` of an earlier time is restored."""
    if how == "wholly":
        shutil.rmtree(run)
    shutil.copytree(whole, run, dirs_exist_ok=True)


def stay_forgotten(run: Path, ids: list[str] = FORGOTTEN) -> None:
    for name in ids:
        assert holders(run, sample_key(name, 0)) == [], name


def assert_as_never_seen(run: Path, never_seen: tuple[dict[int, str], str | None]) -> None:
    stay_forgotten(run)
    assert delta_digests(run) == never_seen[0]
    assert Composer(str(run)).composed_digest() == never_seen[1]
    assert verify(str(run))["problems"] == []


HOW = pytest.mark.parametrize("how", ["wholly", "over the newer one"])


@HOW
@pytest.mark.parametrize("then", ["forget", "due", "train"])
def test_restored_folder_forgets_again(
    whole: Path,
    copy_of: Callable[..., Path],
    worker: ShardWorker,
    never_seen: tuple[dict[int, str], str | None],
    parquet: Path,
    spec_of: Callable[..., Any],
    how: str,
    then: str,
) -> None:
    run = copy_of(whole)
    forget_everything(run, worker)
    assert_as_never_seen(run, never_seen)
    put_back(whole, run, how)
    assert all(holders(run, sample_key(name, 0)) for name in FORGOTTEN), "they are back"
    problems = verify(str(run))["problems"]
    if how == "wholly":
        requests = state_of(whole).requests.keys() ^ {p.stem for p in files(run.parent, f"{run.name}.tombstones")}
        assert all(any(request in problem for problem in problems) for request in requests), problems
    else:
        assert any("manifest" in problem for problem in problems), problems

    if then == "forget":
        plain_forget(run, GONE[:1], "retrain", worker=worker)
    elif then == "due":
        carry_out(Composer(str(run)), worker=worker)
    else:
        plain_train(run, spec_of(parquet), [worker])
        stay_forgotten(run)  # law 1 does not wait for the fits
        touched = {shard_of(name, SHARDS) for name in FORGOTTEN}
        old = delta_digests(whole)
        assert all(digest != old[shard] for shard, digest in delta_digests(run).items() if shard in touched)
        carry_out(Composer(str(run)), worker=worker)
    assert_as_never_seen(run, never_seen)
    assert gc(str(run))["removed"] == []


@HOW
def test_restored_twice_over_what_was_mended(
    whole: Path, copy_of: Callable[..., Path], worker: ShardWorker, never_seen: tuple[dict[int, str], str], how: str
) -> None:
    run = copy_of(whole)
    forget_everything(run, worker)
    for _ in range(2):
        put_back(whole, run, how)
        carry_out(Composer(str(run)), worker=worker)
        assert_as_never_seen(run, never_seen)


def test_restored_copies_of_different_times_forget_what_each_brings_back(
    whole: Path, copy_of: Callable[..., Path], worker: ShardWorker, never_seen: tuple[dict[int, str], str]
) -> None:
    run = copy_of(whole)
    plain_forget(run, GONE, "retrain", worker=worker)
    between = run.with_name("between")
    copy_run(run, between)
    plain_forget(run, [], "retrain", worker=worker, owners=(OWNER,))
    for older in (between, whole, between):
        for how in ("wholly", "over the newer one"):
            put_back(older, run, how)
            carry_out(Composer(str(run)), worker=worker)
            assert_as_never_seen(run, never_seen)


def test_comparison_model_trained_since_the_forget_survives_an_old_copy_laid_over(
    whole: Path, copy_of: Callable[..., Path], worker: ShardWorker, never_seen: tuple[dict[int, str], str]
) -> None:
    run = copy_of(whole)
    forget_everything(run, worker)
    with_monolith(run, worker)
    monolith = files(run, "deltas/monolith")
    put_back(whole, run, "over the newer one")
    carry_out(Composer(str(run)), worker=worker)
    assert files(run, "deltas/monolith") == monolith
    assert_as_never_seen(run, never_seen)


def test_composer_that_stayed_warm_sees_that_the_folder_was_exchanged(
    whole: Path, copy_of: Callable[..., Path], worker: ShardWorker, never_seen: tuple[dict[int, str], str]
) -> None:
    run = copy_of(whole)
    composer = Composer(str(run))
    for selection in (Selection(ids=tuple(GONE)), Selection(owners=(OWNER,))):
        carry_out(composer, [composer.request_forget(selection, "retrain")["request"]], worker)
    put_back(whole, run, "wholly")
    assert composer.snapshot().requests == {}, "what the folder says now"
    carry_out(composer, worker=worker)
    assert_as_never_seen(run, never_seen)


def test_waiting_request_of_an_older_copy_is_carried_out_at_once(
    whole: Path, copy_of: Callable[..., Path], worker: ShardWorker
) -> None:
    """It may have been carried out before its time, and certified."""
    import time

    run = copy_of(whole)
    composer = Composer(str(run))
    asked = composer.request_forget(Selection(ids=tuple(GONE)), "retrain", time.time() + 1e6)
    certified = carry_out(composer, [asked["request"]], worker)[asked["request"]]
    put_back(whole, run, "wholly")
    began = time.time()
    again = carry_out(Composer(str(run)), worker=worker)
    assert again[asked["request"]]["composed_after"] == certified["composed_after"]
    assert again[asked["request"]]["seconds"]["total"] <= time.time() - began, "of this time, not since the first"
    requested = datetime.fromisoformat(again[asked["request"]]["requested"]).timestamp()
    assert requested < began, "the month of an erasure runs from the first time"
    stay_forgotten(run, GONE)
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("before", ["cached", "created"])
def test_later_ingest_leaves_forgotten_samples_and_owners_out(
    whole: Path,
    copy_of: Callable[..., Path],
    worker: ShardWorker,
    never_seen: tuple[dict[int, str], str | None],
    parquet: Path,
    spec_of: Callable[..., Any],
    before: str,
) -> None:
    """The copy is from before the run's cache was made: its data is read again, with everybody in it."""
    run = copy_of(whole)
    forget_everything(run, worker)
    shutil.rmtree(run)
    young = {"run.json", "keys/id.key", *(["ledger/00000000000000000000.json"] if before == "cached" else [])}
    for name in young:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / name, run / name)
    if before == "created":
        assert kinds(run) == []
        assert verify(str(run))["ok"] is True, "there is nothing yet, and so nothing forgotten is in it"
    plain_train(run, spec_of(parquet), [worker])
    assert state_of(run).cached is not None
    cached = state_of(run).cached
    assert cached is not None
    assert cached.forgotten == len(FORGOTTEN)
    carry_out(Composer(str(run)), worker=worker)
    assert_as_never_seen(run, never_seen)


def test_run_without_its_key_reads_nothing_in(
    whole: Path, copy_of: Callable[..., Path], parquet: Path, spec_of: Callable[..., Any], ray_session: None
) -> None:
    """Nobody could tell who is forgotten. The copy is from before the cache was made, its key destroyed since."""
    from taft_ray.verbs.train import train

    run = copy_of(whole)
    for folder in ("cache", "manifest", "deltas", "composed", "keys"):
        shutil.rmtree(run / folder)
    for entry in sorted((run / "ledger").iterdir())[1:]:
        entry.unlink()
    before = {path: path.read_bytes() for path in files(run)}
    with pytest.raises(TaftError, match="Nothing may be read into this run any more"):
        train(str(run), spec_of(parquet))
    assert {path: path.read_bytes() for path in files(run)} == before


def test_another_run_at_the_same_address_is_not_touched_by_the_tombstones_of_the_first(
    whole: Path, copy_of: Callable[..., Path], worker: ShardWorker, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    run = copy_of(whole)
    forget_everything(run, worker)
    shutil.rmtree(run)
    plain_train(run, spec_of(parquet), [worker])
    assert state_of(run).requests == {}
    assert delta_digests(run) == delta_digests(whole)
    assert verify(str(run))["problems"] == []


def test_changed_tombstone_is_named(whole: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(whole)
    plain_forget(run, GONE, "drop")
    kept = files(run.parent, f"{run.name}.tombstones")
    assert len(kept) == 1
    kept[0].write_bytes(kept[0].read_bytes().replace(b"drop", b"dorp"))
    problems = verify(str(run))["problems"]
    assert any(kept[0].name in problem for problem in problems), problems


@pytest.mark.parametrize("change", [{"hashes": lambda hashes: hashes[:1]}, {"mode": lambda _: "subtract"}])
def test_tombstone_that_asks_for_less_is_found_although_it_is_sealed_and_repair_writes_it_again(
    whole: Path, copy_of: Callable[..., Path], change: dict[str, Callable[[Any], Any]]
) -> None:
    """An older copy of the folder would forget as much as it says, and no more."""
    run = copy_of(whole)
    plain_forget(run, GONE, "drop")
    beside = Tombstones(Store(str(run)), state_of(run).identity)
    ((name, facts),) = beside.read().items()
    asked = {field: value for field, value in facts.items() if field != "self"}
    beside.rewrite(name, {**asked, **{field: changed(facts[field]) for field, changed in change.items()}})
    (problem,) = verify(str(run))["problems"]
    assert name in problem
    assert "with less than the ledger has" in problem
    Composer(str(run)).forgetting.mend_tombstones()
    assert beside.read() == {name: facts}
    assert verify(str(run))["problems"] == []


def test_tombstones_hold_no_id(whole: Path, copy_of: Callable[..., Path], worker: ShardWorker) -> None:
    run = copy_of(whole)
    forget_everything(run, worker)
    kept = files(run.parent, f"{run.name}.tombstones")
    assert len(kept) == 3
    for name in (*FORGOTTEN, OWNER):
        assert not any(name.encode() in path.read_bytes() for path in kept)
    secret = id_key(Store(str(run)), create=False)
    assert not any(secret in path.read_bytes() or secret.hex().encode() in path.read_bytes() for path in kept)


def test_run_in_the_root_of_a_bucket_keeps_nothing_beside_it() -> None:
    kept = Tombstones(Store("s3://bucket"), "a" * 64)
    kept.write("request", {"hashes": []})  # there is no place, and no error
    assert kept.read() == {}


def test_tombstones_lost_on_the_way_are_noted_and_written_again(whole: Path, copy_of: Callable[..., Path]) -> None:
    """A folder moved without them: nothing is wrong yet, but an older copy could come back unnoticed."""
    run = copy_of(whole)
    plain_forget(run, GONE, "drop")
    kept = {path.name: path.read_bytes() for path in files(run.parent, f"{run.name}.tombstones")}
    shutil.rmtree(run.parent / f"{run.name}.tombstones")
    answer = verify(str(run))
    assert answer["problems"] == []
    assert any("tombstones" in note for note in answer["notes"])
    Composer(str(run)).recover()
    assert {path.name: path.read_bytes() for path in files(run.parent, f"{run.name}.tombstones")} == kept
    assert not any("tombstones" in note for note in verify(str(run))["notes"])


def test_report_of_an_older_copy_is_refused(whole: Path, copy_of: Callable[..., Path]) -> None:
    from taft_ray.verbs.report import report

    run = copy_of(whole)
    shutil.copytree(run, run.with_name("older"))
    plain_forget(run, GONE, "drop")
    shutil.rmtree(run)
    run.with_name("older").rename(run)
    with pytest.raises(IntegrityError, match="an older copy of the folder was put back"):
        report(str(run))


def test_certificate_that_the_ledger_does_not_know_is_no_garbage(whole: Path, copy_of: Callable[..., Path]) -> None:
    """The newest entry was cut off: what it committed must not be offered for collection."""
    run = copy_of(whole)
    sign_certificate(str(run), plain_forget(run, GONE, "drop")["request"], KEY)
    sorted((run / "ledger").iterdir())[-1].unlink()
    problems = verify(str(run))["problems"]
    assert any("newest entries may have been cut off" in problem for problem in problems)
    assert not any("gc removes" in problem and "certificates/" in problem for problem in problems)


def test_warm_composer_begins_a_new_run_in_the_place_of_a_removed_one(
    whole: Path, copy_of: Callable[..., Path], spec_of: Callable[..., Any], parquet: Path
) -> None:
    run = copy_of(whole)
    warm = Composer(str(run))
    assert warm.snapshot().created is not None
    shutil.rmtree(run)
    store = Store(str(run))
    write_spec(store, spec_of(parquet, seed=1).to_json())
    secret = digest_bytes(id_key(store, create=True))
    warm.begin({}, secret)
    assert kinds(run) == ["created"]
    assert state_of(run).identity == secret
    assert warm.record.spec.seed == 1

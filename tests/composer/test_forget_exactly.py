"""Forgetting: laws 1 and 2, on runs that were trained through the whole path."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import (
    composed_without,
    delta_digests,
    files,
    finish,
    flip_a_byte,
    holders,
    kinds,
    only_cached,
    plain_forget,
    shard_of,
    state_of,
)
from tiny import SAMPLES, SHARDS, sample_id, write_parquet

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.data import id_hash, sample_key
from taft_ray.errors import TaftError, UnknownSample, UsageError
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Ledger, Store, digest_bytes, id_key
from taft_ray.storage.local import LocalFolder
from taft_ray.verbs.gc import gc
from taft_ray.verbs.train import train
from taft_ray.workers.shard_worker import ShardWorker

Trained = tuple[Path, dict[str, Any]]
Copy = Callable[..., Path]


@pytest.mark.parametrize("mode", ["gram", "mean"])
def test_drop_equals_composing_without_the_shard(ridge: Trained, copy_of: Copy, mode: str) -> None:
    run = copy_of(ridge[0])
    plain_forget(run, [sample_id(0)], "drop")
    composer = Composer(str(run))
    gone = shard_of(sample_id(0), SHARDS)
    assert composer.compose(mode)["digest"] == composed_without(ridge[0], {gone}, mode)
    composer = Composer(str(run))  # and as a composer that starts now finds it
    assert composer.compose(mode)["digest"] == composed_without(ridge[0], {gone}, mode)


def test_forget_on_ray_equals_a_run_that_never_had_the_samples(
    ridge: Trained, ridge_never_seen: Trained, copy_of: Copy, forgotten_ids: list[str], forget: Any
) -> None:
    run = copy_of(ridge[0])
    certificate = forget(run, forgotten_ids, "retrain")
    assert delta_digests(run) == delta_digests(ridge_never_seen[0])
    assert certificate["composed_after"] == ridge_never_seen[1]["composed"]
    assert certificate["composed_before"] == ridge[1]["composed"]
    assert certificate["samples"] == len(forgotten_ids)
    assert certificate["seconds"]["retrain"] > 0
    assert verify(str(run))["problems"] == []


def test_forget_one_by_one_equals_at_once(
    ridge: Trained, ridge_never_seen: Trained, copy_of: Copy, forgotten_ids: list[str]
) -> None:
    run = copy_of(ridge[0])
    for name in reversed(forgotten_ids):
        certificate = plain_forget(run, [name], "retrain")
    assert delta_digests(run) == delta_digests(ridge_never_seen[0])
    assert certificate["composed_after"] == ridge_never_seen[1]["composed"]


def test_retrain_after_drop_equals_never_seen(
    ridge: Trained, ridge_never_seen: Trained, copy_of: Copy, forgotten_ids: list[str]
) -> None:
    run = copy_of(ridge[0])
    plain_forget(run, forgotten_ids, "drop")
    certificate = plain_forget(run, forgotten_ids, "retrain")
    assert certificate["composed_after"] == ridge_never_seen[1]["composed"]
    assert verify(str(run))["problems"] == []


def test_forget_of_adam_equals_never_seen(
    adam: Trained, adam_never_seen: Trained, copy_of: Copy, forgotten_ids: list[str]
) -> None:
    run = copy_of(adam[0])
    certificate = plain_forget(run, forgotten_ids, "retrain")
    assert delta_digests(run) == delta_digests(adam_never_seen[0])
    assert certificate["composed_after"] == adam_never_seen[1]["composed"]


@pytest.mark.parametrize("mode", ["drop", "retrain"])
def test_forgotten_sample_is_in_no_file_of_the_run(
    ridge: Trained, copy_of: Copy, forgotten_ids: list[str], mode: str
) -> None:
    run = copy_of(ridge[0])
    keys = [sample_key(name, 0) for name in forgotten_ids]
    hashes = [id_hash(name, id_key(Store(str(run)), create=False)) for name in forgotten_ids]
    assert all(any("cache/" in name for name in holders(run, key)) for key in keys), "they must be there before"
    old = {number: digest[:16] for number, digest in delta_digests(run).items()}
    certificate = plain_forget(run, forgotten_ids, mode)
    for key in keys:
        assert holders(run, key) == []
    for name in forgotten_ids:
        assert holders(run, name.encode()) == []
    for digest in hashes:  # ledger and certificate only
        assert {place.split("/")[0] for place in holders(run, digest.encode())} == {"ledger", "certificates"}
    touched = {shard_of(name, SHARDS) for name in forgotten_ids}
    assert set(certificate["shards"]) == touched
    assert files(run, "deltas/monolith") == []
    for shard in range(SHARDS):
        names = [path.name for path in files(run, f"deltas/shard={shard:05d}")]
        if shard not in touched:
            assert names == [f"000001-{old[shard]}.safetensors"]
        elif mode == "drop":
            assert names == []
        else:
            assert len(names) == 1
            assert names[0].startswith("000002-")
    assert [path.stem for path in files(run, "composed")] == [certificate["composed_after"]]
    answer = verify(str(run))
    assert answer["problems"] == []
    assert answer["forgotten_samples"] == len(forgotten_ids)
    assert answer["checks"]["cached samples"] == SAMPLES - len(forgotten_ids)


def test_certificate_names_what_was_removed(ridge: Trained, copy_of: Copy, forgotten_ids: list[str]) -> None:
    run = copy_of(ridge[0])
    before = {str(path.relative_to(run)): digest_bytes(path.read_bytes()) for path in files(run)}
    certificate = plain_forget(run, forgotten_ids, "retrain")
    removed = {entry["key"]: entry["digest"] for entry in certificate["objects_removed"]}
    now = {str(path.relative_to(run)) for path in files(run)}
    assert removed
    assert not removed.keys() & now
    for key, digest in removed.items():
        if digest is not None:
            assert digest == before[key], key
    gone = before.keys() - now  # the manifest's old rows too
    assert gone == removed.keys()
    assert certificate["still_listed_after_purge"] == []
    assert certificate["does_not_cover"]


def test_digest_of_the_certificate_is_in_the_ledger(ridge: Trained, copy_of: Copy) -> None:
    run = copy_of(ridge[0])
    certificate = plain_forget(run, [sample_id(0)], "drop")
    entry = Ledger(Store(str(run))).entries()[-1]
    assert entry.kind == "forgotten"
    ref = entry.body["certificate"]
    assert digest_bytes((run / ref["key"]).read_bytes()) == ref["digest"]
    assert json.loads((run / ref["key"]).read_text()) == certificate


def test_second_forget_answers_with_the_first_certificate(ridge: Trained, copy_of: Copy, forget: Any) -> None:
    run = copy_of(ridge[0])
    first = forget(run, [sample_id(0), sample_id(0)], "drop")
    entries = kinds(run)
    again = forget(run, [sample_id(0)], "drop")
    assert again.pop("repeated") is True
    assert again == json.loads(json.dumps(first))
    assert kinds(run) == entries


@pytest.mark.parametrize("mode", ["drop", "retrain"])
def test_unknown_id_is_refused_with_nothing_lost(ridge: Trained, copy_of: Copy, mode: str) -> None:
    run = copy_of(ridge[0])
    before = {path: path.read_bytes() for path in files(run)}
    with pytest.raises(UnknownSample, match="nobody"):
        plain_forget(run, [sample_id(0), "nobody"], mode)
    assert {path: path.read_bytes() for path in files(run)} == before


def test_resolve_is_refused_with_nothing_lost(ridge: Trained, copy_of: Copy) -> None:
    run = copy_of(ridge[0])
    before = kinds(run)
    with pytest.raises((UsageError, TaftError)):
        plain_forget(run, [sample_id(0), "nobody"], "resolve")
    assert kinds(run) == before


@pytest.mark.parametrize("mode", ["drop", "retrain"])
def test_shard_may_lose_its_last_sample(ridge: Trained, copy_of: Copy, mode: str) -> None:
    run = copy_of(ridge[0])
    everyone = [sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == 2]
    certificate = plain_forget(run, everyone, mode)
    assert state_of(run).shards[2].state == "empty"
    assert certificate["composed_after"] == composed_without(ridge[0], {2}, "gram")
    assert files(run, "cache/shard=00002") == []
    assert files(run, "deltas/shard=00002") == []
    assert verify(str(run))["problems"] == []


def test_every_shard_may_go(ridge: Trained, copy_of: Copy) -> None:
    run = copy_of(ridge[0])
    certificate = plain_forget(run, [sample_id(n) for n in range(SAMPLES)], "drop")
    assert certificate["composed_after"] is None
    assert files(run, "composed") == []
    assert verify(str(run))["problems"] == []


def test_forget_before_any_training_keeps_the_sample_out(
    ridge: Trained, ridge_never_seen: Trained, copy_of: Copy, forgotten_ids: list[str]
) -> None:
    """A sample that was forgotten before its shard was trained is not in the delta that is trained later."""
    run = only_cached(copy_of(ridge[0]))
    plain_forget(run, forgotten_ids, "drop")
    composer, worker = Composer(str(run)), ShardWorker(str(run), 3)
    while (task := composer.take("lane")) is not None:
        composer.finished(worker.fit(task))
    assert delta_digests(run) == delta_digests(ridge_never_seen[0])


@pytest.mark.parametrize("fault", ["write", "create", "delete"])
@pytest.mark.parametrize("mode", ["drop", "retrain"])
def test_forget_cut_off_at_any_storage_call_resumes_to_the_same_run(
    ridge: Trained, tmp_path: Path, forgotten_ids: list[str], fault: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 4: the process dies at its n-th write, commit or delete, before or after it took effect, for every n."""
    whole = Path(shutil.copytree(ridge[0], tmp_path / "whole"))
    expected = plain_forget(whole, forgotten_ids, mode)["composed_after"]
    worker: list[ShardWorker] = []

    class Killed(BaseException):
        pass

    def attempt(run: Path) -> str:
        composer = Composer(str(run))
        if not worker:  # one model for all attempts: only its storage changes
            worker.append(ShardWorker(str(run), 3))
        worker[0].store = composer.record.store
        asked = composer.request_forget(Selection(ids=tuple(forgotten_ids)), mode)
        if asked["done"]:
            return composer.certificate(asked["request"])["composed_after"]
        return finish(composer, asked, worker[0])["composed_after"]

    real = getattr(LocalFolder, fault)  # below Store, whose erase is many deletes
    n = 0
    while True:
        run = Path(shutil.copytree(ridge[0], tmp_path / f"run-{n}"))
        left = n // 2

        def faulty(folder: LocalFolder, *args: Any, after: bool = bool(n % 2)) -> Any:
            nonlocal left
            left -= 1
            if left == -1:
                if after:
                    real(folder, *args)
                raise Killed
            return real(folder, *args)

        with monkeypatch.context() as patch:
            patch.setattr(LocalFolder, fault, faulty)
            try:
                attempt(run)
            except Killed:
                survived = False
            else:
                survived = left >= 0
        assert attempt(run) == expected, f"cut at {fault} {n}"
        gc(str(run))
        assert verify(str(run))["problems"] == [], f"cut at {fault} {n}"
        for name in forgotten_ids:
            assert holders(run, sample_key(name, 0)) == [], f"cut at {fault} {n}"
        shutil.rmtree(run)
        if survived:
            break
        n += 1
    assert n >= 4


DAMAGED = {
    "ledger": "ledger/*01.json",
    "delta": "deltas/shard=*/*.safetensors",
    "cache part": "cache/shard=00001/**/*.arrow",
    "manifest": "manifest/rows-*.parquet",
    "manifest's description": "manifest/_MANIFEST.json",
    "certificate": "certificates/*.json",
    "snapshot": "composed/*.safetensors",
    "base": "base/base.safetensors",
    "spec": "run.json",
}


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_verify_finds_damage_and_names_the_object(forgotten_once: Path, copy_of: Copy, what: str, how: str) -> None:
    run = copy_of(forgotten_once)
    assert verify(str(run))["ok"] is True
    path = next(run.glob(DAMAGED[what]))
    if how == "flipped":
        flip_a_byte(path)
    else:
        path.write_bytes(path.read_bytes()[:-7])
    name = str(path.relative_to(run))
    answer = verify(str(run))
    assert answer["ok"] is False
    assert any(name in problem for problem in answer["problems"]), answer["problems"]


@pytest.mark.parametrize("what", [name for name in DAMAGED if name != "snapshot" and name != "spec"])
def test_verify_misses_nothing_that_is_gone(forgotten_once: Path, copy_of: Copy, what: str) -> None:
    run = copy_of(forgotten_once)
    path = next(run.glob(DAMAGED[what]))
    path.unlink()
    answer = verify(str(run))
    assert answer["ok"] is False
    assert any(path.name in problem or "manifest" in problem for problem in answer["problems"]), answer["problems"]


def test_gc_removes_planted_orphans_and_nothing_else(forgotten_once: Path, copy_of: Copy) -> None:
    run = copy_of(forgotten_once)
    before = set(files(run))
    planted = [
        run / name
        for name in (
            "deltas/shard=00001/9-dead.safetensors",
            "deltas/monolith/9-dead.safetensors",
            "composed/dead.safetensors",
            "cache/shard=00001/part-000-dead.arrow",
            "certificates/dead.json",
            "manifest/rows-dead.parquet",
        )
    ]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"leftover")
    problems = verify(str(run))["problems"]
    assert problems
    assert "nothing refers to" in problems[0] or "not what the deltas" in problems[0] or "damaged" in problems[0]
    answer = gc(str(run))
    assert sorted(answer["removed"]) == sorted(str(path.relative_to(run)) for path in planted)
    assert answer["bytes"] == len(planted) * len(b"leftover")
    assert set(files(run)) == before
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("mode", ["drop", "retrain"])
def test_snapshot_that_holds_a_forgotten_shard_is_found_and_collected(ridge: Trained, copy_of: Copy, mode: str) -> None:
    """Law 1: a snapshot from before the forget, put back, is not what the deltas compose to."""
    run = copy_of(ridge[0])
    old = next((run / "composed").iterdir())
    content = old.read_bytes()
    plain_forget(run, [sample_id(0)], mode)
    old.write_bytes(content)
    answer = verify(str(run))
    assert answer["ok"] is False
    assert any(old.name in problem for problem in answer["problems"])
    assert gc(str(run))["removed"] == [f"composed/{old.name}"]
    assert verify(str(run))["problems"] == []


@pytest.mark.slow
def test_forget_while_lanes_train(
    train_once: Any, ray_session: None, tmp_path: Path, parquet: Path, spec_of: Callable[..., Any], forget: Any
) -> None:
    """On Ray: the forget comes while shards are fitted, and the run ends as one that never had the samples."""
    run = tmp_path / "run"
    spec = spec_of(parquet, solver="adam", epochs=60)
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(train(str(run), spec, lanes=2)))
    thread.start()
    deadline = time.monotonic() + 200
    while not ((run / "ledger").exists() and "trained" in kinds(run)) and time.monotonic() < deadline:
        time.sleep(0.02)
    gone = [sample_id(n) for n in range(8)]
    certificate = forget(run, gone, "retrain")
    thread.join(200)
    assert answers, "the training went on to its end"
    never, expected = train_once(write_parquet(tmp_path / "left", range(8, SAMPLES)), lanes=1, solver="adam", epochs=60)
    assert certificate["samples"] == len(gone)
    assert delta_digests(run) == delta_digests(never)
    assert train(str(run), spec, lanes=2)["composed"] == expected["composed"]
    assert {shard.state for shard in state_of(run).shards.values()} == {"trained"}
    assert verify(str(run))["problems"] == []

"""A shard's cost to the composer does not depend on how many there are. A lane hands in a fit and takes the next in one call."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import plain_train
from toy_run import EVERYONE, OWNERS, SHARDS, composed_of, fit, key_of, make_run, owner_of, shard_of

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection, find
from taft_ray.composer.terms import TERMS_KEPT, Terms
from taft_ray.data import MANIFEST_SCHEMA, id_hash, owner_hash
from taft_ray.errors import ObjectMissing
from taft_ray.plans.facts import Cached
from taft_ray.plans.spec import RunSpec
from taft_ray.storage import Ledger, Store, digest_bytes, id_key, write_delta, write_rows, write_spec
from taft_ray.storage import rundir as names
from taft_ray.workers.shard_worker import ShardWorker


def run_of(folder: Path, shards: int) -> Composer:
    """A run of so many shards whose cache is committed and empty."""
    store = Store(str(folder))
    write_spec(store, RunSpec(data="toy", model="toy", shards=shards, compose="mean").to_json())
    composer = Composer(str(folder))
    composer.begin({}, digest_bytes(id_key(store, create=True)))
    schema = MANIFEST_SCHEMA.append(pa.field("id_hash", pa.string()))
    meta = {"parts": {}, "classes": ["a"], "fingerprint": "toy"}
    manifest = write_rows(store, schema.empty_table(), meta, version=0)
    composer.commit(Cached(manifest.digest, (4,) * shards, ("a",), manifest.key), "cached")
    return composer


def fitted(composer: Composer, task: dict[str, Any]) -> dict[str, Any]:
    shard = task["shard"]
    ref = write_delta(composer.record.store, names.delta_folder(shard), 1, {"delta/w": np.full(4, shard)}, {})
    return {"shard": shard, "generation": 1, "samples": 4, "parts": [], "delta": ref.to_json(), "facts": {}}


def work(action: Callable[[], Any]) -> int:
    """How many functions, Python's and C's, a call calls."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(before)
    return calls


def test_commit_of_a_shard_is_as_much_work_among_many_as_among_few(tmp_path: Path) -> None:
    """A search over all shards after every commit would make a run quadratic in them."""
    took = {}
    for shards in (20, 200):
        composer = run_of(tmp_path / str(shards), shards)
        task = composer.take("lane")
        for _ in range(shards - 3):
            assert task is not None
            task = composer.take("lane", [fitted(composer, task)])
        assert task is not None
        result = fitted(composer, task)
        took[shards] = work(lambda composer=composer, result=result: composer.take("lane", [result]))
        assert len(composer.snapshot().in_model) == shards - 2
    assert took[200] < 1.2 * took[20]


def test_lane_hands_in_a_fit_and_takes_the_next_in_one_call(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    composer, results, taken = Composer(str(tmp_path / "run")), [], []
    while (task := composer.take("lane", results)) is not None:
        taken.append(task["shard"])
        results = [fit(composer.record.store, task)]
    everyone = [{name for name in EVERYONE if shard_of(name) == shard} for shard in range(SHARDS)]
    assert sorted(taken) == list(range(SHARDS))
    assert composer.composed_digest() == composed_of(everyone)


def test_small_shards_fitted_together_have_the_bits_of_shards_fitted_alone(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, bundles = ShardWorker.fit_several, []

    def watched(worker: ShardWorker, tasks: Sequence[dict[str, Any]], lane: str = "") -> list[dict[str, Any]]:
        bundles.append(len(tasks))
        return real(worker, tasks, lane)

    monkeypatch.setattr(ShardWorker, "fit_several", watched)
    spec, deltas = spec_of(parquet, shards=30), []  # about four pictures each
    for most in (0, 16):
        state = plain_train(tmp_path / str(most), spec, together=most).snapshot()
        deltas.append({shard.shard: shard.in_sums.digest for shard in state.in_model})
        assert bool(bundles) == bool(most)
    assert max(bundles) > 1
    assert len({shard.samples for shard in state.in_model}) > 1
    assert deltas[0] == deltas[1]


def test_bundles_leave_something_for_every_lane(tmp_path: Path) -> None:
    composer = run_of(tmp_path, 40)  # of four pictures each
    first = composer.take("a", (), 16) or {}
    assert [task["shard"] for task in first["several"]] == [0, 1, 2, 3]
    composer.take("b", (), 16)
    third = composer.take("c", (), 1000) or {}
    assert len(third["several"]) <= (40 - 8) // (4 * 3)
    assert "several" not in (composer.take("d", (), 0) or {})


def test_call_that_ray_makes_again_commits_its_fit_once(tmp_path: Path) -> None:
    """Also on a composer that has died meanwhile and knows of no lease."""
    make_run(tmp_path / "run")
    composer = Composer(str(tmp_path / "run"))
    task = composer.take("lane")
    assert task is not None
    result = fit(composer.record.store, task)
    answers = [
        composer.take("lane", [result]),
        composer.take("lane", [result]),
        Composer(str(tmp_path / "run")).take("lane", [result]),
    ]
    assert answers[0] == answers[1] == answers[2]
    assert [entry.op for entry in Ledger(composer.record.store).entries()].count(f"trained/{task['shard']}/1") == 1


def test_composer_keeps_the_latest_deltas_and_no_more(tmp_path: Path) -> None:
    store, count = Store(str(tmp_path)), TERMS_KEPT + 4
    refs = [write_delta(store, names.delta_folder(n), 1, {"delta/w": np.full(3, n)}, {}) for n in range(count)]
    terms = Terms(store)
    for ref in refs:
        terms.read(ref)
    for ref in refs:
        store.delete(ref.key)
    for number in range(4, count):
        assert terms.read(refs[number])["delta/w"].tolist() == [number] * 3
    with pytest.raises(ObjectMissing):
        terms.read(refs[3])


@pytest.mark.parametrize("budget", [1, 1 << 30])
def test_deltas_read_side_by_side_come_in_order_up_to_the_one_that_is_missing(tmp_path: Path, budget: int) -> None:
    store = Store(str(tmp_path))
    refs = [write_delta(store, names.delta_folder(n), 1, {"delta/w": np.full(3, n)}, {}) for n in range(30)]
    assert [terms["delta/w"].tolist() for terms in Terms(store, budget).read_each(refs)] == [[n] * 3 for n in range(30)]
    store.delete(refs[20].key)
    reading = Terms(store, budget).read_each(refs)
    assert [next(reading)["delta/w"][0].item() for _ in range(20)] == list(range(20))
    with pytest.raises(ObjectMissing):
        next(reading)
    assert list(Terms(store, budget).read_each([])) == []


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Composer:
    folder = tmp_path_factory.mktemp("toy") / "run"
    make_run(folder)
    return Composer(str(folder))


@settings(deadline=None)
@given(
    ids=st.lists(st.sampled_from([*EVERYONE, "nobody"]), max_size=4),
    owners=st.lists(st.sampled_from(OWNERS), max_size=2, unique=True),
    shards=st.lists(st.integers(0, SHARDS - 1), max_size=2),
)
def test_samples_are_found_as_by_looking_at_every_one(
    toy: Composer, ids: list[str], owners: list[str], shards: list[int]
) -> None:
    if not (ids or owners or shards):
        return
    secret = id_key(toy.record.store, create=False)
    asked = [n for n in EVERYONE if n in ids or owner_of(n) in owners or shard_of(n) in shards]
    hashes, found, hashed = find(toy.record, Selection(ids=tuple(ids), owners=tuple(owners), shards=tuple(shards)))
    named = {name if name in ids else id_hash(name, secret): name for name in asked}
    assert {key: (sample.key, sample.shard) for key, sample in found.items()} == {
        key: (key_of(name), shard_of(name)) for key, name in named.items()
    }
    assert hashes == {
        **{key: id_hash(name, secret) for key, name in named.items()},
        **{n: id_hash(n, secret) for n in ids},
    }
    assert sorted(hashed) == sorted(owner_hash(owner, secret) for owner in owners)

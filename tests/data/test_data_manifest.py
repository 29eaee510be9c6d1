"""Laws of keys, shards, manifest and reading plan, over tables drawn at random."""

import pickle  # noqa: TID251 - it is what Ray passes between its own stages; nothing is read from storage
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taft_ray import data
from taft_ray.errors import DataError, UsageError

CLASSES = ["ant", "bee", "cat"]


def _index(rows: list[tuple[str, str | None, str | None, str | None]]) -> pa.Table:
    """Rows (id, label, owner, reason) spread over three files."""
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return pa.table(
        {
            "id": columns[0],
            "relative": [f"f{i % 3}" for i in range(len(rows))],
            "row": [i // 3 for i in range(len(rows))],
            "label": columns[1],
            "owner": columns[2],
            "bytes": [i % 50 for i in range(len(rows))],
            "reason": columns[3],
            "split": [None] * len(rows),
        },
        data.INDEX_SCHEMA,
    )


ROWS = st.lists(
    st.tuples(
        st.text(max_size=3),
        st.sampled_from(CLASSES),
        st.sampled_from([None, "eve", "bob"]),
        st.sampled_from([None, None, None, "no image"]),
    ),
    min_size=1,
    max_size=60,
)
IDS = st.lists(st.text(max_size=8), min_size=1, max_size=60, unique=True)


@settings(deadline=None)
@given(rows=ROWS, shards=st.integers(1, 9), method=st.sampled_from(data.METHODS), shuffle=st.randoms())
def test_every_source_row_is_in_the_manifest_exactly_once(
    rows: list[Any], shards: int, method: data.Method, shuffle: Any
) -> None:
    if method == "grouped":
        rows = [*rows, ("owned", "ant", "eve", None)]
    index = _index(rows)
    manifest = data.build_manifest(index, classes=CLASSES, seed=3, shards=shards, method=method)
    assert manifest.schema == data.MANIFEST_SCHEMA
    source = Counter(zip(index["relative"].to_pylist(), index["row"].to_pylist(), strict=True))
    found = Counter(zip(manifest["uri_relative"].to_pylist(), manifest["row"].to_pylist(), strict=True))
    assert found == source

    table = manifest.to_pylist()
    kept = [row for row in table if row["status"] == "kept"]
    usable = {id for id, _, _, reason in rows if reason is None}
    assert sorted(row["key"] for row in kept) == sorted(data.sample_keys(usable, 3))
    assert all(0 <= row["shard"] < shards and row["label"] >= 0 and row["reason"] is None for row in kept)
    rejected = [row for row in table if row["status"] == "rejected"]
    assert all(row["shard"] == row["label"] == -1 and row["reason"] is not None for row in rejected)
    assert [(row["shard"], row["key"]) for row in table] == sorted((row["shard"], row["key"]) for row in table)
    counts = data.counts(manifest)
    assert counts["rows"] == len(rows) == counts["kept"] + sum(counts["reasons"].values())

    positions = list(range(len(rows)))
    shuffle.shuffle(positions)
    again = data.build_manifest(index.take(positions), classes=CLASSES, seed=3, shards=shards, method=method)
    assert again == manifest


@given(ids=IDS, shards=st.integers(1, 9), seed=st.integers(0, 2**64 - 1), data_=st.data())
def test_removing_samples_moves_no_other(ids: list[str], shards: int, seed: int, data_: st.DataObject) -> None:
    keys = data.sample_keys(ids, seed)
    assert keys == [data.sample_key(id, seed) for id in ids]
    left = data_.draw(st.lists(st.sampled_from(range(len(ids))), unique=True))
    shard = data.assign(keys, shards=shards)
    assert shard.tolist() == [int.from_bytes(key[:8]) % shards for key in keys]
    assert shard[left].tolist() == data.assign([keys[i] for i in left], shards=shards).tolist()

    order = data.epoch_order(keys, seed=seed, epoch=2)
    assert sorted(order.tolist()) == list(range(len(keys)))
    without = data.epoch_order([keys[i] for i in left], seed=seed, epoch=2)
    assert [left[i] for i in without] == [i for i in order.tolist() if i in left]


def test_order_and_shards_depend_on_seed_and_epoch() -> None:
    keys = data.sample_keys(map(str, range(200)), 0)
    order = data.epoch_order(keys, seed=0, epoch=0)
    for seed, epoch in ((1, 0), (0, 1)):
        other = data.epoch_order(keys, seed=seed, epoch=epoch)
        assert np.mean(other == order) < 0.1
        assert abs(np.corrcoef(np.argsort(order), np.argsort(other))[0, 1]) < 0.3
    assert (
        np.mean(data.assign(keys, shards=8) == data.assign(data.sample_keys(map(str, range(200)), 1), shards=8)) < 0.3
    )


@given(ids=IDS, slices=st.integers(1, 9), seed=st.integers(0, 2**64 - 1), data_=st.data())
@settings(deadline=None)
def test_removing_samples_moves_no_other_to_another_slice(
    ids: list[str], slices: int, seed: int, data_: st.DataObject
) -> None:
    keys = data.sample_keys(ids, seed)
    drawn = data.slice_of(keys, slices=slices, seed=seed)
    assert all(0 <= part < slices for part in drawn)
    left = data_.draw(st.lists(st.sampled_from(range(len(ids))), unique=True))
    assert data.slice_of([keys[i] for i in left], slices=slices, seed=seed).tolist() == drawn[left].tolist()
    assert not data.slice_of(keys, slices=1, seed=seed).any()


@pytest.mark.parametrize(("shards", "slices"), [(2, 2), (4, 4), (8, 2), (4, 6), (5, 7)])
def test_slices_of_a_shard_are_even(shards: int, slices: int) -> None:
    """Pearson's statistic of the slices within each shard; drawn as shards are, slices would fail it by far."""
    keys = data.sample_keys(map(str, range(400 * shards * slices)), 0)
    shard = data.assign(keys, shards=shards)
    freedom = shards * (slices - 1)
    limit = freedom + 5 * (2 * freedom) ** 0.5

    def unevenness(parts: np.ndarray) -> float:
        counted = np.zeros((shards, slices))
        np.add.at(counted, (shard, parts), 1)
        expected = counted.sum(1, keepdims=True) / slices
        return float(((counted - expected) ** 2 / expected).sum())

    assert unevenness(data.slice_of(keys, slices=slices, seed=0)) < limit
    if shards != 5:  # no common divisor: then the shard says nothing about the same number modulo slices
        assert unevenness(data.assign(keys, shards=slices)) > 10 * limit


def test_slices_depend_on_the_seed_and_not_on_an_epochs_order() -> None:
    keys = data.sample_keys(map(str, range(400)), 0)
    drawn = data.slice_of(keys, slices=4, seed=0)
    assert 0.15 < np.mean(data.slice_of(keys, slices=4, seed=1) == drawn) < 0.35
    rank = np.argsort(data.epoch_order(keys, seed=0, epoch=0))
    assert abs(np.corrcoef(rank, drawn)[0, 1]) < 0.2
    with pytest.raises(UsageError, match="expected slices >= 1, got 0; set --slices"):
        data.slice_of(keys, slices=0, seed=0)


@given(ids=IDS, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**64 - 1), data_=st.data())
@settings(deadline=None)
def test_who_is_held_out_depends_on_no_other_sample(
    ids: list[str], fraction: float, seed: int, data_: st.DataObject
) -> None:
    keys = data.sample_keys(ids, seed)
    held = data.held_out(keys, fraction=fraction, seed=seed)
    left = data_.draw(st.lists(st.sampled_from(range(len(ids))), unique=True))
    assert data.held_out([keys[i] for i in left], fraction=fraction, seed=seed).tolist() == held[left].tolist()
    assert not (held & ~data.held_out(keys, fraction=(1 + fraction) / 2, seed=seed)).any()


def test_the_held_out_part_is_as_large_as_asked_in_every_shard() -> None:
    keys = data.sample_keys(map(str, range(8000)), 0)
    held, shard = data.held_out(keys, fraction=0.2, seed=0), data.assign(keys, shards=4)
    for number in range(4):
        assert 0.17 < held[shard == number].mean() < 0.23  # ±3 standard errors
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError, match="expected 0 < fraction < 1"):
            data.held_out(keys, fraction=fraction, seed=0)


def test_keys_are_the_recorded_ones() -> None:
    """Shards, caches and ledgers in storage hold these: they may never change."""
    assert data.sample_key("cats/17.jpg", 0).hex() == "34c759f9866e1ae6e1b13ea6e38d6862"
    assert data.id_hash("cats/17.jpg", bytes(range(32))) == "50c184f1e06cf5f46181f8655db9ac72"
    assert data.epoch_order(data.sample_keys("abcdef", 7), seed=7, epoch=1).tolist() == [4, 3, 1, 2, 5, 0]
    assert data.slice_of(data.sample_keys("abcdef", 7), slices=4, seed=7).tolist() == [2, 1, 3, 2, 2, 2]


@pytest.mark.parametrize("method", ["equal", "stratified"])
@pytest.mark.parametrize(("n", "shards"), [(100, 7), (5, 9), (0, 3)])
def test_equal_shards_are_equal(method: data.Method, n: int, shards: int) -> None:
    keys = data.sample_keys(map(str, range(n)), 0)
    labels = np.array([i % 3 for i in range(n)], np.int64)
    shard = data.assign(keys, shards=shards, method=method, labels=labels)
    assert np.ptp(np.bincount(shard, minlength=shards)) <= 1
    if method == "stratified":
        for label in range(3):
            assert np.ptp(np.bincount(shard[labels == label], minlength=shards)) <= 1


def test_grouped_keeps_owners_together() -> None:
    names = [None if i % 5 == 0 else f"owner {i % 13}" for i in range(300)]
    keys = data.sample_keys(map(str, range(300)), 0)
    owners = [None if name is None else data.sample_key(name, 0) for name in names]
    shard = data.assign(keys, shards=6, method="grouped", owners=owners)
    homes = {name: {int(s) for s, n in zip(shard, names, strict=True) if n == name} for name in set(names)}
    assert all(len(homes[name]) == 1 for name in homes if name is not None)
    assert len(homes[None]) == 6  # a sample without an owner is its own
    assert data.GIVES_UP.keys() == set(data.METHODS)


@pytest.mark.parametrize(
    ("source", "labels", "given_", "expected"),
    [
        (("a", "b"), ["0", "1"], ["x", "y"], ("x", "y")),
        (("b", "a"), ["0", "1"], None, ("b", "a")),
        (None, ["10", "2", None], None, tuple(map(str, range(11)))),
        (None, ["b", "a", "c10"], None, ("a", "b", "c10")),
        (None, ["02", "01"], None, ("01", "02")),
        (("10", "a"), ["a"], None, ("10", "a")),
    ],
)
def test_classes_are_resolved_in_order_of_authority(source: Any, labels: Any, given_: Any, expected: Any) -> None:
    assert data.resolve_classes(source, labels, given_) == expected


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (["a", "b", None], ["b", "a"], [1, 0, -1]),
        (["0", "1", None], ["b", "a"], [0, 1, -1]),
        (["1", "2"], ["1", "2"], [0, 1]),
        (["1", "2"], ["02", "01"], [1, 0]),
        (["1", "2"], ["1", "10", "2"], [0, 2]),
        (["0", "2"], ["c0", "c1", "c2"], [0, 2]),
    ],
)
def test_labels_are_names_or_else_numbers(labels: list[Any], classes: list[str], expected: list[int]) -> None:
    index = _index([(str(i), label, None, None if label else "no label") for i, label in enumerate(labels)])
    assert data.label_column(index, classes).tolist() == expected


def test_the_first_of_a_duplicate_is_kept() -> None:
    index = _index([("x", "bee", None, None), ("x", "ant", None, None), ("y", "ant", None, None)])
    manifest = data.build_manifest(index, classes=CLASSES, seed=0, shards=2)
    duplicate = [row for row in manifest.to_pylist() if row["reason"] == "duplicate id"]
    assert [row["uri_relative"] for row in duplicate] == ["f1"]


def test_ids_and_owners_are_not_in_the_manifest() -> None:
    index = _index([("secret-id", "ant", "secret-owner", None)])
    manifest = data.build_manifest(index, classes=CLASSES, seed=5, shards=1)
    assert "secret" not in str(manifest.to_pylist())
    assert manifest["owner_key"].to_pylist() == [data.sample_key("secret-owner", 5)]


def test_rejecting_later_keeps_the_account_and_placing_finds_every_sample() -> None:
    index = _index([(str(i), "ant", None, None) for i in range(20)])
    manifest = data.build_manifest(index, classes=CLASSES, seed=0, shards=2)
    keys = manifest["key"].to_pylist()
    after = data.reject(manifest, {keys[4]: "truncated picture", keys[9]: "empty file"})
    assert data.counts(after) == {
        "rows": 20,
        "kept": 18,
        "rejected": 2,
        "reasons": {"empty file": 1, "truncated picture": 1},
    }
    assert sorted(after["key"].to_pylist()) == sorted(keys)
    with pytest.raises(DataError, match="1 sample was to be rejected, and 0"):
        data.reject(after, {keys[4]: "again"})
    assert data.reject(after, {}) == after

    parts: dict[tuple[int, int], list[bytes]] = {}
    for row in after.to_pylist():
        if row["status"] == "kept":
            parts.setdefault((row["shard"], row["shard"] + 5), []).append(row["key"])
    placed = data.place(after, parts)
    for row in placed.to_pylist():
        if row["status"] == "kept":
            assert parts[row["shard"], row["part"]][row["part_row"]] == row["key"]
        else:
            assert row["part"] is row["part_row"] is None
    with pytest.raises(DataError, match="in no part"):
        data.place(after, {where: part[1:] for where, part in parts.items()})


@settings(deadline=None)
@given(
    rows=ROWS, shards=st.integers(1, 5), budget=st.integers(1, 2000), part_rows=st.integers(1, 10), choice=st.randoms()
)
def test_stripes_hold_every_kept_sample_once(
    rows: list[Any], shards: int, budget: int, part_rows: int, choice: Any
) -> None:
    manifest = data.build_manifest(_index(rows), classes=CLASSES, seed=0, shards=shards)
    files = [data.SourceFile(uri=f"f{i}", relative=f"f{i}", format="parquet", size=0) for i in range(3)]
    plan = data.stripes(manifest, files, budget_bytes=budget, part_rows=part_rows)
    parts = [part for stripe in plan for part in stripe.parts]
    assert parts == sorted(set(parts))
    rows_planned = sorted(
        (stripe.files[f].relative, int(r)) for stripe in plan for f, r in zip(stripe.file, stripe.row, strict=True)
    )
    kept = [row for row in manifest.to_pylist() if row["status"] == "kept"]
    assert rows_planned == sorted((row["uri_relative"], row["row"]) for row in kept)
    for stripe in plan:
        assert stripe.nbytes <= budget or len(stripe.parts) == 1
        assert set(range(len(stripe.files))) == set(stripe.file.tolist())

    wanted = [part for part in parts if choice.random() < 0.5]
    chosen = data.stripes(manifest, files, budget_bytes=budget, part_rows=part_rows, wanted=wanted)
    assert [part for stripe in chosen for part in stripe.parts] == wanted
    whole = {(s, p): k.tobytes() for stripe in plan for s, p, k in _parts(stripe)}
    assert {(s, p): k.tobytes() for stripe in chosen for s, p, k in _parts(stripe)} == {w: whole[w] for w in wanted}


def _parts(stripe: data.Stripe) -> list[tuple[int, int, np.ndarray]]:
    return [(s, p, stripe.key[(stripe.shard == s) & (stripe.part == p)]) for s, p in stripe.parts]


def test_reading_a_stripe_gives_each_part_its_pictures(three_formats: dict[str, Path], pictures: list[bytes]) -> None:
    for uri in three_formats.values():
        source = data.open_source(str(uri))
        index = data.index_files(source.files)
        manifest = data.build_manifest(index, classes=CLASSES, seed=0, shards=4)
        expected = dict(zip(data.sample_keys(index["id"].to_pylist(), 0), pictures, strict=True))
        plan = data.stripes(manifest, source.files, budget_bytes=sum(map(len, pictures)) // 2, part_rows=3)
        assert 1 < len(plan) <= 4
        seen: list[bytes] = []
        for stripe in pickle.loads(pickle.dumps(plan)):
            assert [(part["shard"], part["part"]) for part in data.read_stripe(stripe)] == stripe.parts
            for part in data.read_stripe(stripe):
                assert part["images"] == [expected[key] for key in part["keys"]]
                assert part["keys"] == sorted(part["keys"])
                assert len(part["keys"]) <= 3
                assert [CLASSES[label] for label in part["labels"]] == [
                    CLASSES[pictures.index(image) // 10] for image in part["images"]
                ]
                seen += part["keys"]
            last = stripe.only(stripe.parts[-1:])
            assert [part["keys"] for part in data.read_stripe(last)] == [part["keys"]]
        assert sorted(seen) == sorted(expected)
        with pytest.raises(DataError, match="no longer in the data"):
            data.stripes(manifest, source.files[1:], budget_bytes=1, part_rows=1)

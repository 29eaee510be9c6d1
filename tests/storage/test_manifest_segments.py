"""A large manifest is kept in segments: whoever needs a few shards reads and writes a few objects, and reads the same rows."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.storage import (
    Manifest,
    Store,
    extend_rows,
    filled,
    manifest,
    point_manifest,
    read_manifest,
    read_rows,
    rewrite_rows,
    write_again,
    write_manifest,
    write_rows,
)

META = {"classes": ["a"], "fingerprint": "f"}
SEGMENT = 4
Rows = list[tuple[int, str]]  # (shard, name), the rejected with shard -1


@pytest.fixture(autouse=True)
def small_segments() -> Iterator[None]:
    with mock.patch.object(manifest, "SEGMENT_ROWS", SEGMENT):
        yield


def table_of(rows: Rows) -> pa.Table:
    names = pa.array([name for _, name in rows], pa.string())
    return pa.table({"shard": pa.array([s for s, _ in rows], pa.int32()), "name": names})


def parts_of(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    return {str(s): [{"key": f"cache/{s}", "names": [n for t, n in rows if t == s]}] for s, _ in rows if s >= 0}


def written(store: Store, rows: Rows, version: int = 0) -> Manifest:
    return write_rows(store, table_of(rows), {**META, "parts": parts_of(rows)}, version)


def content(found: Manifest) -> tuple[list[Any], Mapping[str, Any]]:
    return sorted(zip(*(found.table[name].to_pylist() for name in ("shard", "name")), strict=True)), found.parts


def some_rows(shards: int, each: int, rejected: int = 2) -> Rows:
    return [(-1, f"bad {n}") for n in range(rejected)] + [(s, f"{s}.{n}") for s in range(shards) for n in range(each)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


class Reads:
    """Counts the objects that are read."""

    def __init__(self, store: Store) -> None:
        self.keys: list[str] = []
        real = Store.read

        def read(one: Store, key: str) -> bytes:
            self.keys.append(key)
            return real(one, key)

        self.patch = mock.patch.object(Store, "read", read)

    def __enter__(self) -> list[str]:
        self.patch.start()
        return self.keys

    def __exit__(self, *_: object) -> None:
        self.patch.stop()


def test_few_rows_and_rows_of_one_shard_are_one_object(store: Store) -> None:
    assert not written(store, some_rows(2, 1)).segments
    assert not written(store, some_rows(1, 50)).segments
    assert not write_rows(store, pa.table({"name": ["a"] * 50}), META).segments


def test_a_few_shards_are_a_few_objects(store: Store) -> None:
    rows = some_rows(20, 2)
    made = written(store, rows)
    assert len(made.segments) == 10
    with Reads(store) as keys:
        found = read_rows(store, made.key, made.digest)
        assert found.num_rows == len(rows)
        held = found.rows([4, 5]).to_pylist()
        assert found.parts_of([4]) == {"4": parts_of(rows)["4"]}
    assert len(keys) == 2
    assert {(row["shard"], row["name"]) for row in held} == {row for row in rows if row[0] in (-1, 4, 5)}
    assert content(found) == (sorted(rows), parts_of(rows))
    assert content(read_rows(store, made.key, made.digest)) == content(made)


def test_rewriting_a_shard_leaves_other_segments_alone(store: Store) -> None:
    rows = some_rows(20, 2)
    before = written(store, rows)
    left = [row for row in rows if row not in [(4, "4.1"), (-1, "bad 0")]]
    held = [row for row in left if row[0] in (-1, 4, 5)]
    after = rewrite_rows(store, before, table_of(held), {"4": parts_of(left)["4"]}, [4], 1)
    assert content(read_rows(store, after.key, after.digest)) == (sorted(left), parts_of(left))
    assert len(after.keys - before.keys) == 2
    with Reads(store) as keys:
        read_rows(store, after.key, after.digest, known=before).table  # noqa: B018
    assert set(keys) == after.keys - before.keys, "the others were in memory"
    with Reads(store) as keys:
        read_rows(store, after.key, after.digest, known=after).table  # noqa: B018
    assert keys == [after.key]


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("lose"), st.integers(0, 40)),
        st.tuples(st.just("add"), st.integers(1, 14)),
        st.tuples(st.just("reject"), st.just(0)),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(shards=st.integers(1, 9), each=st.integers(0, 4), changes=CHANGES)
def test_any_history_reads_as_the_rows_that_are_left(
    tmp_path_factory: pytest.TempPathFactory, shards: int, each: int, changes: list[tuple[str, int]]
) -> None:
    store, rows = Store(str(tmp_path_factory.mktemp("history"))), some_rows(shards, each)
    made = written(store, rows)
    behind = shards
    for version, (what, number) in enumerate(changes, start=1):
        if what == "lose" and rows:
            gone = rows[number % len(rows)]
            rows = [row for row in rows if row != gone]
            shard = [gone[0]] if gone[0] >= 0 else []
            held = [row for row in zip(*(c.to_pylist() for c in made.rows(shard).columns), strict=True) if row != gone]
            mine = {str(s): parts_of(rows).get(str(s), []) for s in shard}
            made = rewrite_rows(store, made, table_of(held), mine, shard, version)
        elif what != "lose":
            new = [(behind + n % 3, f"new {version}.{n}") for n in range(number)]
            new = sorted(new) if what == "add" else [(-1, f"bad {version}")]
            meta = {**META, "parts": parts_of(new)}
            made = extend_rows(store, made, table_of(new), meta, version)
            rows, behind = rows + new, behind + 3
        there = read_rows(store, made.key, made.digest)
        found = {shard: refs for shard, refs in there.parts.items() if refs}
        assert content(there)[0] == sorted(rows)
        assert found == parts_of(rows)
        for shard in range(behind):
            mine = [row["name"] for row in there.rows([shard]).to_pylist() if row["shard"] == shard]
            assert sorted(mine) == sorted(name for s, name in rows if s == shard)


@pytest.mark.parametrize("gone", [False, True])
def test_damaged_segment_is_named(store: Store, tmp_path: Path, gone: bool) -> None:
    made = written(store, some_rows(20, 2))
    point_manifest(store, made)
    path = tmp_path / made.segments[3].key
    path.unlink() if gone else path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match=made.segments[3].key):
        read_manifest(store)
    found = read_rows(store, made.key, made.digest)
    assert found.rows([0]).num_rows == 6, "other shards do not need it"
    with pytest.raises(ObjectMissing if gone else IntegrityError, match=made.segments[3].key):
        found.table  # noqa: B018


def test_what_is_in_memory_is_written_again_to_the_byte(store: Store, tmp_path: Path) -> None:
    rows = some_rows(20, 2)
    made = written(store, rows, version=3)
    whole = {key: (tmp_path / key).read_bytes() for key in made.keys}
    for key in made.keys:
        (tmp_path / key).unlink()
    assert write_again(store, filled(store, made.key, made.meta, table_of(rows), parts_of(rows))).keys == made.keys
    assert {key: (tmp_path / key).read_bytes() for key in made.keys} == whole


def test_evaluation_manifest_in_segments_leaves_no_older_rows(store: Store) -> None:
    write_manifest(store, table_of(some_rows(9, 3)), {**META, "parts": {}})
    made = write_manifest(store, table_of(some_rows(8, 3)), {**META, "parts": {}})
    assert set(store.traces("manifest/rows-")) == made.keys
    found = read_manifest(store)
    assert found is not None
    assert found.num_rows == 26


def test_head_that_names_its_segments_wrongly_is_damage(store: Store) -> None:
    made = write_rows(store, table_of([]), {**META, "segments": [{"key": "k"}]})
    with pytest.raises(IntegrityError, match="names its segments wrongly"):
        read_rows(store, made.key, made.digest)


def test_reader_holds_no_memory_of_python(store: Store, tmp_path: Path) -> None:
    """Threads of Arrow's pool drop what they read after `read` has returned; dropping Python's then aborts an ending process."""
    data = bytearray((tmp_path / written(store, some_rows(1, 4)).key).read_bytes())
    opened = manifest.pq.ParquetFile

    def opened_freely(source: Any, **options: Any) -> Any:
        data.append(0)  # raises BufferError while another holds its memory
        data.pop()
        return opened(source, **options)

    with mock.patch.object(manifest.pq, "ParquetFile", opened_freely):
        table, _ = manifest._table(data, "rows")  # pyright: ignore[reportPrivateUsage]
    assert table.num_rows == 6

"""Cache parts, deltas, manifest and run folder: what is written comes back, and every damage is found and named."""

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from taft_ray.errors import IntegrityError, ObjectMissing, SpecMismatch, UsageError
from taft_ray.storage import (
    CheckpointRef,
    DeltaRef,
    PartRef,
    Store,
    digest_bytes,
    id_key,
    parse_json,
    point_manifest,
    read_checkpoint,
    read_delta,
    read_manifest,
    read_part,
    read_several,
    read_spec,
    rewrite_part,
    rundir,
    write_checkpoint,
    write_delta,
    write_manifest,
    write_part,
    write_rows,
    write_spec,
)

# n samples, T tokens, d width
KEYS = [bytes([n]) * 16 for n in range(6)]
LABELS = np.arange(6, dtype=np.int64) - 2
PREFIX = rundir.shard_prefix(17)
FOLDER = rundir.delta_folder(17)
DELTA = {"w.b": np.arange(-3, 3).reshape(2, 3), "w.a": np.array(2**62), "empty": np.zeros((0, 4), np.int64)}
BITS = np.random.default_rng(1).integers(0, 2**32, (3, 5), dtype=np.uint32)  # NaN, -0 and denormals among them
CHECKPOINT = {"w.b": BITS.view(np.float32), "w.a": np.array(-0.0, np.float32), "empty": np.zeros((0, 4), np.float32)}
META = {name: name * 2 for name in "zyxwvutsrq"}
ROWS = pa.table({"sample_key": KEYS, "shard": [1, 2, 3, 4, 5, 6]})


def tokens_of(dtype: str) -> np.ndarray:
    bits = np.random.default_rng(0).integers(0, 2**16, (6, 3, 4), dtype=np.uint16)  # every bit pattern, NaN among them
    return bits.view(np.float16) if dtype == "float16" else bits


def part(store: Store, dtype: str = "float16", number: int = 0) -> PartRef:
    rows = {"keys": KEYS, "labels": LABELS, "tokens": tokens_of(dtype), "dtype": dtype}
    return write_part(store, PREFIX, number, **rows, fingerprint="model-a")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_part_comes_back_bit_for_bit(store: Store, dtype: str) -> None:
    ref = part(store, dtype, number=7)
    assert ref.key == f"cache/shard=00017/part-007-{ref.digest[:16]}.arrow"
    assert ref.rows == 6
    assert PartRef.from_json(ref.to_json()) == ref
    for verify in (True, False):
        back = read_part(store, ref, fingerprint="model-a", verify=verify)
        assert back.keys == KEYS
        assert back.dtype == dtype
        assert np.array_equal(back.labels, LABELS)
        assert back.tokens.dtype == tokens_of(dtype).dtype
        assert back.tokens.shape == (6, 3, 4)
        assert back.tokens.tobytes() == tokens_of(dtype).tobytes()
        assert not back.tokens.flags.writeable
        assert not back.tokens.flags.owndata


@pytest.mark.parametrize("megabytes", [1, 2, 5])
def test_part_of_several_huge_pages_comes_back(tmp_path: Path, megabytes: int) -> None:
    """Below, at and above whole huge pages."""
    store = Store(str(tmp_path))
    bits = np.random.default_rng(0).integers(0, 2**16, (6, 1, megabytes * 2**20 // 12), dtype=np.uint16)
    rows = {"keys": KEYS, "labels": LABELS, "tokens": bits, "dtype": "bfloat16"}
    ref = write_part(store, PREFIX, 0, **rows, fingerprint="model-a")
    assert ref.bytes > megabytes * 2**20
    for verify in (True, False):
        back = read_part(store, ref, fingerprint="model-a", verify=verify)
        assert np.array_equal(back.tokens, bits)
        assert not back.tokens.flags.owndata


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_several_parts_come_back_in_their_order(store: Store, count: int) -> None:
    refs = [part(store, number=number) for number in range(count)]
    back = read_several(store, refs, fingerprint="model-a")
    assert [one.tokens.tobytes() for one in back] == [tokens_of("float16").tobytes()] * count
    sized = [
        write_part(
            store, PREFIX, 100 + rows, keys=KEYS[:rows], labels=LABELS[:rows], tokens=tokens_of("float16")[:rows],
            dtype="float16", fingerprint="model-a",
        )
        for rows in (5, 1, 4, 2)
    ]  # fmt: skip
    assert [len(one.keys) for one in read_several(store, sized, fingerprint="model-a")] == [5, 1, 4, 2]


def test_several_parts_are_read_at_once(store: Store) -> None:
    refs = [part(store, number=number) for number in range(3)]
    all_there = threading.Barrier(len(refs), timeout=20)  # broken if one is read after another

    class Slow(Store):
        def fetch(self, key: str, into: Path | None = None) -> Path:
            all_there.wait()
            return super().fetch(key, into)

    assert len(read_several(Slow(store._given), refs, fingerprint="model-a")) == 3


def test_the_damaged_one_of_several_parts_is_named(store: Store) -> None:
    refs = [part(store, number=number) for number in range(5)]
    store.write(refs[3].key, store.read(refs[3].key)[:-1] + b"x")
    with pytest.raises(IntegrityError, match=refs[3].key):
        read_several(store, refs, fingerprint="model-a")
    store.delete(refs[1].key)
    with pytest.raises(ObjectMissing, match=refs[1].key):
        read_several(store, refs, fingerprint="model-a")


def test_maps_of_a_convolution_come_back(store: Store) -> None:
    maps = np.arange(6 * 2 * 3 * 5, dtype=np.float16).reshape(6, 2, 3, 5)
    ref = write_part(store, "p", 0, keys=KEYS, labels=LABELS, tokens=maps, dtype="float16", fingerprint="f")
    assert np.array_equal(read_part(store, ref, fingerprint="f").tokens, maps)


def test_part_is_mapped_not_copied(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    tokens = np.zeros((64, 16, 1024), np.float16)
    keys = [n.to_bytes(16) for n in range(64)]
    ref = write_part(store, "p", 0, keys=keys, labels=np.arange(64), tokens=tokens, dtype="float16", fingerprint="f")
    before = pa.total_allocated_bytes()
    back = read_part(store, ref, fingerprint="f")
    assert pa.total_allocated_bytes() - before < 100_000
    address = back.tokens.__array_interface__["data"][0]
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if ref.key in line]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in maps]
    assert any(start <= address < stop for start, stop in ranges)


def test_writing_a_part_again_is_harmless(store: Store) -> None:
    assert part(store) == part(store)
    assert len(store.list()) == 1


def test_a_part_without_rows(store: Store) -> None:
    empty = np.zeros((0, 3, 4), np.float16)
    ref = write_part(store, "p", 0, keys=[], labels=LABELS[:0], tokens=empty, dtype="float16", fingerprint="f")
    assert read_part(store, ref, fingerprint="f").tokens.shape == (0, 3, 4)


def test_part_of_another_model_is_refused(store: Store) -> None:
    with pytest.raises(IntegrityError, match="another model's cache"):
        read_part(store, part(store), fingerprint="model-b")


def test_copy_of_a_part_is_kept_only_where_asked(s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(s3_uri)
    ref = part(store)
    read_part(store, ref, fingerprint="model-a", into=tmp_path)
    assert (tmp_path / ref.key).is_file()
    monkeypatch.setattr(store, "fetch", lambda *_: pytest.fail("fetched twice"))
    assert read_part(store, ref, fingerprint="model-a", into=tmp_path).keys == KEYS


def test_copy_of_a_part_leaves_no_file_unasked(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(s3_uri)
    ref, fetched = part(store), []
    fetch = store.fetch
    monkeypatch.setattr(store, "fetch", lambda *args: fetched.append(fetch(*args)) or fetched[-1])
    assert read_part(store, ref, fingerprint="model-a").tokens.tobytes() == tokens_of("float16").tobytes()
    assert len(fetched) == 1
    assert not fetched[0].exists()


def test_rewritten_part_lacks_exactly_the_dropped_rows(store: Store) -> None:
    ref = part(store)
    new = rewrite_part(store, PREFIX, 0, ref, drop={KEYS[0], KEYS[4], b"?" * 16}, fingerprint="model-a")
    assert new is not None
    back = read_part(store, new, fingerprint="model-a")
    kept = [1, 2, 3, 5]
    assert back.keys == [KEYS[row] for row in kept]
    assert np.array_equal(back.labels, LABELS[kept])
    assert back.tokens.tobytes() == tokens_of("float16")[kept].tobytes()
    assert KEYS[4] not in store.read(new.key)
    assert store.exists(ref.key)
    assert rewrite_part(store, PREFIX, 0, ref, drop=set(), fingerprint="model-a") == ref
    assert rewrite_part(store, PREFIX, 0, ref, drop=set(KEYS), fingerprint="model-a") is None


@pytest.mark.parametrize(
    "change",
    [
        {"keys": KEYS[:5]},
        {"keys": [*KEYS[:5], b"short"]},
        {"labels": LABELS.astype(np.int32)},
        {"labels": LABELS[:5]},
        {"tokens": np.zeros((6, 12), np.float16)},
        {"tokens": np.zeros((6, 0, 4), np.float16)},
        {"tokens": np.zeros((6, 3, 4), np.float32)},
        {"dtype": "bfloat16"},
        {"dtype": "float32"},
    ],
)
def test_wrong_rows_are_refused(tmp_path: Path, change: dict) -> None:
    store = Store(str(tmp_path))
    rows = {"keys": KEYS, "labels": LABELS, "tokens": tokens_of("float16"), "dtype": "float16", "fingerprint": "f"}
    with pytest.raises(UsageError, match="expected"):
        write_part(store, "p", 0, **{**rows, **change})
    assert store.list() == []


def test_delta_comes_back_exactly(store: Store) -> None:
    ref = write_delta(store, FOLDER, 3, DELTA, META)
    assert ref.key == f"deltas/shard=00017/000003-{ref.digest[:16]}.safetensors"
    assert DeltaRef.from_json(ref.to_json()) == ref
    tensors, meta = read_delta(store, ref)
    assert meta == META
    assert list(tensors) == sorted(DELTA)
    for name, tensor in tensors.items():
        assert tensor.dtype == np.int64
        assert tensor.shape == DELTA[name].shape
        assert np.array_equal(tensor, DELTA[name])
    assert read_delta(store, write_delta(store, FOLDER, 0, {}, {})) == ({}, {})


def test_equal_deltas_have_equal_bytes_in_every_process(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    shuffled = {name: np.asarray(DELTA[name], order="F") for name in reversed(DELTA)}
    refs = {write_delta(store, FOLDER, 0, tensors, META) for tensors in (DELTA, shuffled)}
    code = f"from test_data_files import *; print(write_delta(Store({str(tmp_path)!r}), FOLDER, 0, DELTA, META).digest)"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {ref.digest for ref in refs} == {result.stdout.strip()}
    assert len(store.list()) == 1


def test_delta_must_be_on_the_grid(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int64"):
        write_delta(Store(str(tmp_path)), FOLDER, 0, {"w": np.zeros(2)}, {})
    with pytest.raises(UsageError, match="strings"):
        write_delta(Store(str(tmp_path)), FOLDER, 0, {}, {"x": 1})  # pyright: ignore[reportArgumentType]


def test_checkpoint_comes_back_bit_for_bit(store: Store) -> None:
    folder = rundir.checkpoint_folder(17)
    ref = write_checkpoint(store, folder, 3, CHECKPOINT, META)
    assert ref.key == f"checkpoints/shard=00017/003-{ref.digest[:16]}.safetensors"
    assert CheckpointRef.from_json(ref.to_json()) == ref
    assert ref.bytes == len(store.read(ref.key))
    tensors, meta = read_checkpoint(store, ref)
    assert meta == META
    assert list(tensors) == sorted(CHECKPOINT)
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        assert tensor.shape == CHECKPOINT[name].shape
        assert tensor.tobytes() == CHECKPOINT[name].tobytes()
    assert write_checkpoint(store, folder, 3, CHECKPOINT, META) == ref
    assert len(store.list()) == 1


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64])
def test_checkpoint_must_be_float32(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(UsageError, match="expected float32 tensors"):
        write_checkpoint(Store(str(tmp_path)), FOLDER, 1, {"w": np.zeros(2, dtype)}, {})
    assert Store(str(tmp_path)).list() == []


def test_manifest_comes_back(store: Store) -> None:
    assert read_manifest(store) is None
    written = write_manifest(store, ROWS, {"rejected": {"corrupt": 2}})
    back = read_manifest(store)
    assert back is not None
    assert back.table.equals(ROWS)
    assert (back.key, back.digest) == (written.key, written.digest)
    assert back.meta == written.meta == {"rejected": {"corrupt": 2}}
    assert back.key == f"manifest/rows-{back.digest[:16]}.parquet"
    assert parse_json(store.read("manifest/_MANIFEST.json"))["rows"] == 6


def test_rewritten_manifest_leaves_no_old_rows(store: Store) -> None:
    write_manifest(store, ROWS, {})
    store.write("manifest/rows-0123456789abcdef.parquet", b"left by a crash")
    new = write_manifest(store, ROWS.slice(0, 4), {})
    assert [info.key for info in store.list("manifest/")] == ["manifest/_MANIFEST.json", new.key]
    assert write_manifest(store, ROWS.slice(0, 4), {}).digest == new.digest
    back = read_manifest(store)
    assert back is not None
    assert back.table.num_rows == 4


def test_a_crash_between_the_two_writes_keeps_the_old_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    old = write_manifest(store, ROWS, {})

    def write(key: str, data: bytes) -> None:
        if key.endswith(".json"):
            raise KeyboardInterrupt
        Store.write(store, key, data)

    monkeypatch.setattr(store, "write", write)
    with pytest.raises(KeyboardInterrupt):
        write_manifest(store, ROWS.slice(0, 4), {})
    back = read_manifest(Store(str(tmp_path)))
    assert back is not None
    assert back.key == old.key


def test_missing_rows_file_is_found_and_named(store: Store) -> None:
    key = write_manifest(store, ROWS, {}).key
    store.delete(key)
    with pytest.raises(IntegrityError, match=key):
        read_manifest(store)


def test_manifest_that_says_other_things_than_its_rows_is_found(store: Store) -> None:
    """Whoever can seal a JSON can seal another; the rows' digest is what others commit to."""
    rows = pa.table({"key": [b"k" * 16]})
    written = write_manifest(store, rows, {"parts": {"0": [{"key": "cache/a"}]}})
    point_manifest(store, replace(written, meta={"parts": {"0": [{"key": "cache/b"}]}}))
    with pytest.raises(IntegrityError, match=r"_MANIFEST\.json .* says other things"):
        read_manifest(store)


def test_spec_is_written_once(store: Store) -> None:
    assert read_spec(store) is None
    write_spec(store, {"model": "vit", "shards": 4})
    write_spec(store, {"shards": 4, "model": "vit"})
    assert read_spec(store) == {"model": "vit", "shards": 4}
    with pytest.raises(SpecMismatch, match=r"\['seed', 'shards'\]; nothing was read in yet: remove the folder"):
        write_spec(store, {"model": "vit", "shards": 5, "seed": 1})
    store.write("cache/shard=00000/part-000.arrow", b"of a pass that was cut off")
    with pytest.raises(SpecMismatch, match="run it again with the options it was begun with"):
        write_spec(store, {"model": "vit", "shards": 5, "seed": 1})
    write_rows(store, pa.table({"key": [b"k" * 16]}), {})
    with pytest.raises(SpecMismatch, match=r"\['seed', 'shards'\]; choose another folder"):
        write_spec(store, {"model": "vit", "shards": 5, "seed": 1})
    assert read_spec(store) == {"model": "vit", "shards": 4}


def test_id_key_is_made_once(store: Store) -> None:
    with pytest.raises(ObjectMissing):
        id_key(store, create=False)
    key = id_key(store, create=True)
    assert len(key) == 32
    assert id_key(store, create=True) == id_key(store, create=False) == key
    store.delete(rundir.ID_KEY)
    assert id_key(store, create=True) != key


def test_keys_of_the_run_folder() -> None:
    assert rundir.shard_prefix(17) == "cache/shard=00017"
    assert rundir.delta_folder(17) == "deltas/shard=00017"
    assert rundir.checkpoint_folder(17) == "checkpoints/shard=00017"
    assert rundir.MONOLITH_FOLDER == "deltas/monolith"
    assert rundir.composed_key("ab") == "composed/ab.safetensors"
    assert rundir.certificate_key("r1", "d" * 64) == f"certificates/r1-{'d' * 16}.json"
    assert rundir.report_key("a.html") == "reports/a.html"
    assert "secret" not in rundir.eval_prefix("s3://secret/data")


def _part(store: Store) -> tuple[str, Callable[[], object]]:
    ref = part(store)
    return ref.key, lambda: read_part(store, ref, fingerprint="model-a")


def _delta(store: Store) -> tuple[str, Callable[[], object]]:
    ref = write_delta(store, FOLDER, 0, DELTA, META)
    return ref.key, lambda: read_delta(store, ref)


def _checkpoint(store: Store) -> tuple[str, Callable[[], object]]:
    ref = write_checkpoint(store, rundir.checkpoint_folder(17), 1, CHECKPOINT, META)
    return ref.key, lambda: read_checkpoint(store, ref)


def _manifest(store: Store) -> tuple[str, Callable[[], object]]:
    write_manifest(store, ROWS, {"a": 1})
    return "manifest/_MANIFEST.json", lambda: read_manifest(store)


def _rows(store: Store) -> tuple[str, Callable[[], object]]:
    return write_manifest(store, ROWS, {}).key, lambda: read_manifest(store)


def _spec(store: Store) -> tuple[str, Callable[[], object]]:
    write_spec(store, {"model": "vit"})
    return rundir.SPEC_KEY, lambda: read_spec(store)


def _secret(store: Store) -> tuple[str, Callable[[], object]]:
    id_key(store, create=True)
    return rundir.ID_KEY, lambda: id_key(store, create=True)


@pytest.mark.parametrize("make", [_part, _delta, _checkpoint, _manifest, _rows, _spec, _secret])
def test_every_damage_is_found_and_named(store: Store, make: Callable) -> None:
    key, read = make(store)
    data = store.read(key)
    read()
    spots = np.linspace(0, len(data) - 1, len(data) if store.local and len(data) < 300 else 12).astype(int)
    damaged = [data[:spot] for spot in spots[:: max(1, len(spots) // 6)]]
    damaged += [data[:spot] + bytes([data[spot] ^ 1]) + data[spot + 1 :] for spot in spots]
    for bytes_ in (*damaged, data + b"\0"):
        store.write(key, bytes_)
        with pytest.raises(IntegrityError, match=key):
            read()
    store.write(key, data)
    read()


def test_truncated_part_is_found_without_verifying(store: Store) -> None:
    ref = part(store)
    store.write(ref.key, store.read(ref.key)[:-8])
    with pytest.raises(IntegrityError, match=ref.key):
        read_part(store, ref, fingerprint="model-a", verify=False)
    with pytest.raises(IntegrityError, match=ref.key):
        read_part(store, replace(ref, bytes=ref.bytes - 8), fingerprint="model-a", verify=False)


@pytest.mark.parametrize(
    "columns",
    [
        {"label": LABELS, "tokens": [[0.0]] * 6},
        {"key": pa.nulls(6), "label": LABELS, "tokens": [[0.0]] * 6},
        {"key": [1, 2, 3, 4, 5, 6], "label": LABELS, "tokens": [[0.0]] * 6},
        {"key": KEYS, "label": LABELS, "tokens": [0.0] * 6},
        {"key": KEYS, "label": ["a"] * 6, "tokens": [[0.0]] * 6},
    ],
    ids=["no keys", "null keys", "numbers for keys", "flat tokens", "words for labels"],
)
@pytest.mark.parametrize("verify", [True, False])
def test_a_file_that_is_no_part_is_refused(store: Store, columns: dict, verify: bool) -> None:
    metadata = {"fingerprint": "model-a", "dtype": "float16", "shape": "3,4"}
    table = pa.table({name: pa.array(values) for name, values in columns.items()}).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    store.write("part-000.arrow", data)
    ref = PartRef("part-000.arrow", digest_bytes(data), 6, len(data))
    with pytest.raises(IntegrityError, match="not a part of an activation cache"):
        read_part(store, ref, fingerprint="model-a", verify=verify)


@pytest.mark.parametrize("expected_bytes", [0, 1])
def test_an_empty_file_is_no_part(store: Store, expected_bytes: int) -> None:
    store.write("part-000.arrow", b"")
    ref = PartRef("part-000.arrow", digest_bytes(b""), 6, expected_bytes)
    with pytest.raises(IntegrityError, match=r"part-000\.arrow"):
        read_part(store, ref, fingerprint="model-a")

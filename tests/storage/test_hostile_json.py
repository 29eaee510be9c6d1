"""JSON that somebody else wrote: whatever it is, one error of ours that names the object, never a traceback."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from taft_ray.errors import IntegrityError, TaftError, UsageError
from taft_ray.plans.fold import replay
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.spec_file import parse_spec_file
from taft_ray.proof.signature import read_signature
from taft_ray.run.spec import run_spec
from taft_ray.storage import Ledger, Store, Tombstones, json_object, parse_json, read_manifest, read_spec, write_spec
from taft_ray.storage.digest import digest_json, seal

HOSTILE = {
    "deep nesting": b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "a huge number": b'{"a": ' + b"9" * 10_000 + b"}",
    "a huge float": b'{"a": 1e999}',
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "a field twice": b'{"a": 1, "a": 2}',
    "no UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a list": b"[1]",
    "null": b"null",
    "a text": b'"run"',
    "nothing": b"",
    "cut": b'{"spec": {',
}


@pytest.fixture(params=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> bytes:
    return HOSTILE[request.param]


def test_object_of_json_is_named(hostile: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"reports/x\.json is damaged"):
        json_object(hostile, "reports/x.json")


def read_tombstone(store: Store) -> None:
    Tombstones(store, "a" * 64).read()


READERS: dict[str, tuple[str, Callable[[Store], object]]] = {
    "spec": ("run/run.json", read_spec),
    "ledger": ("run/ledger/00000000000000000000.json", lambda store: Ledger(store).entries()),
    "manifest": ("run/manifest/_MANIFEST.json", read_manifest),
    "tombstone": (f"run.tombstones/{'a' * 32}/request.json", read_tombstone),
}


@pytest.mark.parametrize("kind", READERS)
def test_every_kind_of_object_names_itself(tmp_path: Path, hostile: bytes, kind: str) -> None:
    key, read = READERS[kind]
    path = tmp_path / key
    path.parent.mkdir(parents=True)
    path.write_bytes(hostile)
    with pytest.raises(IntegrityError, match=path.name):
        read(Store(str(tmp_path / "run")))


def test_signature_and_spec_file_are_refused(hostile: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"x\.json"):
        read_signature(hostile, "x.json")
    with pytest.raises(UsageError, match=r"best\.json"):
        parse_spec_file(hostile, "best.json")


@pytest.mark.parametrize("spec", [[], {}, {"data": 3}, {"data": "d", "model": "m", "shards": "many"}, None, "text"])
def test_sealed_spec_with_wrong_fields_is_refused(tmp_path: Path, spec: object) -> None:
    store = Store(str(tmp_path))
    write_spec(store, spec)  # type: ignore[arg-type]
    with pytest.raises(TaftError):
        run_spec(store)


@pytest.mark.parametrize("body", [{}, {"shard": "x"}, {"request": 1, "hashes": 3}, {"samples": 7}, {"shards": []}])
@pytest.mark.parametrize(
    "kind", ["cached", "trained", "dropped", "forget-requested", "quarantined", "repaired", "newer"]
)
def test_sealed_entry_with_wrong_fields_is_refused(tmp_path: Path, kind: str, body: dict[str, object]) -> None:
    store = Store(str(tmp_path))
    fields = {"number": 0, "prev": "0" * 64, "kind": kind, "op": "op", "time": "now", "body": body}
    store.write("ledger/00000000000000000000.json", seal(fields, "digest"))
    with pytest.raises(IntegrityError, match=kind):
        replay(Ledger(store).entries())


@pytest.mark.parametrize("facts", [{}, {"request": "other"}, {"request": "request", "hashes": "abc", "mode": "drop"}])
def test_sealed_tombstone_with_wrong_fields_is_refused(tmp_path: Path, facts: dict[str, object]) -> None:
    path = tmp_path / "run.tombstones" / ("a" * 32) / "request.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(seal(facts, "self"))
    with pytest.raises(IntegrityError, match=path.name):
        read_tombstone(Store(str(tmp_path / "run")))


def test_what_is_written_is_read_back() -> None:
    values = RunSpec(data="d", model="m").to_json()
    assert parse_json(json.dumps(values)) == values
    assert digest_json(parse_json(json.dumps({"x": [1e-300, 2**60, "é", None]}))) == digest_json(
        {"x": [1e-300, 2**60, "é", None]}
    )

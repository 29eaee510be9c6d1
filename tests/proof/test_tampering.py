"""Every byte counts: whatever is changed, cut, appended, removed or exchanged in a run's folder is found and named."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from proved import Held, evidence_of, problems_of

from taft_ray.errors import IntegrityError
from taft_ray.proof import checks
from taft_ray.proof.evidence import Evidence
from taft_ray.proof.verify_run import verify
from taft_ray.run.spec import run_spec
from taft_ray.storage import Ledger, entry_key

Proved = tuple[Path, dict[str, dict[str, Any]]]
POSITIONS = 500


@pytest.fixture(scope="module")
def held(proved: Proved, tmp_path_factory: pytest.TempPathFactory) -> Held:
    return Held(proved[0], tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def evidence(held: Held) -> Evidence:
    return evidence_of(held)


def spec(evidence: Evidence) -> None:
    with evidence.examining("spec"):
        run_spec(evidence.store)


def positions(size: int, seed: str) -> Sequence[int]:
    """Every byte of a small object; of a large one the first and last 64, and as many more at random."""
    if size <= 8192:
        return range(size)
    ends = {*range(64), *range(size - 64, size)}
    return sorted(ends | {*random.Random(seed).sample(range(size), POSITIONS)})


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << at % 8
    return bytes(changed)


KINDS: dict[str, tuple[str, Callable[[Evidence], Any]]] = {
    "spec": ("run.json", spec),
    "key": ("keys/id.key", checks.secret),
    "manifest's description": ("manifest/_MANIFEST.json", checks.manifest),
    "manifest": ("manifest/rows-", checks.manifest),
    "base": ("base/", checks.base),
    "delta": ("deltas/", checks.deltas),
    "snapshot": ("composed/", checks.snapshots),
    "certificate": ("certificates/", checks.certificates),
    "cache part": ("cache/", checks.cache),
    "evaluation cache": ("eval/", checks.evaluation_caches),
}


def objects_of(held: Held, kind: str) -> list[str]:
    """Two objects of a kind, or as many as there are. For certificates one and its signature; one part, as it is long to read."""
    found = [key for key in held.objects if key.startswith(KINDS[kind][0])]
    if kind == "certificate":
        signature = next(key for key in found if ".signature." in key)
        request = signature.partition("/")[2].partition(".")[0]
        return [signature, next(key for key in found if f"{request}-" in key)]
    return found[: 1 if kind == "cache part" else 2]


def standing(evidence: Evidence, kind: str, key: str) -> Evidence:
    """The evidence that a check stands on, read from the intact run; of the certificates, those of one request."""
    if kind == "cache part":
        checks.manifest(evidence)
    if kind == "snapshot":
        checks.deltas(evidence)
    assert evidence.problems == []
    if kind != "certificate":
        return evidence
    one = {name: request for name, request in evidence.state.requests.items() if name in key}
    return replace(evidence, state=replace(evidence.state, requests=one))


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_of_it_counts(held: Held, evidence: Evidence, kind: str) -> None:
    check = KINDS[kind][1]
    for key in objects_of(held, kind):
        data, stands = held.objects[key], standing(evidence, kind, key)
        assert problems_of(stands, check) == []
        for at in positions(len(data), key):
            with held.changed(key, flipped(data, at)):
                found = problems_of(stands, check)
            assert any(key.rpartition("/")[2] in problem for problem in found), (key, at, found)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_at_any_length_it_is_found(held: Held, evidence: Evidence, kind: str) -> None:
    check = KINDS[kind][1]
    for key in objects_of(held, kind):
        data, stands = held.objects[key], standing(evidence, kind, key)
        for length in positions(len(data), key):
            with held.changed(key, data[:length]):
                found = problems_of(stands, check)
            assert any(key.rpartition("/")[2] in problem for problem in found), (key, length, found)


def damaged(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield flipped(data, at)
        yield data[:at]


def test_every_byte_of_every_ledger_entry_counts(held: Held) -> None:
    """A reader that has verified the entries before it reads the damaged one; the chain itself is the next test's."""
    ledger, number = Ledger(held), 0
    entries = {key: held.objects[key] for key in held.objects if key.startswith("ledger/")}
    for key in entries:
        del held.objects[key]
    try:
        while entry_key(number) in entries:
            key = entry_key(number)
            for data in damaged(entries[key]):
                held.objects[key] = data
                with pytest.raises(IntegrityError, match=key):
                    ledger.refresh()
            held.objects[key] = entries[key]
            assert [entry.number for entry in ledger.refresh()] == [number]
            number += 1
    finally:
        held.objects |= entries
    assert number == len(entries) > 20


def test_damaged_ledger_entry_stops_verify_and_is_named(held: Held, evidence: Evidence) -> None:
    for key in [key for key in held.objects if key.startswith("ledger/")]:
        data = held.objects[key]
        for at in (0, len(data) // 2, len(data) - 1):
            with held.changed(key, flipped(data, at)):
                found = problems_of(evidence, checks.chain)
            assert any(key in problem for problem in found), (key, at, found)


def all_objects(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def test_intact_run_has_no_problem(proved: Proved) -> None:
    answer = verify(str(proved[0]))
    assert answer["problems"] == []
    assert answer["checks"]["certificates"] == 3
    assert answer["checks"]["signatures"] == 2
    assert answer["checks"]["snapshots"] == 2
    assert answer["checks"]["evaluation samples"] == 48
    assert answer["notes"] == []


def test_each_object_is_missed(proved: Proved, copy_of: Callable[..., Path]) -> None:
    """With the head of an earlier `verify`: without it, nobody can tell that the newest entries were cut off."""
    run = copy_of(proved[0])
    head = verify(str(run))["head"]
    last = entry_key(len(list((run / "ledger").iterdir())) - 1)
    for key in all_objects(run):
        content = (run / key).read_bytes()
        (run / key).unlink()
        if key == "run.json":
            with pytest.raises(Exception, match=r"run\.json"):
                verify(str(run), head=head)
        elif key.startswith("composed/"):  # a cache of the ledger: it is made again when it is needed
            assert verify(str(run), head=head)["ok"]
        elif key == "keys/id.key":  # may be destroyed, and that is told
            answer = verify(str(run), head=head)
            assert answer["ok"]
            assert key in answer["notes"][0]
        else:
            answer = verify(str(run), head=head)
            assert not answer["ok"], key
            named = "ledger: the entry with digest" if key == last else key.rpartition("/")[2]
            assert any(named in problem for problem in answer["problems"]), (key, answer["problems"])
        (run / key).write_bytes(content)
    assert verify(str(run), head=head)["ok"]


def test_one_byte_more_is_found(proved: Proved, copy_of: Callable[..., Path]) -> None:
    run = copy_of(proved[0])
    for key in all_objects(run):
        content = (run / key).read_bytes()
        for more in (b"\0", b"\n"):
            (run / key).write_bytes(content + more)
            answer = verify(str(run))
            assert any(key.rpartition("/")[2] in problem for problem in answer["problems"]), (key, answer["problems"])
        (run / key).write_bytes(content)
    assert verify(str(run))["ok"]


@pytest.mark.parametrize(
    "pattern",
    [
        "ledger/*.json", "deltas/*/*.safetensors", "cache/**/*.arrow", "composed/*.safetensors", "certificates/*-*.json",
        "certificates/*.signature.json",
    ],
)  # fmt: skip
def test_two_exchanged_are_found(proved: Proved, copy_of: Callable[..., Path], pattern: str) -> None:
    run = copy_of(proved[0])
    one, other, *_ = sorted(run.glob(pattern))
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    problems = verify(str(run))["problems"]
    named = [path for path in (one, other) if any(path.name in problem for problem in problems)]
    assert named if pattern.startswith("ledger") else len(named) == 2, problems


@pytest.mark.parametrize(
    "key",
    [
        "notes.txt", "keys/other.key", "base/old.safetensors", "manifest/rows-dead.parquet", "manifest/more.json",
        "cache/shard=00000/part-000-dead.arrow", "deltas/shard=00000/000009-dead.safetensors", "deltas/monolith/x",
        "ledger/draft.json", "composed/dead.safetensors", "certificates/dead.json", "requests/dead.json", "eval/dead/x",
        "another/folder/x", "checkpoints/shard=00000/001-dead.safetensors",
    ],
)  # fmt: skip
def test_what_nobody_refers_to_is_named(proved: Proved, copy_of: Callable[..., Path], key: str) -> None:
    run = copy_of(proved[0])
    (run / key).parent.mkdir(parents=True, exist_ok=True)
    (run / key).write_bytes(b"left here")
    named = "eval/dead" if key.startswith("eval/") else key
    assert any(named in problem for problem in verify(str(run))["problems"])
    (run / key).unlink()
    (run / "reports").mkdir(exist_ok=True)
    (run / "reports" / "notes.html").write_bytes(b"anything")
    assert verify(str(run))["ok"]

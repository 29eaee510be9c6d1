"""Orphans: what nothing refers to, and nothing else."""

from history import Entry, cached, delta_ref, forget_entries, forgotten, trained

from taft_ray.plans.fold import replay
from taft_ray.plans.orphans import orphans

PARTS = {"0": [{"key": "cache/shard=00000/part-000-x.arrow"}]}
MANIFEST = "manifest/rows-m.parquet"
WANTED = [
    "run.json",
    "keys/id.key",
    "base/base.safetensors",
    "ledger/00000000000000000000.json",
    "manifest/_MANIFEST.json",
    MANIFEST,
    "cache/shard=00000/part-000-x.arrow",
    str(delta_ref(0, 1)["key"]),
    "composed/now.safetensors",
    "reports/report.html",
    "eval/abc/shard=00000/part-000-y.arrow",
]


def left(keys: list[str], *entries: Entry, composed: tuple[str, ...] = ("composed/now.safetensors",)) -> list[str]:
    return orphans(keys, replay([cached([5, 5]), trained(0, 5), *entries]), PARTS, composed, {MANIFEST})


def test_nothing_that_is_referred_to_is_an_orphan() -> None:
    assert left(WANTED) == []


def test_leftovers_of_killed_processes_are_orphans() -> None:
    planted = [
        "deltas/shard=00000/2-dead.safetensors",
        "deltas/monolith/1-dead.safetensors",
        "composed/old.safetensors",
        "certificates/dead.json",
        "manifest/rows-old.parquet",
        "cache/shard=00000/part-000-old.arrow",
        "cache/shard=00001/part-000.json",
    ]
    assert left(WANTED + planted) == planted


def test_parts_of_an_unfinished_pass_are_kept_for_the_next_one() -> None:
    assert orphans(["cache/shard=00000/part-000-z.arrow"], replay([]), {}, [], "") == []


def test_monolith_is_wanted_until_a_forget() -> None:
    key = "deltas/monolith/1-m.safetensors"
    fit = {"generation": 1, "samples": 10, "facts": {}}
    monolith = Entry("monolith-trained", {**fit, "delta": {"key": key, "digest": "d", "bytes": 8}})
    assert left([key], monolith) == []
    assert left([key], monolith, *forget_entries("r", "drop", ["h"], {0: 4})) == [key]


def test_delta_of_a_dropped_shard_is_an_orphan() -> None:
    key = str(delta_ref(0, 1)["key"])
    assert left([key], *forget_entries("r", "drop", ["h"], {0: 4})) == [key]


def test_certificate_is_wanted_once_it_is_committed() -> None:
    entries = forget_entries("r", "drop", ["h"], {0: 4})
    assert left(["certificates/r.json"], *entries) == ["certificates/r.json"]
    assert left(["certificates/r.json"], *entries, forgotten("r")) == []


def test_parts_of_data_that_is_being_added_are_at_work() -> None:
    begun = Entry("addition-begun", {"data": "more", "first": 2, "shards": 3, "number": 0})
    parts = [f"cache/shard={shard:05d}/part-000-z.arrow" for shard in range(2, 6)]
    assert left([*WANTED, *parts], begun) == parts[3:]
    assert left([*WANTED, "manifest/rows-000001-z.parquet"], begun) == []
    assert left([*WANTED, *parts]) == parts, "nothing is being added"

"""Facts of the ledger: typed, and the same JSON again, whichever version wrote it."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import observe
import pytest
from history import cached, created, forget_entries, forgotten, trained

from taft_ray.additive.settings import Policy, Settings, SiteGroup
from taft_ray.errors import IntegrityError
from taft_ray.plans.facts import (
    KINDS,
    Cached,
    Composed,
    Dropped,
    Fact,
    ForgetRequested,
    KeyDestroyed,
    Rewritten,
    Served,
    Trained,
    TriedSettings,
    Tuned,
    Withdrawn,
    fact_of,
    read_fact,
)
from taft_ray.storage import CheckpointRef, DeltaRef

POLICY = Policy((SiteGroup("blocks.0", 2), SiteGroup("blocks.1", 2)), (2, 4), (1.0, 2.0))
DELTA = DeltaRef("deltas/shard=00000/000001-d.safetensors", "d", 8)


@pytest.mark.parametrize(("version", "name"), [(one, name) for one, names in observe.KEPT.items() for name in names])
def test_every_entry_of_an_earlier_version_is_written_back_as_it_was(version: str, name: str, tmp_path: Path) -> None:
    observe.unpack(version, tmp_path)
    entries = [json.loads(path.read_bytes()) for path in sorted((tmp_path / name / "ledger").iterdir())]
    assert len({entry["kind"] for entry in entries}) > 3
    for entry in entries:
        assert read_fact(entry["kind"], entry["body"]).to_json() == entry["body"], entry["kind"]


@pytest.mark.parametrize(
    "fact",
    [
        Trained(0, 1, 5, 1, DELTA, {"seconds": 1.0}, ("p",), (CheckpointRef(1, "c", "d", 8),)),
        Dropped("r", (DELTA,), {"0": DELTA}, {"0": (1, 2)}),
        Rewritten("r", "m", "k", {"0": 4}, (), {"0": (CheckpointRef(1, "c", "d", 8),)}, {"0": 1}, (), (1,)),
        ForgetRequested("r", "drop", ("h",), (0,), deadline=7.5, runs_at=6.5, unplaced=True),
        KeyDestroyed(),
        Tuned(
            POLICY,
            "d",
            Settings(4, (1.0, 0.25), 1e-3, 2.0),
            (TriedSettings(4, (1.0, 1.0), 1e-3, None),),
            7,
            0.5,
            (0.1,),
        ),
        Tuned(None),
        Served("s", 5.0, 2.0, ("gram", "mean"), 2),
        Served("s", 5.0, 2.0, ("gram",), 2, ended=True),
        Withdrawn("r", "s", "d", 9, ("a-1",), ("b-1",), 5.0, 2.0, 7.25),
    ],
    ids=lambda fact: fact.KIND,
)
def test_fact_comes_back_from_json_with_its_types(fact: Fact) -> None:
    told = json.loads(json.dumps(fact.to_json()))
    assert fact_of(type(fact), told) == fact
    assert fact_of(type(fact), told).to_json() == told


def test_field_of_a_newer_version_is_kept() -> None:
    body = {"mode": "mean", "digest": "d", "seconds": 1.0, "shards": 2, "sites": ["north"]}
    assert fact_of(Composed, body).to_json() == body


def test_what_was_not_asked_for_is_not_written() -> None:
    told = ForgetRequested("r", "drop", ("h",), (0,)).to_json()
    assert not {"deadline", "runs_at", "unplaced", "restored", "composed_before_unknown"} & told.keys()
    assert told["owners"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_missing_field_is_named(kind: str) -> None:
    required = [
        f.name for f in dataclasses.fields(KINDS[kind]) if f.default is f.default_factory is dataclasses.MISSING
    ]
    for name in required:
        body: Mapping[str, Any] = {other: [] for other in required if other != name}
        with pytest.raises(IntegrityError, match=rf"{kind}.* lacks {name}"):
            read_fact(kind, body)


def test_kinds_are_those_of_the_entries_that_tests_make() -> None:
    entries = [created(), cached([5]), trained(0, 5), *forget_entries("r", "drop", ["h"], {0: 4}), forgotten("r")]
    assert all(isinstance(read_fact(entry.kind, entry.body), KINDS[entry.kind]) for entry in entries)
    assert isinstance(read_fact("cached", cached([5, 0]).body), Cached)

"""The same bytes under several ids: counted, left where nobody asked for them, and taken along when they are asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import composed_without, holders, plain_forget, shard_of
from plain import plain_train
from tiny import picture

from taft_ray.composer.composer import Composer
from taft_ray.data.identical import contents_of, identical_counts, say
from taft_ray.data.keys import content_hash, picture_digest, sample_key
from taft_ray.errors import UsageError
from taft_ray.prefix import cache
from taft_ray.proof.verify_run import verify
from taft_ray.run.record import Record
from taft_ray.storage import Ledger, Store, id_key, read_manifest
from taft_ray.verbs.forget import Selection

SHARDS = 3
TWINS = ("ant/5.png", "ant/copy of 5.png", "bee/the same.png", "bee/twin.png")  # in two shards at least
PAIR = ("bee/1.png", "bee/1 again.png")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures, one of which has four names, and another two."""
    folder = tmp_path_factory.mktemp("twins")
    named = {f"{('ant', 'bee')[n % 2]}/{n}.png": n for n in range(26)}
    named |= dict.fromkeys(TWINS, 5) | dict.fromkeys(PAIR, 1)
    named.pop("bee/5.png", None)
    for name, number in named.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(picture(number))
    return folder


@pytest.fixture
def run(tmp_path: Path, source: Path, spec_of: Callable[..., Any]) -> Path:
    plain_train(tmp_path / "run", spec_of(source, shards=SHARDS, compose="mean"))
    return tmp_path / "run"


def _homes(names: tuple[str, ...]) -> set[int]:
    return {shard_of(name, SHARDS) for name in names}


def test_twins_are_counted(run: Path) -> None:
    counts = next(entry.body["counts"] for entry in Ledger(Store(str(run))).entries() if entry.kind == "cached")
    assert counts["identical"] == {"pictures": 2, "samples": len(TWINS) + len(PAIR)}
    (text,) = say(counts)
    assert text.startswith("2 pictures occur more than once, under 6 ids")
    assert "--with-identical" in text
    assert say({}) == say(None) == []


def test_a_forget_reaches_the_ids_it_names_unless_told_otherwise(run: Path) -> None:
    composer = Composer(str(run))
    alone, all_of_them = Selection(ids=TWINS[:1]), Selection(ids=TWINS[:1], with_identical=True)
    said = composer.estimate(alone, "drop")
    assert (said["samples_to_forget"], said["identical_that_stay"]) == (1, 3)
    said = composer.estimate(all_of_them, "drop")
    assert said["samples_to_forget"] == len(TWINS)
    assert "identical_that_stay" not in said
    assert set(said["shards"]) == _homes(TWINS)
    assert len(_homes(TWINS)) > 1, "the test needs twins in other shards too"

    certificate = plain_forget(run, TWINS[:1], "drop")
    assert certificate["samples"] == 1
    table = Record(str(run)).manifest().table
    assert identical_counts(table)["identical"] == {"pictures": 2, "samples": len(TWINS) - 1 + len(PAIR)}


def test_twins_go_along_with_nothing_left_of_them(run: Path) -> None:
    """Rows, tokens and the hash of the bytes are gone; the model is the one without their shards."""
    secret = id_key(Store(str(run)), create=False)
    content = content_hash(picture_digest(picture(5)), secret)
    keys = {sample_key(name, 0) for name in TWINS}
    rows = Record(str(run)).manifest().table
    assert {
        key for key, value in zip(rows["key"].to_pylist(), rows["content"].to_pylist(), strict=True) if value == content
    } == keys
    composer = Composer(str(run))
    expected = composed_without(run, _homes(TWINS), "mean")
    asked = composer.request_forget(Selection(ids=TWINS[1:2], with_identical=True), "drop")
    composer.resume_forget(asked["request"])
    certificate = composer.conclude_forget(asked["request"], {"retrain_seconds": None})
    assert certificate["samples"] == len(TWINS)
    left = Record(str(run)).manifest().table
    assert not keys & set(left["key"].to_pylist())
    assert content not in left["content"].to_pylist()
    assert not holders(run, content), "the hash of the bytes goes with the rows"
    assert composer.compose("mean")["digest"] == expected
    assert verify(str(run))["problems"] == []
    again = composer.request_forget(Selection(ids=TWINS[1:2], with_identical=True), "drop")
    assert again["request"] == asked["request"]
    assert again["done"]


def test_a_run_of_an_earlier_version_goes_on(
    tmp_path: Path, source: Path, spec_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest has no column of contents: nothing is counted, and the flag is refused with the way out."""
    monkeypatch.setattr(cache, "with_contents", lambda table, contents: table)
    run = tmp_path / "run"
    plain_train(run, spec_of(source, shards=SHARDS, compose="mean"))
    table = Record(str(run)).manifest().table
    assert "content" not in table.column_names
    assert identical_counts(table) == {}
    composer = Composer(str(run))
    assert "identical_that_stay" not in composer.estimate(Selection(ids=TWINS[:1]), "drop")
    with pytest.raises(UsageError, match="name all ids with --ids"):
        composer.estimate(Selection(ids=TWINS[:1], with_identical=True), "drop")
    assert plain_forget(run, TWINS[:1], "drop")["samples"] == 1
    assert verify(str(run))["problems"] == []


def test_a_pass_that_an_earlier_version_began_is_finished(run: Path, source: Path) -> None:
    """Its markers have no contents; their samples count as different ones."""
    answers = [{"keys": ["00" * 16, "01" * 16], "contents": ["aa" * 16, "aa" * 16]}, {"keys": ["02" * 16]}]
    assert set(contents_of(answers)) == {bytes(16), b"\1" * 16}


def test_other_runs_call_the_same_bytes_otherwise(
    run: Path, tmp_path: Path, source: Path, spec_of: Callable[..., Any]
) -> None:
    """The hash is keyed by the run's secret: it does not tell who has a picture."""
    plain_train(tmp_path / "other", spec_of(source, shards=SHARDS, compose="mean"))
    here, there = (read_manifest(Store(str(path))) for path in (run, tmp_path / "other"))
    assert here is not None
    assert there is not None
    contents = [set(found.table["content"].drop_null().to_pylist()) for found in (here, there)]
    assert len(contents[0]) == len(contents[1])
    assert not contents[0] & contents[1]
    plain = picture_digest(picture(5))
    assert not holders(run, plain)
    assert json.dumps(plain.hex()) not in str(list(run.rglob("*")))

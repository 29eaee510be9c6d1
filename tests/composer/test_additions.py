"""Data is added to a run: the model is that of a run that had it from the start. Nothing that was there is touched."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folder import computed_digest, copy_run, files, flip_a_byte, holders, plain_forget, state_of
from plain import InlinePasses, plain_add, plain_train
from tiny import CLASSES, SAMPLES, owner_of, picture, sample_id, write_parquet
from without_ray import without_ray

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.data import sample_key
from taft_ray.errors import CommitConflict, UnknownSample, UsageError
from taft_ray.plans.additions import Added
from taft_ray.prefix.additions import index_more, nothing_added, read_more, shards_for
from taft_ray.progress import silent
from taft_ray.proof.verify_run import verify
from taft_ray.run.record import Record
from taft_ray.run.rows import model_of
from taft_ray.run.snapshots import load_arrays
from taft_ray.storage import Store, id_key, manifest
from taft_ray.verbs.gc import gc
from taft_ray.verbs.repair import repair
from taft_ray.verbs.status import status
from taft_ray.verbs.tune import policy_of
from taft_ray.workers.row_worker import RowWorker

FIRST = range(80)  # what the runs here begin with
REST = range(80, SAMPLES)
FOUR = (*CLASSES, "dog")


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[int]], Path]:
    def write(numbers: Sequence[int]) -> Path:
        return write_parquet(tmp_path_factory.mktemp("more") / "data", numbers)

    return write


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, additive: Any, more: Any) -> Path:
    run = tmp_path_factory.mktemp("first") / "run"
    plain_train(run, additive(more(FIRST)))
    return run


@pytest.fixture
def run(first: Path, copy_of: Callable[..., Path]) -> Path:
    return copy_of(first)


@pytest.fixture
def in_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests of a few rows are kept in several objects."""
    monkeypatch.setattr(manifest, "SEGMENT_ROWS", 16)


@pytest.fixture(scope="module")
def from_the_start(tmp_path_factory: pytest.TempPathFactory, additive: Any, more: Any) -> Callable[..., str]:
    """The digest of a run that had these pictures all at once."""

    def train(numbers: Sequence[int], data: Path | None = None, classes: Sequence[str] = CLASSES) -> str:
        run = tmp_path_factory.mktemp("start") / "run"
        plain_train(run, additive(data or more(numbers), shards=2, classes=tuple(classes)))
        return str(computed_digest(run))

    return train


def with_dogs(folder: Path, numbers: Sequence[int]) -> Path:
    """Pictures of a class that the runs here do not begin with, and of one that they do."""
    folder.mkdir()
    columns = {
        "image": [picture(n) for n in numbers],
        "label": ["dog" if n % 2 else "bee" for n in numbers],
        "id": [sample_id(n) for n in numbers],
        "owner": [owner_of(n) for n in numbers],
    }
    pq.write_table(pa.table(columns), folder / "part.parquet")
    return folder


def cached(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for name in ("cache", "deltas") for path in files(run, name)}


@pytest.mark.parametrize("shards", [1, 3, 20])
def test_model_is_that_of_a_run_that_had_all_from_the_start(
    run: Path, more: Any, from_the_start: Any, shards: int
) -> None:
    before = cached(run)
    plain_add(run, more(REST), shards)
    assert computed_digest(run) == from_the_start(range(SAMPLES))
    assert before.items() <= cached(run).items(), "something that was there was written again"
    assert len(state_of(run).shards) == 4 + shards
    assert verify(str(run))["problems"] == []


def test_one_addition_after_another(run: Path, more: Any, from_the_start: Any, in_segments: None) -> None:
    for start in range(80, SAMPLES, 10):
        plain_add(run, more(range(start, start + 10)))
    assert computed_digest(run) == from_the_start(range(SAMPLES))
    told = status(str(run))
    assert [one["shards"] for one in told["additions"]] == [[4], [5], [6], [7]]
    assert [one["samples"] for one in told["additions"]] == [10] * 4
    assert told["data"]["kept"] == SAMPLES
    assert verify(str(run))["problems"] == []


def test_new_class_is_a_new_output(run: Path, tmp_path: Path, more: Any, additive: Any) -> None:
    plain_add(run, with_dogs(tmp_path / "dogs", range(200, 220)), 2)
    whole = tmp_path / "all"
    whole.mkdir()
    for number, source in enumerate((more(FIRST), tmp_path / "dogs")):
        for path in source.iterdir():
            (whole / f"{number}-{path.name}").write_bytes(path.read_bytes())
    plain_train(tmp_path / "run", additive(whole, classes=FOUR))
    assert state_of(run).classes == FOUR
    assert computed_digest(run) == computed_digest(tmp_path / "run")
    # a composer that starts from storage, and one that has the sums of before in memory
    warm = Composer(str(run))
    assert warm.composed_digest() == computed_digest(run)
    assert warm.class_names() == list(FOUR)
    assert verify(str(run))["problems"] == []
    plain_forget(run, [sample_id(201), sample_id(3)], "subtract")
    plain_forget(tmp_path / "run", [sample_id(201), sample_id(3)], "subtract")
    assert computed_digest(run) == computed_digest(tmp_path / "run")


def test_settings_are_chosen_anew_with_new_classes(run: Path, tmp_path: Path, more: Any, additive: Any) -> None:
    policy = replace(policy_of(additive(more(FIRST)), sizes=(24, 48), left_out=20), searched_at=24)
    Composer(str(run)).tuning.adopt(policy)
    plain_add(run, with_dogs(tmp_path / "dogs", range(200, 220)))
    composed, choice = Composer(str(run)).served()
    assert choice is not None
    assert choice.of == composed["digest"]
    assert verify(str(run))["problems"] == []
    model = model_of(Record(str(run)).spec, load_arrays(Store(str(run)), composed["key"]), choice)
    assert model.intercept.shape == (4,)


def test_known_and_forgotten_pictures_stay_as_they_are(run: Path, more: Any, from_the_start: Any) -> None:
    plain_forget(run, [sample_id(5)], "subtract")
    plain_forget(run, [], "subtract", owners=(owner_of(7),))
    plain_add(run, more(range(SAMPLES)), 2)
    gone = [n for n in range(SAMPLES) if n == 5 or owner_of(n) == owner_of(7)]
    assert computed_digest(run) == from_the_start([n for n in range(SAMPLES) if n not in gone])
    for n in gone:
        assert holders(run, sample_key(sample_id(n), 0)) == []
    (told,) = status(str(run))["additions"]
    assert told["known"] == len([n for n in FIRST if n not in gone])
    assert told["forgotten"] == len(gone)


@pytest.mark.parametrize("mode", ["subtract", "drop", "retrain"])
def test_added_picture_is_forgotten_like_any_other(
    run: Path, more: Any, from_the_start: Any, mode: str, in_segments: None
) -> None:
    plain_add(run, more(REST), 3)
    plain_forget(run, [sample_id(100), sample_id(2)], mode)
    if mode == "drop":
        plain_forget(run, [sample_id(100)], "retrain")
        plain_forget(run, [sample_id(2)], "retrain")
    assert computed_digest(run) == from_the_start([n for n in range(SAMPLES) if n not in (2, 100)])
    assert holders(run, sample_key(sample_id(100), 0)) == []
    assert verify(str(run))["problems"] == []
    with pytest.raises(UnknownSample):
        plain_forget(run, ["nobody"], "subtract")


def test_data_without_anything_new_changes_nothing(run: Path, more: Any) -> None:
    plain_forget(run, [sample_id(5)], "subtract")
    before = cached(run), computed_digest(run), len(Record(str(run)).ledger.entries())
    plain_add(run, more([5, 6, 7]))
    assert (cached(run), computed_digest(run), len(Record(str(run)).ledger.entries())) == before


def addition(run: Path, data: Path, shards: int = 1) -> tuple[Composer, Record, Any, Any, bytes]:
    """An addition as far as it is before its pass."""
    composer, record, secret = Composer(str(run)), Record(str(run)), id_key(Store(str(run)), create=False)
    found = index_more(InlinePasses(), str(data), record.spec, record.manifest(), record.state, secret)
    return composer, record, found, composer.begin_addition(str(data), shards), secret


@pytest.mark.parametrize("by_owner", [False, True])
def test_forget_while_data_is_read_in_wins(run: Path, more: Any, from_the_start: Any, by_owner: bool) -> None:
    composer, record, found, begun, secret = addition(run, more(REST), 2)
    asked: dict[str, Any] = {"owners": (owner_of(3),)} if by_owner else {}
    tries: list[Added | None] = []

    def admit(fact: Added, begun: Any) -> Added | None:
        if not tries:
            plain_forget(run, [] if by_owner else [sample_id(3)], "subtract", **asked)
        tries.append(composer.admit_addition(fact, begun))
        return tries[-1]

    read_more(InlinePasses(), str(run), record, begun, found, admit, secret, 1, silent)
    assert tries[0] is None
    assert len(tries) == 2
    plain_train(run, record.spec)
    gone = [n for n in range(SAMPLES) if (owner_of(n) == owner_of(3) if by_owner else n == 3)]
    assert computed_digest(run) == from_the_start([n for n in range(SAMPLES) if n not in gone])
    assert [name for n in gone for name in holders(run, sample_key(sample_id(n), 0))] == []
    assert verify(str(run))["problems"] == []


def test_addition_that_another_takes_the_place_of_leaves_nothing(run: Path, more: Any, from_the_start: Any) -> None:
    _, record, found, begun, secret = addition(run, more(range(80, 100)))

    def cut_off(fact: Added, begun: Any) -> Added | None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_more(InlinePasses(), str(run), record, begun, found, cut_off, secret, 1, silent)
    assert holders(run, sample_key(sample_id(90), 0)), "its parts are there"
    assert "goes on with it" in status(str(run))["to_do"][0]
    gc(str(run))
    assert [path for path in files(run, "cache") if "shard=00004" in str(path)], "a pass at work keeps its parts"
    assert verify(str(run))["problems"] == []
    plain_add(run, more(range(100, SAMPLES)))
    assert holders(run, sample_key(sample_id(90), 0)) == []
    assert computed_digest(run) == from_the_start([*FIRST, *range(100, SAMPLES)])
    assert sorted(state_of(run).shards) == [0, 1, 2, 3, 5], "the number of a dead shard is never used again"
    plain_forget(run, [sample_id(110)], "drop")
    assert status(str(run))["samples"] == sum(shard.samples for shard in state_of(run).shards.values())
    assert verify(str(run))["problems"] == []


def test_addition_of_which_nothing_is_new_any_more_ends(run: Path, more: Any) -> None:
    data = more(range(80, 100))
    composer, record, found, begun, secret = addition(run, data)

    def cut_off(fact: Added, begun: Any) -> Added | None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_more(InlinePasses(), str(run), record, begun, found, cut_off, secret, 1, silent)
    record.refresh()
    ended = nothing_added(begun, found, record.manifest(), record.state)
    assert composer.admit_addition(ended, begun) == ended
    assert state_of(run).adding is None
    assert len(state_of(run).shards) == 4
    assert holders(run, sample_key(sample_id(90), 0)) == []
    assert verify(str(run))["problems"] == []
    plain_add(run, data)
    assert len(state_of(run).in_model) == 5


@pytest.mark.parametrize("same", [False, True])
def test_late_pass_of_an_addition_commits_nothing(run: Path, more: Any, from_the_start: Any, same: bool) -> None:
    late, other = more(range(80, 100)), more(range(100, SAMPLES))
    composer, record, found, begun, secret = addition(run, late)
    kept: list[Added | None] = []

    def admit(fact: Added, begun: Any) -> Added | None:
        plain_add(run, late if same else other)
        kept.append(composer.admit_addition(fact, begun))
        return kept[-1]

    def read() -> None:
        read_more(InlinePasses(), str(run), record, begun, found, admit, secret, 1, silent)

    if same:
        read()
    else:
        with pytest.raises(CommitConflict, match="another addition took the place"):
            read()
    assert (kept == [None]) is not same, "the same pass to the byte is the same commit"
    assert computed_digest(run) == from_the_start([*FIRST, *(range(80, 100) if same else range(100, SAMPLES))])
    gc(str(run))
    assert verify(str(run))["problems"] == []


@pytest.mark.parametrize("what", ["cache/shard=00005/*.arrow", "cache/shard=00001/*.arrow", "manifest/rows-*.parquet"])
@pytest.mark.parametrize("how", [flip_a_byte, Path.unlink])
def test_damage_is_made_again_from_the_data_that_it_came_from(
    run: Path, more: Any, what: str, how: Callable[[Path], Any], in_segments: None
) -> None:
    plain_forget(run, [sample_id(1)], "subtract")
    plain_add(run, more(REST), 2)
    plain_forget(run, [sample_id(100), sample_id(2)], "subtract")
    before = computed_digest(run)
    for path in list(run.glob(what)):
        how(path)
    assert verify(str(run))["problems"]
    with without_ray(run, RowWorker(str(run), 3)):
        told = repair(str(run))
    assert told["not_repaired"] == []
    assert computed_digest(run) == before
    assert verify(str(run))["problems"] == []


def test_request_finds_its_shard_although_the_manifest_is_damaged(run: Path, more: Any) -> None:
    plain_add(run, more(REST), 3)
    expected = {
        name: shard
        for name in (sample_id(2), sample_id(100))
        for shard in state_of(run).shards
        if any(sample_key(name, 0) in path.read_bytes() for path in files(run, f"cache/shard={shard:05d}"))
    }
    for path in run.glob("manifest/rows-*.parquet"):
        flip_a_byte(path)
    composer = Composer(str(run))
    asked = composer.request_forget(Selection(ids=tuple(expected)), "drop")
    assert sorted(composer.snapshot().requests[asked["request"]].shards) == sorted(expected.values())


def test_restored_copy_of_before_an_addition_is_added_to_again(
    run: Path, tmp_path: Path, more: Any, from_the_start: Any
) -> None:
    copy_run(run, tmp_path / "older")
    plain_add(run, more(REST), 2)
    plain_add(tmp_path / "older", more(REST), 5)
    assert computed_digest(run) == computed_digest(tmp_path / "older") == from_the_start(range(SAMPLES))


def test_as_many_shards_as_the_run_has_for_so_many_pictures() -> None:
    assert shards_for(1, 1000, 10) == 1
    assert shards_for(500, 1000, 10) == 5
    assert shards_for(5, 0, 0) == 1


def test_number_among_names_is_no_new_class(run: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO(picture(300))
    folder = tmp_path / "odd"
    folder.mkdir()
    pq.write_table(
        pa.table({"image": [buffer.getvalue()] * 2, "label": ["7", "ant"], "id": ["x", "y"]}), folder / "a.parquet"
    )
    with pytest.raises(Exception, match="numbers") as told:
        addition(run, folder)
    assert "names" in str(told.value)


def test_tangent_run_takes_pictures_and_refuses_classes(tmp_path: Path, spec_of: Callable[..., Any], more: Any) -> None:
    run = tmp_path / "run"
    plain_train(run, spec_of(more(FIRST), shards=2, trainable="head"))
    before = cached(run)
    plain_add(run, more(REST), 1)
    assert before.items() <= cached(run).items()
    assert len(state_of(run).in_model) == 3
    assert verify(str(run))["problems"] == []


def test_bad_input_is_told(tmp_path: Path, additive: Any, more: Any) -> None:
    from taft_ray.verbs.train import train

    with pytest.raises(UsageError, match="add_shards=0"):
        train(str(tmp_path / "run"), additive(more(FIRST)), add="x", add_shards=0)
    with pytest.raises(UsageError, match="--add with it"):
        train(str(tmp_path / "run"), additive(more(FIRST)), add_shards=3)
    with pytest.raises(UsageError, match="no run at"):
        train(str(tmp_path / "run"), additive(more(FIRST)), add=str(more(REST)))
    assert not (tmp_path / "run").exists()

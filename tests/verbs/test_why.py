"""An explanation says what the answers are without a shard or an owner, as a forget would make them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import here
from folder import plain_forget
from plain import plain_train
from scipy.special import softmax
from tiny import CLASSES, SAMPLES, SHARDS, owner_of, picture

import taft_ray as tr
from taft_ray.additive import AdditiveModel
from taft_ray.data import sample_key
from taft_ray.errors import UnknownSample, UsageError
from taft_ray.run.model import build_tangent
from taft_ray.run.owned import sums_of_owners
from taft_ray.run.owner_groups import owner_groups
from taft_ray.run.record import Record
from taft_ray.run.rows import build_rows, model_of, sums_from
from taft_ray.run.snapshots import load_arrays
from taft_ray.storage import rundir as names
from taft_ray.verbs.tune import tune

ASKED = range(1000, 1006)
OWNERS = sorted({owner_of(n) for n in range(SAMPLES)})


@pytest.fixture(scope="module")
def additive(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("why") / "run"
    plain_train(run, spec_of(parquet, solver="additive", features=48))
    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("asked")
    for n in ASKED:
        (folder / f"{n}.png").write_bytes(picture(n))
    return sorted(folder.iterdir())


def rows_asked(run: Path, pictures: list[Path]) -> np.ndarray:
    """The rows of the pictures, by the parts that `predict` is made of."""
    from taft_ray.data import decode_image
    from taft_ray.prefix.tokens import prefix_tokens

    spec = Record(str(run)).spec
    maker, preprocess, _ = build_rows(spec)
    pixels = [decode_image(path.read_bytes(), preprocess.size, spec.exif_orientation) for path in pictures]
    return prefix_tokens(maker, preprocess, pixels, spec)[:, 0]


def test_owners_and_shards_are_left_out_as_by_a_subtraction(additive: Path, pictures: list[Path]) -> None:
    answer = tr.Run(additive).predict(pictures, why=True, owners=OWNERS)
    record = Record(str(additive))
    whole = sums_from(load_arrays(record.store, names.composed_key(answer.composed)))
    penalty, rows = AdditiveModel.of(whole).penalty, rows_asked(additive, pictures)
    assert answer.explained is not None
    assert (answer.explained.kind, answer.explained.penalty) == ("left-out pictures", penalty)
    assert answer.explained.groups == {"shard": SHARDS, "owner": len(OWNERS)}
    assert answer.explained.left_out == ()
    for owner in OWNERS:
        rest = whole.copy()
        rest.remove(sums_from(sums_of_owners(record, [owner])))
        expected = AdditiveModel.of(rest, penalty).scaled(record.spec.kappa).logits(rows)
        for at, one in enumerate(answer.predictions):
            assert one.why is not None
            found = next(group for group in one.why.groups if group.name == owner)
            assert found.group == "owner"
            assert found.samples == whole.n - rest.n
            assert np.abs(np.array(found.logits) - expected[at]).max() < 1e-9 * np.abs(expected[at]).max()
            assert found.label == answer.classes[int(expected[at].argmax())]
            label = answer.classes.index(one.label)
            others = np.delete(expected[at], label).max()
            assert found.margin == pytest.approx(expected[at][label] - others, rel=1e-9)
            assert found.change == pytest.approx((found.margin or 0.0) - one.why.margin)


def test_all_groups_are_ordered_by_what_they_change(additive: Path, pictures: list[Path]) -> None:
    for one in tr.Run(additive).predict(pictures, why=True).predictions:
        assert one.why is not None
        changes = [abs(group.change or 0.0) for group in one.why.groups]
        assert changes == sorted(changes, reverse=True)
        assert changes[0] > 0
        kinds = [group.group for group in one.why.groups]
        assert sum(group.samples for group in one.why.groups if group.group == "shard") == SAMPLES
        assert (kinds.count("shard"), kinds.count("owner")) == (SHARDS, len(OWNERS))


def test_a_forget_of_the_owner_gives_the_answer_that_was_told(
    additive: Path, copy_of: Callable[..., Path], pictures: list[Path]
) -> None:
    """Up to λ, which a forget chooses again: here it is the same."""
    run = copy_of(additive)
    before = tr.Run(run).predict(pictures, why=True, owners=OWNERS[:1])
    plain_forget(run, [], "subtract", owners=(OWNERS[0],))
    after = tr.Run(run).predict(pictures, why=True)
    assert before.explained is not None
    assert after.explained is not None
    assert before.explained.penalty == after.explained.penalty
    for one, then in zip(before.predictions, after.predictions, strict=True):
        assert one.why is not None
        assert then.why is not None
        (told,) = [group for group in one.why.groups if group.name == OWNERS[0]]
        assert told.logits == pytest.approx(then.why.logits, rel=1e-9, abs=1e-9)
        assert told.label == then.label


def test_settings_of_a_tuned_run_stay(additive: Path, copy_of: Callable[..., Path], pictures: list[Path]) -> None:
    run = copy_of(additive)
    tune(str(run), sizes=(24,), weights=(0.25,))
    answer = tr.Run(run).predict(pictures, why=True, owners=OWNERS[:1])
    record = Record(str(run))
    tuned = record.state.tuned
    assert tuned is not None
    assert tuned.policy is not None
    assert tuned.settings is not None
    assert answer.explained is not None
    assert answer.explained.penalty == tuned.settings.penalty
    arrays = load_arrays(record.store, names.composed_key(answer.composed))
    rows = rows_asked(run, pictures)
    whole = model_of(record.spec, arrays, tuned).logits(rows)
    rest = sums_from(arrays)
    rest.remove(sums_from(sums_of_owners(record, OWNERS[:1])))
    expected = AdditiveModel.chosen(rest, tuned.policy.groups, tuned.settings).logits(rows)
    for at, one in enumerate(answer.predictions):
        assert one.why is not None
        assert one.why.logits == pytest.approx(whole[at])
        (told,) = [group for group in one.why.groups if group.name == OWNERS[0]]
        assert told.logits == pytest.approx(expected[at], rel=1e-9, abs=1e-9)


def test_owners_are_named_by_whoever_knows_them_and_by_no_one_else(additive: Path, pictures: list[Path]) -> None:
    answer = tr.Run(additive).predict(pictures[:1], why=True, owners=OWNERS[:2])
    why = answer.predictions[0].why
    assert why is not None
    shown = {group.name for group in why.groups if group.group == "owner"}
    assert shown & set(OWNERS) == set(OWNERS[:2])
    keys = {sample_key(owner, 0).hex() for owner in OWNERS}
    assert not shown & keys, "a key that anyone can make of a guessed name"
    again = tr.Run(additive).predict(pictures[:1], why=True)
    assert again.predictions[0].why is not None
    hashes = {group.name for group in again.predictions[0].why.groups if group.group == "owner"}
    assert shown - set(OWNERS) < hashes, "the hash of an owner is the same each time"
    with pytest.raises(UnknownSample, match="owner nobody is not in this run's model"):
        tr.Run(additive).predict(pictures[:1], why=True, owners=["nobody"])


def test_limits_are_told(additive: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from taft_ray.run import owner_groups as limits
    from taft_ray.workers import explaining

    monkeypatch.setattr(limits, "MOST_OWNERS", 3)
    monkeypatch.setattr(explaining, "MOST_ASKED", 2)
    answer = tr.Run(additive).predict(pictures, why=True, owners=[OWNERS[7]])
    assert answer.explained is not None
    assert answer.explained.groups == {"shard": SHARDS, "owner": 3}
    behind, unasked = answer.explained.left_out
    assert behind == "4 pictures behind the first 2 are not explained"
    assert unasked.startswith("7 owners were not evaluated: at most 3")
    assert [one.why is not None for one in answer.predictions] == [True, True, False, False, False, False]


def test_without_the_key_only_named_owners_are_evaluated(
    additive: Path, copy_of: Callable[..., Path], pictures: list[Path]
) -> None:
    run = copy_of(additive)
    (run / names.ID_KEY).unlink()
    known = owner_groups(Record(str(run)), OWNERS[:1])
    assert list(known.names.values()) == OWNERS[:1]
    assert "the key of the id hashes was destroyed" in known.left_out[0]


@pytest.mark.parametrize("compose", ["mean", "gram", "joint"])
def test_shards_are_left_out_as_by_a_drop(
    compose: str, tmp_path: Path, parquet: Path, spec_of: Callable[..., Any], pictures: list[Path]
) -> None:
    run = tmp_path / "run"
    plain_train(run, spec_of(parquet, trainable="head", compose=compose, shards=3))
    answer = tr.Run(run).predict(pictures, why=True)
    assert answer.explained is not None
    assert answer.explained.kind == ("parts of the mean" if compose == "mean" else "left-out shards")
    assert answer.explained.groups == {"shard": 3}
    assert answer.explained.left_out[0].startswith("no owner was evaluated")
    for shard in range(3):
        copy = shutil.copytree(run, tmp_path / f"without {shard}")
        plain_forget(copy, [], "drop", shards=(shard,))
        for one, then in zip(answer.predictions, tr.Run(copy).predict(pictures).predictions, strict=True):
            assert one.why is not None
            (told,) = [group for group in one.why.groups if group.name == str(shard)]
            assert softmax(np.array(told.logits)) == pytest.approx(then.probabilities, abs=1e-5)
            assert told.label == then.label
            assert (told.part is not None) == (compose == "mean")


def test_parts_of_a_mean_add_up_to_the_tangent_term(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any], pictures: list[Path]
) -> None:
    run = tmp_path / "run"
    composer = plain_train(run, spec_of(parquet, compose="mean", shards=3, weighting="samples"))
    answer = tr.Run(run).predict(pictures, why=True)
    record = composer.record
    tm, _ = build_tangent(record.spec, len(CLASSES))
    from taft_ray.data import decode_image
    from taft_ray.models import Preprocess
    from taft_ray.prefix.tokens import prefix_tokens

    preprocess = Preprocess.of(tm.network)
    pixels = [decode_image(path.read_bytes(), preprocess.size, "ignore") for path in pictures]
    tokens = torch.from_numpy(prefix_tokens(tm, preprocess, pixels, record.spec))
    primal = tm.prepare(tokens).primal.double().numpy()
    for at, one in enumerate(answer.predictions):
        assert one.why is not None
        parts = np.sum([np.array(group.part) for group in one.why.groups], axis=0)
        assert np.abs(parts).max() > 0.01
        assert primal[at] + parts == pytest.approx(np.array(one.why.logits), abs=1e-4)


def test_nothing_is_left_without_the_only_shard(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any], pictures: list[Path]
) -> None:
    for number, options in enumerate(
        [{"compose": "mean", "trainable": "head"}, {"solver": "additive", "features": 48}]
    ):
        plain_train(tmp_path / str(number), spec_of(parquet, shards=1, **options))
        answer = tr.Run(tmp_path / str(number)).predict(pictures[:1], why=True)
        why = answer.predictions[0].why
        assert why is not None
        (shard,) = [group for group in why.groups if group.group == "shard"]
        assert (shard.label, shard.margin, shard.change, shard.logits) == (None, None, None, None)
        assert "shard 0" in str(answer)


def test_command_tells_it_as_a_table_and_as_json(additive: Path, pictures: list[Path]) -> None:
    told = here("predict", additive, pictures[0], "--why", "--owners", f"{OWNERS[0]},{OWNERS[1]}")
    assert told.code == 0, told.err
    for word in ("margin without", "class without", "owner ", "shard ", "explained by left-out pictures"):
        assert word in told.out
    answer = here("predict", additive, pictures[0], "--why", "--owners", f'"{OWNERS[0]}",{OWNERS[1]}', "--json").json
    shown = [group["name"] for group in answer["predictions"][0]["why"]["groups"]]
    assert {*OWNERS[:2]} < {*shown}
    assert tr.answers.Predictions.from_json(answer).to_json() == answer
    here("predict", additive, pictures[0], "--owners", OWNERS[0]).complains(2, "add --why")


def test_owners_of_a_run_of_deltas_are_refused(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any], pictures: list[Path]
) -> None:
    plain_train(tmp_path / "run", spec_of(parquet, trainable="head", shards=1))
    with pytest.raises(UsageError, match="what owners weigh in an answer needs --solver additive"):
        tr.Run(tmp_path / "run").predict(pictures, why=True, owners=OWNERS[:1])


def test_predictions_are_the_same_with_an_explanation(additive: Path, pictures: list[Path]) -> None:
    plain, explained = tr.Run(additive).predict(pictures), tr.Run(additive).predict(pictures, why=True)
    assert "why" not in plain.to_json()["predictions"][0]
    assert [one.probabilities for one in plain.predictions] == [one.probabilities for one in explained.predictions]
    assert plain.to_pandas().equals(explained.to_pandas())

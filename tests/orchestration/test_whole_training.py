"""Training through the whole path: Ray Data, lanes, composer."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from folder import delta_digests, files, kinds, shard_of, state_of
from plain import plain_train
from tiny import CLASSES, SAMPLES, SHARDS, sample_id, write_parquet

import taft_ray as tr
from taft_ray.additive import Settings
from taft_ray.composer.composer import Composer
from taft_ray.data import sample_key
from taft_ray.errors import UsageError
from taft_ray.proof.verify_run import verify
from taft_ray.verbs.evaluate import evaluate
from taft_ray.verbs.status import status
from taft_ray.verbs.train import train

Trained = tuple[Path, dict[str, Any]]


def test_every_shard_has_a_delta(ridge: Trained) -> None:
    run, answer = ridge
    assert [(s["shard"], s["state"], s["generation"]) for s in answer["shards"]] == [
        (n, "trained", 1) for n in range(SHARDS)
    ]
    assert sum(s["samples"] for s in answer["shards"]) == SAMPLES
    assert answer["composed"] == answer["compose"]["digest"]
    assert answer["data"] == {"rows": SAMPLES, "kept": SAMPLES, "rejected": 0, "reasons": {}}
    assert {s["shard"]: s["delta"] for s in answer["shards"]} == delta_digests(run)


def test_verify_accepts_a_trained_run(ridge: Trained) -> None:
    answer = verify(str(ridge[0]))
    assert answer["problems"] == []
    assert answer["ok"] is True
    assert answer["checks"]["cached samples"] == SAMPLES
    assert answer["checks"]["deltas"] == SHARDS + 1  # the comparison model's too


def test_sample_is_in_the_shard_of_its_key(ridge: Trained) -> None:
    rows = pq.read_table(next((ridge[0] / "manifest").glob("rows-*.parquet")))
    found = dict(zip(rows["key"].to_pylist(), rows["shard"].to_pylist(), strict=True))
    assert found == {sample_key(sample_id(n), 0): shard_of(sample_id(n), SHARDS) for n in range(SAMPLES)}


def test_no_id_is_written_anywhere(ridge: Trained) -> None:
    for path in files(ridge[0]):
        assert b"person-0" not in path.read_bytes(), path


def test_training_again_repeats_nothing(ridge: Trained, spec_of: Callable[..., Any], parquet: Path) -> None:
    run, first = ridge
    entries, stamps = kinds(run), {path: path.stat().st_mtime_ns for path in files(run)}
    again = train(str(run), spec_of(parquet), lanes=1, monolithic=True)
    assert again["composed"] == first["composed"]
    assert kinds(run) == entries
    assert {path: path.stat().st_mtime_ns for path in files(run)} == stamps


@pytest.mark.slow
def test_lanes_and_machines_do_not_change_a_bit(ridge: Trained, train_once: Any, parquet: Path) -> None:
    """Two lanes, other order of the source files' bytes on disk: the same deltas."""
    run, _ = train_once(parquet, lanes=2)
    assert delta_digests(run) == delta_digests(ridge[0])
    assert status(str(run))["composed"] == status(str(ridge[0]))["composed"]


def test_evaluate_reports_classes_compositions_shards_and_monolith(
    ridge: Trained, test_parquet: Path, copy_of: Any, tmp_path: Path
) -> None:
    run = copy_of(ridge[0])
    file = tmp_path / "predictions.parquet"
    answer = evaluate(str(run), str(test_parquet), predictions=str(file))
    assert answer["n"] == 48
    table = pd.read_parquet(file)
    right = table["label"] == table["predicted"]
    assert right.mean() == answer["accuracy"]
    assert np.diagonal(answer["confusion"]).sum() == right.sum()
    assert [(one["label"], one["n"]) for one in answer["per_class"]] == [(name, 16) for name in CLASSES]
    assert sorted(table["row"].tolist()) == sorted([*range(24), *range(24)])
    shares = table[[f"p({name})" for name in CLASSES]].to_numpy()
    assert shares.sum(1) == pytest.approx(np.ones(48))
    assert table["probability"].to_numpy() == pytest.approx(shares.max(1))
    assert 0 <= answer["calibration_error"] <= 1
    said = np.array([one.probabilities for one in tr.Run(run).predict(test_parquet).predictions])
    assert shares == pytest.approx(said, abs=1e-5), "as predict says, in the order of the files"
    assert answer["composed"] == ridge[1]["composed"]
    assert set(answer["by_composition"]) == {"gram", "mean"}
    assert answer["by_composition"]["gram"]["accuracy"] == answer["accuracy"]
    assert [row["shards"] for row in answer["by_shards"]] == list(range(1, SHARDS + 1))
    last = answer["by_shards"][-1]
    for mode in ("gram", "mean"):
        assert last[mode] == answer["by_composition"][mode]["accuracy"]
    assert answer["accuracy"] > 0.6, "the classes have colours: even random features tell them apart"
    assert answer["monolith"] > 0.6
    entries = kinds(run)
    again = evaluate(str(run), str(test_parquet), against=str(ridge[0]))
    assert again["accuracy"] == answer["accuracy"]
    assert (again["against"]["n"], again["against"]["difference"], again["against"]["p_value"]) == (48, 0, 1)
    told = tr.Run(run).evaluate(test_parquet, against=file)
    assert told.against is not None
    assert told.against.both_right == right.sum()
    with pytest.raises(UsageError, match="expected a run, or predictions"):
        tr.Run(run).evaluate(test_parquet, against=tmp_path)
    assert kinds(run)[: len(entries)] == entries
    assert verify(str(run))["problems"] == []


def test_additive_run_on_ray(
    ray_session: None, spec_of: Callable[..., Any], parquet: Path, test_parquet: Path, tmp_path: Path
) -> None:
    """Rows by Ray Data and sums by lanes give the same digest as one process. A forget starts nothing."""
    spec = spec_of(parquet, solver="additive", features=48)
    train(str(tmp_path / "run"), spec, lanes=2)
    run = tr.Run(tmp_path / "run")
    plain_train(tmp_path / "plain", replace(spec, shards=2))
    assert run.status().composed == Composer(str(tmp_path / "plain")).composed_digest()
    measured = run.evaluate(test_parquet)
    assert measured.accuracy > 0.8
    assert [row["shards"] for row in measured.by_shards] == list(range(1, SHARDS + 1))
    said = run.predict(test_parquet)
    truth = {sample_id(n): CLASSES[n % 3] for n in range(1000, 1048)}
    assert np.mean([one.label == truth[one.picture] for one in said.predictions]) == measured.accuracy
    alone = run.evaluate(test_parquet, owners=["owner-0", "owner-1"])
    assert (alone.owners, alone.n) == (("owner-0", "owner-1"), 48)
    assert alone.composed != measured.composed
    assert run.status().composed == measured.composed
    tuned = run.tune()
    with_settings = run.evaluate(test_parquet)
    assert with_settings.settings == tuned.settings
    assert with_settings.accuracy == with_settings.by_shards[-1]["additive"]
    told = run.forget([sample_id(3)])
    assert isinstance(told, tr.answers.Certificate)
    assert told.mode == "subtract"
    assert told.composed_after == run.status().composed != measured.composed
    again = run.evaluate(test_parquet)
    assert again.composed == told.composed_after
    chosen = state_of(run.uri).tuned
    assert chosen is not None
    assert (chosen.of, chosen.settings) == (told.composed_after, Settings.from_json(again.settings or {}))
    assert run.verify(retrain=True).problems == ()
    assert (
        "equals, to the last bit, a model that never saw the samples"
        in (Path(run.report().page).parent / f"certificate-{told.request}.html").read_text()
    )
    more = write_parquet(tmp_path / "more", range(SAMPLES - 10, SAMPLES + 20))
    added = run.train(add=more, lanes=1)
    (one,) = added.additions
    assert (one.samples, one.known) == (20, 10)
    assert "20 rows of" in str(added.notes)
    assert run.status().additions == added.additions
    assert "known before" in str(run.status())
    again = run.train(add=more, lanes=1)
    assert again.notes is not None
    assert "is new" in again.notes[0]
    assert again.composed == added.composed == run.evaluate(test_parquet).composed
    assert run.verify().problems == ()
    for refused in (
        lambda: run.train(data=parquet, monolithic=True),
        lambda: run.sweep(),
    ):
        with pytest.raises(UsageError, match=r"additive|fits nothing"):
            refused()


def test_run_of_two_tiers_on_ray(
    ray_session: None, spec_of: Callable[..., Any], parquet: Path, test_parquet: Path, tmp_path: Path
) -> None:
    """Rows and tokens by Ray Data, deltas and records by lanes; a forget fits behind the sums."""
    spec = spec_of(parquet, compose="additive", trainable="head")
    assert spec.features is None, "as many as the sites of this small network have"
    train(str(tmp_path / "run"), spec, lanes=2, monolithic=True)
    run = tr.Run(tmp_path / "run")
    plain_train(tmp_path / "plain", spec)
    assert run.status().composed == Composer(str(tmp_path / "plain")).composed_digest()
    assert delta_digests(tmp_path / "run") == delta_digests(tmp_path / "plain")
    measured = run.evaluate(test_parquet)
    assert list(measured.by_composition) == ["additive", "gram", "mean"]
    assert measured.monolith is not None
    said = run.predict(test_parquet)
    assert said.composed == measured.composed == measured.by_composition["additive"].composed
    truth = {sample_id(n): CLASSES[n % 3] for n in range(1000, 1048)}
    assert np.mean([one.label == truth[one.picture] for one in said.predictions]) == measured.accuracy
    told = run.forget([sample_id(3)])
    assert isinstance(told, tr.answers.Certificate)
    assert (told.mode, [fit.shard for fit in told.retrained]) == ("subtract", [shard_of(sample_id(3), SHARDS)])
    again = run.evaluate(test_parquet)
    assert again.composed == told.composed_after == run.status().composed
    assert told.beside == {"composition": "gram", "composed_after": again.by_composition["gram"].composed}
    assert run.verify(retrain=True).problems == ()
    assert "/derived/accuracy_gram/value" in Path(run.report().page).read_text()
    page = (Path(run.report().page).parent / f"certificate-{told.request}.html").read_text()
    assert "the deltas beside the model were fitted again" in page
    with pytest.raises(UsageError, match="1 of 1 forgotten samples against"):
        run.audit(parquet, test_parquet)


def test_evaluation_says_how_many_pictures_it_leaves_out(ridge: Trained, parquet: Path, copy_of: Any) -> None:
    """Those with ids that were forgotten, also where the evaluation data has other pictures by these names."""
    run = tr.Run(copy_of(ridge[0]))
    run.forget([sample_id(0)], mode="drop")
    measured = run.evaluate(parquet)
    assert (measured.n, measured.left_out) == (SAMPLES - 1, 1)
    assert "1 picture was left out: the run was asked to forget samples with these ids" in str(measured)
    assert run.evaluate(parquet).left_out == 1, "the cached tokens remember it"


def test_composer_killed_at_rest_comes_back_right(ridge: Trained, copy_of: Any) -> None:
    import ray

    from taft_ray.orchestration.actors import composer_for

    run = copy_of(ridge[0])
    address = str(run.resolve())
    before = status(address)
    composer = composer_for(address)
    for _ in range(2):
        ray.kill(composer.actor)
        shutil.rmtree(run / "composed")
        assert composer.compose()["digest"] == ridge[1]["composed"]
        assert status(address) == before


def test_monolith_saw_everything(ridge: Trained) -> None:
    monolith = state_of(ridge[0]).monolith
    assert monolith is not None
    assert monolith.fit.samples == SAMPLES
    assert len(files(ridge[0], "deltas/monolith")) == 1

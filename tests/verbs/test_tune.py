"""`tune`: what it answers, what it refuses, and that predictions and exported files have the settings of what is left."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command import here
from folder import kinds, plain_forget, state_of
from plain import plain_train
from tiny import sample_id, write_class_folder

import taft_ray as tr
from taft_ray.composer.composer import Composer
from taft_ray.errors import UsageError
from taft_ray.run.rows import build_rows, model_of
from taft_ray.run.snapshots import load_arrays
from taft_ray.storage import Store
from taft_ray.verbs.tune import policy_of

FEATURES = 48


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("tune") / "run"
    plain_train(run, spec_of(parquet, solver="additive", features=FEATURES))
    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("pictures") / "new", range(1000, 1012))


@pytest.fixture
def stale(trained: Path, copy_of: Callable[..., Path]) -> tr.Run:
    """A tuned run whose ledger ends with settings of other sums, which nobody would choose."""
    run = tr.Run(copy_of(trained))
    run.tune()
    fact = state_of(run.uri).tuned
    assert fact is not None
    assert fact.settings is not None
    odd = replace(fact.settings, size=12, weights=(4.0, 0.0, 0.0, 0.25), penalty=10.0, kappa=64.0)
    Composer(run.uri).commit(replace(fact, of="0" * 64, settings=odd), "tuned/stale")
    return run


def test_answer_has_the_curve_and_what_was_chosen(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = tr.Run(copy_of(trained))
    told = tr.tune(run, sizes=[12, 24, 48], kappas=[15, 2], left_out=30)
    assert told.composed == run.status().composed
    assert (told.pictures, told.left_out, told.features) == (120, 30, FEATURES)
    assert told.settings == state_of(run.uri).tuned.settings.to_json()  # type: ignore[union-attr]
    assert {one.size for one in told.candidates} == {12, 24, 48}
    (chosen,) = (one for one in told.candidates if one.chosen)
    assert chosen.gcv == min(one.gcv or 1.0 for one in told.candidates)
    (penalty,) = (one for one in told.penalties if one.chosen)
    assert (penalty.penalty, penalty.gcv) == (chosen.penalty, chosen.gcv)
    assert [one.kappa for one in told.kappas] == [15.0, 2.0]
    assert min(told.kappas, key=lambda one: one.log_loss or 0.0).chosen
    assert set(told.to_pandas()["size"]) == {12, 24, 48}
    assert len(told.to_pandas("penalties")) == 45
    assert len(told.to_pandas("kappas")) == 2
    text = str(told)
    assert "No test picture was looked at" in text
    assert text.count(" chosen\n") + text.endswith("chosen") == 3, "a candidate, a λ and a κ"
    entries = kinds(run.uri)
    assert run.tune(sizes=[12, 24, 48], kappas=[15, 2], left_out=30).settings == told.settings
    assert kinds(run.uri) == entries, "the same choice is committed once"


def test_one_kappa_is_taken_and_needs_no_row(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = tr.Run(copy_of(trained))
    told = run.tune(kappas=[7], weights=())
    assert told.settings is not None
    assert told.settings["kappa"] == 7.0
    assert told.settings["weights"] == [1.0] * 4
    assert all(one.leave_one_out is not None for one in told.candidates), "shown all the same"
    fact = state_of(run.uri).tuned
    assert fact is not None
    assert fact.left_out == 0


def expected(run: tr.Run) -> tuple[dict[str, Any], Any]:
    """The settings that the policy chooses now, committed by nobody, and a model with them."""
    composer = Composer(run.uri)
    policy = composer.snapshot().tuned.policy  # type: ignore[union-attr]
    fact = composer.tuning.choose(policy).tuned  # type: ignore[arg-type]
    arrays = load_arrays(Store(run.uri), composer.compose()["key"])
    return fact.settings.to_json(), model_of(composer.record.spec, arrays, fact)  # type: ignore[union-attr]


def test_prediction_is_by_settings_of_what_is_left(stale: tr.Run, pictures: Path) -> None:
    settings, model = expected(stale)
    told = stale.predict(pictures)
    assert told.settings == settings == state_of(stale.uri).tuned.settings.to_json()  # type: ignore[union-attr]
    assert f"κ = {settings['kappa']:.3g}" in str(told)
    sample = next(one for one in told.predictions if one.picture.endswith("1000.png"))
    from taft_ray.data import decode_image

    maker, preprocess, _ = build_rows(Composer(stale.uri).record.spec)
    pixels = decode_image(next(pictures.rglob("1000.png")).read_bytes(), preprocess.size)
    rows = maker.prefix(preprocess(torch.from_numpy(pixels.copy())[None]))[:, 0].numpy()
    probabilities = torch.from_numpy(model.logits(rows)).softmax(1)[0].tolist()
    assert sample.probabilities == pytest.approx(probabilities, abs=2e-2)  # a number of a row may fall on the next step


def test_exported_file_is_by_settings_of_what_is_left_and_commits_its_release_alone(
    stale: tr.Run, tmp_path: Path
) -> None:
    settings, model = expected(stale)
    entries = kinds(stale.uri)
    told = stale.export(tmp_path / "model.pt2")
    assert told.settings == settings
    assert kinds(stale.uri) == [*entries, "released"]
    extra = {"taft_ray": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["taft_ray"])["settings"] == settings
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows = build_rows(Composer(stale.uri).record.spec)[0].prefix(images)[:, 0].numpy()
    wanted = torch.from_numpy(model.logits(rows)).float()
    torch.testing.assert_close(program.module()(images), wanted, rtol=0, atol=5e-3 * settings["kappa"])


def test_reset_gives_the_policy_up(stale: tr.Run, pictures: Path) -> None:
    told = stale.tune(reset=True)
    assert told.settings is None
    assert str(told).startswith("No settings are chosen any more")
    assert stale.predict(pictures).settings is None
    assert stale.verify().problems == ()


def test_accuracy_of_other_settings_is_not_that_of_the_model(trained: Path, copy_of: Callable[..., Path]) -> None:
    from taft_ray.plans.facts import Evaluated

    run = tr.Run(copy_of(trained))
    composer = Composer(run.uri)
    composed = composer.compose()["digest"]
    composer.commit(Evaluated("data", 0.5, 10, str(composed), {}, None, ()), "evaluated/before")
    assert run.status().accuracy == 0.5
    run.tune()
    assert run.status().accuracy is None
    run.tune(reset=True)
    assert run.status().accuracy == 0.5


def test_forget_makes_settings_stale_and_prediction_chooses_again(
    trained: Path, copy_of: Callable[..., Path], pictures: Path
) -> None:
    run = tr.Run(copy_of(trained))
    run.tune()
    plain_forget(run.uri, [sample_id(3)], "subtract")
    told = run.predict(pictures)
    fact = state_of(run.uri).tuned
    assert fact is not None
    assert fact.of == told.composed == run.status().composed
    assert run.verify().problems == ()


def test_command_answers_with_its_table(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(trained)
    told = here(
        "tune", run, "--sizes", "24,48", "--weights", "1", "--kappas", "15,4", "--left-out", "20", "--json"
    ).json
    assert [one["size"] for one in told["candidates"]] == [24, 48]
    assert told["left_out"] == 20
    assert here("tune", run, "--reset").out.startswith("No settings are chosen any more")
    assert here("tune", run, "--sizes", "24,many").code == 2


def test_each_kind_of_run_points_to_the_command_that_it_has(
    trained: Path, tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match="use taft-ray tune"):
        tr.Run(trained).sweep()
    plain_train(tmp_path / "ridge", spec_of(parquet, trainable="head"))
    with pytest.raises(UsageError, match="taft-ray sweep tries settings of other runs"):
        tr.Run(tmp_path / "ridge").tune()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sizes": [1]}, "expected 4..48"),
        ({"sizes": [49]}, "expected 4..48"),
        ({"kappas": [0]}, "kappas"),
        ({"weights": [-1]}, "weights"),
        ({"left_out": 0}, "left_out"),
    ],
)
def test_impossible_candidates_are_refused(options: dict[str, Any], said: str, trained: Path) -> None:
    with pytest.raises(UsageError, match=said):
        tr.Run(trained).tune(**options)


def test_default_candidates_are_those_that_a_narrow_row_has(parquet: Path, spec_of: Callable[..., Any]) -> None:
    assert policy_of(spec_of(parquet, solver="additive", features=48)).sizes == (12, 24, 48)
    assert policy_of(spec_of(parquet, solver="additive", features=6)).sizes == (6,)


def test_report_says_the_settings_that_were_chosen(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = tr.Run(copy_of(trained))
    assert "Chosen by taft-ray tune" not in Path(run.report().page).read_text()
    chosen = run.tune().settings
    made = run.report()
    assert chosen is not None
    assert json.loads(Path(made.json).read_text())["measurements"]["settings"] == chosen
    assert 'data-from="/measurements/settings/kappa"' in Path(made.page).read_text()

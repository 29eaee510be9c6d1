"""`privacy` and what else tells of a private run: the odometer, the statement, status, estimate and certificate."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import here
from folder import plain_forget, shard_of, state_of
from plain import plain_train
from released import toy_export
from tiny import CLASSES, SHARDS, sample_id

import taft_ray as tr
from taft_ray.answers import Certificate
from taft_ray.errors import UsageError
from taft_ray.plans.privacy import Privacy
from taft_ray.privacy import epsilon_of
from taft_ray.storage import digest_json

EPSILON, DELTA, BUDGET = 3.0, 1e-4, 5.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("privacy") / "run"
    privacy = Privacy(epsilon=EPSILON, delta=DELTA, steps=2, budget=BUDGET)
    plain_train(run, spec_of(parquet, solver="dp-gd", compose="mean", loss="ce", classes=CLASSES, privacy=privacy))
    return run


def test_odometer_of_a_shard_is_that_of_its_fits(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = tr.Run(copy_of(trained))
    told = run.privacy()
    assert (told.delta, told.budget, told.epsilon_of_a_fit) == (DELTA, BUDGET, EPSILON)
    assert [one.fits for one in told.shards] == [1] * SHARDS
    assert told.epsilon == pytest.approx(EPSILON, rel=1e-6)
    plain_forget(run.uri, [sample_id(0)], "retrain")
    again = run.privacy()
    shard = shard_of(sample_id(0), SHARDS)
    assert [one.fits for one in again.shards] == [1 + (n == shard) for n in range(SHARDS)]
    assert again.epsilon == again.shards[shard].epsilon == epsilon_of(again.shards[shard].mu, DELTA)
    assert again.shards[shard].mu == pytest.approx(2**0.5 * told.shards[shard].mu)
    assert again.left == pytest.approx(BUDGET - again.epsilon)
    assert "ε" in str(again)
    assert len(again.to_pandas()) == SHARDS


def test_statement_has_the_guarantee_and_nothing_of_samples(
    trained: Path, copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    trained, file = copy_of(trained), tmp_path / "privacy.json"
    answer = here("privacy", trained, "--statement", file, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(file.read_text())
    (release,) = state_of(trained).releases
    assert answer.json == {**told, "written": str(file), "release": release}
    assert told["digest"] == digest_json({name: value for name, value in told.items() if name != "digest"})
    assert (told["epsilon"], told["delta"]) == (pytest.approx(EPSILON, rel=1e-6), DELTA)
    assert told["model"] == tr.Run(trained).status().composed
    text = file.read_text()
    counts = [shard.samples for shard in state_of(trained).shards.values()]
    assert not any(f'"samples":{count}' in text for count in counts)
    assert all(one.delta is None or one.delta.digest not in text for one in state_of(trained).in_model)


def test_published_statement_is_registered_once_and_never_recalled(
    trained: Path, copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    run, file = tr.Run(copy_of(trained)), tmp_path / "privacy.json"
    first = run.privacy_statement(file)
    assert run.privacy_statement(file).release == first.release
    assert run.privacy_statement(file, to="authority").release != first.release
    assert run.privacy_statement().release is None
    assert [(one.what, one.to, one.digest) for one in run.recalls().releases] == [
        ("statement", to, hashlib.sha256(file.read_bytes()).hexdigest()) for to in (None, "authority")
    ]
    assert run.check(file).status == "current"
    plain_forget(run.uri, [sample_id(0)], "retrain")
    assert run.check(file).status == "superseded"
    file.write_bytes(file.read_bytes().replace(b'"sample"', b'"owner"'))
    assert run.check(file).status == "changed"
    assert here("privacy", run.uri, "--to", "authority").code == 2
    assert run.verify().ok


def test_gate_of_epsilon_opens_when_fits_have_spent_it(
    trained: Path, copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    run = tr.Run(copy_of(trained))
    assert run.release(f"epsilon={EPSILON * 0.9}").held is False
    toy_export(Path(run.uri), tmp_path / "1.pt2")
    plain_forget(run.uri, [sample_id(0)], "drop")
    told = run.release()
    assert (told.held, told.until) == (True, f"the fits since have spent ε = {EPSILON * 0.9:g}")
    certificate = plain_forget(run.uri, [sample_id(0)], "retrain")
    assert certificate["publication"]["held"] is False
    assert run.release().held is False
    assert run.release(f"epsilon={EPSILON * 1.1}").held is True
    assert run.verify().problems == ()


def test_picture_is_drawn_with_the_budget(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "privacy.svg"
    assert here("privacy", trained, "--picture", file).code == 0
    first = file.read_bytes()
    assert b"budget" in first
    tr.Run(trained).privacy(file)
    assert file.read_bytes() == first


def test_status_estimate_and_certificate_tell_of_it(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = tr.Run(copy_of(trained))
    told = run.status()
    assert told.privacy == {"epsilon": pytest.approx(EPSILON, rel=1e-6), "delta": DELTA, "budget": BUDGET}
    assert "budget 5" in str(told)
    estimate = run.estimate([sample_id(0)], mode="retrain")
    assert estimate.privacy is not None
    assert estimate.privacy["allowed"] is True
    assert "are charged" in str(estimate)
    assert "nothing is charged" in str(run.estimate([sample_id(0)], mode="drop"))
    certificate = Certificate.from_json(plain_forget(run.uri, [sample_id(0)], "retrain"))
    assert "exact towards" in str(certificate)
    assert "those who stay now have ε" in str(certificate)
    assert run.verify().ok


def test_report_has_what_was_spent(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = tr.Run(copy_of(trained))
    made = run.report()
    page = Path(made.page).read_text()
    assert "Privacy spent" in page
    assert 'data-from="/measurements/privacy/epsilon"' in page
    assert json.loads(Path(made.json).read_text())["measurements"]["privacy"]["budget"] == BUDGET


def test_exported_model_is_the_tangent_term_alone(trained: Path, tmp_path: Path) -> None:
    import torch

    from taft_ray.run.model import build_tangent
    from taft_ray.run.snapshots import load_snapshot
    from taft_ray.run.spec import run_spec
    from taft_ray.storage import Store
    from taft_ray.storage.rundir import composed_key

    told = tr.Run(trained).export(tmp_path / "model.pt2")
    store = Store(str(trained))
    tm, _ = build_tangent(run_spec(store), len(CLASSES))
    delta = load_snapshot(store, composed_key(told.composed))
    pictures = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    _, expected = tm.jvp(tm.prepare(tm.prefix(pictures)), delta)
    found = torch.export.load(tmp_path / "model.pt2").module()(pictures)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_refusals_of_verbs(trained: Path, parquet: Path, tmp_path: Path, ray_session: None) -> None:
    run = tr.Run(trained)
    for attempt, said in (
        (lambda: run.sweep(), "nobody charged"),
        (lambda: run.forget([sample_id(0)], mode="resolve"), "optimum is unique"),
        (lambda: run.train(monolithic=True), "spend privacy"),
        (
            lambda: tr.Run(tmp_path / "new").train(parquet, private=True, epsilon=1.0, delta=0.1, classes=CLASSES),
            "delta",
        ),
        (lambda: tr.Run(tmp_path / "new").train(parquet, private=True, epsilon=1.0, delta=1e-5), "classes"),
    ):
        with pytest.raises(UsageError, match=said):
            attempt()
    assert not (tmp_path / "new").exists()


def test_privacy_of_a_run_without_it_is_refused(adam: tuple[Path, dict[str, Any]]) -> None:
    answer = here("privacy", adam[0])
    assert answer.code == 2
    assert "--private" in answer.err


def test_two_files_are_refused(trained: Path, tmp_path: Path) -> None:
    answer = here("privacy", trained, "--statement", tmp_path / "a", "--picture", tmp_path / "b")
    assert answer.code == 2
    assert not list(tmp_path.iterdir())

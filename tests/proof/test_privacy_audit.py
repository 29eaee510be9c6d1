"""The audit of a private run's noise: it convicts noise that is too small and nothing else, and touches nothing of the run."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from command import here
from folder import entries_of
from plain import plain_train
from seeded_noise import noises
from tiny import CLASSES, MODEL, SIZE

import taft_ray as tr
from taft_ray.additive import Projection, RowsModel, sites_of
from taft_ray.errors import UsageError
from taft_ray.fitting import PrivateRecipe, clipping, private
from taft_ray.fitting.private import Noise
from taft_ray.plans.privacy import Privacy
from taft_ray.proof import privacy_audit
from taft_ray.proof.privacy_audit import many_runs, one_run
from taft_ray.tangent import Delta
from taft_ray.workers.canaries import Canaries, random_tokens

DELTA, LEVEL = 1e-5, 0.05
SHORT, HARD = {"steps": 2, "epsilon": 8.0, "delta": 1e-4}, ("--level", 1e-4, "--canaries", 40)


def head_on_rows(claim: Privacy, count: int = 1, seed: int = 0) -> Canaries:
    """Canaries of a head of two classes on rows of 16 numbers, by the recipe that the claim asks for."""
    network, random = timm.create_model(MODEL, img_size=SIZE).eval(), torch.Generator().manual_seed(seed)
    tm = RowsModel(network, Projection(sites_of(network, SIZE, size=16)), 2)
    recipe = PrivateRecipe(
        steps=claim.steps, learning_rate=1.0, clip=1.0, noise_multiplier=claim.noise_multiplier, divisor=100
    )
    labels = torch.randint(2, (count,), generator=random)
    return Canaries(tm, random_tokens(tm, count, SIZE, random), labels, recipe)


class Absent(Canaries):
    """Canaries that never get into a fit."""

    def scores(self, chosen: np.ndarray, noise: Noise, wanted: slice = slice(None)) -> np.ndarray:
        return super().scores(chosen[:0], noise, wanted)


# --- the mechanism


@pytest.mark.slow
@pytest.mark.parametrize("times", ["as claimed", "too small"])
@pytest.mark.parametrize(("epsilon", "factor"), [(1.0, 1.6), (3.0, 1.24), (8.0, 1.12)])
def test_thousand_runs_refute_noise_that_is_too_small_and_no_other(epsilon: float, factor: float, times: str) -> None:
    claim = Privacy(epsilon=epsilon, delta=DELTA, steps=50)
    wrong = factor if times == "too small" else 1.0
    found = many_runs(head_on_rows(claim), claim, LEVEL, 1000, noises=noises(wrong))
    assert found["detects"] < factor * 1.02
    if times == "too small":
        assert found["epsilon"] > epsilon
    else:
        assert 0.5 * epsilon < found["epsilon"] < epsilon


@pytest.mark.parametrize(("times", "convicted"), [(1.0, False), (3.0, True)])
def test_few_runs_refute_noise_that_is_far_too_small_and_no_other(times: float, convicted: bool) -> None:
    claim = Privacy(epsilon=8.0, delta=DELTA, steps=10)
    found = many_runs(head_on_rows(claim), claim, 0.01, 40, noises=noises(times))
    assert found["detects"] < 3
    assert (found["epsilon"] > 8.0) == convicted


def test_canary_that_is_not_in_the_data_gives_nothing_away() -> None:
    claim = Privacy(epsilon=8.0, delta=DELTA, steps=10)
    canaries = head_on_rows(claim, 17)
    canaries.__class__ = Absent
    assert many_runs(canaries, claim, LEVEL, 100, noises=noises())["epsilon"] == 0.0
    coins = np.random.default_rng(0).random(17) < 0.5
    found = one_run(canaries, claim, LEVEL, noises(), coins)
    assert (found["epsilon"], found["epsilon_of_any_noise"]) == (0.0, 0.0)


def test_gradients_that_are_not_clipped_are_convicted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Whole(clipping.ClippedSum):
        def __init__(self, zero: Delta, clip: float, apart: bool = False) -> None:
            super().__init__(zero, clip, apart)
            self.clip = 1e6  # and the grid stays

    claim = Privacy(epsilon=3.0, delta=DELTA, steps=10)
    canaries = head_on_rows(claim)
    clipped = many_runs(canaries, claim, 0.01, 120, noises=noises())
    monkeypatch.setattr(private, "ClippedSum", Whole)
    whole = many_runs(canaries, claim, 0.01, 120, noises=noises())
    assert clipped["epsilon"] < 3.0 < whole["epsilon"]
    assert whole["right_with"] == 120


@pytest.mark.parametrize(("times", "convicted"), [(1.0, False), (10.0, True)])
def test_one_run_refutes_noise_that_is_far_too_small_and_no_other(times: float, convicted: bool) -> None:
    claim = Privacy(epsilon=3.0, delta=DELTA, steps=10)
    rows = head_on_rows(claim)
    tm = RowsModel(rows.tm.network, Projection(sites_of(rows.tm.network, SIZE, size=256)), 2)  # type: ignore[attr-defined]
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (120,), generator=random)
    canaries = Canaries(tm, random_tokens(tm, 120, SIZE, random), labels, rows.recipe)
    found = one_run(canaries, claim, 0.01, noises(times), np.random.default_rng(0).random(120) < 0.5)
    assert (found["epsilon"] > 3.0) == convicted
    assert found["epsilon"] >= found["epsilon_of_any_noise"]


# --- the command


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]
) -> Callable[[str], Path]:
    """Private runs by name, each trained once; they may not be changed."""
    made: dict[str, Path] = {}
    options: dict[str, dict[str, Any]] = {
        "tangent": {"solver": "dp-gd"},
        "rows": {"solver": "dp-additive", "features": 48},
        "owner": {"solver": "dp-additive", "features": 48, "assignment": "grouped"},
    }

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "run"
            privacy = Privacy(**SHORT, unit="owner" if name == "owner" else "sample")
            spec = spec_of(parquet, compose="mean", loss="ce", classes=CLASSES, privacy=privacy, **options[name])
            plain_train(made[name], spec)
        return made[name]

    return get


@pytest.fixture
def unchanged(trained: Callable[[str], Path]) -> Iterator[Callable[[str], Path]]:
    """`trained`, and what a test used is afterwards as it was, and so is what lies beside it."""
    before: dict[Path, dict[str, str]] = {}

    def get(name: str) -> Path:
        run = trained(name)
        before[run] = files_of(run.parent)
        return run

    yield get
    for run, was in before.items():
        assert files_of(run.parent) == was


def files_of(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["tangent", "rows", "owner"])
def test_honest_run_is_not_convicted_and_nothing_of_it_changes(name: str, unchanged: Callable[[str], Path]) -> None:
    run = unchanged(name)
    answer = here("audit", run, "--privacy", "--runs", 20, *HARD, "--json")
    assert answer.code == 0, answer.err
    told = answer.json
    assert (told["ok"], told["convicted_by"], told["epsilon"]) == (True, [], 8.0)
    assert told["unit"] == ("owner" if name == "owner" else "sample")
    assert told["many_runs"]["runs"] == 20
    assert told["one_run"]["canaries"] == 40
    assert max(told["many_runs"]["epsilon"], told["one_run"]["epsilon"]) < 8.0


@pytest.mark.parametrize("name", ["tangent", "rows"])
def test_half_of_the_noise_is_convicted(
    name: str, unchanged: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privacy_audit, "fresh_noise", noises(2.0))
    answer = here("audit", unchanged(name), "--privacy", "--runs", 150, *HARD, "--json")
    assert answer.code == 1, answer.err
    assert answer.json["convicted_by"] == ["many_runs"]
    assert answer.json["many_runs"]["epsilon"] > 8.0
    assert answer.json["many_runs"]["detects"] < 2


def test_recipe_with_too_little_noise_is_convicted_from_the_ledger(
    trained: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe is what the ledger reserved, and the claim is the spec's."""
    run = trained("rows")
    checked = privacy_audit.check_audit

    def little(*args: Any, **kwargs: Any) -> Any:
        found = checked(*args, **kwargs)
        assert found.to_json() in [entry["body"] for entry in entries_of(run, "dp-reserved")]
        return replace(found, noise_multiplier=found.noise_multiplier / 3)

    monkeypatch.setattr(privacy_audit, "check_audit", little)
    told = tr.Run(run).audit_privacy(level=1e-4, runs=60, canaries=40)
    assert told.convicted_by[0] == "many_runs"
    text = str(told)
    assert text.startswith("A fit gives away more than ε = 8: its noise is too small")
    assert re.search(r"^60 fits with a canary, 60 without +\d+ of 120 +\d", text, re.MULTILINE)


def test_number_of_runs_is_what_a_minute_allows(
    trained: Callable[[str], Path], copy_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privacy_audit, "SECONDS", 0.0)
    run = copy_of(trained("rows"))
    told = tr.Run(run).audit_privacy(level=1e-4, record=True)
    assert [(one.verb, one.ok) for one in tr.Run(run).status().outcomes] == [("audit-privacy", True)]
    assert tr.Run(run).verify().problems == ()
    assert told.many_runs.runs == privacy_audit.LEAST_RUNS
    assert told.one_run.canaries == 3 * 49 // 4
    assert str(told).startswith("The audit does not refute ε = 8.")


# --- bad input


def test_impossible_audits_are_refused(
    trained: Callable[[str], Path], parquet: Path, tmp_path: Path, spec_of: Callable[..., Any]
) -> None:
    run = trained("rows")
    here("audit", run, "--privacy", "--data", parquet).complains(2, "--data", "makes its own data")
    here("audit", run, "--privacy", "--ids", "a").complains(2, "--ids")
    here("audit", run, "--runs", 3, "--data", parquet, "--never-seen", parquet).complains(2, "--runs", "--privacy")
    here("audit", run, "--data", parquet).complains(2, "--never-seen", "--privacy")
    here("audit", run, "--privacy", "--level", 0.7).complains(2, "level", "0.7")
    here("audit", run, "--privacy", "--level", "nan").complains(2, "level")
    here("audit", run, "--privacy", "--runs", 1).complains(2, "runs >= 2", "--runs")
    here("audit", run, "--privacy", "--canaries", 0).complains(2, "canaries >= 2", "--canaries")
    here("audit", run, "--privacy", "--canaries", 10**7).complains(2, "memory for", "--canaries")
    here("audit", tmp_path / "none", "--privacy").complains(1, "no run at")
    other = tmp_path / "other"
    plain_train(other, spec_of(parquet, trainable="head"))
    here("audit", other, "--privacy").complains(2, "no private run", "--privacy")


def test_run_without_fits_has_no_mechanism_yet(tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]) -> None:
    from taft_ray.storage import Store, write_spec

    privacy = Privacy(**SHORT)
    spec = spec_of(parquet, solver="dp-gd", compose="mean", loss="ce", classes=CLASSES, privacy=privacy)
    write_spec(Store(str(tmp_path / "run")), spec.to_json())
    with pytest.raises(UsageError, match="fitted nothing yet"):
        tr.Run(tmp_path / "run").audit_privacy()

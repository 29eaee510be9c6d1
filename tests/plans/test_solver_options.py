"""An option that means nothing to a solver is refused, or told; the help of `train` lists each under what it is for."""

import logging
from typing import Any

import pytest
from command import here

from taft_ray.cli import main
from taft_ray.cli.sections import EVERY, SECTIONS
from taft_ray.errors import UsageError
from taft_ray.fitting.config import PRIVATE_SOLVERS, FitConfig
from taft_ray.plans.solver_options import OF_BOTH, OF_FITS, OF_SOLVER, check_idle, idle
from taft_ray.plans.spec import RunSpec

OTHER: dict[str, Any] = {
    "penalty": 0.5,
    "epochs": 3,
    "last_blocks": 2,
    "compose": "mean",
    "milestones": (3,),
    "reset": True,
}


def test_each_field_is_under_one_solver_or_all() -> None:
    several = [names for solver, names in OF_SOLVER.items() if solver not in PRIVATE_SOLVERS]
    named = [*OF_FITS, *(name for names in several for name in names)]
    assert len(named) == len(set(named))
    assert set(named) | OF_BOTH <= RunSpec.__dataclass_fields__.keys()
    of_all = {"solver", "seed", "kappa"}
    assert set(FitConfig.__dataclass_fields__) <= {*named, *of_all}, "a field of fits that nobody has placed"
    assert not of_all & set(named)
    assert not idle("ridge") & OF_FITS


@pytest.mark.parametrize("name", OTHER)
def test_additive_run_refuses_what_fits_alone_have(name: str) -> None:
    with pytest.raises(UsageError, match=rf"--{name.replace('_', '-')} means nothing to --solver additive"):
        check_idle({"solver": "additive", **OTHER}, [name])
    check_idle({"solver": "additive", **OTHER}, ["kappa", "seed"])
    default = RunSpec.__dataclass_fields__[name].default
    check_idle({"solver": "additive", name: default}, [name])


@pytest.mark.parametrize("solver", ["ridge", "adam"])
def test_runs_of_fits_refuse_what_additive_ones_alone_have(solver: str) -> None:
    with pytest.raises(UsageError, match="--features, --site-blocks, --views mean nothing to --compose gram"):
        check_idle(
            {"solver": solver, "compose": "gram", "features": 16, "site_blocks": 3, "views": 2},
            ["features", "site_blocks", "views"],
        )


def test_run_of_both_takes_options_of_both() -> None:
    both = {"compose": "additive", "features": 16, "penalty": 0.5, "beside": "mean"}
    check_idle(both, both)
    check_idle({"solver": "additive", "compose": "additive"}, ["compose"])
    check_idle({"features": 16, "beside": "mean"}, ["features", "beside"])
    for refused in ({"solver": "additive", "beside": "mean"}, {"compose": "gram", "beside": "mean"}):
        with pytest.raises(UsageError, match="--beside means nothing"):
            check_idle(refused, ["beside"])


def test_between_ridge_and_adam_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "taft_ray"):
        check_idle({"epochs": 3, "tolerance": 1e-3}, ["epochs", "tolerance"])
        check_idle({"solver": "adam", "epochs": 3}, ["epochs"])
        check_idle({"slices": 4}, ["slices"])  # which the spec refuses
    assert [record.message for record in caplog.records] == ["--epochs means nothing to --solver ridge"]


def test_help_of_train_lists_each_option_once_under_what_it_is_for() -> None:
    text = here("train", "--help").out
    places = {title: text.index(f"{title}:") for title in (EVERY, *SECTIONS)}
    assert list(places.values()) == sorted(places.values())
    ends = [*list(places.values())[1:], len(text)]
    sections = {title: text[at:end] for (title, at), end in zip(places.items(), ends, strict=True)}
    for option in main.commands["train"].params:
        flag, name = option.opts[-1], str(option.name)
        if not flag.startswith("--"):
            continue
        expected = next((title for title, names in SECTIONS.items() if name in names), EVERY)
        lists = [
            title for title, part in sections.items() if any(line.split()[:1] == [flag] for line in part.splitlines())
        ]
        assert lists == [expected], flag

"""A private run's options: what would not be private is refused, with its reason and the way out."""

import math
from dataclasses import replace
from typing import Any

import pytest

from taft_ray.errors import UsageError
from taft_ray.plans.privacy import LOGIT_NOISE, MEAN_SHARE, OWN, PINK_NOISE, Privacy, private_fields
from taft_ray.plans.solver_options import check_idle
from taft_ray.plans.spec import RunSpec

SPEC: dict[str, Any] = {
    "data": "pets", "model": "test_vit", "solver": "dp-gd", "compose": "mean", "loss": "ce", "classes": ("a", "b"),
}  # fmt: skip
ASKED = Privacy(epsilon=3.0, delta=1e-5)


def spec(privacy: Privacy | None = ASKED, **changes: Any) -> RunSpec:
    return RunSpec(**{**SPEC, "privacy": privacy, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy": None}, "needs --private"),
        ({"solver": "ridge"}, "adds no noise"),
        ({"solver": "adam"}, "adds no noise"),
        ({"solver": "additive", "compose": "additive"}, "adds no noise"),
        ({"compose": "gram"}, "no noise; use --compose mean"),
        ({"compose": "joint"}, "no noise; use --compose mean"),
        ({"assignment": "equal"}, "use --assignment hash"),
        ({"assignment": "stratified"}, "use --assignment hash"),
        ({"assignment": "grouped"}, "use --assignment hash"),
        ({"privacy": Privacy(epsilon=1, delta=1e-5, unit="owner")}, "use --assignment grouped"),
        ({"classes": None}, "public list of classes"),
        ({"slices": 3}, "slices"),
        ({"privacy": Privacy(epsilon=1, delta=1e-5, public="pets/public")}, "whitens rows"),
        ({"privacy": Privacy(epsilon=1, delta=1e-5, mean_share=0.1)}, "centres rows"),
        ({"privacy": Privacy(epsilon=1, delta=1e-5, public="pets/"), "solver": "dp-additive"}, "private data itself"),
        (
            {"weighting": "samples", "privacy": Privacy(epsilon=1, delta=1e-5, adjacency="add-remove", divisor=9)},
            "use --weighting uniform",
        ),
    ],
)
def test_spec_that_is_not_private_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        spec(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epsilon": 0.0}, "epsilon > 0"),
        ({"epsilon": -1.0}, "epsilon > 0"),
        ({"epsilon": math.nan}, "epsilon > 0"),
        ({"epsilon": math.inf}, "epsilon > 0"),
        ({"delta": 0.0}, "less than 1 / samples"),
        ({"delta": 1.0}, "less than 1 / samples"),
        ({"delta": math.nan}, "less than 1 / samples"),
        ({"steps": 0}, "steps >= 1"),
        ({"clip": 0.0}, "clip > 0"),
        ({"learning_rate": -1.0}, "learning-rate"),
        ({"unit": "person"}, "sample, owner"),
        ({"adjacency": "replace"}, "zero-out, add-remove"),
        ({"adjacency": "add-remove"}, "Set --divisor"),
        ({"divisor": 0}, "divisor >= 1"),
        ({"budget": 2.9}, "raise --budget"),
        ({"accountant": "rdp/1"}, "gdp/1"),
        ({"clip": 1e13}, "set --clip"),
        ({"steps": 1.5}, "whole number"),
        ({"steps": 10**400}, "set --steps"),
        ({"divisor": 1.5}, "whole number"),
        ({"divisor": 10**400}, "set --divisor"),
        ({"epsilon": "3"}, "as a number; set --epsilon"),
        ({"mean_share": ".1"}, "set --mean-share"),
        ({"delta": True}, "set --delta"),
        ({"public": ""}, "set --public"),
        ({"mean_share": 1.0}, "0 for none"),
        ({"mean_share": 0.1, "sampling_rate": 0.1}, "use --mean-share 0"),
        ({"mean_share": -0.1}, "0 for none"),
        ({"mean_share": math.nan}, "0 for none"),
    ],
)
def test_impossible_option_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Privacy(**{"epsilon": 3.0, "delta": 1e-5, **changes})


def test_spec_survives_its_json_and_other_runs_do_not_know_of_it() -> None:
    made = spec(Privacy(epsilon=3.0, delta=1e-5, budget=6.0, unit="owner"), assignment="grouped")
    assert RunSpec.from_json(made.to_json()) == made
    assert "privacy" not in RunSpec(data="pets", model="test_vit").to_json()


def test_mu_spends_no_more_than_epsilon_and_noise_is_that_of_the_steps() -> None:
    from taft_ray.privacy import delta_of

    assert ASKED.mu == pytest.approx(0.719, abs=1e-3)  # design, T = 50
    assert delta_of(ASKED.mu, ASKED.epsilon) <= ASKED.delta
    assert ASKED.noise_multiplier == pytest.approx(9.83, abs=5e-3)


def test_options_make_the_fields_that_privacy_implies() -> None:
    given = {"data": "pets", "private": True, "epsilon": 3.0, "delta": 1e-5, "learning_rate": 0.5, "unit": "owner"}
    made = private_fields(given, given)
    assert made["privacy"] == Privacy(epsilon=3.0, delta=1e-5, learning_rate=0.5, unit="owner")
    assert (made["solver"], made["compose"], made["loss"], made["assignment"]) == ("dp-gd", "mean", "ce", "grouped")
    assert not made.keys() & {"epsilon", "delta", "learning_rate", "unit", "private"}
    assert private_fields({**given, "loss": "rsl"}, {*given, "loss"})["loss"] == "rsl"


def test_rate_is_that_of_the_solver_where_none_is_asked_for() -> None:
    given = {"data": "pets", "private": True, "epsilon": 3.0, "delta": 1e-5}
    assert private_fields(given, given)["privacy"].learning_rate == 1.0
    on_rows = {**given, "solver": "dp-additive"}
    assert private_fields(on_rows, on_rows)["privacy"].learning_rate == 10.0
    assert private_fields({**on_rows, "solver": "ridge"}, given)["solver"] == "dp-gd"  # a command's default


def test_rows_are_whitened_by_pink_noise_about_their_mean_unless_a_person_says_otherwise() -> None:
    given = {"data": "pets", "private": True, "epsilon": 3.0, "delta": 1e-5, "solver": "dp-additive"}
    by_default = private_fields(given, given)["privacy"]
    assert (by_default.public, by_default.mean_share, by_default.logit_noise) == (PINK_NOISE, MEAN_SHARE, LOGIT_NOISE)
    plain = {**given, "public": "none", "mean_share": 0.0, "learning_rate": 3.0}
    as_asked = private_fields(plain, plain)["privacy"]
    assert as_asked == Privacy(epsilon=3.0, delta=1e-5, learning_rate=3.0)
    assert by_default.as_begun(as_asked) == replace(as_asked, learning_rate=10.0)  # of a run by an earlier version
    assert by_default.as_begun(by_default) == by_default
    began_plain = replace(as_asked, logit_noise=LOGIT_NOISE)  # by this version, without: not gone on with silently
    assert by_default.as_begun(began_plain) == by_default
    with pytest.raises(UsageError, match="0 < sampling_rate"):
        private_fields({**given, "sampling_rate": 0.0}, {**given, "sampling_rate": 0.0})
    sampled = {**given, "sampling_rate": 0.1}
    assert private_fields(sampled, sampled)["privacy"].mean_share is None
    head = {**given, "solver": "dp-gd"}
    assert private_fields(head, head)["privacy"] == Privacy(epsilon=3.0, delta=1e-5)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.9])
def test_the_mean_and_the_steps_together_spend_what_one_fit_may(share: float) -> None:
    parted = replace(ASKED, mean_share=share)
    assert parted.mean_multiplier is not None
    spends = math.sqrt(parted.steps / parted.noise_multiplier**2 + 1 / parted.mean_multiplier**2)
    assert ASKED.mu * (1 - 1e-9) <= spends <= ASKED.mu


def test_rate_is_less_where_noise_would_move_logits_too_far() -> None:
    bound = replace(ASKED, learning_rate=10.0, logit_noise=0.15)
    for divisor, shards in ((100, 1), (1000, 1), (100, 9)):
        moved = bound.rate(divisor, shards) * bound.noise_multiplier * bound.clip * math.sqrt(bound.steps) / divisor
        assert moved / math.sqrt(shards) == pytest.approx(0.15)  # the mean of independent noises
    assert bound.rate(10**6, 1) == 10.0
    assert replace(bound, logit_noise=None).rate(3, 1) == 10.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 1e30}, "smaller --learning-rate"),
        ({"clip": 1e12}, "--clip"),
        ({"epsilon": 1e-9, "delta": 1e-12}, "larger --epsilon"),
    ],
)
def test_a_fit_whose_numbers_no_grid_holds_is_refused_before_it_is_paid_for(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        replace(ASKED, **changes).check_fit(1000, 10)
    for solver_rate in (1.0, 10.0):
        replace(ASKED, learning_rate=solver_rate).check_fit(1, 10)


def test_options_that_were_not_asked_for_are_not_taken() -> None:
    """A command's own default of --epsilon is that of the Gram composition."""
    given = {"data": "pets", "private": True, "epsilon": 0.02, "delta": 1e-5}
    with pytest.raises(UsageError, match="--epsilon"):
        private_fields(given, ["private", "delta"])


@pytest.mark.parametrize("name", sorted(OWN))
def test_option_of_privacy_alone_is_refused_without_it(name: str) -> None:
    with pytest.raises(UsageError, match="add --private"):
        private_fields({"data": "pets", name: 1}, ["data", name])
    assert private_fields({"data": "pets", name: None}, ["data"]) == {"data": "pets"}


@pytest.mark.parametrize("name", ["penalty", "epochs", "beside", "tolerance", "radius", "features"])
def test_field_of_other_fits_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="means nothing to a private run"):
        check_idle({"solver": "dp-gd", name: 3}, [name])


def test_rows_take_their_own_fields() -> None:
    check_idle({"solver": "dp-additive", "features": 64, "site_blocks": 2}, ["features", "site_blocks"])
    with pytest.raises(UsageError, match="means nothing"):
        check_idle({"solver": "dp-additive", "last_blocks": 3}, ["last_blocks"])

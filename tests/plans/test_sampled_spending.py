"""Options of sampled private runs, and how their fits add up: by PRV, beside full-batch ones whose sums are as they were."""

import math
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pytest

from taft_ray.errors import UsageError
from taft_ray.plans.fact import ObjectRef
from taft_ray.plans.privacy import Privacy, private_fields
from taft_ray.plans.spending import (
    DpReserved,
    epsilon_spent,
    epsilon_with_another,
    mu_spent,
    spent_by,
)
from taft_ray.plans.state import RunState
from taft_ray.privacy import epsilon_of, epsilon_of_sampled, mu_of, total
from taft_ray.storage import digest_json

FULL = Privacy(epsilon=3.0, delta=1e-5)
SAMPLED = Privacy(epsilon=3.0, delta=1e-5, sampling_rate=0.1, steps=20)
AS_BEFORE = {
    "epsilon": 3.0, "delta": 1e-5, "unit": "sample", "adjacency": "zero-out", "steps": 50, "clip": 1.0, "learning_rate": 1.0,
    "accountant": "gdp/1",
}  # fmt: skip


def reservation(privacy: Privacy, generation: int = 1, **changes: Any) -> DpReserved:
    made = DpReserved(
        shard=0, generation=generation, inputs="i", key=ObjectRef("k", f"{generation}"), mu=privacy.mu,
        noise_multiplier=privacy.noise_multiplier, epsilon=privacy.epsilon, delta=privacy.delta, steps=privacy.steps,
        clip=privacy.clip, learning_rate=privacy.learning_rate, divisor=9, unit=privacy.unit, adjacency=privacy.adjacency,
        accountant=privacy.accountant, sampling_rate=privacy.sampling_rate,
    )  # fmt: skip
    return replace(made, **changes)


# --- options


def test_options_without_a_rate_have_the_json_that_they_had() -> None:
    assert FULL.to_json() == AS_BEFORE
    assert Privacy.from_json(AS_BEFORE) == FULL
    assert digest_json(Privacy.from_json(AS_BEFORE).to_json()) == digest_json(AS_BEFORE)
    recorded = "2763b3e5c417b454adf64554dea523537d31727ffa0e74c3657cd59c697b731a"  # before there were rates
    assert digest_json(Privacy(epsilon=3.0, delta=1e-5, budget=6.0, divisor=9).to_json()) == recorded
    assert "sampling_rate" not in reservation(FULL).to_json()
    without = {name: value for name, value in reservation(FULL).to_json().items() if name != "restored"}
    assert DpReserved.from_json(without).digest == reservation(FULL).digest == digest_json(without)


def test_options_with_a_rate_survive_their_json_and_name_the_accountant() -> None:
    assert SAMPLED.to_json() == {
        **AS_BEFORE, "steps": 20, "sampling_rate": 0.1, "accountant": f"prv/opacus-{version('opacus')}",
    }  # fmt: skip
    assert Privacy.from_json(SAMPLED.to_json()) == SAMPLED
    older = Privacy.from_json({**SAMPLED.to_json(), "accountant": "prv/opacus-1.5.4"})
    assert older.accountant == "prv/opacus-1.5.4"
    assert DpReserved.from_json(reservation(SAMPLED).to_json()) == reservation(SAMPLED)
    assert reservation(SAMPLED).digest != reservation(replace(SAMPLED, sampling_rate=0.2)).digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling_rate": 0.0}, "set --sampling-rate, or leave it out"),
        ({"sampling_rate": 1.0}, "set --sampling-rate, or leave it out"),
        ({"sampling_rate": -0.1}, "0 < sampling_rate < 1"),
        ({"sampling_rate": 7.0}, "0 < sampling_rate < 1"),
        ({"sampling_rate": math.nan}, "0 < sampling_rate < 1"),
        ({"sampling_rate": math.inf}, "0 < sampling_rate < 1"),
        ({"sampling_rate": True}, "0 < sampling_rate < 1"),
        ({"sampling_rate": "0.1"}, "0 < sampling_rate < 1, got '0.1'"),
        ({"sampling_rate": 0.01, "divisor": 99}, "at least 1 / 99"),
        ({"sampling_rate": 0.5, "divisor": 1, "adjacency": "add-remove"}, "less than one unit per batch"),
        ({"sampling_rate": 0.1, "accountant": "rdp/1"}, "prv/opacus-VERSION"),
        ({"accountant": "prv/opacus-1.6.0"}, "gdp/1"),
    ],
)
def test_impossible_option_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Privacy(**{"epsilon": 3.0, "delta": 1e-5, **changes})


@pytest.mark.parametrize("units", [3, 10, 49, 100, 1000])
def test_the_smallest_rate_that_is_named_is_allowed(units: int) -> None:
    assert Privacy(epsilon=3.0, delta=1e-5, sampling_rate=1 / units, divisor=units).sampling_rate == 1 / units


def test_rate_is_of_private_runs_alone() -> None:
    with pytest.raises(UsageError, match="--sampling-rate: of a private run alone; add --private"):
        private_fields({"data": "pets", "sampling_rate": 0.1}, ["data", "sampling_rate"])
    given = {"data": "pets", "private": True, "epsilon": 3.0, "delta": 1e-5, "sampling_rate": 0.1}
    assert private_fields(given, given)["privacy"] == Privacy(epsilon=3.0, delta=1e-5, sampling_rate=0.1)


def test_noise_is_that_of_the_rate() -> None:
    sigma = SAMPLED.noise_multiplier
    assert sigma < replace(FULL, steps=20).noise_multiplier
    assert 2.99 < epsilon_of_sampled(sigma, 0.1, 20, 1e-5) <= 3.0
    assert SAMPLED.mu == FULL.mu == mu_of(3.0, 1e-5)


# --- sums


def test_full_batches_add_up_as_they_did() -> None:
    several = [reservation(FULL, 1), reservation(FULL, 2)]
    mu = total(one.mu for one in several)
    assert mu_spent(several, 1e-5) == mu
    assert epsilon_spent(several, 1e-5) == epsilon_of(mu, 1e-5)
    assert epsilon_with_another(several, FULL) == epsilon_of(total([mu, FULL.mu]), 1e-5)
    assert (mu_spent([], 1e-5), epsilon_spent([], 1e-5)) == (0.0, 0.0)
    assert epsilon_with_another([], FULL) == epsilon_of(FULL.mu, 1e-5)


def test_sampled_fits_add_up_step_by_step_and_never_by_their_mu() -> None:
    one, two = reservation(SAMPLED, 1), reservation(SAMPLED, 2)
    sigma = SAMPLED.noise_multiplier
    assert epsilon_spent([one], 1e-5) == epsilon_with_another([], SAMPLED) == 3.0
    both = epsilon_of_sampled(sigma, 0.1, 40, 1e-5)
    assert epsilon_spent([one, two], 1e-5) == epsilon_with_another([one], SAMPLED) == both
    assert 3.0 < both < 6.0
    assert both != pytest.approx(epsilon_of(total([one.mu, two.mu]), 1e-5), rel=1e-3)
    assert epsilon_spent([replace(one, mu=0.0), replace(two, mu=99.0)], 1e-5) == both
    assert mu_spent([one, two], 1e-5) == mu_of(both, 1e-5)
    assert epsilon_spent([one], 1e-6) == epsilon_of_sampled(sigma, 0.1, 20, 1e-6), "at another δ than it was made for"


def test_fits_that_differ_count_as_the_worst_of_them() -> None:
    one, other = reservation(SAMPLED, 1), reservation(replace(SAMPLED, sampling_rate=0.2, steps=30), 2)
    worst = min(one.noise_multiplier, other.noise_multiplier)
    assert epsilon_spent([one, other], 1e-5) == max(3.0, epsilon_of_sampled(worst, 0.2, 50, 1e-5))
    full = reservation(FULL, 2)
    mixed = epsilon_spent([one, full], 1e-5)
    assert mixed == epsilon_of(math.sqrt(70) / min(one.noise_multiplier, full.noise_multiplier), 1e-5)
    assert mixed >= epsilon_of(total([full.mu]), 1e-5)
    assert epsilon_spent([one, replace(one, noise_multiplier=0.0)], 1e-5) == math.inf


def test_a_run_has_spent_what_its_dearest_shard_has() -> None:
    one, two = reservation(SAMPLED, 1), reservation(SAMPLED, 2)
    state = RunState()
    assert spent_by(state, SAMPLED) == {"epsilon": 0.0, "delta": 1e-5, "budget": None}
    state.reservations = {0: [one], 1: [one, two], 2: [one]}
    assert spent_by(state, SAMPLED)["epsilon"] == epsilon_spent([one, two], 1e-5)
    state.reservations = {0: [reservation(FULL)], 1: [reservation(FULL), reservation(FULL, 2)]}
    assert spent_by(state, FULL)["epsilon"] == epsilon_of(math.sqrt(2) * FULL.mu, 1e-5)

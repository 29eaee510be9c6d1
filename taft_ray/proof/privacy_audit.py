"""The audit of a private run's mechanism: what canaries in fits of its recipe give away, beside what the run claims.

The fits are made in memory with fresh keys, on canaries alone, and thrown away. So no sample of the run is read, nothing is charged,
and nothing is written. Many runs measure the loss of one canary; one run measures many canaries at once.

Sampled batches are audited in two parts, for a fit on them is not Gaussian. In many runs the canary is in every batch, as if the attacker
knew the batches. That is Gaussian with μ = √T/σ, and tests noise, clipping and sums. The one run has batches as the run draws them. Its
bound assumes nothing of the noise, and tests all together, weakly.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from taft_ray.errors import UsageError
from taft_ray.fitting import PrivateRecipe
from taft_ray.fitting.private import Batches, Noise
from taft_ray.plans.privacy import Privacy
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.spending import DpReserved
from taft_ray.plans.state import RunState
from taft_ray.privacy import BatchStream, GaussianStream, epsilon_of, epsilon_of_sampled, mu_of, new_key
from taft_ray.privacy.lower_bounds import (
    detects_any_noise,
    detects_by_many_runs,
    detects_by_one_run,
    epsilon_of_one_run,
    guesses_for,
    mu_of_many_runs,
    mu_of_one_run,
)
from taft_ray.progress import Report, silent
from taft_ray.run.environment import torch_settings_kept
from taft_ray.run.model import load_for
from taft_ray.workers.canaries import Canaries, most_canaries
from taft_ray.workers.run_model import RunModel

CANARIES = 500
LEAST_RUNS, MOST_RUNS = 10, 1000
SECONDS = 60.0  # that all runs together take about, where nobody says how many


def check_audit(
    spec: RunSpec, state: RunState, *, address: str, level: float, runs: int | None, canaries: int | None
) -> DpReserved:
    """The reservation whose recipe is audited: that with the least noise. UsageError where there is nothing to audit, or no way."""
    if spec.privacy is None:
        raise UsageError(f"{address} is no private run: it claims no ε that could be refuted; leave --privacy out")
    if not 0 < level < 0.5:
        raise UsageError(f"expected 0 < level < 0.5, got {level}; set --level")
    for name, value in (("runs", runs), ("canaries", canaries)):
        if value is not None and not value >= 2:
            raise UsageError(f"expected {name} >= 2, got {value}; set --{name}")
    several = [one for of_shard in state.reservations.values() for one in of_shard]
    if not several:
        raise UsageError(f"{address} has fitted nothing yet: there is no mechanism to audit; run taft-ray train first")
    return min(several, key=lambda one: one.noise_multiplier / one.steps**0.5)


def audit_privacy(
    address: str,
    spec: RunSpec,
    state: RunState,
    *,
    level: float = 0.01,
    runs: int | None = None,
    canaries: int | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Lower bounds on the ε of one fit of the run's recipe, beside its claim; "ok" where none is above it.

    level: how likely a false conviction may be. runs: fits with a canary, and as many without; by default what `SECONDS` allow.

    canaries: of the one fit with many. `CANARIES` by default, or fewer where the model is small, or memory is.
    """
    reserved = check_audit(spec, state, address=address, level=level, runs=runs, canaries=canaries)
    assert spec.privacy is not None
    began, half = time.monotonic(), level / 2  # of the level for each of the two that may convict
    recipe = PrivateRecipe(
        steps=reserved.steps, learning_rate=reserved.learning_rate, clip=reserved.clip,
        noise_multiplier=reserved.noise_multiplier, divisor=reserved.divisor,
    )  # fmt: skip
    with torch_settings_kept():
        model = RunModel(address, len(state.classes))
        apart, most = most_canaries(model.tm)
        if canaries is not None and canaries > most:
            raise UsageError(f"{canaries} canaries: there is memory for {most}; set --canaries to at most {most}")
        made = Canaries.random(
            model.tm, canaries or min(CANARIES, apart), load_for(spec).preprocess.size, recipe,
            of_owners=spec.privacy.unit == "owner", rate=reserved.sampling_rate,
        )  # fmt: skip
        told = {
            "many_runs": many_runs(made, spec.privacy, half, runs, report),
            "one_run": one_run(made, spec.privacy, half),
        }
    mu, sampled = mu_of_steps(spec.privacy), spec.privacy.sampling_rate is not None
    convicting = [
        name
        for name, one in told.items()
        if (one["epsilon"] > spec.privacy.epsilon if sampled and name == "one_run" else one["mu"] > mu)
    ]
    return {
        "run": address,
        "ok": not convicting,
        "convicted_by": convicting,
        "epsilon": spec.privacy.epsilon,
        "delta": spec.privacy.delta,
        "mu": mu,
        "unit": spec.privacy.unit,
        "steps": recipe.steps,
        "clip": recipe.clip,
        "noise_multiplier": recipe.noise_multiplier,
        **({"sampling_rate": reserved.sampling_rate} if sampled else {}),
        "level": level,
        **told,
        "seconds": time.monotonic() - began,
    }


def mu_of_steps(claim: Privacy) -> float:
    """μ that the claim allows T steps that a unit is in each of, beside a release of the rows' mean."""
    return claim.steps**0.5 / claim.noise_multiplier


def _epsilon_of_steps(claim: Privacy, mu: float) -> float:
    """ε of a fit with the noise that a μ of all steps says."""
    if claim.sampling_rate is None or mu <= 0:
        return epsilon_of(mu, claim.delta)
    return epsilon_of_sampled(claim.steps**0.5 / mu, claim.sampling_rate, claim.steps, claim.delta)


def many_runs(
    canaries: Canaries, claim: Privacy, level: float, runs: int | None = None, report: Report = silent,
    noises: Callable[[], Noise] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fits with one canary and fits with nothing: each is guessed by the threshold in the middle, which is fixed beforehand.

    noises: a fresh noise for each fit.
    """
    noises, alone, first = noises or fresh_noise, np.array([0]), slice(0, 1)
    nobody = alone[:0]
    if runs is None:
        began = time.monotonic()
        for chosen in (alone, nobody):  # their scores are not looked at
            canaries.scores(chosen, noises(), first)
        runs = int(min(MOST_RUNS, max(LEAST_RUNS, SECONDS / (time.monotonic() - began))))
    with_it = without_it = 0
    for done in range(runs):
        with_it += bool(canaries.scores(alone, noises(), first)[0] > canaries.mu / 2)
        without_it += bool(canaries.scores(nobody, noises(), first)[0] <= canaries.mu / 2)
        report("canaries", done + 1, runs)
    mu = mu_of_many_runs(with_it + without_it, 2 * runs, level)
    return {
        "runs": runs,
        "right_with": with_it,
        "right_without": without_it,
        "mu": mu,
        "epsilon": _epsilon_of_steps(claim, mu),
        "detects": detects_by_many_runs(mu_of_steps(claim), 2 * runs, level),
    }


def one_run(
    canaries: Canaries,
    claim: Privacy,
    level: float,
    noises: Callable[[], Noise] | None = None,
    coins: np.ndarray | None = None,
    batches: Batches | None = None,
) -> dict[str, Any]:
    """One fit with about half of the canaries: those that seem most in it, and least, are guessed, a number fixed beforehand.

    coins: (M,) bool, which of them are in, by default drawn. batches: those of a sampled fit, by default of a fresh key.
    """
    if coins is None:
        coins = np.array([secrets.randbits(1) for _ in range(len(canaries))], bool)
    rate = claim.sampling_rate
    expected = mu_of_steps(claim) * (1.0 if rate is None else rate)
    guesses = guesses_for(len(canaries), expected, level)
    drawn: dict[str, Any] = {} if rate is None else {"batches": batches or BatchStream(new_key())}
    found = canaries.expected(canaries.scores(np.flatnonzero(coins), (noises or fresh_noise)(), **drawn))
    order = np.argsort(found)
    right = int(coins[order[len(order) - guesses // 2 :]].sum() + (~coins[order[: guesses // 2]]).sum())
    any_noise = epsilon_of_one_run(right, guesses, len(canaries), claim.delta, level)
    if rate is None:
        mu = mu_of_one_run(right, guesses, len(canaries), level)
        epsilon, detects = epsilon_of(mu, claim.delta), detects_by_one_run(expected, guesses, len(canaries), level)
    else:
        mu, epsilon = mu_of(any_noise, claim.delta) if any_noise > 0 else 0.0, any_noise
        detects = detects_any_noise(expected, claim.epsilon, guesses, len(canaries), claim.delta, level)
    return {
        "canaries": len(canaries),
        "guesses": guesses,
        "right": right,
        "mu": mu,
        "epsilon": epsilon,
        "epsilon_of_any_noise": any_noise,
        "detects": detects,
    }


def fresh_noise() -> Noise:
    """Noise of a key that nobody has, as a fit of the run has it."""
    return GaussianStream(new_key())

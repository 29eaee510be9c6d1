"""The check of `verify` that makes the choice of an additive run's settings again, from sums and rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from taft_ray.additive.settings import Policy, Settings
from taft_ray.errors import IntegrityError
from taft_ray.plans.facts import Tuned
from taft_ray.proof.evidence import Evidence
from taft_ray.run.snapshots import snapshot_digest

if TYPE_CHECKING:
    from taft_ray.run.choice import Choice

_LAST_DIGITS = 1e-6  # relative: criteria of another machine differ by less
_WRITTEN = 6e-3  # relative: criteria are written with three digits


def choice(run: Evidence) -> None:
    """The settings in the ledger are those that their policy chooses from these sums and rows. Stale ones are used by nobody.

    On another machine the last digits of a criterion differ. So settings may differ whose criteria do not.
    """
    tuned = run.state.tuned
    if tuned is None or tuned.policy is None or run.sums is None:
        return
    if tuned.of != snapshot_digest(run.sums):
        run.notes.append("the settings in the ledger are of earlier sums; whoever uses the model chooses them again")
        return
    from taft_ray.run.choice import choose, rows_in_model  # with scipy

    with run.examining("choice of settings"):
        again = choose(tuned.policy, run.sums, lambda: rows_in_model(run.store, run.state))
        _compare(tuned, again)
        run.checks["choice of settings"] = 1


def _compare(tuned: Tuned, again: Choice) -> None:
    policy, settings = tuned.policy, tuned.settings
    assert policy is not None
    if settings is None or not _possible(policy, settings):
        raise IntegrityError(
            "the settings in the ledger are no candidate of their policy; taft-ray tune chooses them again"
        )
    best = again.tuned.settings
    assert best is not None
    if settings != best and not _as_good(settings, again):
        raise IntegrityError(
            f"the ledger has {_said(settings)}, and the policy chooses {_said(best)}; taft-ray tune chooses them again"
        )
    if settings == best and not _same_criteria(tuned, again.tuned):
        raise IntegrityError(
            "the criteria in the ledger are not those of the sums and rows; taft-ray tune makes them again"
        )


def _possible(policy: Policy, settings: Settings) -> bool:
    return (
        settings.size in policy.sizes
        and len(settings.weights) == len(policy.groups)
        and {*settings.weights} <= {1.0, *policy.weights}
        and settings.penalty in policy.penalties
        and settings.kappa in policy.kappas
    )


def _as_good(settings: Settings, again: Choice) -> bool:
    """Whether GCV and log loss of other settings are, to the last digits, the least."""
    tuner = again.tuner
    candidate = tuner.candidate(settings.size, settings.weights)
    gcv = next(score.gcv for score in candidate.curve if score.penalty == settings.penalty)
    if gcv > tuner.chosen.score.gcv * (1 + _LAST_DIGITS):
        return False
    if again.tuned.left_out == 0:
        return settings.kappa == tuner.policy.kappas[0]
    losses = again.left_out_of(candidate).losses
    return losses[tuner.policy.kappas.index(settings.kappa)] <= min(losses) * (1 + _LAST_DIGITS)


def _same_criteria(tuned: Tuned, again: Tuned) -> bool:
    if len(tuned.tried) != len(again.tried) or tuned.left_out != again.left_out:
        return False
    pairs = [
        *((one.gcv, other.gcv) for one, other in zip(tuned.tried, again.tried, strict=True)),
        *zip(tuned.losses, again.losses, strict=True),
        (tuned.accuracy, again.accuracy),
    ]
    return all(one == other or (one and other and math.isclose(one, other, rel_tol=_WRITTEN)) for one, other in pairs)


def _said(settings: Settings) -> str:
    return (
        f"S' = {settings.size}, weights {list(settings.weights)}, λ = {settings.penalty:.2g}, κ = {settings.kappa:.3g}"
    )

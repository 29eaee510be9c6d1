"""`tune`: choose the settings of an additive run's model by a policy, from its sums and from rows left out one by one. No Ray.

The policy and its choice are committed (`plans.facts.Tuned`). A choice is of the sums that it names, and stale once a picture
has left them. `evaluate` and `predict` choose again then, once, and commit that. `export`, and the models of some owners, choose again
in memory. No test picture is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from taft_ray.additive.settings import KAPPAS, LEFT_OUT, WEIGHTS, Policy
from taft_ray.composer.composer import Composer
from taft_ray.log import operation
from taft_ray.plans.spec import RunSpec
from taft_ray.run.address import run_address
from taft_ray.run.choice import Choice, site_groups
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store

_PARTS = (4, 2, 1)  # default sizes: a quarter, a half and all of a row's numbers


@operation("tune")
def tune(
    run: str,
    *,
    sizes: Sequence[int] = (),
    weights: Sequence[float] | None = None,
    kappas: Sequence[float] = (),
    left_out: int = LEFT_OUT,
    reset: bool = False,
) -> dict[str, Any]:
    """Choose among these candidates, show the criteria, and commit the choice with its policy; safe to call again.

    sizes: how many of a row's first numbers. weights: those that a group of sites may have beside 1; () leaves them alike.

    kappas: factors of the logits; one alone is taken as it is. left_out: pictures at most. reset: have no policy any more.

    UsageError where the run is not additive, has no model, or cannot have a candidate.
    """
    began = time.perf_counter()
    run = run_address(run)
    spec = run_spec(Store(run))
    spec.check_additive("tune (taft-ray sweep tries settings of other runs)")
    composer = Composer(run)
    composer.recover()
    if reset:
        composer.tuning.give_up()
        return {"run": run, "composed": composer.composed_digest(), "seconds": time.perf_counter() - began}
    policy = policy_of(spec, sizes, weights, kappas, left_out)
    choice = composer.tuning.adopt(policy, every=True)
    return {"run": run, "composed": choice.tuned.of, **_told(choice, policy), "seconds": time.perf_counter() - began}


def policy_of(
    spec: RunSpec,
    sizes: Sequence[int] = (),
    weights: Sequence[float] | None = None,
    kappas: Sequence[float] = (),
    left_out: int = LEFT_OUT,
) -> Policy:
    """The policy with these candidates; defaults for those that are not given. UsageError for one that the run cannot have."""
    groups = site_groups(spec)
    all_sizes = [int(size) for size in sizes] or [sum(group.kept for group in groups) // part for part in _PARTS]
    policy = Policy(
        groups=groups,
        sizes=tuple(dict.fromkeys(all_sizes)),
        kappas=tuple(dict.fromkeys(map(float, kappas or (spec.kappa, *KAPPAS)))),
        weights=tuple(dict.fromkeys(map(float, WEIGHTS if weights is None else weights))),
        left_out=left_out,
    )
    if not sizes:  # a narrow row may not have a quarter
        possible = tuple(size for size in policy.sizes if size >= policy.smallest)
        policy = Policy(policy.groups, possible, policy.kappas, policy.weights, left_out=left_out)
    policy.check()
    return policy


def _told(choice: Choice, policy: Policy) -> dict[str, Any]:
    """The choice and its criteria, with all their digits."""
    tuner, settings, left = choice.tuner, choice.tuned.settings, choice.left_out
    assert settings is not None
    assert left is not None  # every picture that the policy names was left out
    names = [group.name for group in policy.groups]
    candidates = []
    for candidate in tuner.candidates:
        chosen, score = candidate is tuner.chosen, candidate.score
        accuracy = (left if chosen else choice.left_out_of(candidate)).accuracy
        candidates.append(
            {
                "size": candidate.size,
                "weights": dict(zip(names, candidate.weights, strict=True)),
                "penalty": score.penalty,
                "gcv": _finite(score.gcv),
                "degrees_of_freedom": score.degrees_of_freedom,
                "leave_one_out": _finite(accuracy),
                "chosen": chosen,
            }
        )
    return {
        "pictures": tuner.n,
        "left_out": left.told,
        "settings": settings.to_json(),
        "groups": names,
        "features": policy.features,
        "candidates": candidates,
        "penalties": [
            {
                "penalty": score.penalty,
                "gcv": _finite(score.gcv),
                "degrees_of_freedom": score.degrees_of_freedom,
                "residual": score.residual,
                "chosen": score.penalty == settings.penalty,
            }
            for score in tuner.chosen.curve
        ],
        "kappas": [
            {"kappa": kappa, "log_loss": _finite(loss), "chosen": kappa == settings.kappa}
            for kappa, loss in zip(policy.kappas, left.losses, strict=True)
        ],
    }


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None

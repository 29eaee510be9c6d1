"""The attack on a forget, and what may be said of its outcome.

A sample that was forgotten lay in one shard, its *home*; no other shard ever saw it. So the other shards' models are shadow
models that come for free (LiRA, Carlini et al. 2022, "Membership Inference Attacks From First Principles"):

    score(x) = φ_target(x) − mean_o φ_o(x),      o: shards other than x's home and the target;      φ = −log loss

The loss alone is the attack of Yeom et al. (2018); the mean over shadow models takes out how hard x is. LiRA also divides
by the shadows' deviation, one for all samples when there are fewer than dozens of them. That changes no rank, so it is left out.

Targets: the home's present model (after a retrain), and the composed model. The composed model is a target for all
forgotten samples, and the only one for those whose shard was dropped. Three kinds of samples: forgotten, never seen, and,
to know what the attack can see on this run, members: kept samples of the touched shards. The two sets may also differ in
a way that is not membership. As a control, the same samples of both sets are compared on shards that saw neither.

Limits: power is measured on the present models. A shard that lost much of its data fits the rest more closely than its old
model did. So a fake of a large part of a shard is a little harder to find than the power says. An AUC well below ½ is no
sign of memory. It arises where samples of one kind (an owner's, say) were forgotten. The shard that lost them knows that
kind less well than the others do.

Legend: R samples, S shards in the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from taft_ray.attack.membership import (
    PERMUTATIONS,
    Rows,
    arrangements,
    auc_interval,
    detection_rate,
    matched,
    permutation_test,
    placements,
    reference_needed,
    true_positive_rate,
)
from taft_ray.errors import UsageError

Verdict = Literal["at chance", "remembers", "no power"]
NO_SHARD = -1
POWER_NEEDED = 0.8  # of a faked forget of as many samples: what a test is commonly asked for
LOW_FPR = 0.05
CONTROLS = 16  # stand-ins tried at most


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Samples as the models see them: φ ``by_shard`` (R, S) and ``composed`` (R,), ``labels`` and ``home`` (R,).

    ``home``: the column of the shard that a sample was in; ``NO_SHARD`` where that is not in the model, or there was none.
    """

    by_shard: np.ndarray
    composed: np.ndarray
    labels: np.ndarray
    home: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: np.ndarray) -> Samples:
        return replace(self, **{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})


def judge(
    *, forgotten: Samples, never_seen: Samples, members: Samples, level: float, permutations: int = PERMUTATIONS
) -> dict[str, Any]:
    """The verdict, with the numbers it rests on.

    "remembers": on one of the targets, which share the level, the forgotten samples look like members. There the permutation
    test rejects, and the AUC is farther from ½ than on any shard that saw neither set.

    "no power": they do not, but fewer than ``POWER_NEEDED`` of as many members would have been found out. The verdict is
    the same where the test rejects and the shards that saw neither tell the sets apart as well.

    "at chance": neither.

    Guarantees: an honest forget of samples that are exchangeable with the never-seen ones of their class "remembers" with
    probability at most ``level``.
    """
    check(level=level, shards=forgotten.by_shard.shape[1])
    retrained = forgotten.take(forgotten.home != NO_SHARD)
    for asked in filter(len, (forgotten, retrained)):
        if not np.isin(asked.labels, never_seen.labels).any():
            raise UsageError(
                "no forgotten sample shares its class with a never-seen one; give others with these classes"
            )
    control = _control(forgotten, never_seen)
    shared = level / (2 if len(retrained) else 1)
    limits = {"level": shared, "limit": control["auc_limit"], "permutations": permutations}
    targets: dict[str, dict[str, Any]] = {}
    if len(retrained):
        like_them = members.take(np.isin(members.home, retrained.home))
        targets["shards"] = _attack(by_shard_scores, retrained, never_seen, like_them, **limits)
    targets["composed"] = _attack(composed_scores, forgotten, never_seen, members, **limits)
    # dropped samples have no shard in the model: for them the composed model must be able to tell
    deciding = [
        name for name, asks in (("shards", len(retrained)), ("composed", len(forgotten) - len(retrained))) if asks
    ]
    found = [name for name, target in targets.items() if target["remembers"]]
    apart = [name for name, target in targets.items() if target["p_value"] <= shared]
    blind = [name for name in deciding if targets[name]["power"]["detects"] < POWER_NEEDED]
    verdict: Verdict
    if found:
        verdict, why = "remembers", f"{' and '.join(found)}: forgotten samples look like members"
    elif apart:
        verdict, why = (
            "no power",
            "the two sets differ on shards that saw neither: give never-seen data of the same kind",
        )
    elif blind:
        verdict, why = (
            "no power",
            f"{' and '.join(blind)}: a faked forget of so few samples could go unseen on this run",
        )
    else:
        verdict, why = "at chance", "forgotten samples look like never-seen ones, and members do not"
    first = targets[deciding[0]]
    return {
        "ok": verdict != "remembers",
        "verdict": verdict,
        "why": why,
        **{name: first[name] for name in ("auc", "auc_ci", "p_value", "power")},
        "level": level,
        "control": control,
        "targets": targets,
        "forgotten": len(forgotten),
        "never_seen": len(never_seen),
    }


def check(*, level: float, shards: int) -> None:
    """UsageError where no audit can be made, whatever the samples."""
    if not 1 / PERMUTATIONS <= level / 2 < 0.25:
        raise UsageError(f"expected {2 / PERMUTATIONS:.2g} <= level < 0.5, got {level}; set --level")
    if shards < 2:
        raise UsageError(f"an audit compares shards with one another: {shards} in the model, expected 2 or more")


def by_shard_scores(samples: Samples) -> Rows:
    """Column g: shard g's φ over the other shards' mean."""
    count = samples.by_shard.shape[1]
    total = samples.by_shard.sum(axis=1, keepdims=True)
    scores = samples.by_shard - (total - samples.by_shard) / (count - 1)
    return Rows(scores=scores, strata=samples.labels, target=samples.home)


def composed_scores(samples: Samples) -> Rows:
    """Column g: the composed model's φ over the mean of all shards but g; the last column, for no home, over all."""
    count = samples.by_shard.shape[1]
    total = samples.by_shard.sum(axis=1, keepdims=True)
    means = np.concatenate([(total - samples.by_shard) / (count - 1), total / count], axis=1)
    scores = samples.composed[:, None] - means
    return Rows(scores=scores, strata=samples.labels, target=np.where(samples.home == NO_SHARD, count, samples.home))


def control_scores(samples: Samples, step: int) -> Rows:
    """As `by_shard_scores`, but column g is of the shard ``step`` places after g, which saw nothing of what g held."""
    phi = samples.by_shard
    count = phi.shape[1]
    columns = []
    for g in range(count):
        stand_in = (g + step) % count
        others = [o for o in range(count) if o not in (g, stand_in)]
        columns.append(phi[:, stand_in] - phi[:, others].mean(axis=1))
    stand_in = step % count
    columns.append(phi[:, stand_in] - np.delete(phi, stand_in, axis=1).mean(axis=1))
    return Rows(
        scores=np.stack(columns, axis=1),
        strata=samples.labels,
        target=np.where(samples.home == NO_SHARD, count, samples.home),
    )


def _attack(
    scores: Callable[[Samples], Rows],
    forgotten: Samples,
    never_seen: Samples,
    members: Samples,
    *,
    level: float,
    limit: float,
    permutations: int,
) -> dict[str, Any]:
    """One target: the forgotten against the never-seen, and as a measure of what it can see, members against them."""
    asked, reference = matched(scores(forgotten), scores(never_seen))
    _check_size(len(forgotten), asked, reference, level)
    test = permutation_test(asked, reference, permutations=permutations)
    known, _ = matched(scores(members), reference)
    if not len(known):
        raise UsageError("no kept sample has a class of the forgotten ones: whether the attack works cannot be tried")
    of_members = placements(known, reference)
    critical = max(limit, test.critical(level))

    def described(placed: np.ndarray) -> dict[str, Any]:
        auc = float(placed.mean())
        tpr = {"fpr": LOW_FPR, "tpr": true_positive_rate(placed, LOW_FPR)}
        return {"auc": auc, "auc_ci": list(auc_interval(auc, len(placed), len(reference))), "tpr": tpr}

    return {
        **described(placements(asked, reference)),
        "p_value": test.p_value,
        "remembers": test.p_value <= level and test.auc > limit,
        "forgotten": len(asked),
        "never_seen": len(reference),
        "power": {
            **described(of_members),
            "members": len(known),
            "critical_auc": critical,
            "detects": detection_rate(of_members, len(asked), critical),
        },
    }


def _check_size(given: int, asked: Rows, reference: Rows, level: float) -> None:
    if arrangements(asked, reference) * level < 1:
        raise UsageError(
            f"{len(asked)} of {given} forgotten samples against {len(reference)} never-seen ones of their classes cannot reach "
            f"level {level:g} per target. Give {reference_needed(len(asked), level)} never-seen samples per class, or more forgotten ones"
        )


def _control(forgotten: Samples, never_seen: Samples) -> dict[str, Any]:
    """The same two sets on shards that saw neither: how far an AUC goes from ½ by a difference that is not membership.

    ``auc_limit``: ½ and the farthest of them. Among models that treat the sets alike, the target is the farthest with
    probability 1/(controls + 1), whatever the two sets are.
    """
    count = forgotten.by_shard.shape[1]
    if count < 3:  # a stand-in needs a shard beside the home and itself
        return {"aucs": [], "auc_limit": 0.5}
    aucs = []
    for step in np.unique(np.linspace(1, count - 1, min(CONTROLS, count - 1)).round().astype(int)):
        asked, reference = matched(control_scores(forgotten, step), control_scores(never_seen, step))
        aucs.append(float(placements(asked, reference).mean()))
    return {"aucs": aucs, "auc_limit": 0.5 + max(abs(auc - 0.5) for auc in aucs)}

"""The attack on a forget, and what may be said of its outcome.

A sample that was forgotten lay in one shard, its *home*; no other shard ever saw it. So the other shards' models are shadow
models that come for free (LiRA, Carlini et al. 2022, "Membership Inference Attacks From First Principles"):

    score(x) = φ_target(x) − mean_o φ_o(x),      o: shards other than x's home and the target;      φ = −log loss

The loss alone is the attack of Yeom et al. (2018); the mean over shadow models takes out how hard x is. LiRA also divides
by the shadows' deviation, one for all samples when there are fewer than dozens of them; that changes no rank, so it is left out.

Targets: the home's present model (after a retrain), and the composed model (for all forgotten samples, and the only one
for those whose shard was dropped). Three kinds of samples: forgotten, never seen, and, to know what the attack can see on
this run, members: kept samples of the touched shards. As a control for a difference between the two sets that is not
membership, the same forgotten and never-seen samples are compared on shards that saw neither.

Legend: R samples, S shards in the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from taft_ray.errors import UsageError
from taft_ray.privacy.membership import (
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

Verdict = Literal["at chance", "remembers", "no power"]
NO_SHARD = -1
POWER_NEEDED = 0.8  # of a faked forget of as many samples: what a test is commonly asked for
LOW_FPR = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """What the models say of samples: φ ``by_shard`` (R, S) and ``composed`` (R,), ``labels`` and ``home`` (R,).

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


def judge(*, forgotten: Samples, never_seen: Samples, members: Samples, level: float) -> dict[str, Any]:
    """The verdict, with the numbers it rests on.

    "remembers": the forgotten samples look like members at ``level`` on one of the targets (which share the level), and
    on shards that saw neither set they do not. "no power": the samples do not differ, but a faked forget of as many
    would have gone unseen more often than ``1 − POWER_NEEDED``; or the two sets differ where neither is a member.
    "at chance": neither.
    """
    if not 0 < level < 0.5:
        raise UsageError(f"expected 0 < level < 0.5, got {level}; set --level")
    shards = forgotten.by_shard.shape[1]
    if shards < 2:
        raise UsageError(f"an audit compares shards with one another, and {shards} is in the model; it needs 2 or more")
    retrained = forgotten.take(forgotten.home != NO_SHARD)
    parts = 1 + bool(len(retrained))
    shared = level / parts
    targets: dict[str, Any] = {}
    if len(retrained):
        targets["shards"] = _attack(
            retrained, never_seen, members.take(np.isin(members.home, retrained.home)), by_shard_scores, shared
        )
    targets["composed"] = _attack(forgotten, never_seen, members, composed_scores, shared)
    control = _control(forgotten, never_seen, level)
    needed = ["shards"] if len(retrained) else []
    needed += ["composed"] if len(retrained) < len(forgotten) else []
    found = [name for name, target in targets.items() if target["p_value"] <= shared]
    beyond = [name for name in found if targets[name]["auc"] > control["auc_limit"]]
    blind = [name for name in needed if targets[name]["power"]["detects"] < POWER_NEEDED]
    verdict: Verdict
    if beyond:
        verdict, why = "remembers", f"{' and '.join(beyond)}: forgotten samples look like members"
    elif found or not control["clean"]:
        verdict, why = "no power", (
            "forgotten and never-seen samples differ on shards that saw neither: give never-seen data of the same kind"
        )  # fmt: skip
    elif blind:
        verdict, why = "no power", (
            f"{' and '.join(blind)}: the audit could not have seen a faked forget of so few samples on this run"
        )  # fmt: skip
    else:
        verdict, why = "at chance", "forgotten samples look like never-seen ones, and members do not"
    first = targets[needed[0]]
    return {
        "ok": verdict != "remembers",
        "verdict": verdict,
        "why": why,
        "auc": first["auc"],
        "auc_ci": first["auc_ci"],
        "p_value": first["p_value"],
        "level": level,
        "power": first["power"],
        "control": control,
        "targets": targets,
        "forgotten": len(forgotten),
        "never_seen": len(never_seen),
    }


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


def _attack(forgotten: Samples, never_seen: Samples, members: Samples, scores: Any, level: float) -> dict[str, Any]:
    asked, reference = matched(scores(forgotten), scores(never_seen))
    _check_size(len(forgotten), asked, reference, level)
    test = permutation_test(asked, reference)
    placed = placements(asked, reference)
    known, _ = matched(scores(members), reference)
    if not len(known):
        raise UsageError(
            "no kept sample of the touched shards has a class of the forgotten ones: the attack cannot be tried"
        )
    member_placements = placements(known, reference)
    critical = test.critical(level)
    return {
        "auc": test.auc,
        "auc_ci": list(auc_interval(test.auc, len(asked), len(reference))),
        "p_value": test.p_value,
        "tpr": {"fpr": LOW_FPR, "tpr": true_positive_rate(placed, LOW_FPR)},
        "forgotten": len(asked),
        "never_seen": len(reference),
        "power": {
            "auc": float(member_placements.mean()),
            "auc_ci": list(auc_interval(float(member_placements.mean()), len(known), len(reference))),
            "tpr": {"fpr": LOW_FPR, "tpr": true_positive_rate(member_placements, LOW_FPR)},
            "members": len(known),
            "critical_auc": critical,
            "detects": detection_rate(member_placements, len(asked), critical),
        },
    }


def _check_size(given: int, asked: Rows, reference: Rows, level: float) -> None:
    if not len(asked):
        raise UsageError(
            "no forgotten sample shares its class with a never-seen one; give never-seen data with these classes"
        )
    if arrangements(asked, reference) * level < 1:
        raise UsageError(
            f"{len(asked)} of {given} forgotten samples against {len(reference)} never-seen ones of their classes cannot reach "
            f"level {level:g}; give {reference_needed(len(asked), level)} never-seen samples a class, or more forgotten ones"
        )


def _control(forgotten: Samples, never_seen: Samples, level: float) -> dict[str, Any]:
    """The same two sets on shards that saw neither: what of an AUC is a difference between the sets and not membership.

    ``clean``: on none of them do the sets differ, in either direction, at ``level`` over all of them. ``auc_limit``: what a
    target's AUC must exceed to count: 0.5 where clean, else the farthest that the sets differ on a shard that saw neither.
    """
    count = forgotten.by_shard.shape[1]
    if count < 3:  # a stand-in needs a shard beside the home and itself
        return {"shards": 0, "aucs": [], "clean": True, "auc_limit": 0.5}
    aucs, least = [], 1.0
    for step in range(1, count):
        asked, reference = matched(control_scores(forgotten, step), control_scores(never_seen, step))
        test = permutation_test(asked, reference, permutations=1999)
        above = test.p_value
        below = (1 + int((test.null <= test.auc + 1e-9).sum())) / (len(test.null) + 1)
        aucs.append(test.auc)
        least = min(least, 2 * min(above, below) * (count - 1))
    clean = least > level
    return {
        "shards": count - 1,
        "aucs": aucs,
        "p_value": min(1.0, least),
        "clean": clean,
        "auc_limit": 0.5 if clean else 0.5 + max(abs(auc - 0.5) for auc in aucs),
    }

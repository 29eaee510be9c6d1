"""Why a model answers as it does: the same logits without each shard or owner, or each shard's part in them.

| model | what is told of a group |
|---|---|
| sums over pictures (`additive`) | logits by the solve of the sums without its pictures: `additive.without`, exact |
| mean of deltas | J·Δw_s w_s/W, which add up to the tangent term; and logits by the mean of the other shards, exact |
| Gram or joint composition | logits by composing without the shard, as a forget by drop would, exact |

Nothing of the pictures is kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from taft_ray.additive.exact_sums import Sums
from taft_ray.additive.tuning import column_scales
from taft_ray.additive.without import Without
from taft_ray.errors import CommitConflict
from taft_ray.plans.facts import Tuned
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import ShardState
from taft_ray.progress import Report, silent
from taft_ray.run.choice import rows_of_shard, with_rows
from taft_ray.run.environment import settle, torch_settings_kept
from taft_ray.run.owner_groups import owner_groups
from taft_ray.run.record import Record
from taft_ray.run.rows import sums_from
from taft_ray.run.snapshots import load_arrays
from taft_ray.run.sums import one_thread, read_terms, sums_of
from taft_ray.sums.composition import terms_to_delta
from taft_ray.tangent import Delta, TangentModel

MOST_ASKED = 100  # pictures that are explained at once
LEFT_OUT_PICTURES, PARTS, LEFT_OUT_SHARDS = "left-out pictures", "parts of the mean", "left-out shards"
SHARD, OWNER = "shard", "owner"
_NO_OWNERS = "no owner was evaluated: a shard's Δw is fitted to all of its pictures, and only sums over pictures can leave some out"


@dataclass
class Seen:
    """The first pictures of a prediction, at most `MOST_ASKED`: rows (q, S) or tokens, and logits (q, K).

    tm: the model of deltas. penalty: λ of the model of sums.
    """

    tm: TangentModel | None = None
    penalty: float | None = None
    inputs: list[torch.Tensor] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    def take(self, inputs: torch.Tensor, logits: torch.Tensor) -> None:
        more = min(len(inputs), MOST_ASKED - len(self))
        self.count += len(inputs)
        if more:
            self.inputs.append(inputs[:more].clone())
            self.logits.append(logits[:more].double().numpy())

    def __len__(self) -> int:
        return sum(map(len, self.inputs))


@dataclass(frozen=True, kw_only=True, eq=False)
class Left:
    """A shard or owner. logits: (q, K) without it, None where nothing else is in the model. part: of the mean's, (q, K)."""

    group: str
    name: str
    samples: int
    logits: np.ndarray | None
    part: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Each group and the answers without it. logits: (q, K) with all of them. left_out: sentences on what was not evaluated."""

    kind: str
    logits: np.ndarray
    groups: tuple[Left, ...]
    left_out: tuple[str, ...]
    seconds: float
    penalty: float | None = None  # λ of the sums' model, which stays


def explain(
    record: Record,
    seen: Seen,
    composed: str,
    tuned: Tuned | None = None,
    owners: Sequence[str] = (),
    report: Report = silent,
) -> Explanation:
    """The explanation of the answers of ``seen``, by the model whose snapshot has the key ``composed``.

    tuned: as of `predictions`. owners: names; of others a hash is told.

    CommitConflict where the run has changed since the model was composed.
    """
    began, spec = time.perf_counter(), record.spec
    left_out: tuple[str, ...] = ()
    if seen.count > len(seen):
        left_out = (f"{seen.count - len(seen):,} pictures behind the first {len(seen)} are not explained",)
    penalty = None
    with torch_settings_kept():
        settle(spec)
        if spec.additive:
            penalty = seen.penalty
            groups, told = _without_pictures(record, seen, composed, tuned, owners, report)
            kind, left_out = LEFT_OUT_PICTURES, left_out + told
        else:
            if owners:
                spec.check_additive("what owners weigh in an answer")
            kind = PARTS if spec.compose == "mean" else LEFT_OUT_SHARDS
            groups = _without_shards(record, seen, report)
            left_out += (_NO_OWNERS,)
    return Explanation(
        kind=kind,
        logits=np.concatenate(seen.logits),
        groups=tuple(groups),
        left_out=left_out,
        seconds=time.perf_counter() - began,
        penalty=penalty,
    )


def _without_pictures(
    record: Record, seen: Seen, composed: str, tuned: Tuned | None, owners: Sequence[str], report: Report
) -> tuple[list[Left], tuple[str, ...]]:
    """Each shard and each owner of an additive model; and sentences on owners that are left out."""
    store, state = record.store, record.state
    known = owner_groups(record, owners)
    sums = sums_from(load_arrays(store, composed))
    assert seen.penalty is not None
    without = without_for(record.spec, sums, torch.cat(seen.inputs).numpy(), tuned, seen.penalty)
    rows_of: dict[bytes, list[np.ndarray]] = {owner: [] for owner in known.names}
    labels_of: dict[bytes, list[int]] = {owner: [] for owner in known.names}
    shards = with_rows(state)
    found: list[Left] = []
    for at, shard in enumerate(shards):
        report("why", at, len(shards) + 1)
        rows: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for keys, values, classes in rows_of_shard(store, shard):
            rows.append(values)
            labels.append(classes)
            for row, key in enumerate(keys):
                owner = known.owner_of.get(key)
                if owner is not None:
                    rows_of[owner].append(values[row].copy())
                    labels_of[owner].append(int(classes[row]))
        logits = without.logits(np.concatenate(rows), np.concatenate(labels))
        found.append(Left(group=SHARD, name=str(shard.shard), samples=sum(map(len, rows)), logits=logits))
    if sum(one.samples for one in found) != sums.n:
        raise CommitConflict(f"the pictures of {store.uri} changed while its answers were explained; run it again")
    for owner, name in known.names.items():
        logits = without.logits(np.stack(rows_of[owner]), np.array(labels_of[owner], np.int64))
        found.append(Left(group=OWNER, name=name, samples=len(labels_of[owner]), logits=logits))
    report("why", 1, 1)
    return found, known.left_out


def without_for(spec: RunSpec, sums: Sums, asked: np.ndarray, tuned: Tuned | None, penalty: float) -> Without:
    """The model that `model_of` makes of these sums, without groups of their pictures. penalty: its λ."""
    if tuned is None or tuned.policy is None or tuned.settings is None:
        return Without(sums, penalty, asked, factor=spec.kappa)
    scales = column_scales(tuned.policy.groups, tuned.settings.size, tuned.settings.weights)
    return Without(sums, penalty, asked, scales, tuned.settings.kappa)


def _without_shards(record: Record, seen: Seen, report: Report) -> list[Left]:
    """Each shard of a model that deltas compose to."""
    store, spec, shards = record.store, record.spec, record.state.in_tier()
    assert seen.tm is not None
    tm, batch = seen.tm, seen.tm.prepare(torch.cat(seen.inputs))
    primal = batch.primal.cpu().double().numpy()

    @torch.no_grad()
    def tangent(delta: Delta) -> np.ndarray:
        return tm.tangent(batch, Delta({n: v.float() for n, v in delta.items()}).to(tm.device)).cpu().double().numpy()

    found: list[Left] = []
    if spec.compose == "mean":
        weight = sum(shard.weight for shard in shards)
        parts = []
        for at, shard in enumerate(shards):
            report("why", at, len(shards))
            parts.append(tangent(terms_to_delta(read_terms(store, shard.in_sums))) * (shard.weight / weight))
        total = np.sum(parts, axis=0)
        for shard, part in zip(shards, parts, strict=True):
            rest = weight - shard.weight
            logits = primal + (total - part) * (weight / rest) if rest else None
            found.append(_of_shard(shard, logits, part))
        return found
    with one_thread():
        sums = sums_of(store, record.state)
        for at, shard in enumerate(shards):
            report("why", at, len(shards))
            terms = read_terms(store, shard.in_sums)
            sums.subtract(terms, shard.weight)
            logits = primal + tangent(spec.composed(sums, spec.compose)) if sums.weight else None
            sums.add(terms, shard.weight)
            found.append(_of_shard(shard, logits))
    return found


def _of_shard(shard: ShardState, logits: np.ndarray | None, part: np.ndarray | None = None) -> Left:
    return Left(group=SHARD, name=str(shard.shard), samples=shard.samples, logits=logits, part=part)

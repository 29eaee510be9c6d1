"""The settings of an additive run's model, chosen by a policy from what is left: its sums, and some of its rows.

Pictures that are left out one by one are those with the smallest sample keys. So they are a function of which samples are there, and
of no order, shard or part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from taft_ray.additive.settings import Policy, SiteGroup
from taft_ray.additive.tuning import Candidate, LeftOut, Tuner
from taft_ray.errors import UsageError
from taft_ray.plans.facts import TriedSettings, Tuned
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState, ShardState
from taft_ray.run.owned import rows_of_owners
from taft_ray.run.record import Record
from taft_ray.run.rows import joined, read_rows, sums_from
from taft_ray.run.snapshots import snapshot_digest
from taft_ray.storage import Store

Rows = Iterator[tuple[Sequence[bytes], np.ndarray, np.ndarray]]  # sample keys, rows (n, S), labels (n,), some at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """A choice, with all that it was made by. left_out: of the chosen candidate; None where no row was needed."""

    tuned: Tuned
    tuner: Tuner
    left_out: LeftOut | None
    rows: np.ndarray | None  # those that were left out, (m, S), and their labels
    labels: np.ndarray | None

    def left_out_of(self, candidate: Candidate) -> LeftOut:
        """The same pictures with another candidate's settings."""
        assert self.rows is not None
        assert self.labels is not None
        return self.tuner.left_out(candidate, self.rows, self.labels)


def choose(policy: Policy, arrays: Mapping[str, np.ndarray], rows: Callable[[], Rows], every: bool = False) -> Choice:
    """The choice of ``policy`` for these sums. rows: all that are in the sums; read where κ has several candidates, or with ``every``.

    Guarantees: on one machine a function of the policy, the sums and the rows alone.
    """
    tuner, by_rows = Tuner(sums_from(arrays), policy), len(policy.kappas) > 1
    left, kept, labels = None, None, None
    if by_rows or every:
        kept, labels = first_rows(rows(), policy.left_out)
        left = tuner.left_out(tuner.chosen, kept, labels)
    found = left if by_rows and left is not None and left.told else None
    tuned = Tuned(policy, snapshot_digest(arrays), tuner.settings(found), tuple(map(_tried, tuner.candidates)))
    if found is not None:
        losses = tuple(three_digits(loss) for loss in found.losses)
        tuned = replace(tuned, left_out=found.told, accuracy=three_digits(found.accuracy), losses=losses)
    return Choice(tuned=tuned, tuner=tuner, left_out=left, rows=kept, labels=labels)


def choice_for(store: Store, state: RunState, arrays: Mapping[str, np.ndarray]) -> Tuned | None:
    """The settings of the model of these sums, those of ``state``: the ledger's, or chosen again where these are stale.

    For a reader that commits nothing. None where the run has no policy.
    """
    tuned = state.tuned
    if tuned is None or tuned.policy is None or tuned.of == snapshot_digest(arrays):
        return tuned
    return choose(tuned.policy, arrays, lambda: rows_in_model(store, state)).tuned


def choice_of_owners(record: Record, owners: Sequence[str], arrays: Mapping[str, np.ndarray]) -> Tuned | None:
    """The settings by the run's policy of the model of these owners' pictures alone, whose sums ``arrays`` are."""
    tuned = record.state.tuned
    if tuned is None or tuned.policy is None:
        return None
    return choose(tuned.policy, arrays, lambda: rows_of_owners(record, owners)).tuned


def rows_in_model(store: Store, state: RunState) -> Rows:
    """Every row of the shards in the model; IntegrityError or ObjectMissing for one that cannot be read."""
    for shard in with_rows(state):
        yield from rows_of_shard(store, shard)


def with_rows(state: RunState) -> list[ShardState]:
    """The shards whose rows are in the sums: those with a record beside their delta, or a lean run's."""
    return state.in_tier(True) or state.in_tier()


def rows_of_shard(store: Store, shard: ShardState) -> Rows:
    """Every row of a shard that is in the model."""
    for parts in read_rows(store, shard.record or shard.in_sums):
        rows, labels = joined(parts)
        yield [key for part in parts for key in part.keys], rows, labels


def first_rows(rows: Rows, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (m, S) and labels (m,) with the smallest keys, at most so many, in the order of the keys."""
    kept: list[tuple[bytes, np.ndarray, int]] = []
    for keys, values, labels in rows:
        bound = kept[-1][0] if len(kept) == most else None
        fresh = [at for at, key in enumerate(keys) if bound is None or key < bound]
        kept += [(keys[at], values[at].copy(), int(labels[at])) for at in fresh]
        kept = sorted(kept, key=lambda row: row[0])[:most]
    if not kept:
        raise UsageError("no row is in the model; train first, or retrain a shard that was dropped")
    return np.stack([row for _, row, _ in kept]), np.array([label for _, _, label in kept], np.int64)


def site_groups(spec: RunSpec) -> tuple[SiteGroup, ...]:
    """The groups of the run's rows, from its network."""
    from taft_ray.additive.sites import sites_of
    from taft_ray.run.model import load_for
    from taft_ray.run.rows import blocks_of

    loaded = load_for(spec)
    sites = sites_of(
        loaded.network, loaded.preprocess.size, last_blocks=blocks_of(spec), size=spec.features, views=spec.views
    )
    return tuple(SiteGroup(group.name, group.kept) for group in sites.groups)


def three_digits(value: float) -> float | None:
    """A criterion as the ledger has it; None for what is not finite."""
    return float(f"{value:.3g}") if np.isfinite(value) else None


def _tried(candidate: Candidate) -> TriedSettings:
    score = candidate.score
    return TriedSettings(candidate.size, candidate.weights, score.penalty, three_digits(score.gcv))

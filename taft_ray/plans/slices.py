"""Which slice checkpoints of a shard survive the loss of samples, and where its next fit starts.

The checkpoint of stage k saw slices 0..k-1 (`fitting.slices`): losing a sample of slice j spoils those of stages > j and
no others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from taft_ray.data import slice_of
from taft_ray.storage import CheckpointRef


@dataclass(frozen=True, kw_only=True)
class Survival:
    """A shard's checkpoints after a loss of samples, those kept and those to purge; both by stage."""

    kept: tuple[CheckpointRef, ...]
    purged: tuple[CheckpointRef, ...]


def lost_slices(lost: Mapping[bytes, int], *, slices: int, seed: int) -> dict[str, tuple[int, ...]]:
    """The slices that lose a sample, by shard, as the ledger has them; lost: sample key -> shard."""
    out: dict[str, set[int]] = {}
    for shard, part in zip(lost.values(), slice_of(list(lost), slices=slices, seed=seed).tolist(), strict=True):
        out.setdefault(str(shard), set()).add(part)
    return {shard: tuple(sorted(parts)) for shard, parts in sorted(out.items())}


def after_loss(checkpoints: Iterable[CheckpointRef], lost: Collection[int]) -> Survival:
    """Split a shard's checkpoints by whether they saw one of the slices in ``lost``, which lost a sample."""
    ordered = _by_stage(checkpoints)
    clean = [ref for ref in ordered if not lost or ref.stage <= min(lost)]
    return Survival(kept=tuple(clean), purged=tuple(ordered[len(clean) :]))


def after_fit(kept: Iterable[CheckpointRef], written: Iterable[CheckpointRef]) -> tuple[CheckpointRef, ...]:
    """A shard's checkpoints once a fit that started from one of ``kept`` (or from zero) has written its own."""
    merged = {ref.stage: ref for ref in kept} | {ref.stage: ref for ref in written}
    return _by_stage(merged.values())


def resume_from(checkpoints: Iterable[CheckpointRef]) -> CheckpointRef | None:
    """The checkpoint that leaves the least to do; None: fit from zero."""
    ordered = _by_stage(checkpoints)
    return ordered[-1] if ordered else None


def visits_left(sizes: Sequence[int], stage: int) -> Fraction:
    """The part of a whole fit's visits to samples that is left after ``stage``; sizes: samples in each slice.

    Every stage has as many epochs, and stage r visits the samples of slices 0..r-1 in each. 1 where there are none.
    """
    seen, work = 0, []
    for size in sizes:
        seen += size
        work.append(seen)
    return Fraction(sum(work[stage:]), sum(work)) if seen else Fraction(1)


def expected_visits(slices: int) -> Fraction:
    """`visits_left` after losing one random sample of a shard with even slices, in the mean: (2R+1)/(3R)."""
    return sum((visits_left([1] * slices, lost) for lost in range(slices)), Fraction(0)) / slices


def _by_stage(refs: Iterable[CheckpointRef]) -> tuple[CheckpointRef, ...]:
    return tuple(sorted(refs, key=lambda ref: ref.stage))

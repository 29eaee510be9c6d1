"""The samples and shards that a forget touches, what must be removed, and what it will cost."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from taft_ray.counting import plural
from taft_ray.errors import UnknownSample, UsageError
from taft_ray.plans.slices import visits_left
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import DROPPED, FITTING, SUBTRACT, RunState, ShardState

MODES = ("drop", "retrain", "resolve", SUBTRACT)
DEFAULT_MODE = "retrain"  # of a run with deltas
_STEPS = ("drop", "purge", "retrain")  # whose seconds a finished request has beside the total
MOST_IDS = 100_000  # a request: what one ledger entry may hold


def default_mode(spec: RunSpec) -> str:
    """How a run forgets where nobody says how: without a loss, and as cheaply as it can."""
    return SUBTRACT if spec.additive else DEFAULT_MODE


@dataclass(frozen=True, kw_only=True)
class ForgetPlan:
    """A request: which samples go (new ones only) and which shards saw them."""

    request: str
    mode: str
    hashes: tuple[str, ...]  # id hashes, sorted
    keys: tuple[bytes, ...]  # sample keys to purge, sorted
    shards: tuple[int, ...]
    retrain: tuple[int, ...]  # shards to fit again afterwards
    owners: tuple[str, ...] = ()  # hashes of the owners asked for
    whole_shards: tuple[int, ...] = ()  # shards asked for by number


@dataclass(frozen=True, kw_only=True)
class Known:
    """The key and the shard of a sample, as the manifest has them."""

    key: bytes
    shard: int


def plan_forget(
    state: RunState,
    *,
    mode: str,
    hashes: Mapping[str, str],
    found: Mapping[str, Known],
    owners: Sequence[str] = (),
    whole_shards: Sequence[int] = (),
    deadline: float | None = None,
) -> ForgetPlan | str:
    """The plan of a forget by ``deadline`` (None: at once), or the request that already answers it.

    hashes: id -> id hash, for every sample asked (those asked by owner or shard may be named by their hash).

    found: what the manifest has of each.

    owners, whole_shards: how they were asked for, to be kept with the request.

    UnknownSample names ids that are neither in the manifest nor forgotten. A retrain of ids that were forgotten by drop
    brings their shards back without them. Samples that wait for another request are taken into this one when it is sooner.
    """
    if mode not in MODES:
        raise UsageError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
    if not hashes:
        earlier = _earlier(state, owners, whole_shards)
        if earlier is None:
            raise UsageError("no ids were given, and no owner or shard that holds samples")
        return earlier
    _check_known(state, hashes, found)
    asked = tuple(sorted(set(hashes.values())))
    request = request_id(mode, asked)
    known = state.requests.get(request)
    if known is not None:
        if not known.waiting or not _sooner(deadline, known.deadline) or deadline is None:
            return request
        request = request_id(mode, [*asked, f"by {deadline}"])
    fresh = _fresh(state, hashes, found, deadline)
    before = sorted({state.tombstones[digest] for digest in hashes.values() if digest in state.tombstones})
    fits = mode in FITTING
    waiting = _dropped_shards(state, before) - _fitted_by(state, deadline) if fits else set()
    if not fresh and not waiting:
        return before[0]
    shards = tuple(sorted({sample.shard for sample in fresh.values()} | waiting))
    return ForgetPlan(
        request=request,
        mode=mode,
        hashes=tuple(sorted(hashes[name] for name in fresh)),
        keys=tuple(sorted(sample.key for sample in fresh.values())),
        shards=shards,
        retrain=shards if fits else tuple(n for n in shards if mode == SUBTRACT and state.shards[n].record is not None),
        owners=tuple(sorted(owners)),
        whole_shards=tuple(sorted(whole_shards)),
    )


def _check_known(state: RunState, hashes: Mapping[str, str], found: Mapping[str, Known]) -> None:
    """UnknownSample for ids that are neither in the manifest nor forgotten."""
    unknown = [name for name, digest in hashes.items() if name not in found and digest not in state.tombstones]
    if unknown:
        shown = ", ".join(repr(name) for name in unknown[:5]) + (f" and {len(unknown) - 5} more" if unknown[5:] else "")
        raise UnknownSample(f"{plural(len(unknown), 'id is', 'ids are')} not in this run: {shown}")


def _fresh(
    state: RunState, hashes: Mapping[str, str], found: Mapping[str, Known], deadline: float | None
) -> dict[str, Known]:
    """The samples that nobody asked for, or that a request which would carry them out later did."""
    promised = state.promised()
    return {
        name: sample
        for name, sample in found.items()
        if hashes[name] not in state.tombstones
        or (hashes[name] in promised and _sooner(deadline, promised[hashes[name]]))
    }


def _dropped_shards(state: RunState, requests: Sequence[str]) -> set[int]:
    """Shards of these requests that are out of the model, or will be: a retrain brings them back."""
    return {
        shard
        for r in map(state.requests.__getitem__, requests)
        for shard in r.shards
        if _is_dropped(state.shards[shard]) or (r.mode == "drop" and r.dropped is None)
    }


def _fitted_by(state: RunState, deadline: float | None) -> set[int]:
    """Shards that requests which wait will fit by this deadline anyway; none for a request at once."""
    waiting = [r for r in state.unpurged.values() if r.waiting and r.mode != "drop"]
    return {n for r in waiting if deadline is not None and not _sooner(deadline, r.deadline) for n in r.shards}


def _is_dropped(shard: ShardState) -> bool:
    """Whether a forget took it out of the model: also one that was damaged then, or has been since."""
    return shard.state == DROPPED or (shard.quarantine is not None and shard.quarantine.was == DROPPED)


def _sooner(asked: float | None, promised: float | None) -> bool:
    """Whether a deadline (None: at once) comes before another."""
    return promised is not None and (asked is None or asked < promised)


def _earlier(state: RunState, owners: Sequence[str], whole_shards: Sequence[int]) -> str | None:
    """The latest request that left nothing of these owners and shards."""
    asked = [state.owner_tombstones[owner] for owner in owners if owner in state.owner_tombstones]
    asked += [r.request for r in state.requests.values() if set(whole_shards) & set(r.whole_shards)]
    return asked[-1] if asked else None


def request_id(mode: str, hashes: Sequence[str]) -> str:
    """The same request has the same id, so that asking twice does it once."""
    return hashlib.blake2b("\n".join([mode, *hashes]).encode(), digest_size=8).hexdigest()


def estimate(
    state: RunState, plan: ForgetPlan, *, bytes_to_purge: int, gpu_hour_price: float | None = None
) -> dict[str, Any]:
    """An estimate of what a forget will take, from this run's own measurements. Seconds are None where nothing was measured yet.

    seconds: a fit at the rate of this run's fits, and removing as the median of its ``earlier_forgets`` (nothing before the
    first). The fit of a shard in slices is taken as a whole one; it may be less.

    cost: the fits' seconds at ``gpu_hour_price``, in its currency; None without a price.

    seconds_besides: what earlier forgets with a fit took besides, in the middle; only where some was measured and this one fits.
    """
    samples = {shard: state.shards[shard].samples for shard in plan.shards}
    left = max(0, sum(samples.values()) - len(plan.keys)) if plan.retrain else 0
    rate = _seconds_a_sample(state)
    fit_seconds = 0.0 if not left else None if rate is None else rate * left
    purges = [request.purged.seconds for request in state.requests.values() if request.purged]
    besides = _seconds_besides(state) if left else None
    return {
        "mode": plan.mode,
        "samples_to_forget": len(plan.keys),
        "shards": list(plan.shards),
        "samples_to_retrain": left,
        "seconds": None if fit_seconds is None else fit_seconds + (median(purges) if purges else 0.0),
        "bytes_to_purge": bytes_to_purge,
        "gpu_hour_price": gpu_hour_price,
        "cost": None if gpu_hour_price is None or fit_seconds is None else fit_seconds / 3600 * gpu_hour_price,
        **({"earlier_forgets": len(purges)} if purges else {}),
        **({} if besides is None else {"seconds_besides": besides}),
    }


def _seconds_besides(state: RunState) -> float | None:
    """The median of what earlier forgets with a fit took beyond their drop, purge and fits: the start of Ray, above all."""
    finished = [request.forgotten.seconds for request in state.requests.values() if request.forgotten]
    fitted = [took for took in finished if took.get("retrain") is not None and took.get("total") is not None]
    if not fitted:
        return None
    return median(max(0.0, took["total"] - sum(took.get(step) or 0.0 for step in _STEPS)) for took in fitted)


def _seconds_a_sample(state: RunState) -> float | None:
    measured = [shard for shard in state.shards.values() if shard.facts.get("seconds") and shard.facts.get("samples")]
    if not measured:
        return None
    return sum(shard.facts["seconds"] for shard in measured) / sum(_samples_worth(shard.facts) for shard in measured)


def _samples_worth(facts: Mapping[str, Any]) -> float:
    """Number of samples of a whole fit that takes as long; fewer than the shard's where the fit went on from a slice checkpoint."""
    if not facts.get("resumed_stage"):
        return facts["samples"]
    return facts["samples"] * float(visits_left(facts["slice_samples"], facts["resumed_stage"]))

"""`verify` of a private run: every fit was paid for before it, and no noise was used twice. Keys last as long as their fits."""

from __future__ import annotations

from collections import Counter

from taft_ray.counting import plural, which
from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.plans.facts import fact_of
from taft_ray.plans.privacy import Privacy
from taft_ray.plans.spending import DpReserved
from taft_ray.privacy import commitment, epsilon_of_sampled, mu_of
from taft_ray.proof.evidence import Evidence
from taft_ray.storage import KeptReservations
from taft_ray.storage import rundir as names

_ROUNDING = 1e-12
_DIGITS = 1e-3  # of an ε, by another version of Opacus


def privacy(run: Evidence) -> None:
    """Reservations, keys and fits agree."""
    if run.spec.privacy is None:
        return
    with run.examining("privacy"):
        _paid(run)
        _once(run)
    if run.spec.privacy.public is not None:
        from taft_ray.prefix import whitening  # with torch

        with run.examining("whitening"):
            whitening.read(run.store, run.spec)
    with run.examining("noise keys"):
        _keys(run)
    with run.examining("privacy beside the run"):
        _beside(run)


def _paid(run: Evidence) -> None:
    """A reservation of just that fit stands in the chain before each fit, with the spec's guarantee."""
    asked = run.spec.privacy
    assert asked is not None
    reserved: dict[str, DpReserved] = {}
    for entry in run.entries:
        if entry.kind == DpReserved.KIND:
            one = DpReserved.from_json(entry.body)
            if one.sampling_rate != asked.sampling_rate:
                raise IntegrityError(
                    f"ledger entry {entry.number} reserves for {_batches(one.sampling_rate)}; the spec has {_batches(asked.sampling_rate)}"
                )
            if other := _otherwise(one, asked):
                raise IntegrityError(f"ledger entry {entry.number} reserves for another {other} than the spec has")
            if not one.mu >= asked.mu * (1 - _ROUNDING) or _spends_more(one):
                raise IntegrityError(f"ledger entry {entry.number} reserves less privacy than its fit spends")
            reserved[one.digest] = one
        elif entry.kind == "trained":
            by = reserved.get(entry.body["facts"].get("reserved", ""))
            fit = (entry.body["shard"], entry.body["generation"])
            if by is None or (by.shard, by.generation) != fit or by.restored:
                raise IntegrityError(f"the fit of shard {fit[0]}, generation {fit[1]}, was not paid for before it")
    run.checks["privacy reservations"] = len(reserved)


def _otherwise(one: DpReserved, asked: Privacy) -> str | None:
    """The first number or choice of a reservation that is not the spec's."""
    for name in ("epsilon", "delta", "steps", "clip", "unit", "adjacency"):
        if getattr(one, name) != getattr(asked, name):
            return name
    if asked.divisor is not None and one.divisor != asked.divisor:
        return "divisor"
    return "mean_share" if (one.mean_multiplier is None) != (asked.mean_share is None) else None


def _spends_more(one: DpReserved) -> bool:
    """Whether a fit's steps with its noise give away more than was reserved for it."""
    if one.sampling_rate is None:
        return not one.mu >= one.spends * (1 - _ROUNDING)
    if not one.noise_multiplier > 0 or one.mean_multiplier is not None:
        return True
    most = epsilon_of_sampled(one.noise_multiplier, one.sampling_rate, one.steps, one.delta)
    # sums of fits count these steps; the fit alone counts as its ε, and is shown as its μ
    return not (one.epsilon >= most * (1 - _DIGITS) and one.mu >= mu_of(one.epsilon, one.delta) * (1 - _ROUNDING))


def _batches(rate: float | None) -> str:
    return "full batches" if rate is None else f"batches at the rate {rate:g}"


def _once(run: Evidence) -> None:
    """No two reservations have the same key of noise."""
    several = [one for shard in run.state.reservations.values() for one in shard]
    twice = [key for key, count in Counter(one.key.digest for one in several if not one.restored).items() if count > 1]
    if twice:
        raise IntegrityError(
            f"{plural(len(twice), 'noise key is', 'noise keys are')} reserved twice: the difference of such models has no noise"
        )


def _keys(run: Evidence) -> None:
    """The key of every shard in the model is there, as committed, and those of generations that are over are gone."""
    in_model = {shard.shard: shard for shard in run.state.in_model}
    run.checks["noise keys"] = 0
    for number, shard in in_model.items():
        by = next(
            (one for one in run.state.reservations.get(number, ()) if one.digest == shard.facts.get("reserved")), None
        )
        if by is None:
            continue  # said already
        try:
            right = commitment(names.read_secret(run.store, by.key.key)) == by.key.digest
        except ObjectMissing:
            right = False
        if not right:
            raise IntegrityError(
                f"{by.key.key} is not there, or not the key that was reserved; restore it from a copy. The model is as private "
                f"without it. But nobody can make the bits of shard {number} again. A forget by retrain makes a new fit"
            )
        run.checks["noise keys"] += 1
    old = sorted(
        number
        for number, shard in run.state.shards.items()
        if any(
            key.startswith(f"{names.noise_folder(number)}/") and names.noise_generation(key) < shard.current
            for key in run.sizes
        )
        and not any(r.purged is None and number in r.shards for r in run.state.requests.values())
    )
    if old:
        raise IntegrityError(
            f"keys of noise that is over are still there, of {which('shard', old)}; run taft-ray train"
        )


def _beside(run: Evidence) -> None:
    """Everything that was spent, as kept beside the run, is in its ledger."""
    if not run.state.identity:
        return
    known = {one.digest for several in run.state.reservations.values() for one in several}
    beside = KeptReservations(run.store, run.state.identity)
    kept = beside.names()
    missing = kept - known
    if missing:
        raise IntegrityError(
            f"{plural(len(missing), 'reservation is', 'reservations are')} kept beside {run.store.uri} and not in its ledger: an "
            "older copy of the folder was put back; taft-ray train charges them again"
        )
    for name in sorted(kept):
        if any(fact_of(DpReserved, facts).digest != name for facts in beside.read({name})):
            raise IntegrityError(
                f"reservation {name[:16]} is kept beside {run.store.uri} with other facts than its name says"
            )

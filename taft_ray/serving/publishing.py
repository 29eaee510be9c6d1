"""Publication of what is served: a replica gives the probabilities of a model that the run's release gate lets out.

Whoever has the probabilities of enough pictures can solve for the model's parameters. So each model that a run with a gate
serves is a release (`run.register`). The gate compares the next one with it, as with exports.

Guarantees: in a run with a gate the model's release is in the ledger before its first probability is given. Labels are given all the
same: a gate never holds a forget back, nor the model after it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from taft_ray.composer.composer import Composer
from taft_ray.log import logger_of
from taft_ray.plans.gate import hold
from taft_ray.plans.recalls import holds
from taft_ray.plans.releases import SERVED
from taft_ray.run.owned import sums_of_owners
from taft_ray.run.record import Record
from taft_ray.run.register import check, commit, made_of, served
from taft_ray.run.snapshots import snapshot_digest
from taft_ray.serving.following import Following, Wanted, mode_of
from taft_ray.serving.options import Source

_log = logger_of(__name__)
NOT_YET = "the release of this model is not registered yet"


class Publishing:
    """The publication of one run's models by one replica."""

    def __init__(self, following: Following) -> None:
        self._following = following
        self._found: dict[str, tuple[tuple[str, str], str | None]] = {}

    def at_first(self) -> str | None:
        """Why a model gives labels alone that nobody has looked at yet."""
        return None if self._following.state.gate is None else NOT_YET

    def held_back(self, source: Source, wanted: Wanted, digest: str) -> str | None:
        """Why a model gives labels alone now; None where it may give probabilities, and its release is in the ledger.

        It commits that release, so that the ledger is read on. Where that fails, whatever it is, the model gives labels alone.
        """
        gate = self._following.state.gate
        if gate is None:
            return None
        of = (self._following.head, digest)
        known = self._found.get(source.name)
        if (
            known is not None
            and known[0] == of
            and (known[1] is None or (gate.seconds is None and known[1] != NOT_YET))
        ):
            return known[1]
        try:
            why = self._look(source, wanted, digest)
        except Exception as error:
            if known is None or known[1] != NOT_YET:  # once, not at every poll
                _log.warning("a model of %s gives labels alone, for it could not be registered: %s", source.run, error)
            why = NOT_YET
        self._found[source.name] = (of, why)
        return why

    def _look(self, source: Source, wanted: Wanted, digest: str) -> str | None:
        record = self._following.record
        state, mode = record.state, mode_of(record.spec, source)
        fact = made_of(record, SERVED, digest, mode, source.owners)
        if fact.members != wanted.of:  # the model after it is being loaded
            earlier = (one.fact for one in state.releases.values() if one.line == fact.line)
            published = any(one.composed == digest and not holds(state, one) for one in earlier)
            return None if published else NOT_YET
        release = served(record, fact)
        if release is None:
            return None
        found = hold(state, record.spec, time.time(), digest)
        if found is not None:
            return found.told()
        commit(record, release)
        return None


def publish_first(composers: Sequence[tuple[Composer, Source]], now: bool) -> dict[str, str]:
    """Register the models that a serving begins with, of runs with a gate: the gates that were overridden, by run.

    PublicationHeld where a gate holds one back, unless ``now``; nothing is registered then.
    """
    made = []
    for composer, source in composers:
        record: Record = composer.record
        if record.state.gate is None:
            continue
        mode = mode_of(record.spec, source)
        if source.owners:
            digest: str | None = snapshot_digest(sums_of_owners(record, source.owners))
        else:
            digest = record.current(lambda composer=composer, mode=mode: composer.composition.digest(mode))
        release = None if digest is None else served(record, made_of(record, SERVED, digest, mode, source.owners))
        if release is not None:
            made.append((record, replace(release, overrode=check(record, release, now))))
    overrode = {record.store.uri: release.overrode for record, release in made if release.overrode is not None}
    for record, release in made:
        commit(record, release, now)
    return overrode

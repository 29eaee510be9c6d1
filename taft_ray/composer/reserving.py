"""Reserving privacy: a private fit is paid for, and its noise's key kept, before the first number of noise is drawn.

Guarantees: a fit of the same inputs has the same reservation and key, however often it is begun. So a crash repeats the same bits,
and is charged once. Other inputs have another key, and are charged. Each charge is kept beside the run too, and counts in an older
copy of the folder. Nothing is ever refunded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from taft_ray.errors import IntegrityError, ObjectMissing, UsageError
from taft_ray.plans.fact import ObjectRef
from taft_ray.plans.privacy import Privacy, accountant_of, check_batch
from taft_ray.plans.spending import DpReserved, check_budget
from taft_ray.privacy import commitment
from taft_ray.run.record import Record
from taft_ray.run.reserved import Inputs, inputs_of
from taft_ray.storage import KeptReservations, digest_bytes, digest_json, id_key
from taft_ray.storage import rundir as names

_TRIES = 24


class Reserving:
    """The reservations of one run's private fits."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._kept: set[str] | None = None  # names of what is known to be kept beside the run

    def task(self, shard: int, generation: int, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """The fields that a private fit needs beside its parts: "reserved", and of owners "units", sample key in hex -> number.

        None where the shard's inputs changed meanwhile. BudgetExceeded where the cap does not allow the fit.
        """
        inputs = inputs_of(self.record.spec, self.record.manifest(), shard, parts)
        reserved = self._reserve(shard, generation, inputs)
        return reserved and {"reserved": reserved.to_json(), **inputs.told}

    def _reserve(self, shard: int, generation: int, inputs: Inputs) -> DpReserved | None:
        self.restore()
        for _ in range(_TRIES):
            known = self._known(shard, generation, inputs.digest)
            if known is not None:
                return self._keep(known)
            made = self._made(shard, generation, inputs)
            attempt = len(self.record.state.reservations.get(shard, ()))

            def decide(made: DpReserved = made) -> DpReserved | None:
                state = self.record.state
                now = [part["digest"] for part in self.record.parts([shard])]
                if state.shards[shard].current != generation or state.being_purged(shard) or now != list(inputs.parts):
                    return None
                check_budget(state, [shard], self._privacy, what="this fit")
                return made

            try:
                committed = self.record.commit(DpReserved, f"dp-reserved/{shard}/{generation}/{attempt}", decide)
            except BaseException:
                self._throw_away(made)
                raise
            if committed is None or committed.key != made.key:
                self._throw_away(made)
            if committed is None:
                return None
            # another process may have reserved for other inputs meanwhile: then once more
        raise IntegrityError(f"shard {shard} of {self.record.store.uri} changes too often to be fitted; run it again")

    @property
    def _privacy(self) -> Privacy:
        assert self.record.spec.privacy is not None
        return self.record.spec.privacy

    def _known(self, shard: int, generation: int, inputs: str) -> DpReserved | None:
        """The reservation of these inputs whose key is there; one whose key is lost is paid for, and made again."""
        for one in reversed(self.record.state.reservations.get(shard, ())):
            if (one.generation, one.inputs) == (generation, inputs) and not one.restored and self._has_key(one):
                return one
        return None

    def _has_key(self, one: DpReserved) -> bool:
        try:
            return commitment(names.read_secret(self.record.store, one.key.key)) == one.key.digest
        except (ObjectMissing, IntegrityError):
            return False

    def _made(self, shard: int, generation: int, inputs: Inputs) -> DpReserved:
        """A reservation with a key of its own, written and named by nobody yet."""
        spec, privacy, units = self.record.spec, self._privacy, inputs.count
        if units and privacy.delta * units >= 1:
            raise UsageError(
                f"delta={privacy.delta:g} is not below 1 / {units}, and shard {shard} has so many. Publishing "
                f"one {privacy.unit} would be allowed; make a run with a smaller --delta"
            )
        # a shard that shrinks or is added later is fitted all the same: nothing may get stuck
        from_the_start = shard < spec.shards and generation == 1
        if privacy.sampling_rate is not None and privacy.divisor is None and units and from_the_start:
            check_batch(privacy.sampling_rate, units, f"the {privacy.unit}s of shard {shard}")
        noise = privacy.noise_multiplier  # before the key: it takes seconds of sampled fits
        divisor = privacy.divisor or max(1, units)
        privacy.check_fit(divisor, spec.shards)
        at, secret = names.new_noise_key(self.record.store, shard, generation)
        return DpReserved(
            shard=shard, generation=generation, inputs=inputs.digest, key=ObjectRef(at, commitment(secret)), mu=privacy.mu,
            noise_multiplier=noise, epsilon=privacy.epsilon, delta=privacy.delta, steps=privacy.steps,
            clip=privacy.clip, learning_rate=privacy.rate(divisor, spec.shards), divisor=divisor, mean_multiplier=privacy.mean_multiplier,
            unit=privacy.unit, adjacency=privacy.adjacency, accountant=accountant_of(privacy.sampling_rate),
            sampling_rate=privacy.sampling_rate,
            public={
                "weights": spec.weights_digest, "classes": digest_json(list(spec.classes or ())),
                **({"pictures": privacy.public_digest} if privacy.public is not None else {}),
            },
        )  # fmt: skip

    def _throw_away(self, made: DpReserved) -> None:
        self.record.store.erase([made.key.key])

    # --- beside the run

    def _beside(self) -> KeptReservations:
        identity = self.record.state.identity or digest_bytes(id_key(self.record.store, create=False))
        return KeptReservations(self.record.store, identity)

    def _keep(self, one: DpReserved) -> DpReserved:
        """Keep it beside the run, before any noise is drawn by it."""
        if self._kept is None or one.digest not in self._kept:
            self._beside().write(one.digest, one.to_json())
            self._kept = {*(self._kept or ()), one.digest}
        return one

    def restore(self) -> None:
        """Charge what was spent after this copy of the folder was made."""
        if self._kept is not None:
            return
        beside = self._beside()
        kept = beside.names()
        self.record.refresh()  # after the listing: what is kept was committed before
        known = {one.digest for several in self.record.state.reservations.values() for one in several}
        for facts in beside.read(kept - known):
            one = DpReserved.from_json(facts)
            again = replace(one, restored=True)
            self.record.commit(DpReserved, f"dp-restored/{one.digest}", lambda again=again: again)
        self._kept = kept

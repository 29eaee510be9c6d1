"""Forgetting, step by step, each a commit: requested → dropped → purged → (fits, by others) → withdrawn → certificate → forgotten.

Guarantees: every step is done once, whoever repeats it. A crash between any two is resumed. A request's samples are tombstones
from its first commit on, also where an older copy of the run's folder is put back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from taft_ray.composer.asking import Asking, Clock
from taft_ray.composer.composition import Composition
from taft_ray.composer.purge import evaluation_caches, purge_leftovers, purge_request, purge_starts
from taft_ray.composer.rewrite import Rewrite, rewrite, slices_lost
from taft_ray.composer.selection import Selection
from taft_ray.composer.withdrawing import Withdrawing
from taft_ray.counting import which
from taft_ray.data.identical import twins
from taft_ray.errors import CommitConflict, IntegrityError, ObjectMissing, TaftError, UsageError
from taft_ray.plans.facts import Dropped, Forgotten, ObjectRef, Purged, Rewritten, StartPurged
from taft_ray.plans.forget import ForgetPlan, estimate
from taft_ray.plans.gather import due, planned_start, promise_of, together
from taft_ray.plans.spending import cost_of_retrain, over_budget
from taft_ray.plans.state import FITTING, QUARANTINED, SUBTRACT, TRAINED
from taft_ray.proof.certificate import certificate_of
from taft_ray.run.record import Record
from taft_ray.run.register import restore
from taft_ray.run.secret import hashes_of
from taft_ray.storage import Manifest, digest_bytes, json_object
from taft_ray.storage import rundir as names
from taft_ray.storage.digest import canonical_json

_REWRITES = 24  # tries of one purge that others keep overtaking


class Forgetting(Asking):
    """The forget requests of one run."""

    def __init__(self, record: Record, composition: Composition, clock: Clock) -> None:
        super().__init__(record, composition, clock)
        self._drop_seconds: dict[str, float] = {}
        self.withdrawing = Withdrawing(record)

    def estimate(self, selection: Selection, mode: str, gpu_hour_price: float | None = None) -> dict[str, Any]:
        """Estimate what a forget would touch and cost; nothing happens."""
        plan = self.record.current(lambda: self.plan(selection, mode, refused="there is nothing to estimate"))
        if isinstance(plan, str):
            asked = set(hashes_of(self.store, selection.ids)) or set(self._request(plan).hashes)
            gone = asked <= self.record.state.forgotten()
            waiting = self._waiting(asked)
            more = {"waiting": waiting} if waiting else {}
            return {"already_forgotten": gone, "request": plan, "mode": mode, **more}
        touched = (
            *(f"{names.shard_prefix(shard)}/" for shard in plan.shards),
            *(f"{names.delta_folder(shard)}/" for shard in plan.shards),
            *(f"{names.checkpoint_folder(shard)}/" for shard in plan.shards),
            f"{names.MONOLITH_FOLDER}/",
            f"{names.COMPOSED_FOLDER}/",
        )
        size = sum(info.size for info in self.store.list() if info.key.startswith(touched))
        answer = estimate(self.record.state, plan, bytes_to_purge=size, gpu_hour_price=gpu_hour_price)
        answer |= cost_of_retrain(self.record.state, plan.retrain, self.record.spec.privacy)
        stay, waiting = self.record.current(lambda: self._identical_that_stay(plan)), self._waiting(plan.hashes)
        more: dict[str, Any] = {"identical_that_stay": stay} if stay else {}
        return {**answer, **more, **({"waiting": waiting} if waiting else {})}

    def _waiting(self, hashes: Collection[str]) -> list[dict[str, Any]]:
        """The waiting requests for these samples: {"request", "samples": how many of them, "runs_at", "deadline"}, ISO 8601."""
        state = self.record.state
        promised = Counter(state.tombstones[one] for one in state.promised().keys() & set(hashes))
        return [promise_of(state, self._request(name), count) for name, count in sorted(promised.items())]

    def _identical_that_stay(self, plan: ForgetPlan) -> int:
        """How many samples have the same bytes as one that the plan forgets, and are not among them."""
        others = twins(self.record.manifest().table, plan.keys)["id_hash"].to_pylist()
        return sum(digest not in self.record.state.tombstones for digest in others)

    # --- the steps

    def forgotten_before(self, ids: Sequence[str], request: str) -> list[dict[str, Any]]:
        """The other requests that answer for these ids: {"request", "mode", "samples": how many of the ids, "done"}."""
        earlier = Counter(self.record.state.tombstones.get(digest) for digest in set(hashes_of(self.store, ids)))
        return [
            {
                "request": name,
                "mode": self._request(name).mode,
                "samples": count,
                "done": self._request(name).forgotten is not None,
            }
            for name, count in earlier.items()
            if name is not None and name != request
        ]

    def resume(self, request: str) -> dict[str, Any]:
        """Drop and purge, whatever of it is not done; then say which shards wait for a fit."""
        self.record.refresh()
        if self._request(request).unplaced:
            self.place(request)
        if self._request(request).dropped is None:
            self.drop(request)
        if self._request(request).purged is None:
            self.purge(request)
            self._compose_served()  # the purge removes every snapshot
        told = self.answer(request)
        if told["mode"] == SUBTRACT and told["retrain"]:
            self._composed()  # the model is whole; what is fitted behind it is beside it
        return told

    def answer(self, request: str) -> dict[str, Any]:
        """Where a request stands: {"request", "mode", "done", "waiting", "deadline", "runs_at", "runs_with", "retrain"}.

        retrain: the shards that wait for a fit. runs_with: the waiting requests that will be carried out with it.
        """
        state = self._request(request)
        shards = [self.record.state.shards[number] for number in state.shards]
        wanted = (s for s in shards if state.mode in FITTING or (state.mode == SUBTRACT and s.record is not None))
        to_fit = [s.shard for s in wanted if s.samples and s.state not in (TRAINED, QUARANTINED)]
        # an older copy of a folder may have less left to spend than was there when the request was made
        over = over_budget(self.record.state, to_fit, self.record.spec.privacy)
        return {
            "request": request,
            "mode": state.mode,
            "done": state.forgotten is not None,
            "waiting": state.waiting,
            "deadline": state.deadline,
            "runs_at": planned_start(self.record.state, state),
            "runs_with": together(self.record.state, state),
            "retrain": [] if state.waiting else [shard for shard in to_fit if shard not in over],
        }

    def due(self, first: Sequence[str] = ()) -> list[str]:
        """The requests to carry out now: see `plans.gather.due`."""
        self.record.refresh()
        return due(self.record.state, self.clock(), first)

    def finish_purges(self) -> None:
        """Finish the drops and purges that a crash cut off, so that their shards can be fitted again."""
        stuck: TaftError | None = None
        for request in list(self.record.state.unpurged.values()):
            if request.purged is None and not request.waiting:
                try:
                    self.resume(request.request)
                except (IntegrityError, ObjectMissing) as error:  # the others are finished all the same
                    stuck = stuck or error
        if stuck is not None:
            raise stuck

    def drop(self, request: str) -> None:
        """Take the request's shards out of the model, and compose what is left, in memory."""
        began = time.perf_counter()

        def decide() -> Dropped:
            state, spec = self.record.state, self.record.spec
            subtract = state.requests[request].mode == SUBTRACT
            if subtract and spec.lean:
                return Dropped(request, ())
            shards = [state.shards[number] for number in state.requests[request].shards]
            leaving = {s.shard: s.in_sums for s in shards if s.state == TRAINED}
            records = [] if subtract else [s.record for s in shards if s.record is not None]
            monolith = state.monolith_delta
            gone = (*leaving.values(), *records, *([monolith] if monolith else []))
            starts = {str(s): ref for s, ref in leaving.items()} if state.requests[request].mode == "resolve" else {}
            slices = None
            if self.record.spec.slices > 1 and state.cached is not None:
                # before the purge, which may be cut off with the manifest's rows gone and the checkpoints not
                with suppress(IntegrityError, ObjectMissing):  # nobody can tell: then all checkpoints go
                    slices = slices_lost(self.record.manifest(), state.requests[request], self.record.spec)
            return Dropped(request, gone, starts, slices)

        # the sums of the model until now: a drop is a subtraction from them, not a sum anew
        self.record.current(self.composition.follow)
        self.record.commit(Dropped, f"{request}/dropped", decide)
        self.record.current(self.composition.follow)
        if self.record.state.served_modes:
            self._compose_served()
        elif self._request(request).mode != SUBTRACT:
            self.record.current(self.composition.model)
        self._drop_seconds[request] = time.perf_counter() - began

    def purge(self, request: str) -> None:
        """Remove what saw the request's samples: the cache is written anew, that is committed, then the old goes."""
        began = time.perf_counter()
        drop_seconds = self._drop_seconds.pop(request, None)  # None when a process that has died dropped it
        state = self._request(request)
        assert state.dropped is not None
        self.composition.terms.discard({ref.key for ref in state.dropped.deltas})
        self._rewrite(request)
        self.withdrawing.withdraw(request)  # from here on its time runs
        removed = self.record.current(
            lambda: purge_request(self.store, self.record.state, self._request(request), self._manifest())
        )
        self.record.publish()
        fact = replace(removed, seconds=time.perf_counter() - began, drop_seconds=drop_seconds)
        self.record.commit(Purged, f"{request}/purged", lambda: fact)

    def _manifest(self) -> Manifest | None:
        return None if self.record.state.cached is None else self.record.manifest()

    def _rewrite(self, request: str) -> None:
        """Commit a manifest without the request's samples; made again when another writer commits one first."""
        for _ in range(_REWRITES):
            made = self.record.current(lambda: self._rewrite_of(request))
            if made is None:
                return
            tier = self.composition.tier()
            shards = map(self.record.state.shards.__getitem__, self._request(request).shards)
            before = {shard.shard: shard.member(tier.by_records) for shard in shards}

            def decide(made: Rewrite = made) -> Rewritten | None:
                return made.fact if self.record.state.manifest_key == made.base else None

            if self.record.commit(Rewritten, f"{request}/rewritten", decide) == made.fact and made.left is not None:
                # by the fact, not by the state: others may have taken a shard out since
                after = made.fact.records if tier.by_records else made.fact.deltas
                moves = {number: (ref, after.get(str(number))) for number, ref in before.items() if ref is not None}
                tier.shift(moves, made.left)
        raise CommitConflict(f"other writers rewrote the manifest {_REWRITES} times in a row; run the forget again")

    def _rewrite_of(self, request: str) -> Rewrite | None:
        """None where the request has been rewritten: once more would be a generation that nobody ever commits."""
        asked = self._request(request)
        return None if asked.rewritten else rewrite(self.store, self.record.state, asked, self._manifest())

    def conclude(self, request: str, told: Mapping[str, Any]) -> dict[str, Any]:
        """Write the certificate and commit its digest; the certificate is returned. Idempotent.

        told: what the driver knows: "retrain_seconds", "local_copies", "gpu_hour_price", "carried_out_with": the other requests.
        """
        self.record.refresh()
        state = self._request(request)
        if state.forgotten is not None:
            return self.certificate(request)
        where = self.answer(request)
        if state.purged is None or where["retrain"]:
            raise TaftError(
                f"request {request} is not finished: {which('shard', where['retrain'])} still to be fitted; run it again"
            )
        self.withdrawing.check(request)
        if state.mode == "resolve" and state.start_purged is None:
            gone = purge_starts(self.store, self.record.state, state)
            self.record.commit(StartPurged, f"{request}/start-purged", lambda: gone)
        after = self._composed()
        spec = self.record.spec
        beside = self._composed(spec.beside) if spec.two_tiers else None
        certificate = certificate_of(self.record.state, self.record.ledger, spec, request, after, told, beside)
        data = canonical_json(certificate)
        digest = digest_bytes(data)
        key = names.certificate_key(request, digest)
        self.store.write(key, data)
        fact = Forgotten(request, ObjectRef(key, digest), after, certificate["seconds"])
        committed = self.record.commit(Forgotten, f"{request}/forgotten", lambda: fact) or fact
        if committed.certificate.key != key:  # another writer certified it first: that one stands
            self.store.delete(key)
        return self.certificate(request)

    def _compose_served(self) -> None:
        """Compose what replicas are to answer with now, if any serve the run."""
        for mode in self.record.state.served_modes:
            self._composed(mode)

    def _composed(self, mode: str | None = None) -> str | None:
        """Compose what is in the model, if anything is; its digest."""
        try:
            there = self.record.current(lambda: self.composition.digest(mode))
            return None if there is None else self.composition.compose(mode)["digest"]
        except UsageError:  # the last shard left between the two
            return None

    def certificate(self, request: str) -> dict[str, Any]:
        """The certificate of a finished request, checked by digest."""
        finished = self._request(request).forgotten
        assert finished is not None
        ref = finished.certificate
        data = self.store.read(ref.key)
        if digest_bytes(data) != ref.digest:
            raise IntegrityError(
                f"{ref.key} in {self.store.uri} was changed: its digest is not the ledger's. The forget itself was done; "
                "restore the certificate from a copy"
            )
        return json_object(data, ref.key)

    # --- an older copy of the run's folder was put back

    def recover(self) -> None:
        """Forget again what an older copy of the run's folder has brought back."""
        self.record.refresh()
        state = self.record.state
        if state.created is None:
            return
        tombstones = self.tombstones()
        kept = tombstones.names()
        for request, facts in self.unknown_requests(kept - state.requests.keys()).items():
            self.request_again(request, facts)
        for request in list(state.requests.values()):
            if request.request not in kept and tombstones.store is not None:  # the folder was moved without them
                self.keep(request)
        if not self.record.is_published():  # an older copy was laid over the newer one, or a purge was cut off
            self.tidy()
            self.store.erase(evaluation_caches(self.store, self.record.state.forgotten()))
            self.composition.remove_old_snapshots()
            self.record.publish()
        restore(self.record)  # last: damage of what is kept of a release holds no forget up

    def tidy(self) -> None:
        """Remove what an unfinished process has left of generations that are over; when a run starts, not at every verb."""
        if self._manifest() is not None:
            self.record.current(lambda: purge_leftovers(self.store, self.record.state, self.record.manifest()))

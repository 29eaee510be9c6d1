"""Forgetting, step by step, each a commit: requested → dropped → purged → (fits, by others) → certificate → forgotten.

Guarantees: every step is done once, whoever repeats it; a crash between any two is resumed; a request's samples are tombstones
from its first commit on, also where an older copy of the run's folder is put back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from taft_ray.data import assign, sample_keys
from taft_ray.errors import CommitConflict, IntegrityError, ObjectMissing, TaftError, UsageError
from taft_ray.orchestration.certificate import certificate_of
from taft_ray.orchestration.composition import Composition
from taft_ray.orchestration.purge import (
    Rewrite,
    evaluation_caches,
    keys_of,
    purge_leftovers,
    purge_request,
    purge_starts,
    rewrite,
    slices_lost,
)
from taft_ray.orchestration.record import Record
from taft_ray.orchestration.selection import Selection, find, hashes_of
from taft_ray.plans.forget import ForgetPlan, estimate, plan_forget, request_id
from taft_ray.plans.gather import due, planned_start, runs_at, together
from taft_ray.plans.state import QUARANTINED, TRAINED, RequestState
from taft_ray.storage import Tombstones, digest_bytes, id_key, json_object
from taft_ray.storage import rundir as names
from taft_ray.storage.digest import canonical_json

_REWRITES = 24  # tries of one purge that others keep overtaking


class Forgetting:
    """The forget requests of one run."""

    def __init__(self, record: Record, composition: Composition) -> None:
        self.record, self.composition = record, composition
        self.store = record.store
        self._tombstones: Tombstones | None = None
        self._drop_seconds: dict[str, float] = {}

    def plan(self, selection: Selection, mode: str, deadline: float | None = None) -> ForgetPlan | str:
        """What a request would touch, or the request that answers it already."""
        hashes, found, owners = find(self.record, selection)
        return plan_forget(
            self.record.state,
            mode=mode,
            hashes=hashes,
            found=found,
            owners=owners,
            whole_shards=selection.shards,
            deadline=deadline,
        )

    def estimate(self, selection: Selection, mode: str, gpu_hour_price: float | None = None) -> dict[str, Any]:
        """What a forget would touch and cost; nothing happens."""
        plan = self.record.current(lambda: self.plan(selection, mode))
        if isinstance(plan, str):
            return {"already_forgotten": not self._request(plan).waiting, "request": plan, "mode": mode}
        touched = (
            *(f"{names.shard_prefix(shard)}/" for shard in plan.shards),
            *(f"{names.delta_folder(shard)}/" for shard in plan.shards),
            *(f"{names.checkpoint_folder(shard)}/" for shard in plan.shards),
            f"{names.MONOLITH_FOLDER}/",
            f"{names.COMPOSED_FOLDER}/",
        )
        size = sum(info.size for info in self.store.list() if info.key.startswith(touched))
        return estimate(self.record.state, plan, bytes_to_purge=size, gpu_hour_price=gpu_hour_price)

    # --- the steps

    def request(self, selection: Selection, mode: str, deadline: float | None = None) -> str:
        """Commit a request, or find the one that answers it: its name. From here on its samples are tombstones."""
        self.record.refresh()
        if mode == "resolve" and self.record.spec.solver != "ridge":
            raise UsageError(
                f"mode resolve needs the ridge problem, whose optimum is unique, and this run's solver is "
                f"{self.record.spec.solver}; use retrain or drop"
            )
        if deadline is not None and mode == "drop":
            raise UsageError("a drop takes effect at once and has nothing to gather; leave --deadline out")
        try:
            plan = self.record.current(lambda: self.plan(selection, mode, deadline))
        except (IntegrityError, ObjectMissing) as error:
            return self._request_unplaced(selection, mode, error)
        if isinstance(plan, str):
            return plan
        started = time.time()
        seconds = estimate(self.record.state, plan, bytes_to_purge=0)["seconds"]
        times = {} if deadline is None else {"deadline": deadline, "runs_at": runs_at(deadline, started, seconds)}
        self.tombstones().write(
            plan.request,
            {"mode": mode, "hashes": list(plan.hashes), "owners": list(plan.owners), "requested": started, **times},
        )

        def decide() -> Mapping[str, Any] | None:
            now = self.plan(selection, mode, deadline)  # another writer may have forgotten some of it meanwhile
            if isinstance(now, str):
                return None
            # the name stays: of an owner or a shard less may be there to ask for by now
            return {**self._asked(plan.request, mode, now.hashes, now.owners, now.shards, started), **times,
                    "whole_shards": list(now.whole_shards)}  # fmt: skip

        if self.record.commit("forget-requested", f"{plan.request}/requested", decide) is None:
            return self.request(selection, mode, deadline)  # answered by what another writer has committed
        return plan.request

    def _asked(
        self,
        request: str,
        mode: str,
        hashes: Sequence[str],
        owners: Sequence[str],
        shards: Sequence[int],
        started: float,
    ) -> dict[str, Any]:
        before, unknown = self._composed_before()
        return {
            "request": request,
            "mode": mode,
            "hashes": list(hashes),
            "owners": list(owners),
            "shards": list(shards),
            "composed_before": before,
            **({} if unknown is None else {"composed_before_unknown": unknown}),
            "started": started,
        }

    def _composed_before(self) -> tuple[str | None, str | None]:
        """The digest of the model before a request, or why nobody knows it: damage elsewhere must not hold a request up."""
        try:
            return self.composition.digest(), None
        except (IntegrityError, ObjectMissing) as error:  # where another writer removed it, this commit loses its race
            return None, str(error)

    def _request_unplaced(self, selection: Selection, mode: str, error: TaftError) -> str:
        """Commit a request although the manifest, which knows what is where, cannot be read; `error` where that cannot be.

        Its samples are tombstones from here on. Where the assignment is by hash, their shards are known and leave the model;
        otherwise `placed` says them once the manifest is there again. A deadline is not kept: it runs as soon as it can.
        """
        spec, hashes = self.record.spec, sorted(set(hashes_of(self.store, selection.ids)))
        if not hashes or selection.owners or selection.shards:
            raise error
        request = request_id(mode, hashes)
        shards: list[int] = []
        if spec.assignment == "hash":
            known = assign(sample_keys(selection.ids, spec.seed), shards=spec.shards, method="hash")
            shards = sorted({int(shard) for shard in known})
        started = time.time()
        facts = {"mode": mode, "hashes": hashes, "owners": [], "requested": started}
        self.tombstones().write(request, facts)

        def decide() -> Mapping[str, Any] | None:
            asked = self._asked(request, mode, hashes, [], shards, started)
            return {**asked, "whole_shards": [], "unplaced": not shards}

        self.record.commit("forget-requested", f"{request}/requested", decide)
        return request

    def _place(self, request: str) -> None:
        """Say which shards a request touches that was made while nobody could tell."""

        def decide() -> Mapping[str, Any] | None:
            held = keys_of(self.record.manifest()[0], self._request(request).hashes)
            return {"request": request, "shards": sorted({shard for shard in held.values() if shard >= 0})}

        self.record.commit("placed", f"{request}/placed", decide)

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
            self._place(request)
        if self._request(request).dropped is None:
            self.drop(request)
        if self._request(request).purged is None:
            self.purge(request)
        return self.answer(request)

    def answer(self, request: str) -> dict[str, Any]:
        """Where a request stands: {"request", "mode", "done", "waiting", "deadline", "runs_at", "runs_with", "retrain"}.

        retrain: the shards that wait for a fit. runs_with: the waiting requests that will be carried out with it.
        """
        state = self._request(request)
        shards = [self.record.state.shards[number] for number in state.shards]
        to_fit = [s.shard for s in shards if s.samples and s.state not in (TRAINED, QUARANTINED)]
        return {
            "request": request,
            "mode": state.mode,
            "done": state.forgotten is not None,
            "waiting": state.waiting,
            "deadline": state.deadline,
            "runs_at": planned_start(self.record.state, state),
            "runs_with": together(self.record.state, state),
            "retrain": to_fit if state.mode != "drop" and not state.waiting else [],
        }

    def due(self, first: Sequence[str] = ()) -> list[str]:
        """The requests to carry out now: see `plans.gather.due`."""
        self.record.refresh()
        return due(self.record.state, time.time(), first)

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

        def decide() -> Mapping[str, Any]:
            state = self.record.state
            leaving = {
                s: state.shards[s].delta for s in state.requests[request].shards if state.shards[s].state == TRAINED
            }
            monolith = (state.monolith or {}).get("delta")
            gone = [*leaving.values(), *([monolith] if monolith else [])]
            starts = {str(s): ref for s, ref in leaving.items()} if state.requests[request].mode == "resolve" else {}
            body = {"request": request, "deltas": gone, "starts": starts}
            if self.record.spec.slices > 1 and state.cached is not None:
                # before the purge, which may be cut off with the manifest's rows gone and the checkpoints not
                with suppress(IntegrityError, ObjectMissing):  # nobody can tell: then all checkpoints go
                    body["slices"] = slices_lost(self.record.manifest(), state.requests[request], self.record.spec)
            return body

        # of what is in the model until now: a drop is a subtraction, not a sum anew
        self.record.current(self.composition.sums)
        self.record.commit("dropped", f"{request}/dropped", decide)
        self.record.current(self.composition.model)
        self._drop_seconds[request] = time.perf_counter() - began

    def purge(self, request: str) -> None:
        """Remove what saw the request's samples: the cache is written anew, that is committed, then the old goes."""
        began = time.perf_counter()
        drop_seconds = self._drop_seconds.pop(request, None)  # None when a process that has died dropped it
        state = self._request(request)
        self.composition.terms.discard({ref["key"] for ref in (state.dropped or {})["deltas"]})
        self._rewrite(request)
        removed = self.record.current(
            lambda: purge_request(self.store, self.record.state, self._request(request), self._manifest())
        )
        self.record.publish()
        body = {**removed, "request": request, "seconds": time.perf_counter() - began, "drop_seconds": drop_seconds}
        self.record.commit("purged", f"{request}/purged", lambda: body)

    def _manifest(self) -> tuple[Any, Mapping[str, Any]] | None:
        return None if self.record.state.cached is None else self.record.manifest()

    def _rewrite(self, request: str) -> None:
        """Commit a manifest without the request's samples; made again when another writer commits one first."""
        for _ in range(_REWRITES):
            if self._request(request).rewritten is not None:
                return
            made = self.record.current(
                lambda: rewrite(self.store, self.record.state, self._request(request), self._manifest())
            )

            def decide(made: Rewrite = made) -> Mapping[str, Any] | None:
                return {"request": request, **made.facts} if self.record.state.manifest_key == made.base else None

            self.record.commit("rewritten", f"{request}/rewritten", decide)
        raise CommitConflict(f"other writers rewrote the manifest {_REWRITES} times in a row; run the forget again")

    def conclude(self, request: str, told: Mapping[str, Any]) -> dict[str, Any]:
        """Write the certificate and commit its digest; the certificate is returned. Idempotent.

        told: what the driver measured: "retrain_seconds", "local_copies", "gpu_hour_price".
        """
        self.record.refresh()
        state = self._request(request)
        if state.forgotten is not None:
            return self.certificate(request)
        where = self.answer(request)
        if state.purged is None or where["retrain"]:
            raise TaftError(
                f"request {request} is not finished: shards {where['retrain']} wait for a fit; run it again"
            )
        if state.mode == "resolve" and state.start_purged is None:
            body = {**purge_starts(self.store, self.record.state, state), "request": request}
            self.record.commit("start-purged", f"{request}/start-purged", lambda: body)
        after = self._composed()
        certificate = certificate_of(self.record.state, self.record.ledger, self.record.spec, request, after, told)
        data = canonical_json(certificate)
        digest = digest_bytes(data)
        key = names.certificate_key(request, digest)
        self.store.write(key, data)
        body = {
            "request": request,
            "certificate": {"key": key, "digest": digest},
            "composed_after": after,
            "seconds": certificate["seconds"],
        }
        committed = self.record.commit("forgotten", f"{request}/forgotten", lambda: body) or body
        if committed["certificate"]["key"] != key:  # another writer certified it first: that one stands
            self.store.delete(key)
        return self.certificate(request)

    def _composed(self) -> str | None:
        """Compose what is in the model, if anything is; its digest."""
        try:
            return (
                None if self.record.current(self.composition.digest) is None else self.composition.compose()["digest"]
            )
        except UsageError:  # the last shard left between the two
            return None

    def certificate(self, request: str) -> dict[str, Any]:
        """The certificate of a finished request, checked by digest."""
        ref = (self._request(request).forgotten or {})["certificate"]
        data = self.store.read(ref["key"])
        if digest_bytes(data) != ref["digest"]:
            raise IntegrityError(
                f"{ref['key']} in {self.store.uri} was changed: its digest is not the ledger's. The forget itself was done; "
                "restore the certificate from a copy"
            )
        return json_object(data, ref["key"])

    def _request(self, request: str) -> RequestState:
        return self.record.state.requests[request]

    # --- an older copy of the run's folder was put back

    def tombstones(self) -> Tombstones:
        """The requests kept beside the run."""
        if self._tombstones is None:
            identity = (self.record.state.created or {}).get("id_key") or digest_bytes(id_key(self.store, create=False))
            self._tombstones = Tombstones(self.store, identity)
        return self._tombstones

    def recover(self) -> None:
        """Forget again what an older copy of the run's folder has brought back."""
        self.record.refresh()
        state = self.record.state
        if state.created is None:
            return
        tombstones = self.tombstones()
        kept = tombstones.names()
        for request, facts in self._unknown_requests(kept - state.requests.keys()).items():
            self._request_again(request, facts)
        for request in list(state.requests.values()):
            if request.request not in kept and tombstones.store is not None:  # the folder was moved without them
                self._keep(request)
        if not self.record.is_published():  # an older copy was laid over the newer one, or a purge was cut off
            self.tidy()
            self.store.erase(evaluation_caches(self.store, self.record.state.forgotten()))
            self.composition.remove_old_snapshots()
            self.record.publish()

    def _unknown_requests(self, names_of: Collection[str]) -> dict[str, dict[str, Any]]:
        """Requests beside the run, oldest first; a damaged one is left to `verify`, for nobody can tell what it asked."""
        found: dict[str, dict[str, Any]] = {}
        for name in names_of:
            with suppress(IntegrityError):
                found |= self.tombstones().read([name])
        return dict(sorted(found.items(), key=lambda one: (one[1]["requested"], one[0])))

    def _keep(self, request: RequestState) -> None:
        times = {} if request.deadline is None else {"deadline": request.deadline, "runs_at": request.runs_at}
        facts = {"mode": request.mode, "hashes": list(request.hashes), "owners": list(request.owners)}
        self.tombstones().write(request.request, {**facts, "requested": request.started, **times})

    def tidy(self) -> None:
        """Remove what an unfinished process has left of generations that are over; when a run starts, not at every verb."""
        if self._manifest() is not None:
            self.record.current(lambda: purge_leftovers(self.store, self.record.state, self.record.manifest()))

    def _request_again(self, request: str, facts: Mapping[str, Any]) -> None:
        def decide() -> Mapping[str, Any]:
            shards: set[int] = set()
            unplaced = {}
            if self.record.state.cached is not None:
                try:
                    held = keys_of(self.record.manifest()[0], facts["hashes"])
                    shards = {shard for shard in held.values() if shard >= 0}
                except (IntegrityError, ObjectMissing):
                    unplaced = {"unplaced": True}
            # at once, whatever its deadline: it may have been carried out already, and a certificate given; from now on, for
            # what is timed is this time's work
            asked = self._asked(request, facts["mode"], facts["hashes"], facts["owners"], sorted(shards), time.time())
            return {**asked, **unplaced, "whole_shards": [], "restored": True}

        self.record.commit("forget-requested", f"{request}/requested", decide)

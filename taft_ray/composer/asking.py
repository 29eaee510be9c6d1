"""Asking for a forget: whom it means, its tombstone beside the run, and its first commit. Nothing is removed here.

Guarantees: the tombstone and the commit come before anything else, whatever is damaged; a request is committed once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from taft_ray.composer.composition import Composition
from taft_ray.composer.near import what_was_meant
from taft_ray.composer.purge import keys_of
from taft_ray.composer.selection import Selection, find
from taft_ray.counting import plural
from taft_ray.data import sample_keys
from taft_ray.errors import IntegrityError, ObjectMissing, StorageError, TaftError, UnknownSample, UsageError
from taft_ray.plans.additions import shards_of_keys
from taft_ray.plans.facts import ForgetRequested, Placed
from taft_ray.plans.forget import ForgetPlan, Known, estimate, plan_forget, request_id
from taft_ray.plans.gather import runs_at
from taft_ray.plans.spending import check_budget
from taft_ray.plans.state import SUBTRACT, RequestState
from taft_ray.prefix.cached_parts import cached_parts
from taft_ray.run.record import Record
from taft_ray.run.secret import hashes_of
from taft_ray.storage import Store, Tombstones, digest_bytes, id_key

Clock = Callable[[], float]  # unix seconds
NOTHING_DONE = "nothing was forgotten"


def keep_beside(store: Store, ids: Sequence[str], mode: str) -> str | None:
    """Keep a request beside a run that cannot be read at all: where. None where that cannot be (its key is gone, too).

    The next command finds it there once the run is whole, commits it and carries it out (`Asking.request_again`).
    """
    hashes = sorted(set(hashes_of(store, ids)))
    if not hashes:
        return None
    tombstones = Tombstones(store, digest_bytes(id_key(store, create=False)))
    if tombstones.store is None:
        return None
    how = "retrain" if mode == "resolve" else mode  # which every solver can
    facts = {"mode": how, "hashes": hashes, "owners": [], "requested": time.time()}
    tombstones.write(request_id(how, hashes), facts)
    return tombstones.store.uri


class Asking:
    """The requests of one run, as far as they are asked."""

    def __init__(self, record: Record, composition: Composition, clock: Clock) -> None:
        self.record, self.composition, self.clock = record, composition, clock
        self.store = record.store
        self._tombstones: Tombstones | None = None

    def plan(
        self, selection: Selection, mode: str, deadline: float | None = None, refused: str = NOTHING_DONE
    ) -> ForgetPlan | str:
        """The plan of what a request would touch, or the request that answers it already.

        refused: what an UnknownSample says of the consequence.
        """
        hashes: dict[str, str] = {}
        found: dict[str, Known] = {}
        try:
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
        except UnknownSample as error:
            missing = [name for name in selection.ids if name in hashes and name not in found]
            unknown = [name for name in missing if hashes[name] not in self.record.state.tombstones]
            raise UnknownSample(f"{error}; {refused}{what_was_meant(self.record, unknown)}") from None

    def request(self, selection: Selection, mode: str, deadline: float | None = None) -> str:
        """Commit a request, or find the one that answers it: its name. From here on its samples are tombstones."""
        self.record.refresh()
        if mode == "resolve" and self.record.spec.solver != "ridge":
            raise UsageError(
                f"mode resolve needs the ridge problem, whose optimum is unique, and this run's solver is "
                f"{self.record.spec.solver}; use {'subtract' if self.record.spec.additive else 'retrain or drop'}"
            )
        if mode == SUBTRACT and not self.record.spec.additive:
            raise UsageError(
                "mode subtract needs --solver additive, or --compose additive, and this run has rows of neither; use retrain or drop"
            )
        if deadline is not None and mode == "drop":
            raise UsageError("a drop takes effect at once and has nothing to gather; leave --deadline out")
        try:
            plan = self.record.current(lambda: self.plan(selection, mode, deadline))
        except (IntegrityError, ObjectMissing) as error:
            return self._request_unplaced(selection, mode, error)
        if isinstance(plan, str):
            return plan
        if self.record.spec.privacy is not None:
            check_budget(
                self.record.state, plan.retrain, self.record.spec.privacy, what="retraining without these samples"
            )
        started = self.clock()
        seconds = estimate(self.record.state, plan, bytes_to_purge=0)["seconds"]
        begins = None if deadline is None else runs_at(deadline, started, seconds)
        times = {} if deadline is None else {"deadline": deadline, "runs_at": begins}
        self.tombstones().write(
            plan.request,
            {"mode": mode, "hashes": list(plan.hashes), "owners": list(plan.owners), "requested": started, **times},
        )

        def decide() -> ForgetRequested | None:
            now = self.plan(selection, mode, deadline)  # another writer may have forgotten some of it meanwhile
            if isinstance(now, str):
                return None
            # the name stays: of an owner or a shard less may be there to ask for by now
            asked = self._asked(plan.request, mode, now.hashes, now.shards, started)
            return replace(asked, owners=now.owners, whole_shards=now.whole_shards, deadline=deadline, runs_at=begins)

        if self._commit(plan.request, decide) is None:
            return self.request(selection, mode, deadline)  # answered by what another writer has committed
        return plan.request

    def _commit(self, request: str, decide: Callable[[], ForgetRequested | None]) -> ForgetRequested | None:
        """Commit a request that is kept beside the run already; where that fails, the error says that it is."""
        try:
            return self.record.commit(ForgetRequested, f"{request}/requested", decide)
        except StorageError as error:
            beside = self.tombstones().store
            if beside is not None:
                error.args = (
                    f"{error}. The request is kept in {beside.uri}: the next command that can write to the run carries it out",
                )
            raise

    def _asked(
        self, request: str, mode: str, hashes: Sequence[str], shards: Sequence[int], started: float
    ) -> ForgetRequested:
        before, unknown = self._composed_before()
        return ForgetRequested(
            request, mode, tuple(hashes), tuple(shards), before, started, composed_before_unknown=unknown
        )

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
        if selection.with_identical:
            raise IntegrityError(
                f"{error}. Until then nobody can tell which pictures are identical: ask without --with-identical"
            )
        if not hashes or selection.owners or selection.shards:
            raise error
        request = request_id(mode, hashes)
        shards: list[int] = []
        if spec.assignment == "hash":
            keys = sample_keys(selection.ids, spec.seed)
            where = shards_of_keys(keys, spec.shards, self.record.state.additions)
            shards = self._shards_there(dict(zip(selection.ids, zip(keys, where, strict=True), strict=True)))
        started = self.clock()
        facts = {"mode": mode, "hashes": hashes, "owners": [], "requested": started}
        self.tombstones().write(request, facts)

        def decide() -> ForgetRequested:
            return replace(self._asked(request, mode, hashes, shards, started), unplaced=not shards)

        self._commit(request, decide)
        return request

    def _shards_there(self, asked: Mapping[str, tuple[bytes, tuple[int, ...]]]) -> list[int]:
        """The shards of these ids, of those in which each may be. asked: id -> its key, and the shards.

        UnknownSample for ids that no part of them holds and nobody forgot: a slip must take no shard out.
        """
        state = self.record.state
        possible = {shard for _, shards in asked.values() for shard in shards}
        with suppress(IntegrityError, ObjectMissing):  # a part that cannot be read may hold anybody
            parts = cached_parts(self.store, state, possible)
            held = {key: shard for shard, several in parts.items() for part in several for key in part["keys"]}
            hashes = dict(zip(asked, hashes_of(self.store, list(asked)), strict=True))
            unknown = [n for n, (key, _) in asked.items() if key not in held and hashes[n] not in state.tombstones]
            if unknown:
                raise UnknownSample(
                    f"{plural(len(unknown), 'id is', 'ids are')} not in this run, such as {unknown[0]!r}; nothing was forgotten"
                )
            # an id that is forgotten already is in no part: any of its shards may have held it
            return sorted({s for key, shards in asked.values() for s in ([held[key]] if key in held else shards)})
        return sorted(possible)

    def place(self, request: str) -> None:
        """Say which shards a request touches that was made while nobody could tell."""

        def decide() -> Placed:
            held = keys_of(self.record.manifest().table, self._request(request).hashes)
            return Placed(request, tuple(sorted({shard for shard in held.values() if shard >= 0})))

        self.record.commit(Placed, f"{request}/placed", decide)

    def request_again(self, request: str, facts: Mapping[str, Any]) -> None:
        """Commit a request that is kept beside the run and not in its ledger."""

        def decide() -> ForgetRequested:
            shards: set[int] = set()
            unplaced = False
            if self.record.state.cached is not None:
                try:
                    held = keys_of(self.record.manifest().table, facts["hashes"])
                    shards = {shard for shard in held.values() if shard >= 0}
                except (IntegrityError, ObjectMissing):
                    unplaced = True
            # at once, whatever its deadline: it may have been carried out already, and a certificate given. It counts from
            # now on, because this time's work is timed
            asked = self._asked(request, facts["mode"], facts["hashes"], sorted(shards), self.clock())
            return replace(
                asked,
                owners=tuple(facts["owners"]),
                unplaced=unplaced,
                restored=True,
                first_requested=float(facts["requested"]),
            )

        self.record.commit(ForgetRequested, f"{request}/requested", decide)

    def tombstones(self) -> Tombstones:
        """The requests kept beside the run."""
        if self._tombstones is None:
            identity = self.record.state.identity or digest_bytes(id_key(self.store, create=False))
            self._tombstones = Tombstones(self.store, identity)
        return self._tombstones

    def unknown_requests(self, names_of: Collection[str]) -> dict[str, dict[str, Any]]:
        """Requests beside the run, oldest first; a damaged one is left to `verify`, for nobody can tell what it asked."""
        found: dict[str, dict[str, Any]] = {}
        for name in names_of:
            with suppress(IntegrityError):
                found |= self.tombstones().read([name])
        return dict(sorted(found.items(), key=lambda one: (one[1]["requested"], one[0])))

    def keep(self, request: RequestState, again: bool = False) -> None:
        """Write a request's tombstone from the ledger; ``again``: over a damaged one."""
        times = {} if request.deadline is None else {"deadline": request.deadline, "runs_at": request.runs_at}
        facts = {"mode": request.mode, "hashes": list(request.hashes), "owners": list(request.owners)}
        write = self.tombstones().rewrite if again else self.tombstones().write
        write(request.request, {**facts, "requested": request.asked, **times})

    def mend_tombstones(self) -> None:
        """Write damaged or changed tombstones again, of requests that the ledger has."""
        requests, tombstones = self.record.state.requests, self.tombstones()
        damaged = tombstones.damaged()
        kept = tombstones.read((tombstones.names() & requests.keys()) - damaged)
        changed = {name for name, facts in kept.items() if not requests[name].is_kept_in(facts)}
        for name in sorted(changed | (damaged & requests.keys())):
            self.keep(requests[name], again=True)

    def _request(self, request: str) -> RequestState:
        return self.record.state.requests[request]

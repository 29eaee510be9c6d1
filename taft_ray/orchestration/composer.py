"""The composer: single writer of the ledger, keeper of the exact sums. A plain class; `composer_for` puts Ray around it.

It holds no truth: killed at any instant, it rebuilds itself from the ledger. Every operation has an id and is idempotent,
because Ray runs a method again after a crash.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from taft_ray.data import id_hash, sample_key
from taft_ray.errors import CommitConflict, IntegrityError, StorageError, TaftError, UsageError
from taft_ray.orchestration.certificate import certificate_of
from taft_ray.orchestration.purge import purge_request, save_pending
from taft_ray.orchestration.worker import run_spec, save_snapshot
from taft_ray.plans.forget import ForgetPlan, Known, estimate, plan_forget
from taft_ray.plans.state import TRAINED, RunState, replay
from taft_ray.plans.train import pending_shards
from taft_ray.storage import DeltaRef, Entry, Ledger, Store, digest_bytes, id_key, read_delta, read_manifest
from taft_ray.storage import rundir as names
from taft_ray.storage.digest import canonical_json
from taft_ray.tangent import Sums

_RETRIES = 8


class Composer:
    """One a run. Methods are short; long work (fits, the prefix) is done by others, who report here."""

    def __init__(self, run: str) -> None:
        torch.set_num_threads(1)  # a composition's bits must not depend on the machine's cores
        self.store = Store(run)
        self.spec = run_spec(self.store)
        self.ledger = Ledger(self.store)
        self.state: RunState = replay(self.ledger.entries())
        self._sums: Sums | None = None
        self._manifest_parts: dict[str, list[dict[str, Any]]] | None = None
        self._composed: dict[str, str] = {}
        self._leases: dict[int | str, str] = {}
        self._extra: list[dict[str, Any]] = []
        self._progress: dict[str, tuple[int, int]] = {}
        self._closed = False

    def ready(self) -> bool:
        return True

    # --- commits

    def commit(self, kind: str, body: Mapping[str, Any], op: str) -> dict[str, Any]:
        """Commit a fact once: the entry of ``op`` if there is one already, else a new one. Returns its body."""
        for _ in range(_RETRIES):
            self._refresh()
            done = self.ledger.find(op)
            if done is not None:
                return done.body
            try:
                entry = self.ledger.append(kind, dict(body), op)
            except CommitConflict:
                continue  # another composer took the number: read what it wrote, decide again
            self.state.apply(entry)
            if kind in ("cached", "purged"):
                self._manifest_parts = None
            return entry.body
        raise CommitConflict(f"{_RETRIES} commits in a row were lost to another writer on {self.store.uri}; try again")

    def _refresh(self) -> None:
        fresh: Sequence[Entry] = self.ledger.refresh()
        if not fresh:
            return
        for entry in fresh:
            self.state.apply(entry)
        # someone else wrote: what was derived is made again when it is needed
        self._sums, self._composed, self._manifest_parts = None, {}, None

    def begin(self, environment: Mapping[str, Any]) -> None:
        """The run's first fact. Idempotent."""
        body = {"spec": digest_bytes(canonical_json(self.spec.to_json())), "environment": dict(environment)}
        self.commit("created", {**body, "host_python": platform.python_version()}, op="created")

    # --- training

    def take(self, lane: str) -> dict[str, Any] | None:
        """The next task for a lane: a shard without a delta, largest first; None when there is nothing left.

        A lane that asks again gives up what it held (it has finished it, or it died and was restarted).
        """
        for held in [shard for shard, holder in self._leases.items() if holder == lane]:
            del self._leases[held]
        if self._closed:
            return None
        for number in pending_shards(self.state):
            if number not in self._leases:
                self._leases[number] = lane
                return self._task(number, self._parts([number]))
        for task in self._extra:
            if task["shard"] not in self._leases:
                self._leases[task["shard"]] = lane
                return task
        return {"wait": True} if self._holding() else None

    def _holding(self) -> bool:
        """Whether lanes should stay: the cache is not ready yet, so there will be work."""
        return self.state.cached is None

    def close_queue(self, closed: bool = True) -> None:
        """Send the lanes home (the run failed), or open the queue again."""
        self._closed = closed

    def want_monolith(self) -> bool:
        """Queue the comparison model, unless it has been trained and no forget has removed it since."""
        monolith = self.state.monolith
        if monolith is not None and monolith.get("delta") is not None:
            return False
        generation = 1 + (monolith["generation"] if monolith else 0)
        task = self._task("monolith", self._parts(sorted(self.state.shards)), generation)
        if not any(extra["shard"] == "monolith" for extra in self._extra):
            self._extra.append(task)
        return True

    def task_for(self, shard: int) -> dict[str, Any]:
        """The task of fitting ``shard`` again, as the next generation, from what the cache holds now."""
        return self._task(shard, self._parts([shard]))

    def _task(self, shard: int | str, parts: list[dict[str, Any]], generation: int | None = None) -> dict[str, Any]:
        if generation is None:
            generation = self.state.shards[int(shard)].generation + 1
        return {"shard": shard, "generation": generation, "parts": parts}

    def _parts(self, shards: Sequence[int]) -> list[dict[str, Any]]:
        if self._manifest_parts is None:
            manifest = read_manifest(self.store)
            if manifest is None:
                raise StorageError(f"{self.store.uri} has no manifest yet: the activation cache was not finished")
            self._manifest_parts = dict(manifest[1]["meta"]["parts"])
        known = self._manifest_parts
        return [part for shard in shards for part in known.get(str(shard), [])]

    def _is_stale(self, result: Mapping[str, Any], shards: Sequence[int]) -> bool:
        """Whether a fit read cache parts that have been purged since: then its delta may hold a forgotten sample."""
        if list(result["parts"]) == [part["digest"] for part in self._parts(shards)]:
            return False
        self.store.delete(result["delta"]["key"])
        return True

    def finished(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Commit a fitted delta: its bytes are checked and it enters the sums. Idempotent by (shard, generation).

        A delta fitted on data of which something was forgotten meanwhile is deleted: {"stale": True}; ask for the task again.
        """
        shard, generation = result["shard"], int(result["generation"])
        if shard == "monolith":
            self._extra = [task for task in self._extra if task["shard"] != "monolith"]
            op = f"monolith-trained/{generation}"
            if self._is_stale(result, sorted(self.state.shards)):
                self.want_monolith()
                return {"stale": True}
            read_delta(self.store, DeltaRef.from_json(result["delta"]))
            return self.commit("monolith-trained", {k: v for k, v in result.items() if k != "shard"}, op)
        op = f"trained/{shard}/{generation}"
        self._refresh()
        done = self.ledger.find(op)
        if done is not None:
            return done.body
        expected = self.state.shards[shard].generation + 1
        if generation != expected or self.state.shards[shard].state == TRAINED:
            raise TaftError(
                f"shard {shard}: generation {generation} is not the next one ({expected}); nothing was added"
            )
        if self._is_stale(result, [shard]):
            return {"stale": True}
        weight = self.spec.weight_of(int(result["samples"]))
        tensors, _ = read_delta(self.store, DeltaRef.from_json(result["delta"]))
        sums = self._sums
        if sums is not None:  # before the commit: an overflow must refuse the fact, not follow it
            sums.add({name: torch.from_numpy(value) for name, value in tensors.items()}, weight)
        head = len(self.ledger.known)
        body = self.commit("trained", {**result, "weight": weight}, op)
        # what another writer committed in between has made the sums stale
        self._sums = sums if len(self.ledger.known) == head + 1 else None
        self._composed = {}
        return body

    def progress(self, lane: str, done: int, total: int) -> None:
        """A lane says how far its fit is."""
        self._progress[lane] = (done, total)

    def class_names(self) -> list[str]:
        """The classes, from the ledger."""
        self._refresh()
        if self.state.cached is None:
            raise StorageError(f"{self.store.uri} has no manifest yet: train first")
        return list(self.state.cached["classes"])

    def class_count(self) -> int:
        """K."""
        return len(self.class_names())

    def training_status(self) -> dict[str, Any]:
        """For the driver's progress line."""
        states = [shard.state for shard in self.state.shards.values()]
        return {
            "shards": len(states),
            "trained": sum(state == TRAINED for state in states),
            "left": len(pending_shards(self.state)) + len(self._extra),
            "lanes": dict(self._progress),
        }

    # --- composition

    def _current_sums(self) -> Sums:
        self._refresh()
        if self._sums is None:
            sums = Sums()
            for shard in self.state.in_model:
                tensors, _ = read_delta(self.store, DeltaRef.from_json(shard.delta or {}))
                sums.add({name: torch.from_numpy(value) for name, value in tensors.items()}, shard.weight)
            self._sums = sums
        return self._sums

    def compose(self, mode: str | None = None, record: bool = True) -> dict[str, Any]:
        """Compose the shards in the model and keep a snapshot: {"mode", "digest", "key", "seconds", "shards"}."""
        mode = mode or self.spec.compose
        sums = self._current_sums()
        if mode in self._composed and self.store.exists(names.composed_key(self._composed[mode])):
            digest, seconds = self._composed[mode], 0.0
        else:
            began = time.perf_counter()
            delta = sums.compose(mode, self.spec.epsilon)
            digest = save_snapshot(self.store, delta)
            seconds = time.perf_counter() - began
            self._composed[mode] = digest
            for info in self.store.list(
                f"{names.COMPOSED_FOLDER}/"
            ):  # an old snapshot may hold what has been forgotten
                if info.key not in {names.composed_key(current) for current in self._composed.values()}:
                    self.store.delete(info.key)
            if record:
                body = {"mode": mode, "digest": digest, "seconds": seconds, "shards": sums.count}
                self.commit("composed", body, op=f"composed/{mode}/{digest}")
        return {
            "mode": mode,
            "digest": digest,
            "key": names.composed_key(digest),
            "seconds": seconds,
            "shards": sums.count,
        }

    def composed_digest(self) -> str | None:
        """The digest of the composed model, None when no shard is in it."""
        return self.compose(record=False)["digest"] if self._current_sums().weight else None

    # --- forgetting

    def _find(self, ids: Sequence[str]) -> tuple[dict[str, str], dict[str, Known]]:
        secret = id_key(self.store, create=False)
        hashes = {name: id_hash(name, secret) for name in ids}
        manifest = read_manifest(self.store)
        if manifest is None:
            raise StorageError(f"{self.store.uri} has no manifest yet: train first")
        wanted = {sample_key(name, self.spec.seed): name for name in ids}
        table = manifest[0]
        found = {
            wanted[key]: Known(key=key, shard=shard)
            for key, shard in zip(table["key"].to_pylist(), table["shard"].to_pylist(), strict=True)
            if key in wanted and shard >= 0
        }
        return hashes, found

    def _plan(self, ids: Sequence[str], mode: str) -> ForgetPlan | str:
        self._refresh()
        hashes, found = self._find(ids)
        return plan_forget(self.state, mode=mode, hashes=hashes, found=found)

    def estimate(self, ids: Sequence[str], mode: str) -> dict[str, Any]:
        """What a forget would touch and cost; nothing happens."""
        plan = self._plan(ids, mode)
        if isinstance(plan, str):
            return {"already_forgotten": True, "request": plan, "mode": mode}
        sizes = {info.key: info.size for info in self.store.list()}
        touched = [
            *(names.shard_prefix(shard) for shard in plan.shards),
            *(names.delta_folder(shard) for shard in plan.shards),
            names.MONOLITH_FOLDER,
            names.COMPOSED_FOLDER,
        ]
        size = sum(size for key, size in sizes.items() if any(key.startswith(f"{prefix}/") for prefix in touched))
        return estimate(self.state, plan, bytes_to_purge=size)

    def request_forget(self, ids: Sequence[str], mode: str) -> dict[str, Any]:
        """Commit the request and drop its shards from the model, at once. Answers {"request", "retrain", "done"}."""
        if mode == "resolve":
            raise UsageError("mode 'resolve' is not built yet; use retrain (exact) or drop (at once)")
        plan = self._plan(ids, mode)
        if isinstance(plan, str):
            request = plan
        else:
            request = plan.request
            before = self.composed_digest()
            save_pending(self.store, request, plan.keys)
            self.commit(
                "forget-requested",
                {
                    "request": request,
                    "mode": mode,
                    "hashes": list(plan.hashes),
                    "shards": list(plan.shards),
                    "composed_before": before,
                    "started": time.time(),
                },
                op=f"{request}/requested",
            )
        return self.resume_forget(request)

    def resume_forget(self, request: str) -> dict[str, Any]:
        """Drop and purge, whatever of it is not done; then say which shards wait for a retrain."""
        state = self.state.requests[request]
        if state.dropped is None:
            self._drop(request)
        if state.purged is None:
            self._purge(request)
        waiting = [] if state.mode != "retrain" else [s for s in state.shards if self.state.shards[s].state != TRAINED]
        waiting = [shard for shard in waiting if self.state.shards[shard].samples]
        return {"request": request, "retrain": waiting, "done": state.forgotten is not None, "mode": state.mode}

    def _drop(self, request: str) -> None:
        began = time.perf_counter()
        sums = self._current_sums()
        leaving = [self.state.shards[number] for number in self.state.requests[request].shards]
        leaving = [shard for shard in leaving if shard.state == TRAINED]
        for shard in leaving:
            tensors, _ = read_delta(self.store, DeltaRef.from_json(shard.delta or {}))
            sums.subtract({name: torch.from_numpy(value) for name, value in tensors.items()}, shard.weight)
        self._composed = {}
        gone = [shard.delta for shard in leaving]
        monolith = self.state.monolith
        if monolith is not None and monolith.get("delta") is not None:
            gone.append(monolith["delta"])
        body = {"request": request, "deltas": gone, "seconds": time.perf_counter() - began}
        head = len(self.ledger.known)
        self.commit("dropped", body, op=f"{request}/dropped")
        self._sums = sums if len(self.ledger.known) == head + 1 else None

    def _purge(self, request: str) -> None:
        began = time.perf_counter()
        self._manifest_parts = None
        removed = purge_request(self.store, self.state, self.state.requests[request])
        self._composed = {}
        body = {"request": request, **removed, "seconds": time.perf_counter() - began}
        self.commit("purged", body, op=f"{request}/purged")

    def conclude_forget(self, request: str, retrain_seconds: float | None) -> dict[str, Any]:
        """Write the certificate and commit its digest; the certificate itself is returned. Idempotent."""
        state = self.state.requests[request]
        key = names.certificate_key(request)
        if state.forgotten is not None:
            return self.certificate(request)
        after = self.compose()["digest"] if self._current_sums().weight else None
        certificate = certificate_of(self.state, self.ledger, self.spec, request, after, retrain_seconds)
        data = canonical_json(certificate)
        self.store.write(key, data)
        self.commit(
            "forgotten",
            {
                "request": request,
                "certificate": {"key": key, "digest": digest_bytes(data)},
                "composed_after": after,
                "seconds": certificate["seconds"],
            },
            op=f"{request}/forgotten",
        )
        return certificate

    def certificate(self, request: str) -> dict[str, Any]:
        """The certificate of a finished request, checked by digest."""
        ref = (self.state.requests[request].forgotten or {})["certificate"]
        data = self.store.read(ref["key"])
        if digest_bytes(data) != ref["digest"]:
            raise IntegrityError(f"{ref['key']} in {self.store.uri} was changed: its digest is not the ledger's")
        return json.loads(data)

    def unfinished_requests(self) -> list[str]:
        """Requests without a certificate: a crash, or a retrain still to come."""
        self._refresh()
        return [request.request for request in self.state.requests.values() if request.forgotten is None]

    # --- answers

    def snapshot(self) -> RunState:
        """The state, for the driver's reports."""
        self._refresh()
        return self.state

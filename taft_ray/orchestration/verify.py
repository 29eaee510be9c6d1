"""`verify` and `gc`: what storage alone says of a run. Needs no Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from taft_ray.errors import IntegrityError, ObjectMissing, StorageError
from taft_ray.orchestration.worker import load_snapshot, run_spec, snapshot_digest
from taft_ray.plans.orphans import orphans
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState, replay
from taft_ray.storage import (
    CheckpointRef,
    DeltaRef,
    Ledger,
    PartRef,
    Store,
    Tombstones,
    digest_bytes,
    read_checkpoint,
    read_delta,
    read_manifest,
    read_part,
)
from taft_ray.storage import rundir as names
from taft_ray.storage.digest import check_digest
from taft_ray.tangent import Sums


def verify(run: str) -> dict[str, Any]:
    """Check everything that can be checked from storage alone: {"ok", "checks": {name: count}, "problems": [text]}.

    The chain is unbroken; spec, manifest, every cache part, delta, certificate and snapshot has its recorded digest; the
    sums recomposed from the deltas give the snapshots; no forgotten sample is in the manifest or the cache; nothing lies
    about that no record names.
    """
    store = Store(run)
    problems: list[str] = []
    checks: dict[str, int] = {}

    def check(name: str, action: Callable[[], int]) -> bool:
        try:
            checks[name] = action()
            return True
        except (IntegrityError, StorageError) as error:
            checks[name] = 0
            problems.append(f"{name}: {error}")
            return False

    spec: RunSpec = run_spec(store)
    ledger = Ledger(store)
    state = RunState()

    def chain() -> int:
        nonlocal state
        entries = ledger.entries()
        state = replay(entries)
        return len(entries)

    if not check("ledger entries", chain):
        return {"ok": False, "checks": checks, "problems": problems}
    parts: dict[str, list[dict[str, Any]]] = {}
    manifest_key = ""

    def manifest() -> int:
        nonlocal parts, manifest_key
        found = read_manifest(store)
        if found is None:
            if state.cached is None:
                return 0
            raise IntegrityError(f"the manifest of {store.uri} is gone; restore it from a copy")
        table, described = found
        committed = _manifest_digest(state)
        if committed is not None and described["digest"] != committed:
            raise IntegrityError(f"the manifest {described['key']} is not the one that the ledger committed")
        parts, manifest_key = described["meta"]["parts"], described["key"]
        promised = {digest for request in state.requests.values() if request.waiting for digest in request.hashes}
        forgotten = set(table["id_hash"].to_pylist()) & (state.tombstones.keys() - promised)
        if forgotten:
            raise IntegrityError(f"{len(forgotten)} forgotten samples are still in {described['key']}")
        expected = {
            bytes(key)
            for key, status in zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True)
            if status == "kept"
        }
        held: set[bytes] = set()
        for shard, refs in parts.items():
            for ref in refs:
                part = read_part(store, PartRef.from_json(ref), fingerprint=described["meta"]["fingerprint"])
                if held & set(part.keys):
                    raise IntegrityError(f"{ref['key']} (shard {shard}) holds a sample that another part holds too")
                held |= set(part.keys)
        if held != expected:
            raise IntegrityError(
                f"the cache holds {len(held)} samples, the manifest keeps {len(expected)}; they differ"
            )
        return len(held)

    check("cached samples", manifest)

    def base() -> int:
        ref = (state.cached or {}).get("base")
        if ref is None:
            return 0
        check_digest(store.read(ref["key"]), ref["digest"], f"{ref['key']} in {store.uri}")
        return 1

    check("linearisation point", base)
    sums = Sums()

    def deltas() -> int:
        _add_deltas(store, state, sums)
        if state.monolith is not None and state.monolith.get("delta") is not None:
            read_delta(store, DeltaRef.from_json(state.monolith["delta"]))
        return len(state.in_model)

    current: set[str] = set()

    def snapshots() -> int:
        allowed = _snapshots_of(spec, sums)
        found = [info.key for info in store.list(f"{names.COMPOSED_FOLDER}/")]
        for key in found:
            load_snapshot(store, key)
            if key not in allowed:
                raise IntegrityError(f"{key} is not what the deltas in the model compose to")
        current.update(found)
        return len(found)

    def checkpoints() -> int:
        refs = [CheckpointRef.from_json(ref) for shard in state.shards.values() for ref in shard.checkpoints]
        for ref in refs:
            read_checkpoint(store, ref)
        return len(refs)

    check("slice checkpoints", checkpoints)
    if check("deltas", deltas):
        check("snapshots", snapshots)

    def certificates() -> int:
        done = [request for request in state.requests.values() if request.forgotten is not None]
        for request in done:
            ref = (request.forgotten or {})["certificate"]
            if digest_bytes(store.read(ref["key"])) != ref["digest"]:
                raise IntegrityError(f"{ref['key']} was changed: its digest is not the ledger's")
        return len(done)

    check("certificates", certificates)
    if not problems:
        left = orphans([info.key for info in store.list()], state, parts, current, manifest_key)
        checks["objects nothing refers to"] = len(left)
        if left:
            problems.append(
                f"nothing refers to {', '.join(left[:4])}{' …' if left[4:] else ''}; taft-ray gc removes them"
            )
    check("tombstones beside the run", lambda: _count_tombstones(store, state))
    unfinished = [r.request for r in state.requests.values() if r.forgotten is None and not r.waiting]
    if unfinished:
        problems.append(f"forget requests {unfinished} are not finished; run a forget again to resume them")
    return {
        "ok": not problems,
        "checks": checks,
        "problems": problems,
        "forgotten_samples": len(state.tombstones),
        "head": ledger.known[-1].digest if ledger.known else None,
    }


def _count_tombstones(store: Store, state: RunState) -> int:
    """How many requests are kept beside the run; IntegrityError when the ledger lacks one: an older copy was put back."""
    if state.created is None or not state.created.get("id_key"):
        return 0
    kept = Tombstones(store, state.created["id_key"]).read()
    missing = sorted(kept.keys() - state.requests.keys())
    if missing:
        raise IntegrityError(
            f"forget requests {missing} are kept beside {store.uri} and not in its ledger: an older copy of the folder "
            "was put back; run taft-ray forget --due, which forgets them again"
        )
    return len(kept)


def _add_deltas(store: Store, state: RunState, sums: Sums) -> None:
    for shard in state.in_model:
        tensors, _ = read_delta(store, DeltaRef.from_json(shard.delta or {}))
        sums.add({name: torch.from_numpy(value) for name, value in tensors.items()}, shard.weight)


def _snapshots_of(spec: RunSpec, sums: Sums) -> set[str]:
    """The keys of the snapshots that these sums compose to; every other one is of another set of shards."""
    if not sums.weight:
        return set()
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        modes = ("mean", "gram") if spec.compose == "gram" else ("mean",)
        return {names.composed_key(snapshot_digest(sums.compose(mode, spec.epsilon))) for mode in modes}
    finally:
        torch.set_num_threads(torch_threads)


def _manifest_digest(state: RunState) -> str | None:
    """The digest of the manifest last committed: by the prefix pass, or by the latest purge."""
    if any(request.purged is None and request.dropped is not None for request in state.requests.values()):
        return None  # a purge is under way: either manifest may be there
    return state.manifest


def gc(run: str) -> dict[str, Any]:
    """Remove what nothing refers to: {"removed": [keys], "bytes": n}. Not while a run is training."""
    store = Store(run)
    spec = run_spec(store)
    state = replay(Ledger(store).entries())
    found = read_manifest(store)
    parts = {} if found is None else found[1]["meta"]["parts"]
    key = "" if found is None else found[1]["key"]
    listed = {info.key: info.size for info in store.list()}
    sums = Sums()
    _add_deltas(store, state, sums)
    left = orphans(listed, state, parts, _snapshots_of(spec, sums), key)
    for name in left:
        try:
            store.delete(name)
        except ObjectMissing:
            continue
    store.sweep()
    return {"removed": left, "bytes": sum(listed[name] for name in left)}

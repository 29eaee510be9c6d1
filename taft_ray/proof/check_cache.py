"""The cache, of training and of evaluation, is as the manifest says: every sample once, and no forgotten one."""

from __future__ import annotations

import pyarrow as pa

from taft_ray.counting import plural
from taft_ray.errors import IntegrityError
from taft_ray.plans.state import RunState
from taft_ray.proof.evidence import Evidence, named
from taft_ray.storage import Manifest, PartRef, read_manifest, read_part
from taft_ray.storage import rundir as names
from taft_ray.storage.manifest import MANIFEST_KEY


def manifest(run: Evidence) -> None:
    """The manifest is the one last committed, counts what the ledger counts, and has no forgotten sample."""
    with run.examining("manifest"):
        found = read_manifest(run.store)
        if found is None:
            if run.state.cached is not None:
                raise IntegrityError(f"the manifest {MANIFEST_KEY} is gone; restore it from a copy")
            return
        committed = _committed_manifest(run.state)
        if committed is not None and found.digest != committed:
            raise IntegrityError(f"the manifest {found.key} is not the one that the ledger committed")
        run.manifest = found
        _no_forgotten(run, found.table, found.key)
        for number, shard in run.state.shards.items() if committed is not None else ():
            rows = sum(ref["rows"] for ref in run.parts.get(str(number), []))
            if rows != shard.samples:
                raise IntegrityError(f"{found.key} has {rows} samples in shard {number}, the ledger {shard.samples}")
        run.checks["manifest rows"] = found.table.num_rows


def _committed_manifest(state: RunState) -> str | None:
    """The digest of the manifest last committed: by the prefix pass, or by the latest purge."""
    if any(request.purged is None and request.dropped is not None for request in state.requests.values()):
        return None  # a purge is under way: either manifest may be there
    return state.manifest


def _no_forgotten(run: Evidence, table: pa.Table, where: str) -> None:
    if "id_hash" not in table.column_names:
        return
    forgotten = set(table["id_hash"].to_pylist()) & run.state.forgotten()
    if forgotten:
        raise IntegrityError(
            f"{plural(len(forgotten), 'forgotten sample is', 'forgotten samples are')} still in {where}"
        )


def cache(run: Evidence) -> None:
    """Every cached sample is where the manifest places it, once; the deltas in the model were fitted on just these parts."""
    if run.manifest is None:
        return
    run.checks["cached samples"] = _parts(run, "cached samples", run.manifest)
    fitted = {(fit.shard, fit.generation): fit.parts for fit in run.state.fits}
    with run.examining("cached samples"):
        for shard in run.state.in_model:
            saw = fitted.get((shard.shard, shard.generation))
            if saw is not None and list(saw) != [ref["digest"] for ref in run.parts.get(str(shard.shard), [])]:
                raise IntegrityError(
                    f"{names.shard_prefix(shard.shard)} is not what the delta of shard {shard.shard} was fitted on; "
                    "restore the cache from a copy, or train the shard again"
                )


def _parts(run: Evidence, what: str, manifest: Manifest) -> int:
    """Read every part, one at a time; returns how many samples they hold."""
    columns = [manifest.table[name].to_pylist() for name in ("key", "shard", "label", "status", "part_row")]
    # a kept sample at no row lost its tokens with a damaged part, and its shard is in quarantine
    expected = {
        key: (shard, label)
        for key, shard, label, status, row in zip(*columns, strict=True)
        if status == "kept" and row is not None
    }
    held: set[bytes] = set()
    refs = [(int(shard), ref) for shard, several in manifest.parts.items() for ref in several]
    before = len(run.problems)
    for done, (shard, ref) in enumerate(refs):
        run.report("verify cache", done, len(refs))
        with run.examining(what, shard if manifest is run.manifest else None):
            part = read_part(run.store, PartRef.from_json(ref), fingerprint=manifest.fingerprint)
            for key, label in zip(part.keys, part.labels.tolist(), strict=True):
                if expected.get(key) != (shard, label):
                    raise IntegrityError(f"{ref['key']} holds a sample that the manifest does not place there")
                if key in held:
                    raise IntegrityError(f"{ref['key']} holds a sample that another part holds too")
                held.add(key)
    run.report("verify cache", len(refs), len(refs))
    if len(held) != len(expected) and len(run.problems) == before:
        run.problems.append(f"{what}: the cache holds {len(held)} samples, the manifest keeps {len(expected)}")
    return len(held)


def evaluation_caches(run: Evidence) -> None:
    """The caches of evaluation data are whole, and hold no forgotten sample."""
    folders = {"/".join(key.split("/")[:2]) for key in run.sizes if key.startswith(f"{names.EVAL_FOLDER}/")}
    run.checks["evaluation samples"] = 0
    for folder in sorted(folders):
        with run.examining("evaluation caches"):
            run.checks["evaluation samples"] += _evaluation_cache(run, folder)


def _evaluation_cache(run: Evidence, folder: str) -> int:
    found = read_manifest(run.store.inside(folder))
    if found is None:
        raise IntegrityError(
            f"{folder}/{MANIFEST_KEY} is missing: an evaluation was cut off; evaluate again, or remove the folder"
        )
    _no_forgotten(run, found.table, f"{folder}/{found.key}")
    known = {ref["key"] for ref in found.refs}
    known |= {f"{folder}/{key}" for key in (*found.keys, MANIFEST_KEY)}
    unknown = [key for key in run.sizes if key.startswith(f"{folder}/") and key not in known]
    if unknown:
        run.problems.append(f"evaluation caches: nothing refers to {named(unknown)}; remove the folder {folder}")
    return _parts(run, "evaluation caches", found)

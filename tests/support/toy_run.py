"""A run without a model: a shard's delta is the sum of its samples' hashes. So a test can say what must be in it."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from taft_ray.composer.composer import Composer
from taft_ray.data import id_hash, sample_key
from taft_ray.data.manifest import MANIFEST_SCHEMA
from taft_ray.plans.facts import Cached
from taft_ray.plans.spec import RunSpec
from taft_ray.run.rows import terms_of, write_record
from taft_ray.run.snapshots import snapshot_digest
from taft_ray.run.spec import run_spec
from taft_ray.storage import (
    PartRef,
    Store,
    digest_bytes,
    digest_tensors,
    id_key,
    read_part,
    write_delta,
    write_part,
    write_rows,
    write_spec,
)
from taft_ray.storage import rundir as names

SHARDS, A_SHARD, A_PART = 3, 4, 2
EVERYONE = tuple(f"sample-{n}" for n in range(SHARDS * A_SHARD))
OWNERS = ("even", "odd")
SPEC = RunSpec(data="toy", model="toy", shards=SHARDS, compose="mean")
TWO_TIERS = RunSpec(data="toy", model="toy", shards=SHARDS, compose="additive", beside="mean", features=4)
FINGERPRINT = "toy"
_BITS = 40  # of the grid that deltas are on


def shard_of(name: str) -> int:
    return EVERYONE.index(name) // A_SHARD


def owner_of(name: str) -> str:
    return OWNERS[EVERYONE.index(name) % 2]


def key_of(name: str) -> bytes:
    return sample_key(name, SPEC.seed)


NAME_OF = {key_of(name): name for name in EVERYONE}


def make_run(run: Path, spec: RunSpec = SPEC) -> None:
    """The spec, the secret, the cache, and the ledger up to it: nothing is trained."""
    store = Store(str(run))
    write_spec(store, spec.to_json())
    secret = id_key(store, create=True)
    composer = Composer(str(run))
    composer.begin({}, digest_bytes(secret))
    composer.admit_cache(prefix_pass(store))


def prefix_pass(store: Store) -> Cached:
    """Write all parts and rows as they were at first, as a pass does that knows of no forget; what it would commit."""
    secret, parts, rows = id_key(store, create=False), {}, []
    for shard in range(SHARDS):
        members = sorted((name for name in EVERYONE if shard_of(name) == shard), key=key_of)
        for part in range(A_SHARD // A_PART):
            held = members[part * A_PART : (part + 1) * A_PART]
            ref = write_toy_part(store, names.shard_prefix(shard), part, [key_of(name) for name in held])
            parts.setdefault(str(shard), []).append({**ref.to_json(), "part": part})
            rows += [
                {
                    "key": key_of(name), "shard": shard, "label": 0, "owner_key": key_of(owner_of(name)),
                    "uri_relative": "toy", "row": EVERYONE.index(name), "bytes": 1, "status": "kept", "reason": None,
                    "part": part, "part_row": at, "id_hash": id_hash(name, secret),
                }
                for at, name in enumerate(held)
            ]  # fmt: skip
    schema = MANIFEST_SCHEMA.append(pa.field("id_hash", pa.string()))
    meta = {"parts": parts, "classes": ["a", "b"], "fingerprint": FINGERPRINT}
    manifest = write_rows(store, pa.Table.from_pylist(rows, schema), meta, version=0)
    counts = {"rows": len(rows), "kept": len(rows), "rejected": 0, "reasons": {}}
    return Cached(manifest.digest, (A_SHARD,) * SHARDS, ("a", "b"), manifest.key, counts=counts)


def write_toy_part(store: Store, folder: str, part: int, keys: Sequence[bytes]) -> PartRef:
    """A part of these samples: tokens of zeros and, in a run of two tiers, their rows."""
    return write_part(
        store,
        folder,
        part,
        keys=keys,
        labels=np.zeros(len(keys), np.int64),
        tokens=np.zeros((len(keys), 1, 1), np.float16),
        dtype="float16",
        fingerprint=FINGERPRINT,
        rows=rows_of(keys) if run_spec(store).two_tiers else None,
    )


def rows_of(keys: Sequence[bytes]) -> np.ndarray:
    """The rows of these samples: int16 (n, 4), |row| <= 1."""
    hashed = b"".join(hashlib.blake2b(key, digest_size=8, person=b"row").digest() for key in keys)
    return np.frombuffer(hashed, "<i2").reshape(-1, 4) // 2


def term(held: Iterable[str]) -> np.ndarray:
    """Δw of these samples on its grid: (4,) int64."""
    total = np.zeros(4, np.int64)
    for name in held:
        total += np.frombuffer(hashlib.blake2b(key_of(name), digest_size=32).digest(), "<i8") >> 20
    return total


def fit(store: Store, task: Mapping[str, Any]) -> dict[str, Any]:
    """Do what `ShardWorker.fit` does, for the toy model."""
    held = []
    for ref in task["parts"]:
        held += [NAME_OF[key] for key in read_part(store, PartRef.from_json(ref), fingerprint=FINGERPRINT).keys]
    folder = names.delta_folder(task["shard"])
    ref = write_delta(store, folder, task["generation"], {"delta/w": term(held)}, {"samples": str(len(held))})
    rows: dict[str, Any] = {}
    if run_spec(store).two_tiers:
        record = write_record(store, folder, task["shard"], task["generation"], task["parts"], FINGERPRINT, 2)
        rows = {"record": record.to_json(), "terms": _terms(held)}
    return {
        **rows,
        "shard": task["shard"],
        "generation": task["generation"],
        "samples": len(held),
        "parts": [part["digest"] for part in task["parts"]],
        "delta": ref.to_json(),
        "facts": {"seconds": 0.001, "samples": len(held)},
    }


def _terms(held: Collection[str]) -> dict[str, np.ndarray]:
    return terms_of(rows_of([key_of(name) for name in held]), np.zeros(len(held), np.int64), 2)


def sums_digest(held: Collection[str]) -> str | None:
    """The digest of the sums over these samples' rows."""
    return snapshot_digest(_terms(held)) if held else None


def composed_of(shards: Collection[Collection[str]]) -> str | None:
    """The digest of the mean of these shards' deltas, weighted by their samples."""
    weights = [SPEC.weight_of(len(held)) for held in shards]
    if not sum(weights):
        return None
    total = np.sum([weight * term(held) for weight, held in zip(weights, shards, strict=True)], axis=0)
    return digest_tensors({"w": (total * 2.0**-_BITS / sum(weights)).astype(np.float32)})

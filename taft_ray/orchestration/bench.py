"""From a run's cache to what a sweep's trials share: tokens in the object store, who is held out, and nobody who is forgotten."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from ray.exceptions import RayTaskError

from taft_ray.data import held_out
from taft_ray.data.manifest import KEPT
from taft_ray.errors import DataError, UsageError
from taft_ray.models import load_model
from taft_ray.orchestration.actors import own_error
from taft_ray.orchestration.prefix import PREFIX_BATCH
from taft_ray.orchestration.trial import Bench, key_rows, mapped
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.plans.sweep import Sweep
from taft_ray.storage import PartRef, Store, read_part, read_rows
from taft_ray.tangent import between

_MOST_OF_A_STORE = 0.8  # of a node's object store may be tokens; Ray writes what is beyond its memory to disk


Manifest = tuple[pa.Table, Mapping[str, Any]]


def manifest_of(store: Store, state: RunState) -> Manifest:
    """The rows and description of the manifest that the ledger commits to."""
    return read_rows(store, str(state.manifest_key), str(state.manifest))


def check_held_out(manifest: Manifest, state: RunState, sweep: Sweep, seed: int) -> None:
    """DataError when nobody is held out, or nobody is left to fit on."""
    table, gone = manifest[0], _gone(manifest[0], state)
    kept = table.filter(pc.equal(table["status"], KEPT))["key"].to_pylist()  # type: ignore[attr-defined]
    keys = [key for key in kept if key not in gone]
    held = held_out(keys, fraction=sweep.held_out, seed=seed)
    if not held.any() or held.all():
        what = "held out to measure on" if not held.any() else "left to fit on"
        raise DataError(f"none of {len(keys)} samples is {what} with --held-out {sweep.held_out}; set another fraction")


def lay_bench(
    store: Store,
    spec: RunSpec,
    state: RunState,
    manifest: Manifest,
    sweep: Sweep,
    name: str,
    blocks: Collection[int | str],
) -> Bench:
    """Read the cache once into the object store, without the samples that are to be forgotten (those that wait, too).

    blocks: every ``last_blocks`` that a trial asks for; the tokens are carried on to the later cuts once.
    """
    meta = manifest[1]["meta"]
    refs = [(int(shard), ref) for shard, several in sorted(meta["parts"].items(), key=_number) for ref in several]
    _check_memory(sum(ref["bytes"] for _, ref in refs) * len({spec.last_blocks, *blocks}))
    task: Any = _gather.options(num_returns=4)
    tokens, *small = task.remote(store, refs, meta["fingerprint"], _gone(manifest[0], state))
    keys, labels, shards = (_get(ref) for ref in small)
    held = held_out([key.tobytes() for key in keys], fraction=sweep.held_out, seed=spec.seed)
    carry = _carry.options(num_gpus=1 if spec.device == "cuda" else 0)
    carried = {last: tokens if last == spec.last_blocks else carry.remote(tokens, spec, last) for last in blocks}
    for ref in carried.values():
        ray.wait([ref], fetch_local=False)
    return Bench(
        name=name, spec=spec, classes=len(meta["classes"]), objective=sweep.objective, tokens=carried,
        keys=keys, labels=labels, shards=shards, held=held,
    )  # fmt: skip


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])


def _get(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except RayTaskError as error:
        own = own_error(error)
        raise own if own is not None else error from None


def _gone(table: pa.Table, state: RunState) -> set[bytes]:
    """Sample keys that no trial may read."""
    if "id_hash" not in table.column_names or not state.tombstones:
        return set()
    asked = pc.is_in(table["id_hash"], value_set=pa.array(sorted(state.tombstones), pa.string()))  # type: ignore[attr-defined]
    return set(table.filter(asked)["key"].to_pylist())


def _check_memory(needed: int) -> None:
    stores = [int(node["Resources"].get("object_store_memory", 0)) for node in ray.nodes() if node["Alive"]]
    smallest = min((size for size in stores if size), default=0)
    if needed > _MOST_OF_A_STORE * smallest:
        raise UsageError(
            f"the tokens are {needed / 2**30:.1f} GiB and a node's object store {smallest / 2**30:.1f} GiB, of which "
            f"{_MOST_OF_A_STORE:.0%} may be tokens; start Ray with a larger --object-store-memory, or sweep a smaller run"
        )


@ray.remote(num_cpus=1)
def _gather(
    store: Store, refs: Sequence[tuple[int, dict[str, Any]]], fingerprint: str, gone: Collection[bytes]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens (n, T, d), keys uint8 (n, 16), labels and shards int64 (n,), shard by shard, without the keys in ``gone``."""
    tokens: np.ndarray | None = None
    keys: list[bytes] = []
    labels, shards = [], []
    total = sum(ref["rows"] for _, ref in refs)
    for shard, ref in refs:
        part = read_part(store, PartRef.from_json(ref), fingerprint=fingerprint)
        kept = [row for row, key in enumerate(part.keys) if key not in gone]
        if tokens is None:
            tokens = np.empty((total, *part.tokens.shape[1:]), part.tokens.dtype)
        tokens[len(keys) : len(keys) + len(kept)] = part.tokens[kept]
        keys += [part.keys[row] for row in kept]
        labels.append(part.labels[kept])
        shards.append(np.full(len(kept), shard, np.int64))
    if tokens is None or not keys:
        raise DataError(f"no sample is left in the cache of {store.uri}")
    return tokens[: len(keys)], key_rows(keys), np.concatenate(labels), np.concatenate(shards)


@ray.remote(num_cpus=1)
@torch.no_grad()
def _carry(tokens: np.ndarray, spec: RunSpec, last_blocks: int | str) -> np.ndarray:
    """The tokens at the entrance of the last ``last_blocks``, in the precision and type of the cache."""
    torch.set_num_threads(spec.threads)
    device = torch.device(spec.device)
    network = load_model(spec.model, spec.weights, spec.image_size).network.to(device)
    run = between(network, spec.last_blocks, last_blocks)
    view, size = mapped(tokens, spec.cache_dtype), PREFIX_BATCH[spec.device]
    out = np.empty_like(tokens)
    for at in range(0, len(tokens), size):
        with torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
            carried = run(view[at : at + size].to(device, torch.float32)).to(view.dtype).cpu()
        out[at : at + size] = (
            (carried.view(torch.int16) if tokens.dtype == np.uint16 else carried).numpy().view(out.dtype)
        )
    return out

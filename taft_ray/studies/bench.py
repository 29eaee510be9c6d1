"""From a run's cache to what a sweep's trials share: tokens in the object store, who is held out, and nobody who is forgotten."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import ray
import torch

from taft_ray.data import held_out
from taft_ray.orchestration.calls import fetch
from taft_ray.orchestration.object_store import gather, mapped
from taft_ray.orchestration.pulse import beating
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.plans.sweep import Sweep
from taft_ray.prefix.tokens import PREFIX_BATCH
from taft_ray.run.model import load_for
from taft_ray.storage import Manifest, PartRef, Store
from taft_ray.studies.held_out import gone
from taft_ray.studies.trial import Bench, signs_of
from taft_ray.tangent import between


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
    ill = {shard.shard for shard in state.quarantined}  # their parts are damaged
    parts = {
        int(shard): [PartRef.from_json(ref) for ref in several]
        for shard, several in manifest.parts.items()
        if int(shard) not in ill
    }
    refs = [(shard, ref) for shard in sorted(parts) for ref in parts[shard]]
    copies = len({spec.last_blocks, *blocks})
    group = signs_of(name)
    gathered = gather(store, refs, manifest.fingerprint, group, gone=gone(manifest.table, state), copies=copies)
    tokens = gathered.tokens
    keys, labels, shards = (fetch(ref) for ref in (gathered.keys, gathered.labels, gathered.shards))
    held = held_out([key.tobytes() for key in keys], fraction=sweep.held_out, seed=spec.seed)
    carry = _carry.options(num_gpus=1 if spec.device == "cuda" else 0)
    carried = {last: tokens if last == spec.last_blocks else carry.remote(tokens, spec, last, group) for last in blocks}
    for ref in carried.values():
        ray.wait([ref], fetch_local=False)
    return Bench(
        name=name, spec=spec, classes=len(manifest.meta["classes"]), objective=sweep.objective, tokens=carried,
        keys=keys, labels=labels, shards=shards, held=held,
    )  # fmt: skip


@ray.remote(num_cpus=1)
def _carry(tokens: np.ndarray, spec: RunSpec, last_blocks: int | str, group: str) -> np.ndarray:
    with beating(group):
        return _carried(tokens, spec, last_blocks)


@torch.no_grad()
def _carried(tokens: np.ndarray, spec: RunSpec, last_blocks: int | str) -> np.ndarray:
    """The tokens at the entrance of the last ``last_blocks``, in the precision and type of the cache."""
    torch.set_num_threads(spec.threads)
    device = torch.device(spec.device)
    network = load_for(spec).network.to(device)
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

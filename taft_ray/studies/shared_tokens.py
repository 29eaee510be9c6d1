"""The tokens of a data set, made once by one prefix pass and put once into the object store, where every worker maps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from taft_ray.additive.options import ADDITIVE
from taft_ray.data import check_rejected, counts
from taft_ray.errors import StorageError
from taft_ray.orchestration import places
from taft_ray.orchestration.calls import fetch
from taft_ray.orchestration.object_store import Gathered, gather, mapped
from taft_ray.orchestration.prefix_pass import passes
from taft_ray.orchestration.pulse import looked_after, new_group
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.plans.train import lanes_for
from taft_ray.prefix.cache import build_cache
from taft_ray.prefix.part_writer import remove_markers
from taft_ray.prefix.passes import index_source
from taft_ray.progress import Report
from taft_ray.run.address import data_stamp
from taft_ray.storage import PartRef, Store, digest_json, read_manifest, write_manifest, write_spec
from taft_ray.sums.options import DEFAULT_COMPOSITION
from taft_ray.systems import TokenSet

# fields that decide a token, and the class indices beside it; a folder of tokens is named by these
_OF_THE_PREFIX = (
    "model", "weights", "weights_digest", "image_size", "classes", "last_blocks", "precision", "cache_dtype", "device",
    "threads", "max_rejected", "exif_orientation",
)  # fmt: skip
_OF_SITES = ("solver", "features", "site_blocks", "views")  # the projection is by seed 0, whatever a cell's seed is


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A data set in the object store; its stamp says which files it was made of."""

    gathered: Gathered
    classes: tuple[str, ...]
    count: int
    stamp: str

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        """References to what `token_set` takes."""
        return self.gathered.tokens, self.gathered.keys, self.gathered.labels


def prefix_of(spec: RunSpec) -> RunSpec:
    """The part of a spec that decides tokens: specs that share tokens have the same."""
    of_sites = {name: getattr(spec, name) for name in _OF_SITES} if spec.additive else {}
    return RunSpec(
        data="shared", shards=1, compose=ADDITIVE if spec.additive else DEFAULT_COMPOSITION,
        **{name: getattr(spec, name) for name in _OF_THE_PREFIX}, **of_sites,
    )  # fmt: skip


def shared_tokens(
    root: str, spec: RunSpec, data: str, *, rows: int | None, classes: Sequence[str] | None, report: Report
) -> Tokens:
    """Tokens of ``data`` at the entrance of the suffix of ``spec``, or rows where it is additive.

    They come from ``root`` where an earlier call left them there.
    """
    prefix = prefix_of(spec)
    folder = f"{root.rstrip('/')}/tokens/{digest_json(prefix.to_json())[:16]}"
    store = Store(folder)
    write_spec(store, prefix.to_json())
    stamp = digest_json([data_stamp(data), rows])
    name = f"cache/{stamp[:16]}"
    there = store.inside(name)
    found = read_manifest(there)
    if found is None:
        cpus, gpus = places.resources()
        workers = gpus if spec.device == "cuda" else lanes_for(cpus, gpus=0, cpus=cpus, threads=spec.threads)
        result = build_cache(
            passes(), store, folder, prefix, source=index_source(passes(), data, classes), shards=1, assignment="hash",
            folders=f"{name}/shard={{shard:05d}}", tombstones=RunState(), secret=None, workers=workers, report=report,
            rows=rows,
        )  # fmt: skip
        meta = {"parts": result.parts, "classes": list(result.classes), "fingerprint": result.fingerprint}
        write_manifest(there, result.table, meta)
        remove_markers(store, f"{name}/shard=00000")
        found = read_manifest(there)
        if found is None:
            raise StorageError(f"{there.uri}: the manifest vanished; run it again")
    check_rejected(counts(found.table), spec.max_rejected)
    refs = [PartRef.from_json(ref) for ref in found.refs]
    group = new_group("tokens")
    with looked_after("a table", group, closes=True):
        gathered = gather(store, [(0, ref) for ref in refs], found.fingerprint, group)
        count = len(fetch(gathered.labels))  # to be there before actors take the CPUs
    return Tokens(gathered=gathered, classes=tuple(found.meta["classes"]), count=count, stamp=stamp)


def token_set(arrays: Sequence[np.ndarray], stored_dtype: str) -> TokenSet:
    """The arrays of `Tokens.arrays` as a set, its tokens without a copy. Read-only: nothing may be written into them."""
    tokens, keys, labels = arrays
    return TokenSet(
        keys=[key.tobytes() for key in keys],
        labels=torch.from_numpy(labels.copy()),
        tokens=mapped(tokens, stored_dtype),
    )

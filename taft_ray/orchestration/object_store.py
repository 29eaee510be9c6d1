"""Tokens in Ray's object store: read once from the parts of a cache, mapped by every worker of a node.

n samples, T tokens, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from taft_ray.data.keys import KEY_BYTES
from taft_ray.errors import DataError, UsageError
from taft_ray.orchestration.pulse import beating
from taft_ray.storage import PartRef, Store, read_part

_MOST_OF_A_STORE = 0.8  # of a node's object store may be tokens; Ray writes what is beyond its memory to disk


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """References to the arrays of some samples.

    ``tokens`` is (n, T, D), or (n, c, h, w), as stored. ``keys`` is uint8 (n, 16). ``labels`` and ``shards`` are int64 (n,).
    """

    tokens: Any
    keys: Any
    labels: Any
    shards: Any


def gather(
    store: Store,
    refs: Sequence[tuple[int, PartRef]],
    fingerprint: str,
    group: str,
    *,
    gone: Collection[bytes] = (),
    copies: int = 1,
) -> Gathered:
    """Read these parts, each with its shard, into the object store, without the sample keys in ``gone``; by a task, to be waited for.

    group: in which the task gives signs of life (`pulse`). copies: how many times their size will be there in the end. UsageError
    when that is too much for a node.
    """
    _check_memory(sum(ref.bytes for _, ref in refs) * copies)
    task: Any = _gather.options(num_returns=4)
    tokens, keys, labels, shards = task.remote(store, refs, fingerprint, gone, group)
    return Gathered(tokens=tokens, keys=keys, labels=labels, shards=shards)


def mapped(tokens: np.ndarray, cache_dtype: str) -> Tensor:
    """Tokens of the object store as a tensor, without a copy; read-only, whatever torch thinks."""
    with warnings.catch_warnings():
        # the object store's memory is read-only, and nothing here writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        view = torch.from_numpy(tokens if tokens.dtype != np.uint16 else tokens.view(np.int16))
    return view.view(torch.bfloat16) if cache_dtype == "bfloat16" else view


def key_rows(keys: Sequence[bytes]) -> np.ndarray:
    """Sample keys as a uint8 (n, 16)."""
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


def _check_memory(needed: int) -> None:
    stores = [int(node["Resources"].get("object_store_memory", 0)) for node in ray.nodes() if node["Alive"]]
    smallest = min((size for size in stores if size), default=0)
    if needed > _MOST_OF_A_STORE * smallest:
        raise UsageError(
            f"the tokens are {needed / 2**30:.1f} GiB and a node's object store {smallest / 2**30:.1f} GiB, of which "
            f"{_MOST_OF_A_STORE:.0%} may be tokens. Start Ray with a larger --object-store-memory, or take fewer samples"
        )


@ray.remote(num_cpus=1)
def _gather(
    store: Store, refs: Sequence[tuple[int, PartRef]], fingerprint: str, gone: Collection[bytes], group: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    with beating(group):
        return _read(store, refs, fingerprint, gone)


def _read(
    store: Store, refs: Sequence[tuple[int, PartRef]], fingerprint: str, gone: Collection[bytes]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    tokens: np.ndarray | None = None
    keys: list[bytes] = []
    labels, shards = [], []
    total = sum(ref.rows for _, ref in refs)
    for shard, ref in refs:
        part = read_part(store, ref, fingerprint=fingerprint)
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

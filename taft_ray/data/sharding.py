"""Which shard a sample belongs to."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from taft_ray.data.keys import order_of, words
from taft_ray.errors import UsageError

Method = Literal["hash", "equal", "stratified", "grouped"]
METHODS: tuple[Method, ...] = get_args(Method)

GIVES_UP: dict[str, str] = {
    "hash": "Shards differ a little in size and in their mix of classes, as draws do; a sample's shard never changes.",
    "equal": "Shards have the same size, but forgetting a sample moves others, so a run anew has other shards.",
    "stratified": "Each class is spread evenly, but forgetting a sample moves others of its class and later classes.",
    "grouped": "All samples of an owner are in one shard, but shards are as unequal as the owners are.",
}


def assign(
    keys: Sequence[bytes],
    *,
    shards: int,
    method: Method = "hash",
    labels: np.ndarray | None = None,
    owners: Sequence[bytes | None] | None = None,
) -> np.ndarray:
    """The shard of each key, int64 in [0, shards).

    Guarantees: independent of the order of ``keys`` (which must differ). By ``hash`` and ``grouped`` a sample's shard
    depends on its own key (or its owner's) only. ``owners`` are keys like the samples'; a sample without an owner is
    its own. More shards than samples leave some empty.
    """
    if shards < 1:
        raise UsageError(f"expected shards >= 1, got {shards}; set --shards")
    if method == "hash":
        return _hash(keys, shards)
    if method == "equal":
        shard = np.empty(len(keys), np.int64)
        for number, part in enumerate(np.array_split(order_of(keys), shards)):
            shard[part] = number
        return shard
    if method == "stratified":
        if labels is None:
            raise UsageError("method 'stratified' needs labels")
        high, low = words(keys)
        shard = np.empty(len(keys), np.int64)
        # dealt round the shards and on into the next class, so that sizes differ by one in total too
        shard[np.lexsort((low, high, labels))] = np.arange(len(keys)) % shards
        return shard
    if method == "grouped":
        check_owners(owners or ())
        return _hash([owner or key for owner, key in zip(owners or (), keys, strict=True)], shards)
    raise UsageError(f"unknown method {method!r} of sharding; choose one of {', '.join(METHODS)}")


def check_owners(owners: Sequence[object]) -> None:
    """UsageError where samples are to be grouped by owner, and none of them has one."""
    if all(owner is None for owner in owners):
        raise UsageError(
            "assignment 'grouped' needs the owners of the samples; add a column 'owner' or use --assignment hash"
        )


def _hash(keys: Sequence[bytes], shards: int) -> np.ndarray:
    """``int.from_bytes(key[:8]) % shards``"""
    return (words(keys)[0] % np.uint64(shards)).astype(np.int64)

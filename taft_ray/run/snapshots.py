"""Snapshots: composed models as safetensors, named by their digest. A cache of the ledger, never the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.storage import Store, digest_tensors
from taft_ray.storage import rundir as names

if TYPE_CHECKING:
    from taft_ray.tangent import Delta

Composed = Mapping[str, Any]  # the composed model's values by name: tensors, or float32 arrays


def snapshot_digest(delta: Composed) -> str:
    """The digest of a composed model: of its float32 values, by name."""
    return digest_tensors(_arrays(delta))


def snapshot_bytes(delta: Composed) -> bytes:
    """The composed model as safetensors: equal models have equal bytes."""
    return save(_arrays(delta))


def _arrays(delta: Composed) -> dict[str, np.ndarray]:
    return {name: value if isinstance(value, np.ndarray) else _exact(value) for name, value in delta.items()}


def _exact(value: Any) -> np.ndarray:
    """A tensor as float32, or as the whole numbers that it holds: sums of an additive run."""
    return (value.float() if value.is_floating_point() else value).contiguous().numpy()


def save_snapshot(store: Store, delta: Composed, digest: str | None = None) -> str:
    """Write the composed model, named by its digest; returns the digest. digest: where it is known already."""
    digest = digest or snapshot_digest(delta)
    store.write(names.composed_key(digest), snapshot_bytes(delta))
    return digest


def is_snapshot(store: Store, key: str, delta: Composed) -> bool:
    """Whether the object is there and is, to the byte, this composed model."""
    try:
        return store.read(key) == snapshot_bytes(delta)
    except ObjectMissing:
        return False


def load_snapshot(store: Store, key: str) -> Delta:
    """A composed model, float32; IntegrityError when its bytes do not have the digest in its name."""
    import torch

    from taft_ray.tangent import Delta

    return Delta({name: torch.from_numpy(value.copy()) for name, value in load_arrays(store, key).items()})


def load_arrays(store: Store, key: str) -> dict[str, np.ndarray]:
    """The arrays of a snapshot by name; IntegrityError when its bytes do not have the digest in its name."""
    damaged = IntegrityError(f"{key} in {store.uri} is damaged: remove it, it is made again from the ledger")
    try:
        arrays = load(store.read(key))
    except SafetensorError as error:
        raise damaged from error
    if names.composed_key(snapshot_digest(arrays)) != key:
        raise damaged
    return arrays

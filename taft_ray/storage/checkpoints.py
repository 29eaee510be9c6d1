"""Slice checkpoints in storage: Δw after a stage of a fit, in the float32 it was trained in, so that the fit can go on.

Unlike a delta a checkpoint is never summed, so it is not rounded to the grid: a fit that goes on needs its exact bits.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from taft_ray.errors import UsageError
from taft_ray.storage.objects import Store
from taft_ray.storage.tensors import read_tensors, write_tensors


@dataclass(frozen=True)
class CheckpointRef:
    """Where the checkpoint of a stage is and what it must be. It saw slices 0..stage-1 of its shard."""

    stage: int
    key: str
    digest: str
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "CheckpointRef":
        return cls(int(fields["stage"]), str(fields["key"]), str(fields["digest"]), int(fields["bytes"]))


def write_checkpoint(
    store: Store, folder: str, stage: int, tensors: Mapping[str, np.ndarray], meta: Mapping[str, str]
) -> CheckpointRef:
    """Write float32 `tensors` and `meta` as ``{folder}/{stage:03d}-{digest[:16]}.safetensors``; again is harmless."""
    wrong = {name: str(tensor.dtype) for name, tensor in tensors.items() if tensor.dtype != np.float32}
    if wrong:
        raise UsageError(f"expected float32 tensors, got {wrong}; a checkpoint keeps Δw as it was trained")
    return CheckpointRef(stage, *write_tensors(store, f"{folder}/{stage:03d}", tensors, meta))


def read_checkpoint(store: Store, ref: CheckpointRef) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors (by sorted name) and the meta; `IntegrityError` naming the object if a byte differs."""
    return read_tensors(store, ref.key, ref.digest, what="checkpoint")

"""Deltas in storage: integer tensors on their fixed-point grids, as safetensors named by content."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from taft_ray.errors import UsageError
from taft_ray.storage.objects import Store
from taft_ray.storage.tensors import read_tensors, write_tensors


@dataclass(frozen=True)
class DeltaRef:
    """Where a delta is and what it must be: `digest` and `bytes` of the object."""

    key: str
    digest: str
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "DeltaRef":
        return cls(str(fields["key"]), str(fields["digest"]), int(fields["bytes"]))


def write_delta(
    store: Store, folder: str, generation: int, tensors: Mapping[str, np.ndarray], meta: Mapping[str, str]
) -> DeltaRef:
    """Write int64 `tensors` and `meta` as ``{folder}/{generation:06d}-{digest[:16]}.safetensors``.

    Guarantees: equal content gives equal bytes, hence an equal key, so that writing again is harmless; shapes and
    values come back exactly.
    """
    wrong = {name: str(tensor.dtype) for name, tensor in tensors.items() if tensor.dtype != np.int64}
    if wrong:
        raise UsageError(f"expected int64 tensors (values on the fixed-point grid), got {wrong}; quantise them first")
    return DeltaRef(*write_tensors(store, f"{folder}/{generation:06d}", tensors, meta))


def read_delta(store: Store, ref: DeltaRef) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors (by sorted name) and the meta of a delta; `IntegrityError` naming the object if a byte differs."""
    return read_tensors(store, ref.key, ref.digest, what="delta")

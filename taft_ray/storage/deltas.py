"""Deltas in storage: integer tensors on their fixed-point grids, as safetensors named by content."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from taft_ray.errors import IntegrityError, UsageError
from taft_ray.storage.digest import canonical_json, check_digest, digest_bytes, little_endian
from taft_ray.storage.objects import Store

_META = "taft_ray"


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
    # safetensors writes its metadata in the order of a hash map: one entry is what makes the bytes deterministic
    data = save({name: little_endian(tensors[name]) for name in sorted(tensors)}, {_META: _text(meta)})
    digest = digest_bytes(data)
    key = f"{folder}/{generation:06d}-{digest[:16]}.safetensors"
    store.write(key, data)
    return DeltaRef(key, digest, len(data))


def read_delta(store: Store, ref: DeltaRef) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors (by sorted name) and the meta of a delta; `IntegrityError` naming the object if a byte differs."""
    where = f"{ref.key} in {store.uri}"
    data = store.read(ref.key)
    check_digest(data, ref.digest, where)
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        meta = json.loads(header["__metadata__"][_META])
    except (SafetensorError, ValueError, KeyError) as error:
        raise IntegrityError(f"{where} is not a delta written by taft_ray ({error}); train it again") from error
    return {name: tensors[name] for name in sorted(tensors)}, meta


def _text(meta: Mapping[str, str]) -> str:
    wrong = sorted(str(name) for name, value in meta.items() if not isinstance(name, str) or not isinstance(value, str))
    if wrong:
        raise UsageError(f"expected meta of strings, got other types for {wrong}; convert them")
    return canonical_json(dict(meta)).decode("ascii")

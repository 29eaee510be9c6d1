"""Digests of bytes, JSON and tensors: BLAKE2b, 32 bytes, as 64 hexadecimal characters."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from taft_ray.errors import IntegrityError
from taft_ray.storage.json_text import MALFORMED, parse_json

SIZE = 32
"""Bytes in a digest."""


def digest_bytes(data: Any) -> str:
    """The digest of bytes, or of anything with a contiguous buffer."""
    return hashlib.blake2b(data, digest_size=SIZE).hexdigest()


def canonical_json(obj: Any) -> bytes:
    """The one JSON text of `obj`: keys sorted, no spaces, ASCII, floats in their shortest exact form.

    Raises `ValueError` for NaN and infinities, `TypeError` for what JSON has no form for.
    """
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def digest_json(obj: Any) -> str:
    """The digest of `obj`'s canonical JSON: equal for equal content, whatever the order of keys."""
    return digest_bytes(canonical_json(obj))


def digest_tensors(tensors: Mapping[str, np.ndarray]) -> str:
    """The digest of named tensors: their names (sorted), dtypes, shapes and little-endian C-order bytes.

    Independent of the mapping's order, of strides and of the machine's byte order.
    """
    total = hashlib.blake2b(digest_size=SIZE)
    for name in sorted(tensors):
        tensor = little_endian(tensors[name])
        header = canonical_json([name, tensor.dtype.str, list(tensor.shape)])
        total.update(len(header).to_bytes(8, "little"))
        total.update(header)
        total.update(tensor.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def little_endian(tensor: np.ndarray) -> np.ndarray:
    """The tensor in C order and little-endian; itself when it already is. Shape kept, also ()."""
    return np.asarray(tensor, dtype=tensor.dtype.newbyteorder("<"), order="C")


def seal(body: Mapping[str, Any], field: str) -> bytes:
    """Canonical JSON of `body` with its own digest added as `field`."""
    return canonical_json({**body, field: digest_json(dict(body))})


def unseal(data: bytes, field: str, where: str) -> dict[str, Any]:
    """The object that `seal` wrote, `field` included; `IntegrityError` naming `where` if any byte differs."""
    try:
        sealed = parse_json(data)
        body = {key: value for key, value in sealed.items() if key != field}
        intact = seal(body, field) == data
    except MALFORMED as error:
        raise IntegrityError(
            f"{where} is damaged: not the JSON that was written ({len(data)} bytes); restore it from a copy"
        ) from error
    if not intact:
        raise IntegrityError(
            f"{where} is damaged: its bytes do not have the digest recorded in it; restore it from a copy"
        )
    return sealed


def check_digest(data: Any, digest: str, where: str) -> None:
    """`IntegrityError` naming `where` unless `data` has this digest."""
    got = digest_bytes(data)
    if got != digest:
        raise IntegrityError(
            f"{where} is damaged: expected digest {digest[:16]}, got {got[:16]} ({memoryview(data).nbytes} bytes); "
            "restore it from a copy or make it again"
        )

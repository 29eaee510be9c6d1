"""The two names of a sample that are not its id, and the order an epoch visits the samples in.

Formal guarantees: ``sample_key`` and ``id_hash`` depend on nothing but their arguments, on any machine; the order of
two samples in an epoch depends on their keys, the seed and the epoch, and on no other sample.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from taft_ray.errors import UsageError

KEY_BYTES = 16


def sample_key(id: str, seed: int) -> bytes:
    return hashlib.blake2b(id.encode(), digest_size=KEY_BYTES, key=_number(seed, "seed")).digest()


def sample_keys(ids: Iterable[str], seed: int) -> list[bytes]:
    key = _number(seed, "seed")
    return [hashlib.blake2b(id.encode(), digest_size=KEY_BYTES, key=key).digest() for id in ids]


def id_hash(id: str, secret: bytes) -> str:
    """What ledger and certificates call a sample; without the secret nobody can tell whether an id was meant."""
    if not KEY_BYTES <= len(secret) <= hashlib.blake2b.MAX_KEY_SIZE:
        raise UsageError(f"the secret of id_hash must have {KEY_BYTES} to 64 bytes, got {len(secret)}")
    return hashlib.blake2b(id.encode(), digest_size=KEY_BYTES, key=secret).hexdigest()


def owner_hash(owner: str, secret: bytes) -> str:
    """What the ledger calls an owner: never the hash of a sample's id, even of the same name."""
    return id_hash(f"owner {owner}", secret)


def epoch_order(keys: Sequence[bytes], *, seed: int, epoch: int) -> np.ndarray:
    """The permutation that sorts the samples by BLAKE2b(their key; seed, epoch), as int64 positions in ``keys``."""
    key = _number(seed, "seed") + _number(epoch, "epoch")
    drawn = [hashlib.blake2b(k, digest_size=KEY_BYTES, key=key).digest() for k in keys]
    return order_of(drawn)


def order_of(keys: Sequence[bytes]) -> np.ndarray:
    """The positions of the keys in ascending order; equal ones stay in the order given."""
    high, low = words(keys)
    return np.lexsort((low, high)).astype(np.int64)


def words(keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The two big-endian 64-bit halves of each key: compared in turn, they sort as the bytes do."""
    halves = np.frombuffer(b"".join(keys), ">u8").astype(np.uint64).reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


def _number(value: int, name: str) -> bytes:
    if not 0 <= value < 2**64:
        raise UsageError(f"expected 0 <= {name} < 2**64, got {value}")
    return int(value).to_bytes(8, "little")

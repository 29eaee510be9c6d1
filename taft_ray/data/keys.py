"""The two names of a sample beside its id. Also its slice, whether it is held out, and the order in which an epoch visits samples.

Formal guarantees: ``sample_key`` and ``id_hash`` depend on nothing but their arguments, on any machine. The order of
two samples in an epoch depends on their keys, the seed and the epoch, and on no other sample. A sample's slice depends on
its key, the seed and the number of slices.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from taft_ray.errors import UsageError

KEY_BYTES = 16
# BLAKE2 personalisations: slices and the held-out part are drawn apart from shards and from every epoch's order
_SLICE = b"taft_ray slice"
_HELD_OUT = b"taft_ray heldout"
_CONTENT = b"taft_ray content"
_OWNER = b"taft_ray owner"


def sample_key(id: str, seed: int) -> bytes:
    return hashlib.blake2b(id.encode(), digest_size=KEY_BYTES, key=_number(seed, "seed")).digest()


def sample_keys(ids: Iterable[str], seed: int) -> list[bytes]:
    key = _number(seed, "seed")
    return [hashlib.blake2b(id.encode(), digest_size=KEY_BYTES, key=key).digest() for id in ids]


def id_hash(id: str, secret: bytes) -> str:
    """The name of a sample in ledger and certificates; without the secret nobody can tell whether an id was meant."""
    if not KEY_BYTES <= len(secret) <= hashlib.blake2b.MAX_KEY_SIZE:
        raise UsageError(f"the secret of id_hash must have {KEY_BYTES} to 64 bytes, got {len(secret)}")
    return hashlib.blake2b(id.encode(), digest_size=KEY_BYTES, key=secret).hexdigest()


def owner_hash(owner: str, secret: bytes) -> str:
    """The name of an owner in the ledger: never the hash of a sample's id, even of the same name."""
    return id_hash(f"owner {owner}", secret)


def owner_label(owner_key: bytes, secret: bytes) -> str:
    """The name of an owner in answers where nobody gave one: guessed names could be tried on the owner's key itself."""
    return hashlib.blake2b(owner_key, digest_size=KEY_BYTES, key=secret, person=_OWNER).hexdigest()


def picture_digest(image: bytes) -> bytes:
    """A picture's encoded bytes, short enough to travel; nothing to store, for whoever has the picture can make it too."""
    return hashlib.blake2b(image, digest_size=KEY_BYTES).digest()


def content_hash(digest: bytes, secret: bytes) -> bytes:
    """The name of a picture's bytes in the manifest: equal for equal ones; without the secret nobody can tell which."""
    return hashlib.blake2b(digest, digest_size=KEY_BYTES, key=secret, person=_CONTENT).digest()


def epoch_order(keys: Sequence[bytes], *, seed: int, epoch: int) -> np.ndarray:
    """The permutation that sorts the samples by BLAKE2b(their key; seed, epoch), as int64 positions in ``keys``."""
    key = _number(seed, "seed") + _number(epoch, "epoch")
    drawn = [hashlib.blake2b(k, digest_size=KEY_BYTES, key=key).digest() for k in keys]
    return order_of(drawn)


def slice_of(keys: Sequence[bytes], *, slices: int, seed: int) -> np.ndarray:
    """The slice of its shard that each sample is in: BLAKE2b(its key; seed) modulo ``slices``, int64.

    Independent of the shard (a shard's slices are as even as draws are) and of which other samples exist.
    """
    if slices < 1:
        raise UsageError(f"expected slices >= 1, got {slices}; set --slices")
    key = _number(seed, "seed")
    drawn = [hashlib.blake2b(k, digest_size=KEY_BYTES, key=key, person=_SLICE).digest() for k in keys]
    return (words(drawn)[0] % np.uint64(slices)).astype(np.int64)


def held_out(keys: Sequence[bytes], *, fraction: float, seed: int) -> np.ndarray:
    """Which samples are set aside to choose by: bool, about ``fraction`` of them, by BLAKE2b(their key; seed).

    Whether a sample is set aside does not depend on which others there are; a larger fraction sets aside these and more.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"expected 0 < fraction < 1, got {fraction}; set --held-out")
    key = _number(seed, "seed")
    drawn = [hashlib.blake2b(k, digest_size=KEY_BYTES, key=key, person=_HELD_OUT).digest() for k in keys]
    return words(drawn)[0] < np.uint64(fraction * 2**64)


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

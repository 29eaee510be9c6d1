"""Gaussian noise that is secret, never the same twice, and can be drawn again by whoever holds its key.

    seed     of a key and what it is for (`noise_keys`): other data or another reservation forces other noise
    words    ChaCha20 (RFC 8439's block function, 64 bits of counter), with a key of its own for each (step, count, scale)
    number   round(scale · Φ⁻¹(p)), p a uniform word, half a step away from 0 and 1

**Rounding is free.** Where a sum s is a whole number, s + round(N) = round(s + N): a function of the exact Gaussian mechanism's
output. So whoever sums first rounds the sum to whole numbers, and pays for that rounding in the sensitivity.

**Errors.** Words have 64 bits, and 64 more where |Φ⁻¹(p)| > 3.3, so that p has a relative error of 2^-53 everywhere. Nothing lies
beyond 12.5 σ, which has a probability of 2^-118. Φ⁻¹ is computed with a relative error below 2^-50. So the probability of each whole
number z·scale is that of the exact Gaussian within a factor 1 ± 2^-49 · scale · (1 + z²).

Float64 has too few digits for that at large scales. Above 2^20 a number is the sum of a coarse one and a fine one. The coarse one is
a multiple of h = 2^k with 2^20 h > scale, and the fine one has a scale of 8 h. Their sum is N(0, scale²) and a uniform number of ±h/2
beside it, which takes nothing from privacy. The fine noise leaves exp(−2π² · 64) of the coarse grid to be seen (Poisson's summation).
A fine part above 2^20 is parted again.

These errors have no direction that data could choose. Over m numbers they move the privacy loss by about 2^-31 · √m, which is 1e-6
for 10 million numbers.

Φ⁻¹ uses the C library's logarithm. Bits of equal arguments are equal on a machine, and on machines with the same libraries.
"""

from __future__ import annotations

import hmac
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy.special import ndtri

from taft_ray.errors import UsageError
from taft_ray.privacy.noise_keys import secret_of

LARGEST_SCALE = 2.0**49
"""Twelve times as much are whole numbers that float64 holds."""
_BLOCK = 1 << 13  # numbers at a time: they stay in the processor's cache
_COUNT = 1 << 32  # numbers of one call; a key's counter reaches farther
_ONE_PART = 2.0**20  # the largest scale that one number has digits enough for
_SMOOTH = 8.0  # the fine part's scale in steps of the coarse grid
_FINE = 1 << 53  # magnitudes below this have bits left in a float64
_CALL = b"taft_ray noise call 1"


class GaussianStream:
    """Gaussian noise on the whole numbers, as a function of (step, count, scale).

    Guarantees: equal arguments give equal bits; any other argument gives other, independent noise. Calls may come in any order.
    A step is for one release: the same call for two sums would use noise twice.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = secret_of("seed", seed)

    def __repr__(self) -> str:
        return "GaussianStream(secret)"

    def __call__(self, step: int, count: int, scale: float) -> np.ndarray:
        """round(scale · N(0, 1)): int64 (count,).

        step: 0, 1, 2, … count: numbers, up to 2^32. scale: standard deviation in units of the grid, up to 2^49.
        """
        step, count, scale = whole_number("step", step, 1 << 63), whole_number("count", count, _COUNT), _scale(scale)
        call = step.to_bytes(8, "big") + count.to_bytes(8, "big") + np.array(scale, ">f8").tobytes()
        key = hmac.digest(self._seed, _CALL + call, "sha256")
        return _drawn(key, count, scale, level=0)


def _drawn(key: bytes, count: int, scale: float, level: int) -> np.ndarray:
    """round(scale · N(0, 1)), int64 (count,): one part, or a coarse part and what is drawn at the next level."""
    if scale <= _ONE_PART:
        return _rounded(key, 0, count, scale)
    step_of_grid = 2.0 ** (math.frexp(scale / _ONE_PART)[1])
    fine = _SMOOTH * step_of_grid
    with ThreadPoolExecutor(
        1
    ) as beside:  # the parts are streams of their own, and numpy leaves the interpreter to others
        more = beside.submit(_drawn, key, count, fine, level + 1)
        found = _rounded(key, 2 * (level + 1), count, math.sqrt((scale - fine) * (scale + fine)) / step_of_grid)
        found *= int(step_of_grid)
        found += more.result()
    return found


def _rounded(key: bytes, nonce: int, count: int, scale: float) -> np.ndarray:
    """round(scale · N(0, 1)), int64 (count,), from the words of two nonces."""
    words, more = Words(key, nonce), Words(key, nonce + 1)
    found = np.empty(count, np.int64)
    for start in range(0, count, _BLOCK):
        part = found[start : start + _BLOCK]
        number = _normal(words(len(part)), more)
        number *= scale
        np.rint(number, out=number)
        part[...] = number
    return found


class Words:
    """uint64 words of ChaCha20, one after the other."""

    def __init__(self, key: bytes, nonce: int) -> None:
        start = bytes(8) + nonce.to_bytes(8, "little")  # the block counter, and the nonce
        self._stream = Cipher(ChaCha20(key, start), mode=None).encryptor()

    def __call__(self, count: int) -> np.ndarray:
        return np.frombuffer(self._stream.update(bytes(8 * count)), "<u8")


def _normal(words: np.ndarray, more: Words) -> np.ndarray:
    """Φ⁻¹ by the sign and 63 bits of a word: float64. more: words for magnitudes so small that their own bits are too few."""
    signed = words.view(np.int64)
    sign = signed.astype(np.float64)
    sign += 0.5  # v and -1 - v are each other's mirror images
    tail = np.abs(sign)
    small = np.flatnonzero(tail < _FINE)
    if len(small):
        fraction = (more(len(small)) >> np.uint64(11)).astype(np.float64)
        whole = np.where(signed[small] < 0, ~signed[small], signed[small])
        tail[small] = whole + (fraction + 0.5) * 2.0**-53
    tail *= 2.0**-64
    return np.copysign(ndtri(tail, out=tail), sign, out=tail)


def whole_number(name: str, value: int, end: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= end:
        raise UsageError(f"{name}={value!r}: expected a whole number between 0 and {end}")
    return int(value)


def _scale(scale: float) -> float:
    number = isinstance(scale, int | float | np.integer | np.floating) and not isinstance(scale, bool)
    if not number or not 0 < scale <= LARGEST_SCALE or not math.isfinite(scale):
        raise UsageError(
            f"scale={scale!r}: expected a number above 0, up to 2^49 units of the grid; choose a coarser grid"
        )
    return float(scale)

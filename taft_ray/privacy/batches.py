"""Poisson batches that are secret and can be drawn again: who is in a step's batch, by the key that the step's noise comes from.

A unit is in where its 64-bit word of ChaCha20 is below ⌊q·2⁶⁴⌋. So no unit is in with a probability above q, and units do not depend
on each other. Words have a key of their own for each (step, units, rate), in another domain than those of `noise`.
"""

from __future__ import annotations

import hmac
from fractions import Fraction

import numpy as np

from taft_ray.errors import UsageError
from taft_ray.privacy.noise import Words, whole_number
from taft_ray.privacy.noise_keys import secret_of

_MOST = 1 << 32  # units of one call; a key's counter reaches farther
_CALL = b"taft_ray batch call 1"


class BatchStream:
    """Batches as a function of (step, units, rate).

    Guarantees: equal arguments give equal batches; any other argument gives others, independent of them. Calls may come in any order.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = secret_of("seed", seed)

    def __repr__(self) -> str:
        return "BatchStream(secret)"

    def __call__(self, step: int, units: int, rate: float) -> np.ndarray:
        """(units,) bool: who is in.

        step: 0, 1, 2, … units: up to 2^32. rate: q, between 0 and 1, exclusive.
        """
        step, units = whole_number("step", step, 1 << 63), whole_number("units", units, _MOST)
        threshold = threshold_of(rate)
        call = step.to_bytes(8, "big") + units.to_bytes(8, "big") + np.array(rate, ">f8").tobytes()
        words = Words(hmac.digest(self._seed, _CALL + call, "sha256"), 0)
        return words(units) < np.uint64(threshold)


def threshold_of(rate: float) -> int:
    """⌊q·2⁶⁴⌋, without rounding before."""
    number = isinstance(rate, float | np.floating) and not isinstance(rate, bool)
    if not number or not 0 < rate < 1:
        raise UsageError(f"rate={rate!r}: expected a sampling rate between 0 and 1, exclusive")
    return int(Fraction(float(rate)) * 2**64)

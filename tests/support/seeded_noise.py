"""Noise of fits that always is the same, and may be too small."""

import itertools
from collections.abc import Callable

from taft_ray.fitting.private import Noise
from taft_ray.privacy import GaussianStream


def noises(times: float = 1.0) -> Callable[[], Noise]:
    """A stream of its own for each fit, always the same ones; too small by a factor, as a fault could make it."""
    numbers = itertools.count()

    def fresh() -> Noise:
        stream = GaussianStream(next(numbers).to_bytes(32, "big"))
        return lambda step, size, scale: stream(step, size, scale / times)

    return fresh

"""Pictures of pink noise: as natural pictures are in their spectrum, and of nobody. For whitening where no public pictures are.

A picture is noise whose amplitude falls as 1/f, with more brightness than colour in it, around a middle grey. Source of the idea:
arXiv 2605.13418. Bits of the same arguments are the same on machines with the same numpy, but for rounding of its FFT.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BRIGHTNESS, COLOUR = 0.8, 0.6  # standard deviations of what channels share, and of each one's own
CONTRAST, GREY = 0.22, 0.45  # of values between 0 and 1
_AT_ONCE = 32


def pink_pictures(count: int, size: int, seed: int = 0) -> Iterator[np.ndarray]:
    """``count`` pictures, some at a time: uint8 (n, 3, size, size)."""
    random = np.random.RandomState(seed)  # its stream is frozen, that of newer generators is not
    across = np.fft.fftfreq(size)
    frequency = np.maximum(np.hypot(across[:, None], across[None]), 1 / size)
    for start in range(0, count, _AT_ONCE):
        some = min(_AT_ONCE, count - start)
        white = BRIGHTNESS * random.standard_normal((some, 1, size, size))
        white = white + COLOUR * random.standard_normal((some, 3, size, size))
        pink = np.fft.ifft2(np.fft.fft2(white) / frequency).real
        pink *= CONTRAST / pink.std(axis=(1, 2, 3), keepdims=True)
        yield np.rint(255 * np.clip(pink + GREY, 0, 1)).astype(np.uint8)

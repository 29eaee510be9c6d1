"""Small rows and labels for tests of the additive model. Legend: n pictures, S numbers, K classes."""

import numpy as np
import torch

from taft_ray.additive import Sums, to_rows


def some_rows(n: int, size: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that say something of their labels, far from their common mean 0."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    centres = generator.standard_normal((classes, size))
    values = 2 + centres[labels] + generator.standard_normal((n, size))
    return to_rows(torch.from_numpy(0.3 * values / np.sqrt(size))), labels


def summed(rows: np.ndarray, labels: np.ndarray, classes: int = 3) -> Sums:
    sums = Sums(rows.shape[1], classes)
    sums.add(rows, labels)
    return sums

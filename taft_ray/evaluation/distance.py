"""The distance of a model that has forgotten from the same system trained without the pictures, by margins. Pure functions.

KLOM (Georgiev et al., Attribute-to-Delete, 2024) compares the margins of some hundred models with those of as many retrained
ones, by histograms. All systems here are deterministic: a seed has one model and one oracle, so that their margins are
compared themselves. Where every seed has a distance of 0, both histograms are equal, and KLOM is 0 too.

Legend: B pictures, K classes.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from taft_ray.errors import DataError

MOST = 100.0  # a margin's bounds, as KLOM has them: shares of votes may be 0 or 1


def margins(logits_BK: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(B,): the logit of the true class minus the log-sum-exp of the others, within ±100. Logits may be -inf.

    Raises DataError for logits and labels that do not belong together, and for a picture that has no logit at all.
    """
    logits = np.array(logits_BK, np.float64)
    labels = np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise DataError(f"logits {logits.shape} with labels {labels.shape}: expected (B, K) and (B,)")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise DataError(f"labels {labels.min()}..{labels.max()}: expected 0..{logits.shape[1] - 1}")
    if bool(np.isnan(logits).any()) or bool((logits == -np.inf).all(1).any()):
        raise DataError("a picture has a logit that is no number, or none above -inf")
    at = np.arange(len(labels))
    own = logits[at, labels]
    logits[at, labels] = -np.inf
    return np.clip(own - logsumexp(logits, axis=1), -MOST, MOST)


def distance(logits_BK: np.ndarray, oracle_BK: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{"mean", "max", "same"}: of |margin - the oracle's margin|, and the fraction of equal predictions. B is at least 1.

    Guarantees: mean and max are 0.0 exactly where all logits are equal to the last bit.
    """
    if not len(labels):
        raise DataError("no picture to compare models on")
    apart = np.abs(margins(logits_BK, labels) - margins(oracle_BK, labels))
    same = np.asarray(logits_BK).argmax(1) == np.asarray(oracle_BK).argmax(1)
    return {"mean": float(apart.mean()), "max": float(apart.max()), "same": float(same.mean())}

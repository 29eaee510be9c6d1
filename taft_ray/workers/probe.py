"""The answers of models on single samples: pictures, or cached tokens and rows, to one value per sample and model.

Pictures are decoded, run through the prefix and forgotten again, a part at a time; nothing of them is written or logged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from taft_ray.data import Stripe, Undecodable, decode_image, read_stripe
from taft_ray.models import Preprocess
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.tokens import Prefix, prefix_tokens
from taft_ray.tangent import Delta, Pictures, TangentModel, batches

if TYPE_CHECKING:
    from taft_ray.additive import AdditiveModel

Values = Callable[[np.ndarray, np.ndarray], np.ndarray]  # tokens or rows (n, …), labels (n,) -> (n, models)

_TINY = 1e-12  # a loss of 0 has a logarithm, too


@torch.no_grad()
def minus_log_loss(
    tm: TangentModel, pictures: Pictures, labels: Tensor, spec: RunSpec, deltas: Sequence[Delta]
) -> np.ndarray:
    """(samples, models) float64: −log of the training loss of each sample under each delta; higher is a better fit."""
    loss = spec.fit_config().as_loss()
    out = np.empty((len(labels), len(deltas)))
    for part, batch in batches(pictures, 256):
        for column, delta in enumerate(deltas):
            logits = (batch.primal + tm.tangent(batch, delta)).cpu().double()
            out[part, column] = -np.log(loss.per_sample(logits, labels[part]).numpy() + _TINY)
    return out


def minus_log_square_loss(rows: np.ndarray, labels: np.ndarray, models: Sequence[AdditiveModel]) -> np.ndarray:
    """(samples, models) float64: −log of the square loss that additive models minimise; higher is a better fit.

    rows: int16 (n, S). labels: (n,). models: with logits for one-hot targets, κ = 1.
    """
    out = np.empty((len(labels), len(models)))
    for column, model in enumerate(models):
        missed = model.logits(rows)
        missed[np.arange(len(labels)), labels] -= 1
        out[:, column] = -np.log((missed**2).mean(axis=1) + _TINY)
    return out


def picture_values(
    maker: Prefix, preprocess: Preprocess, spec: RunSpec, stripes: Sequence[Stripe], models: int, values: Values
) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Keys, labels (n,) and values (n, models) of the pictures of the stripes; those that cannot be decoded are left out.

    values: of what ``maker`` makes of some pictures (`prefix_tokens`), and their labels.
    """
    keys: list[bytes] = []
    labels, found = [np.zeros(0, np.int64)], [np.zeros((0, models))]
    for part in (part for stripe in stripes for part in read_stripe(stripe)):
        pixels, rows = [], []
        for row, image in enumerate(part["images"]):
            try:
                pixels.append(decode_image(image or b"", preprocess.size, spec.exif_orientation))
                rows.append(row)
            except Undecodable:
                continue
        if not rows:
            continue
        known = part["labels"][rows]
        keys += [part["keys"][row] for row in rows]
        labels.append(known)
        found.append(values(prefix_tokens(maker, preprocess, np.stack(pixels), spec), known))
    return keys, np.concatenate(labels), np.concatenate(found)

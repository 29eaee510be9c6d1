"""What models say of single samples: pictures, or cached tokens, to one value a sample and model.

Pictures are decoded, run through the prefix and forgotten again, a part at a time; nothing of them is written or logged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from taft_ray.data import Stripe, Undecodable, decode_image, read_stripe
from taft_ray.models import Preprocess
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.tokens import prefix_tokens
from taft_ray.tangent import Delta, Pictures, TangentModel, batches

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


def picture_values(
    tm: TangentModel, spec: RunSpec, stripes: Sequence[Stripe], deltas: Sequence[Delta]
) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Keys, labels (n,) and values (n, models) of the pictures of the stripes; those that cannot be decoded are left out."""
    preprocess = Preprocess.of(tm.network)
    keys: list[bytes] = []
    labels, values = [np.zeros(0, np.int64)], [np.zeros((0, len(deltas)))]
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
        tokens = torch.from_numpy(prefix_tokens(tm, preprocess, np.stack(pixels), spec).view(np.int16))
        tokens = tokens.view(torch.float16 if spec.cache_dtype == "float16" else torch.bfloat16)
        known = torch.from_numpy(part["labels"][rows])
        keys += [part["keys"][row] for row in rows]
        labels.append(known.numpy())
        values.append(minus_log_loss(tm, tm.prepare(tokens), known, spec, deltas))
    return keys, np.concatenate(labels), np.concatenate(values)

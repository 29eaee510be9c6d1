"""Class probabilities of pictures by a run's composed model: the softmax of its logits. Nothing of the pictures is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from taft_ray.data import Undecodable, decode_image
from taft_ray.data.unlabelled import Named
from taft_ray.plans.facts import Tuned
from taft_ray.plans.spec import RunSpec
from taft_ray.run.environment import settle, torch_settings_kept
from taft_ray.run.snapshots import load_arrays
from taft_ray.storage import Store
from taft_ray.workers.explaining import Seen
from taft_ray.workers.picture_model import Answers, Frozen


@dataclass(frozen=True)
class Predicted:
    """A picture's class, as its number, and the probabilities (K,) of all; or the reason why it has none."""

    name: str
    label: int = -1
    probabilities: Sequence[float] = ()
    reason: str = ""


def predictions(
    store: Store,
    spec: RunSpec,
    classes: int,
    composed: str,
    pictures: Iterable[Sequence[Named]],
    tuned: Tuned | None = None,
    seen: Seen | None = None,
) -> Iterator[list[Predicted]]:
    """Probabilities of pictures, as many at a time as come together.

    composed: the key of the composed model's snapshot. tuned: an additive model's settings, chosen from these sums.

    seen: takes what `explain` needs of the first pictures.

    Guarantees: a picture's probabilities do not depend on the pictures around it.
    """
    spec = where_it_runs(spec)
    with torch_settings_kept():
        settle(spec)
        frozen = Frozen(spec, classes, additive=spec.additive)
        model = frozen.with_model(load_arrays(store, composed), tuned)
        if seen is not None:
            seen.tm, seen.penalty = frozen.tangent, model.penalty
        for some in pictures:
            yield _predicted(frozen, model, some, seen)


def where_it_runs(spec: RunSpec) -> RunSpec:
    """The spec on this machine: without a GPU, a run that was made on one predicts on the CPU."""
    return replace(spec, device="cpu") if spec.device == "cuda" and not torch.cuda.is_available() else spec


@torch.no_grad()
def _predicted(frozen: Frozen, model: Answers, pictures: Sequence[Named], seen: Seen | None) -> list[Predicted]:
    found: list[Predicted] = []
    pixels: list[np.ndarray] = []
    rows: list[int] = []
    for row, (name, picture) in enumerate(pictures):
        try:
            if picture is None:
                raise Undecodable("no image")
            pixels.append(decode_image(picture, frozen.preprocess.size, frozen.spec.exif_orientation))
            rows.append(row)
            found.append(Predicted(name))
        except Undecodable as error:
            found.append(Predicted(name, reason=error.reason))
    if rows:
        tokens = frozen.tokens(pixels)
        logits = model.logits(tokens)
        if seen is not None:
            seen.take(frozen.as_stored(tokens), logits)
        for row, (label, values) in zip(rows, labelled(logits), strict=True):
            found[row] = Predicted(found[row].name, label, values)
    return found


def labelled(logits: Tensor) -> list[tuple[int, list[float]]]:
    """(n, K) -> each picture's class, as its number, and the probabilities (K,) of all."""
    each = [row.softmax(0).tolist() for row in logits]
    return list(zip(logits.argmax(1).tolist(), each, strict=True))

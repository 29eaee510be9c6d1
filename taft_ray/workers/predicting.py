"""Class probabilities of pictures by a run's composed model: the softmax of its logits. Nothing of the pictures is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from taft_ray.data import Undecodable, decode_image
from taft_ray.data.unlabelled import Named
from taft_ray.models import Preprocess
from taft_ray.plans.facts import Tuned
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.tokens import prefix_tokens
from taft_ray.run.environment import settle, torch_settings_kept
from taft_ray.run.model import build_tangent
from taft_ray.run.rows import build_rows, model_of
from taft_ray.run.snapshots import load_arrays, load_snapshot
from taft_ray.storage import Store
from taft_ray.tangent import Delta, TangentModel
from taft_ray.workers.explaining import Seen


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

    Without a GPU, a run that was made on one predicts on the CPU.
    """
    if spec.device == "cuda" and not torch.cuda.is_available():
        spec = replace(spec, device="cpu")
    with torch_settings_kept():
        settle(spec)
        if spec.additive:
            yield from _by_rows(store, spec, composed, pictures, tuned, seen)
            return
        tm, _ = build_tangent(spec, classes)
        if seen is not None:
            seen.tm = tm
        preprocess = Preprocess.of(tm.network)
        delta = load_snapshot(store, composed).to(tm.device)
        for some in pictures:
            yield _predicted(preprocess, spec, some, partial(_by_tangent, tm, preprocess, spec, delta, seen))


def _by_rows(
    store: Store,
    spec: RunSpec,
    composed: str,
    pictures: Iterable[Sequence[Named]],
    tuned: Tuned | None,
    seen: Seen | None,
) -> Iterator[list[Predicted]]:
    """By an additive run's model."""
    maker, preprocess, _ = build_rows(spec)
    model = model_of(spec, load_arrays(store, composed), tuned)
    if seen is not None:
        seen.penalty = model.penalty

    def logits_of(pixels: Sequence[np.ndarray]) -> Tensor:
        rows = prefix_tokens(maker, preprocess, pixels, spec)[:, 0]
        logits = torch.from_numpy(model.logits(rows))
        if seen is not None:
            seen.take(torch.from_numpy(rows), logits)
        return logits

    for some in pictures:
        yield _predicted(preprocess, spec, some, logits_of)


def _by_tangent(
    tm: TangentModel,
    preprocess: Preprocess,
    spec: RunSpec,
    delta: Delta,
    seen: Seen | None,
    pixels: Sequence[np.ndarray],
) -> Tensor:
    """(n, K) float64."""
    stored = torch.from_numpy(prefix_tokens(tm, preprocess, pixels, spec).view(np.int16))
    tokens = stored.view({"float16": torch.float16, "bfloat16": torch.bfloat16}.get(spec.stored_dtype, torch.int16))
    batch = tm.prepare(tokens)
    logits = (batch.primal + tm.tangent(batch, delta)).cpu().double()
    if seen is not None:
        seen.take(tokens, logits)
    return logits


@torch.no_grad()
def _predicted(
    preprocess: Preprocess,
    spec: RunSpec,
    pictures: Sequence[Named],
    logits_of: Callable[[Sequence[np.ndarray]], Tensor],
) -> list[Predicted]:
    found: list[Predicted] = []
    pixels: list[np.ndarray] = []
    rows: list[int] = []
    for row, (name, picture) in enumerate(pictures):
        try:
            if picture is None:
                raise Undecodable("no image")
            pixels.append(decode_image(picture, preprocess.size, spec.exif_orientation))
            rows.append(row)
            found.append(Predicted(name))
        except Undecodable as error:
            found.append(Predicted(name, reason=error.reason))
    if rows:
        logits = logits_of(pixels)
        each = logits.softmax(1).tolist()
        for row, label, values in zip(rows, logits.argmax(1).tolist(), each, strict=True):
            found[row] = Predicted(found[row].name, label, values)
    return found

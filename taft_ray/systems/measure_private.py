"""Measuring a cell that is fitted privately: each shard by itself, and the mean of what shards became (or the sum of their sums).

Noise comes from keys that everybody knows, made of the cell and its seed: a study can be repeated, and has no secret.

Legend: n pictures, S numbers, B evaluation pictures, K classes.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from taft_ray.additive import (
    Centre,
    HeadOnRows,
    NoisySums,
    Projection,
    Sites,
    Sums,
    Whitened,
    released,
    sites_of,
    to_rows,
    whitening_of,
)
from taft_ray.additive.grid import from_rows
from taft_ray.errors import DataError, UsageError
from taft_ray.fitting import Loss, Noise, PrivateRecipe, private_descent
from taft_ray.privacy import GaussianStream, mu_of, stream_seed
from taft_ray.storage import digest_json
from taft_ray.systems.cell import Cell
from taft_ray.systems.frozen import head_rows
from taft_ray.systems.ghost import ghost_descent
from taft_ray.systems.measure import TokenSet, split
from taft_ray.systems.measure_rows import site_vectors_of
from taft_ray.systems.private import Private
from taft_ray.tangent import Delta, TangentModel, batches, prepare_pictures

_CHUNK = 256  # pictures a forward pass
_ROWS = 4096
HARDLY_ANY = 1e6  # μ of noisy sums, and of a mean, at ε = ∞


def measure_private(cell: Cell, tm: TangentModel, train: TokenSet, test: TokenSet) -> dict[str, Any]:
    """`measure` of a private cell on tokens: "accuracy" has "private" alone."""
    private = _private(cell)
    began = time.perf_counter()
    parts = _parts(cell, train)
    if cell.network == "frozen":
        kept, asked = (head_rows(tm, some.tokens) for some in (train, test))
        logits = _on_rows(cell, private, kept, asked, train.labels, parts, tm.num_classes)
    elif cell.network == "nonlinear":
        if len(parts) != 1:
            raise UsageError(f"{len(parts)} private shards of a non-linear network: nothing composes them")
        model = ghost_descent(
            tm, cell.spec.last_blocks, train.tokens[parts[0]], train.labels[parts[0]],
            recipe(private, len(parts[0]), 1), stream(cell, 0),
        )  # fmt: skip
        logits = torch.cat([model(part.float()) for part in test.tokens.split(_CHUNK)]).numpy()
    else:
        logits = _tangent(cell, private, tm, train, test, parts)
    return _result(cell, tm.num_classes, train, test, logits, began)


def measure_private_sites(
    cell: Cell,
    network: nn.Module,
    image_size: int,
    classes: int,
    train: TokenSet,
    test: TokenSet,
    public: TokenSet | None,
) -> dict[str, Any]:
    """`measure` of a private cell on sites, whose tokens are as of `measure_sites`.

    public: tokens of the pictures by which rows are whitened, those that the cell names; None of a cell without whitening.
    """
    private = _private(cell)
    began = time.perf_counter()
    every = sites_of(network, image_size, size=cell.spec.features)
    size = None if private.features is None else min(private.features, every.width)
    projection = Projection(sites_of(network, image_size, size=size), seed=0)
    kept, asked, known = (_site_rows(every, projection, some) for some in (train, test, public))
    matrix = None if known is None else whitening_of(known)
    logits = _on_rows(cell, private, kept, asked, train.labels, _parts(cell, train), classes, matrix)
    return _result(cell, classes, train, test, logits, began)


def recipe(private: Private, divisor: int, shards: int) -> PrivateRecipe:
    promise = private.promise
    return PrivateRecipe(
        steps=private.steps,
        learning_rate=private.learning_rate if promise is None else promise.rate(divisor, shards),
        clip=private.clip,
        noise_multiplier=1.0 if promise is None else promise.noise_multiplier,
        divisor=divisor,
    )


def stream(cell: Cell, shard: int) -> Noise:
    """The noise of one shard's fit; none at ε = ∞."""
    if math.isinf(_private(cell).epsilon):
        return lambda step, count, scale: np.zeros(count, np.int64)
    key = hashlib.sha256(f"taft_ray study {cell.spec.seed}".encode()).digest()
    bound = {"spec": cell.digest, "inputs": digest_json(dict(cell.inputs)), "reservation": f"shard {shard}"}
    return GaussianStream(stream_seed(key, **bound))


def _private(cell: Cell) -> Private:
    if cell.private is None:
        raise UsageError("a cell without a private fit; measure does those")
    return cell.private


def _mu(private: Private) -> float:
    return mu_of(private.epsilon, private.delta)


def _parts(cell: Cell, train: TokenSet) -> list[Tensor]:
    parts = [part for part in split(cell, train) if len(part)]
    if not parts:
        raise DataError("every shard is empty: no sample was kept")
    return parts


def _tangent(
    cell: Cell, private: Private, tm: TangentModel, train: TokenSet, test: TokenSet, parts: Sequence[Tensor]
) -> np.ndarray:
    """Logits (B, K) of the mean of the shards' Δw, by the tangent term alone."""
    tm = copy.copy(tm)  # the parameters are the same ones
    tm.tangent_only = True
    total: Delta | None = None
    for number, part in enumerate(parts):
        shard = train[part]
        pictures = prepare_pictures(tm, shard.tokens, budget=cell.spec.constants_bytes)
        found = private_descent(
            tm, pictures, shard.labels, Loss(kind="ce"), recipe(private, len(part), len(parts)), stream(cell, number)
        ).delta
        total = found if total is None else total + found
    assert total is not None
    mean = total * (1 / len(parts))
    asked = prepare_pictures(tm, test.tokens, budget=cell.spec.constants_bytes)
    with torch.no_grad():
        return torch.cat([tm.logits(batch, mean).cpu() for _, batch in batches(asked, _CHUNK)]).numpy()


def _on_rows(
    cell: Cell,
    private: Private,
    train: np.ndarray,
    test: np.ndarray,
    labels: Tensor,
    parts: Sequence[Tensor],
    classes: int,
    matrix: np.ndarray | None = None,
) -> np.ndarray:
    """Logits (B, K) of a head on rows: the mean of the shards' heads, or that of the sum of their noisy sums."""
    if private.way == "sums":
        return _by_sums(cell, private, train, test, labels, parts, classes, matrix)
    head = HeadOnRows(train.shape[1], classes)
    mean = head.zero_delta()
    for number, part in enumerate(parts):
        noise = stream(cell, number)
        rows = train[part.numpy()]
        pictures = head.prepare(torch.from_numpy(rows)[:, None])
        units = torch.arange(len(part)) // private.per_owner
        centre = _centre(private, rows, noise, units.numpy() if private.per_owner > 1 else None)
        whitened = Whitened.about(pictures, centre, None if matrix is None else torch.from_numpy(matrix))
        found = private_descent(
            head, pictures if whitened is None else whitened.whole(), labels[part], Loss(kind="ce"),
            recipe(private, int(units[-1]) + 1, len(parts)), noise, units=units if private.per_owner > 1 else None,
        ).delta  # fmt: skip
        mean = mean + (found if whitened is None else whitened.back(found)) * (1 / len(parts))
    return head.logits(head.prepare(torch.from_numpy(test)[:, None]), mean).numpy()


def _centre(private: Private, rows: np.ndarray, noise: Noise, units: np.ndarray | None = None) -> Centre | None:
    """The mean of a shard's rows, released; at ε = ∞ its noise is nothing, and its multiplier hardly any."""
    if private.mean_share is None:
        return None
    multiplier = private.promise.mean_multiplier if private.promise else 1 / HARDLY_ANY
    assert multiplier is not None
    count = len(rows) if units is None else int(units[-1]) + 1
    return released(rows, noise, step=private.steps, noise_multiplier=multiplier, divisor=count, units=units)


def _by_sums(
    cell: Cell,
    private: Private,
    train: np.ndarray,
    test: np.ndarray,
    labels: Tensor,
    parts: Sequence[Tensor],
    classes: int,
    matrix: np.ndarray | None,
) -> np.ndarray:
    """Logits (B, K) by the sum of the shards' noisy sums, of rows about one centre: the mean of what shards released of theirs."""
    if matrix is None:
        matrix = np.eye(train.shape[1])
    centres = [_centre(private, train[part.numpy()], stream(cell, number)) for number, part in enumerate(parts)]
    known = [centre for centre in centres if centre is not None]
    mean = sum((centre.mean for centre in known), np.zeros(train.shape[1])) / max(1, len(known))
    scale = sum(centre.scale for centre in known) / len(known) if known else 1.0
    mu = HARDLY_ANY if math.isinf(private.epsilon) else _mu(private) * math.sqrt(1 - (private.mean_share or 0.0))
    total: NoisySums | None = None
    for number, part in enumerate(parts):
        sums = Sums(train.shape[1], classes)
        for some in part.split(_ROWS):
            values = (from_rows(train[some.numpy()]) - mean) @ (scale * matrix)
            # sums bound what a picture adds by its length
            values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1.0)
            sums.add(to_rows(torch.from_numpy(values)), labels[some].numpy())
        released_sums = NoisySums.release(sums, mu, stream(cell, number))
        total = released_sums if total is None else total.merged(released_sums)
    assert total is not None
    model = total.solve()
    return ((from_rows(test) - mean) @ (scale * matrix)) @ model.coefficients.T + model.intercept


def _site_rows(every: Sites, projection: Projection, some: TokenSet | None) -> Any:
    """int16 (n, S): the last groups' vectors, projected."""
    if some is None:
        return None
    count = len(projection.sites.groups)
    return np.concatenate(
        [to_rows(projection(site_vectors_of(every, part[:, 0])[-count:])) for part in some.tokens.split(_CHUNK)]
    )


def _result(
    cell: Cell, classes: int, train: TokenSet, test: TokenSet, logits: np.ndarray, began: float
) -> dict[str, Any]:
    parts = split(cell, train)
    return {
        "accuracy": {"private": float((logits.argmax(1) == test.labels.numpy()).mean())},
        "samples": [len(part) for part in parts],
        "absent_classes": sum(len(train.labels[part].unique()) < classes for part in parts),
        "evaluated": len(test),
        "ensemble_difference": None,
        "seconds": time.perf_counter() - began,
    }

"""Whitening of a private run's rows by public pictures or by pink noise: made once, kept, and bound by its digest in the spec.

A fit on rows a descends on a' = M·a instead, with M = (P + r·tr(P)/S · I)^-1/2 and P the second moment of public rows. That is
descent on a with a public preconditioner. Its W' on a' is W = W'·M on a, so that models, snapshots and exported files know of no
whitening. M is scaled so that public rows have length one on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from taft_ray.additive import pink_pictures, whitening_of
from taft_ray.data.decode import Undecodable, decode_image
from taft_ray.data.source_file import SourceFile
from taft_ray.data.unlabelled import find_pictures, read_pictures
from taft_ray.errors import DataError, IntegrityError, ObjectMissing
from taft_ray.plans.privacy import PINK_NOISE
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.tokens import prefix_tokens
from taft_ray.run.rows import build_rows
from taft_ray.storage import Store, digest_json, digest_tensors
from taft_ray.storage import rundir as names

MOST = 1000
"""Public pictures that are read at most, the first of them."""
_LEAST = 16
_NAME = "matrix"


def made(spec: RunSpec) -> np.ndarray:
    """M (S, S) float64, from the public pictures of a spec. DataError where there are too few that can be read."""
    assert spec.privacy is not None
    assert spec.privacy.public is not None
    return whitening_of(public_rows(spec.privacy.public, spec))


def public_rows(public: str, spec: RunSpec) -> np.ndarray:
    """The rows int16 (n, S) of the first `MOST` public pictures, or of as many of pink noise, by the projection of the spec."""
    # a folder may have other pictures than when this process read it
    stamp = "" if public == PINK_NOISE else digest_json([[file.relative, file.size] for file in _files(public)])
    return _rows(public, stamp, _Recipe(spec))


def _files(public: str) -> list[SourceFile]:
    try:
        return find_pictures([public], "--public")
    except DataError as error:
        raise DataError(f"{error}. --public takes pictures, {PINK_NOISE} or none") from error


class _Recipe:
    """A spec, equal to another where rows are: so that a process makes them once."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        values = spec.to_json()
        about = (
            "model", "weights", "image_size", "features", "site_blocks", "views", "precision", "device", "threads", "seed",
            "exif_orientation",
        )  # fmt: skip
        self._key = repr([values.get(name) for name in about])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Recipe) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=1)
def _rows(uri: str, stamp: str, recipe: _Recipe) -> np.ndarray:
    spec = recipe.spec
    maker, preprocess, _ = build_rows(spec)
    some = pink_pictures(MOST, preprocess.size) if uri == PINK_NOISE else _public(uri, preprocess.size, spec)
    rows = [prefix_tokens(maker, preprocess, pixels, spec)[:, 0] for pixels in some]
    count = sum(len(part) for part in rows)
    if count < _LEAST:
        raise DataError(f"{uri} has {count} pictures that can be read: expected at least {_LEAST} public ones")
    return np.concatenate(rows)


def _public(uri: str, size: int, spec: RunSpec) -> Iterator[list[np.ndarray]]:
    """The first pictures that can be read, uint8 (3, size, size) each, some at a time."""
    count = 0
    for some in read_pictures(_files(uri)):
        pixels = []
        for _, picture in some[: MOST - count]:
            try:
                pixels.append(decode_image(picture or b"", size, spec.exif_orientation))
            except Undecodable:
                continue
        if pixels:
            yield pixels
        count += len(pixels)
        if count >= MOST:
            return


def digest_of(matrix: np.ndarray) -> str:
    """The digest that the spec has."""
    return digest_tensors({_NAME: matrix})


def keep(store: Store, spec: RunSpec) -> None:
    """Write the matrix of a run that is whitened, unless it is there; IntegrityError where the pictures give another now."""
    if spec.privacy is None or spec.privacy.public is None:
        return
    try:
        read(store, spec)
        return
    except (ObjectMissing, IntegrityError):
        matrix = made(spec)
    if digest_of(matrix) != spec.privacy.public_digest:
        raise IntegrityError(
            f"the public pictures at {spec.privacy.public} give another whitening than when {store.uri} began; restore them, "
            f"or {names.WHITENING_KEY}, from a copy"
        )
    store.write(names.WHITENING_KEY, save({_NAME: matrix}))


def read(store: Store, spec: RunSpec) -> np.ndarray:
    """M (S, S) of the run; ObjectMissing where it is not there, IntegrityError where it is not that of the spec."""
    assert spec.privacy is not None
    damaged = IntegrityError(
        f"{names.WHITENING_KEY} in {store.uri} is not that of the spec; taft-ray train makes it again"
    )
    try:
        matrix = load(store.read(names.WHITENING_KEY))[_NAME]
    except (KeyError, ValueError, SafetensorError) as error:
        raise damaged from error
    if digest_of(matrix) != spec.privacy.public_digest:
        raise damaged
    return matrix

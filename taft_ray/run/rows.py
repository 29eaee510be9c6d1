"""An additive run's rows: how they are made of pictures, summed, and what of them a shard's record names.

A shard has no delta of its own. Its record is the list of its parts, which hold its rows, so that whoever has the parts has its
sums. The model is a function of the sums over all shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taft_ray.additive.exact_sums import Sums
from taft_ray.additive.options import DEFAULT_BLOCKS
from taft_ray.errors import IntegrityError, UsageError
from taft_ray.run.snapshots import snapshot_digest
from taft_ray.storage import (
    MALFORMED,
    CachePart,
    DeltaRef,
    PartRef,
    Store,
    digest_json,
    read_delta,
    read_several,
    write_delta,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from taft_ray.additive import AdditiveModel, Projection
    from taft_ray.models import Preprocess
    from taft_ray.plans.facts import Tuned
    from taft_ray.plans.spec import RunSpec
    from taft_ray.sums import Totals

_PARTS = "parts"  # in the record of a shard: PartRef JSON
_FINGERPRINT = "fingerprint"
_COUNTS = "additive/counts"
_PER_CLASS = ("additive/by_class", _COUNTS)
_ADDED_UP = ("additive/gram", *_PER_CLASS)
_UNNAMED = {name: value for name, value in Sums(1, 1).to_arrays().items() if name not in _ADDED_UP}
_TOGETHER = 64  # parts that are in memory at once while rows are summed


class RowMaker:
    """Pictures to rows, with the interface that the prefix pass needs of a tangent model: ``network`` and ``prefix``."""

    def __init__(self, network: nn.Module, projection: Projection, device: str) -> None:
        self.network, self.projection = network.to(device).eval(), projection

    def prefix(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) -> int16 (n, 1, S)."""
        import torch

        from taft_ray.additive import rows_of

        return torch.from_numpy(rows_of(self.network, self.projection, images))[:, None]


def fingerprint_of(spec: RunSpec) -> str:
    """The fingerprint of the run's rows."""
    return build_rows(spec)[2]


def build_rows(spec: RunSpec) -> tuple[RowMaker, Preprocess, str]:
    """The run's rows, and the fingerprint of all that decides a row's bits."""
    from taft_ray.additive import Projection, sites_of
    from taft_ray.run.model import load_for

    loaded = load_for(spec)
    if spec.weights_digest and loaded.weights_digest != spec.weights_digest:
        raise IntegrityError(
            f"the weights of {spec.model} changed since the run began: digest {loaded.weights_digest[:16]}, "
            f"expected {spec.weights_digest[:16]}; give the same weights"
        )
    preprocess = loaded.preprocess
    sites = sites_of(loaded.network, preprocess.size, last_blocks=blocks_of(spec), size=spec.features, views=spec.views)
    projection = Projection(sites, spec.seed)
    fingerprint = digest_json(
        {
            "projection": projection.digest,
            "weights": loaded.weights_digest,
            "model": spec.model,
            "size": preprocess.size,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "precision": spec.precision,
            "threads": spec.threads,
            "device": spec.device,
            **({} if spec.exif_orientation == "ignore" else {"exif_orientation": spec.exif_orientation}),
        }
    )
    return RowMaker(loaded.network, projection, spec.device), preprocess, fingerprint


def blocks_of(spec: RunSpec) -> int | str | None:
    """The last blocks that the sites are in, as `sites_of` takes them."""
    return None if spec.site_blocks == DEFAULT_BLOCKS else spec.site_blocks


def terms_of(rows: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """The part of these rows in the sums. rows: int16 (n, S). labels: (n,)."""
    sums = Sums(rows.shape[1], classes)
    sums.add(rows, labels)
    return terms_in(sums)


def terms_in(sums: Sums) -> dict[str, np.ndarray]:
    """The arrays that add up. The rows' recipe is in the fingerprint of their parts."""
    return {name: value for name, value in sums.to_arrays().items() if name in _ADDED_UP}


def write_record(
    store: Store,
    folder: str,
    shard: int,
    generation: int,
    parts: Sequence[Mapping[str, Any]],
    fingerprint: str,
    classes: int,
) -> DeltaRef:
    """Write a shard's record: which parts hold its rows. parts: PartRef JSON."""
    refs = [PartRef.from_json(part).to_json() for part in parts]
    meta = {
        _PARTS: json.dumps(refs, sort_keys=True),
        _FINGERPRINT: fingerprint,
        "shard": str(shard),
        "samples": str(sum(ref["rows"] for ref in refs)),
    }
    return write_delta(store, folder, generation, {"classes": np.array([classes], np.int64)}, meta)


def read_terms(store: Store, ref: DeltaRef, classes: int = 0) -> dict[str, np.ndarray]:
    """A shard's part in the sums: its delta's terms, or the sums over the rows that its record names.

    classes: how many the run has by now; see `grown`.

    IntegrityError naming the object when a byte differs. ObjectMissing when one is not there.
    """
    tensors, meta = read_delta(store, ref)
    return grown(sums_of_record(store, tensors, meta, ref.key), classes) if _PARTS in meta else tensors


def grown(terms: Mapping[str, np.ndarray], classes: int) -> dict[str, np.ndarray]:
    """Terms of an additive run as of pictures of at least so many classes: no picture is in those that came later."""
    more = classes - class_count(terms)
    if more <= 0 or _COUNTS not in terms:
        return dict(terms)
    return {
        name: np.concatenate([value, np.zeros((more, *value.shape[1:]), value.dtype)]) if name in _PER_CLASS else value
        for name, value in terms.items()
    }


def grow(totals: Totals, classes: int) -> bool:
    """Make totals as of at least so many classes: whether anything changed."""
    before = class_count(totals.totals)
    totals.totals = grown(totals.totals, classes)
    return class_count(totals.totals) != before


def class_count(terms: Mapping[str, np.ndarray]) -> int:
    """How many classes terms are of; 0 where they are no sums over rows."""
    return len(terms.get(_COUNTS, ()))


def sums_of_record(
    store: Store, tensors: Mapping[str, np.ndarray], meta: Mapping[str, str], key: str
) -> dict[str, np.ndarray]:
    """The sums over the rows of a record."""
    try:
        classes = int(tensors["classes"][0])
    except MALFORMED as error:
        raise _no_record(store, key, error) from error
    sums: Sums | None = None
    for parts in parts_of_record(store, meta, key):
        rows, labels = joined(parts)
        sums = sums or Sums(rows.shape[1], classes)
        sums.add(rows, labels)
    if sums is None:
        raise UsageError(f"{key} in {store.uri} names no part: a shard without samples has no record")
    return terms_in(sums)


def parts_of_record(store: Store, meta: Mapping[str, str], key: str) -> Iterator[list[CachePart]]:
    """The parts of a record, some at a time."""
    try:
        refs = [PartRef.from_json(part) for part in json.loads(meta[_PARTS])]
        fingerprint = meta[_FINGERPRINT]
    except MALFORMED as error:
        raise _no_record(store, key, error) from error
    for start in range(0, len(refs), _TOGETHER):
        yield read_several(store, refs[start : start + _TOGETHER], fingerprint=fingerprint)


def read_rows(store: Store, ref: DeltaRef) -> Iterator[list[CachePart]]:
    """The parts with a shard's rows, some at a time; errors as of `read_terms`."""
    _, meta = read_delta(store, ref)
    yield from parts_of_record(store, meta, ref.key)


def _no_record(store: Store, key: str, error: Exception) -> IntegrityError:
    return IntegrityError(f"{key} in {store.uri} is not the record of a shard ({error}); restore it")


def joined(parts: Iterable[CachePart]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, S) and labels (n,) of cache parts."""
    several = list(parts)
    rows = np.concatenate([rows_in(part) for part in several])
    return rows, np.concatenate([part.labels for part in several])


def rows_in(part: CachePart) -> np.ndarray:
    """The rows of a part, int16 (n, S): beside its tokens, or in their place where a lean run has none."""
    return part.tokens[:, 0] if part.rows is None else part.rows


def sums_from(arrays: Mapping[str, np.ndarray]) -> Sums:
    """The sums of these arrays, as `terms_of` gives them."""
    return Sums.from_arrays({**arrays, **_UNNAMED})


def model_of(spec: RunSpec, arrays: Mapping[str, np.ndarray], tuned: Tuned | None = None) -> AdditiveModel:
    """The model of these sums. tuned: the settings that were chosen from them; None: λ is chosen, and κ is the spec's.

    Its logits are κ times those of one-hot targets, as the rescaled square loss has them (TAFT eq. 2).
    IntegrityError for settings that were chosen from other sums: they are stale.
    """
    from taft_ray.additive import AdditiveModel

    sums = sums_from(arrays)
    if tuned is None or tuned.policy is None or tuned.settings is None:
        return AdditiveModel.of(sums).scaled(spec.kappa)
    if tuned.of != snapshot_digest(arrays):
        raise IntegrityError(
            f"settings that were chosen from the sums {str(tuned.of)[:16]} are not those of the sums at hand; choose them again"
        )
    return AdditiveModel.chosen(sums, tuned.policy.groups, tuned.settings)

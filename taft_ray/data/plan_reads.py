"""Read the data in the order of the shards, with few passes over the files.

A file's rows are spread over all shards, so a shard read alone reads every file in full. A *stripe* is as many
consecutive shards as fit a budget of memory; each file is read once a stripe.
"""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.counting import plural
from taft_ray.data import image_folder
from taft_ray.data.keys import KEY_BYTES
from taft_ray.data.manifest import KEPT
from taft_ray.data.source_file import SourceFile
from taft_ray.data.sources import read_images
from taft_ray.errors import DataError, UsageError

_ASSUMED_BYTES = 100_000  # of a picture whose size the storage does not tell


Key = bytes  # of a sample


@dataclass(frozen=True, kw_only=True, eq=False)
class Stripe:
    """The rows to read, one entry per sample, sorted by (shard, part, key). Small and picklable: it holds no picture."""

    files: tuple[SourceFile, ...]
    file: np.ndarray  # int64, position in files
    row: np.ndarray  # int64
    key: np.ndarray  # uint8 (samples, 16)
    label: np.ndarray  # int64
    shard: np.ndarray  # int64
    part: np.ndarray  # int64
    bytes: np.ndarray  # int64

    def __len__(self) -> int:
        return len(self.row)

    @property
    def nbytes(self) -> int:
        """The encoded bytes `read_stripe` holds at its peak (a class folder's are read part by part)."""
        return int(self.bytes.sum())

    @property
    def parts(self) -> list[tuple[int, int]]:
        """The (shard, part) it yields, in order."""
        return list(self.rows)

    @property
    def rows(self) -> dict[tuple[int, int], int]:
        """How many samples each of its (shard, part) has, in order."""
        return {(int(self.shard[at]), int(self.part[at])): end - at for at, end in self._spans()}

    def only(self, wanted: Collection[tuple[int, int]]) -> "Stripe":
        """The same stripe without the parts that are finished; parts keep their numbers and rows."""
        chosen = set(wanted)
        spans = [np.arange(at, end) for at, end in self._spans() if (int(self.shard[at]), int(self.part[at])) in chosen]
        return self._take(np.concatenate([np.zeros(0, np.int64), *spans]))

    def keys_of_parts(self) -> Iterator[tuple[tuple[int, int], list[Key]]]:
        """(shard, part), and the keys of its samples in order."""
        for at, end in self._spans():
            yield (int(self.shard[at]), int(self.part[at])), [key.tobytes() for key in self.key[at:end]]

    def _take(self, positions: np.ndarray) -> "Stripe":
        used, file = np.unique(self.file[positions], return_inverse=True)
        arrays = {name: getattr(self, name)[positions] for name in ("row", "key", "label", "shard", "part", "bytes")}
        return replace(self, files=tuple(self.files[i] for i in used), file=file.astype(np.int64), **arrays)

    def _spans(self) -> list[tuple[int, int]]:
        changes = np.flatnonzero(np.diff(self.shard) | np.diff(self.part)) + 1
        ends = [*changes.tolist(), len(self)] if len(self) else []
        return list(zip([0, *ends], ends, strict=False))


def stripes(
    manifest: pa.Table,
    files: Sequence[SourceFile],
    *,
    budget_bytes: int,
    part_rows: int,
    wanted: Collection[tuple[int, int]] | None = None,
) -> list[Stripe]:
    """Group consecutive shards while their encoded bytes fit the budget; only a shard above it is split, between parts.

    Guarantees: every kept sample (of the ``wanted`` parts) is in exactly one stripe, and a part is in one stripe whole.
    The samples that a part holds depend on its shard and ``part_rows`` only, neither on the budget nor on what is wanted.
    So plan from the manifest as it was built: rejecting undecodable samples first would number parts otherwise.
    """
    if part_rows < 1 or budget_bytes < 1:
        raise UsageError(f"expected part_rows >= 1 and budget_bytes >= 1, got {part_rows} and {budget_bytes}")
    everything = _everything(manifest, files, part_rows)
    if wanted is not None:
        everything = everything.only(wanted)
    shard_bytes = np.bincount(everything.shard, weights=everything.bytes) if len(everything) else np.zeros(0)
    cuts: list[int] = []
    held, last = 0, -1
    for at, end in everything._spans():
        shard = int(everything.shard[at])
        part_bytes = int(everything.bytes[at:end].sum())
        # a whole shard must fit where it starts; inside one too large for the budget, a part must
        need = part_bytes if shard == last else min(int(shard_bytes[shard]), max(budget_bytes, part_bytes))
        if held and held + need > budget_bytes:
            cuts.append(at)
            held = 0
        held, last = held + part_bytes, shard
    bounds = [0, *cuts, len(everything)]
    return [everything._take(np.arange(a, b)) for a, b in itertools.pairwise(bounds) if b > a]


def read_stripe(stripe: Stripe) -> Iterator[dict[str, Any]]:
    """Yield each part: ``shard``, ``part``, ``keys`` (ascending), ``labels`` (int64), ``images`` (None for one gone).

    Parquet and tar files are read once before the first part; a class folder's pictures part by part.
    """
    pictures = all(file.format == "image" for file in stripe.files)
    held: list[bytes | None] = [None] * len(stripe)
    if not pictures:
        for number, file in enumerate(stripe.files):
            positions = np.flatnonzero(stripe.file == number)
            positions = positions[np.argsort(stripe.row[positions], kind="stable")]
            for position, image in zip(positions, read_images(file, stripe.row[positions].tolist()), strict=True):
                held[position] = image
    for at, end in stripe._spans():
        if pictures:
            images = image_folder.read([stripe.files[number] for number in stripe.file[at:end]])
        else:
            images, held[at:end] = held[at:end], [None] * (end - at)  # the reader's copy only
        yield {
            "shard": int(stripe.shard[at]),
            "part": int(stripe.part[at]),
            "keys": [key.tobytes() for key in stripe.key[at:end]],
            "labels": stripe.label[at:end].copy(),
            "images": images,
        }


def _everything(manifest: pa.Table, files: Sequence[SourceFile], part_rows: int) -> Stripe:
    kept = manifest.filter(pc.equal(manifest["status"], KEPT)).combine_chunks()
    number = {file.relative: position for position, file in enumerate(files)}
    missing = sorted(set(kept["uri_relative"].unique().to_pylist()) - number.keys())
    if missing:
        raise DataError(
            f"{plural(len(missing), 'file of the manifest is', 'files of the manifest are')} no longer in the data, such as {missing[0]}"
        )
    shard = kept["shard"].to_numpy().astype(np.int64)
    size = kept["bytes"].to_numpy().astype(np.int64)
    # the manifest is sorted by (shard, key): a sample's rank in its shard is its distance from the shard's first row
    rank = np.arange(len(shard)) - np.searchsorted(shard, shard)
    return Stripe(
        files=tuple(files),
        file=np.array([number[relative] for relative in kept["uri_relative"].to_pylist()], np.int64),
        row=kept["row"].to_numpy().astype(np.int64),
        key=np.frombuffer(b"".join(kept["key"].to_pylist()), np.uint8).reshape(-1, KEY_BYTES),
        label=kept["label"].to_numpy().astype(np.int64),
        shard=shard,
        part=rank // part_rows,
        bytes=np.where(size > 0, size, _ASSUMED_BYTES),
    )

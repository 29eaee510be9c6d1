"""Systems without a trained network: what is kept of a picture is fixed, and a picture leaves by itself.

    additive     ridge on projected sites of the last blocks, from exact sums (`additive`)
    head         ridge on the head's inputs, from exact sums: the head alone
    knn          nearest neighbours among the head's inputs: a memory, from which a row is removed
    head2toe     ridge on selected numbers of the sites (`head2toe.py`)

A system knows no shards. `fitted` joins those that it is given, and says by a digest what came of them.

Legend: n pictures, S numbers of a row, B evaluation pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from taft_ray.additive import AdditiveModel, Sums, to_rows
from taft_ray.additive.grid import from_rows
from taft_ray.errors import DataError, UnsupportedModel
from taft_ray.storage import digest_tensors
from taft_ray.tangent import TangentModel

NEIGHBOURS = 20
_CHUNK = 256  # pictures a forward pass


class Rows(NamedTuple):
    """Pictures as a system keeps them: keys n of 16 bytes, labels (n,), rows int16 (n, S)."""

    keys: Sequence[bytes]
    labels: np.ndarray
    rows: np.ndarray

    def at(self, index: np.ndarray) -> Rows:
        return Rows([self.keys[place] for place in index.tolist()], self.labels[index], self.rows[index])


def joined(shards: Sequence[Rows]) -> Rows:
    """All pictures of the shards, sorted by key: the same ones for every way to part them."""
    keys = [key for shard in shards for key in shard.keys]
    if not keys:
        raise DataError("every shard is empty: no sample was kept")
    every = Rows(
        keys, np.concatenate([shard.labels for shard in shards]), np.concatenate([shard.rows for shard in shards])
    )
    return every.at(np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64))


class System(Protocol):
    """From pictures in shards to a state, from it to one without some of its pictures, and to its answers."""

    way: str  # how pictures leave

    def fitted(self, shards: Sequence[Rows], classes: int) -> Any: ...
    def without(self, state: Any, leaving: Rows) -> Any: ...
    def logits(self, state: Any, rows: np.ndarray) -> np.ndarray:
        """(B, S) -> (B, K), with -inf for a class that has no share."""
        ...

    def digest(self, state: Any) -> str: ...


@dataclass(frozen=True)
class Summed:
    """The exact sums and the model that is solved of them."""

    sums: Sums
    model: AdditiveModel


class RidgeOfSums:
    """Ridge from exact sums, one of each shard, added up. A picture leaves by a subtraction."""

    way = "subtract"

    def fitted(self, shards: Sequence[Rows], classes: int) -> Summed:
        total: Sums | None = None
        for shard in shards:
            sums = Sums(shard.rows.shape[1], classes)
            sums.add(shard.rows, shard.labels)
            if total is None:
                total = sums
            else:
                total.merge(sums)
        if total is None or total.n == 0:
            raise DataError("every shard is empty: no sample was kept")
        return Summed(total, AdditiveModel.of(total))

    def without(self, state: Summed, leaving: Rows) -> Summed:
        sums = state.sums.copy()
        sums.subtract(leaving.rows, leaving.labels)
        return Summed(sums, AdditiveModel.of(sums))

    def logits(self, state: Summed, rows: np.ndarray) -> np.ndarray:
        return state.model.logits(rows)

    def digest(self, state: Summed) -> str:
        return digest_tensors(state.sums.to_arrays())


@dataclass(frozen=True)
class Memory:
    """The pictures, sorted by key."""

    kept: Rows
    classes: int


class Neighbours:
    """Votes of the nearest `NEIGHBOURS` rows, weighted by one over the distance (scikit-learn)."""

    way = "remove the row"

    def fitted(self, shards: Sequence[Rows], classes: int) -> Memory:
        return Memory(joined(shards), classes)

    def without(self, state: Memory, leaving: Rows) -> Memory:
        gone = set(leaving.keys)
        staying = np.array([place for place, key in enumerate(state.kept.keys) if key not in gone], np.int64)
        return Memory(state.kept.at(staying), state.classes)

    def logits(self, state: Memory, rows: np.ndarray) -> np.ndarray:
        from sklearn.neighbors import KNeighborsClassifier  # takes a while

        asked = min(NEIGHBOURS, len(state.kept.keys))
        voters = KNeighborsClassifier(asked, weights="distance", algorithm="brute")
        voters.fit(from_rows(state.kept.rows), state.kept.labels)
        shares = np.zeros((len(rows), state.classes))
        shares[:, voters.classes_] = voters.predict_proba(from_rows(rows))
        with np.errstate(divide="ignore"):
            return np.log(shares)

    def digest(self, state: Memory) -> str:
        keys = np.frombuffer(b"".join(state.kept.keys), np.uint8)
        return digest_tensors({"keys": keys, "labels": state.kept.labels, "rows": state.kept.rows})


@torch.no_grad()
def head_rows(tm: TangentModel, tokens: Tensor) -> np.ndarray:
    """The inputs of the network's head, each of length one, on the grid: int16 (n, S).

    Raises UnsupportedModel for a network whose head sees no vector per picture.
    """
    heads: Any = tm.network.get_classifier()  # type: ignore[operator]  # every supported timm model has it
    seen: list[list[Tensor]] = []

    def note(_: Any, given: tuple[Tensor, ...]) -> None:
        seen[-1].append(given[0].flatten(1))

    handles = [head.register_forward_pre_hook(note) for head in (heads if isinstance(heads, tuple) else (heads,))]
    try:
        for batch in tokens.split(_CHUNK):
            seen.append([])
            tm.nonlinear(batch, {})
    finally:
        for handle in handles:
            handle.remove()
    if not all(seen):
        raise UnsupportedModel(f"{type(tm.network).__name__}: its head is passed by, so that nothing can be kept of it")
    vectors = torch.cat([torch.cat(parts, dim=1) for parts in seen]).double()
    return to_rows(torch.nn.functional.normalize(vectors, dim=1))

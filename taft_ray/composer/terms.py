"""Deltas as the composer reads them: the int64 terms of a shard, some of them kept in memory."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from taft_ray.run.rows import read_terms
from taft_ray.storage import DeltaRef, Store

# Cache of the terms of shards that were fitted lately, so that dropping one needs no read. It is bounded in shards and in bytes,
# so that memory does not grow with the shards of a run
TERMS_KEPT = 8
TERMS_BUDGET = 1 << 30
_READERS = 8  # deltas read side by side, where many enter the sums: by a composer that starts again


class Terms:
    """Deltas by key, checked by digest when read; the latest used stay in memory, ``most`` of them up to a budget."""

    def __init__(self, store: Store, budget: int = TERMS_BUDGET, most: int = TERMS_KEPT) -> None:
        self._store, self._budget, self._most = store, budget, most
        self._kept: OrderedDict[str, dict[str, np.ndarray]] = OrderedDict()
        self._bytes = 0

    def read(self, ref: DeltaRef) -> dict[str, np.ndarray]:
        """The int64 terms of a delta; IntegrityError when its bytes are not those of the ledger."""
        key = ref.key
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        return self._keep(key, self._load(ref))

    def read_each(self, refs: Sequence[DeltaRef]) -> Iterator[dict[str, np.ndarray]]:
        """`read` of each, in order; read side by side, within the budget."""
        ahead = min(_READERS, len(refs), max(1, self._budget // max((ref.bytes for ref in refs), default=1)))
        if ahead < 2:
            yield from map(self.read, refs)
            return
        with ThreadPoolExecutor(ahead) as readers:
            coming = deque(readers.submit(self._load, ref) for ref in refs[:ahead])
            try:
                for position, ref in enumerate(refs):
                    terms = coming.popleft().result()
                    if position + ahead < len(refs):
                        coming.append(readers.submit(self._load, refs[position + ahead]))
                    yield self._keep(ref.key, terms)
            finally:
                for reading in coming:
                    reading.cancel()

    def _load(self, ref: DeltaRef) -> dict[str, np.ndarray]:
        return read_terms(self._store, ref)

    def _keep(self, key: str, terms: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        self._kept[key] = terms
        self._bytes += _size(terms)
        while len(self._kept) > 1 and (self._bytes > self._budget or len(self._kept) > self._most):
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return terms

    def discard(self, keys: set[str]) -> None:
        """Forget these deltas: they are being purged."""
        for key in keys & self._kept.keys():
            self._bytes -= _size(self._kept.pop(key))


def _size(terms: Mapping[str, np.ndarray]) -> int:
    return sum(term.nbytes for term in terms.values())

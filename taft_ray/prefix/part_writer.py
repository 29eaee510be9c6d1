"""From encoded pictures to cache parts: decode, the frozen prefix, a part in storage and a marker beside it.

A marker lets a killed pass go on where it was. Tokens go nowhere but into storage; keys and references come back.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from taft_ray.data.keys import KEY_BYTES, content_hash
from taft_ray.errors import ObjectMissing
from taft_ray.models import Preprocess
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.pictures import pictures_of
from taft_ray.prefix.tokens import Prefix, prefix_columns
from taft_ray.run.model import build_tangent
from taft_ray.run.rows import build_rows
from taft_ray.run.rows_and_tokens import build_both
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store, id_key, write_part


class PartWriter:
    """Runs the frozen prefix and writes cache parts. May be called by several threads: decoding and the prefix are one's at a time."""

    def __init__(self, run: str, classes: int, folders: str) -> None:
        self.store = Store(run)
        self.spec: RunSpec = run_spec(self.store)
        self.tm, self.preprocess, self.fingerprint = build_prefix(self.spec, classes)
        self.folders = folders
        try:
            self.secret: bytes | None = id_key(self.store, create=False)
        except ObjectMissing:
            self.secret = None  # no run: the tokens that a comparison shares
        self._core_is_free = threading.Lock()

    def __call__(self, batch: pa.Table) -> dict[str, Any]:
        rows = batch.select(["shard", "part", "keys", "contents", "labels"]).to_pylist()
        reasons: list[list[str]] = [[] for _ in rows]  # of each picture that has been decoded; empty where it could be

        def good() -> Iterator[np.ndarray]:
            for part, pictures in zip(reasons, self._pictures(batch), strict=True):
                for picture in pictures:
                    part.append(picture if isinstance(picture, str) else "")
                    if not isinstance(picture, str):
                        yield picture

        pictures = sum(len(row["keys"]) // KEY_BYTES for row in rows)
        with self._core_is_free:
            torch.set_num_threads(self.spec.threads)  # of the thread that calls: a sum's last bits depend on it
            columns = prefix_columns(self.tm, self.preprocess, good(), self.spec, at_most=pictures)
        answers: list[str] = []
        at = 0
        for row, part in zip(rows, reasons, strict=True):
            whole = np.array([not why for why in part], bool)
            count = int(whole.sum())
            answers.append(self._write(row, whole, part, *(column[at : at + count] for column in columns)))
            at += count
        return {"answer": answers}

    def _pictures(self, batch: pa.Table) -> list[Iterator[np.ndarray | str]]:
        return pictures_of(batch, self.preprocess.size, self.spec.exif_orientation)

    def _write(
        self,
        row: Mapping[str, Any],
        good: np.ndarray,
        reasons: Sequence[str],
        tokens: np.ndarray,
        rows: np.ndarray | None = None,
    ) -> str:
        shard, part = row["shard"], row["part"]
        keys, contents = (
            [flat[at : at + KEY_BYTES] for at in range(0, len(flat), KEY_BYTES)]
            for flat in (row["keys"], row["contents"])
        )
        labels = np.frombuffer(row["labels"], "<i8").astype(np.int64)
        folder = self.folders.format(shard=shard)
        ref = None
        if good.any():
            written = write_part(
                self.store,
                folder,
                part,
                keys=[key for key, ok in zip(keys, good, strict=True) if ok],
                labels=labels[good],
                tokens=tokens,
                dtype=self.spec.stored_dtype,
                fingerprint=self.fingerprint,
                rows=rows,
            )
            ref = {**written.to_json(), "part": part}
        answer = json.dumps(
            {
                "shard": shard,
                "part": part,
                "ref": ref,
                "keys": [key.hex() for key, ok in zip(keys, good, strict=True) if ok],
                "contents": [
                    content_hash(digest, self.secret).hex() for digest, ok in zip(contents, good, strict=True) if ok
                ]
                if self.secret
                else [],
                "bad": {key.hex(): why for key, why in zip(keys, reasons, strict=True) if why},
                "fingerprint": self.fingerprint,
            }
        )
        self.store.write(marker_key(folder, part), answer.encode())
        return answer


def build_prefix(spec: RunSpec, classes: int) -> tuple[Prefix, Preprocess, str]:
    """The maker of the numbers of a run's cache, how pictures are scaled for it, and its fingerprint."""
    if spec.two_tiers:
        return build_both(spec, classes)
    if spec.rows_alone:
        return build_rows(spec)
    tm, fingerprint = build_tangent(spec, classes)
    return tm, Preprocess.of(tm.network), fingerprint


def marker_key(folder: str, part: int) -> str:
    return f"{folder}/part-{part:03d}.json"


def remove_markers(store: Store, prefix: str) -> None:
    """The progress marks of a pass, once the manifest has taken over."""
    for info in store.list(f"{prefix}/"):
        if info.key.endswith(".json"):
            store.delete(info.key)

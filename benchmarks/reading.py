"""Reading a cache back, memory-mapped, against a plain sequential read of the same files: `benchmarks.cache` says how."""

from __future__ import annotations

import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taft_ray.prefix.cache import PART_ROWS
from taft_ray.storage import PartRef, Store, read_part, write_part
from taft_ray.storage import rundir as names

LARGE_TOKENS, LARGE_PARTS = (197, 768), 20
MADE_BY = "no model"

Use = Callable[[np.ndarray, np.ndarray, torch.Tensor], None]  # (values as stored, bytes to fill, float32 to fill)


def measure_reading(run: Path, scratch: Path, repetitions: int) -> list[dict[str, Any]]:
    """A run's cache, and parts of random values in the shape of ViT-B/16's, which are four times as large as DeiT-Tiny's."""
    store = Store(str(run))
    refs = [json.loads(store.read(info.key)) for info in store.list(names.CACHE_FOLDER) if info.key.endswith(".json")]
    parts = [PartRef.from_json(ref["ref"]) for ref in refs]
    large = Store(str(scratch / "large-parts"))
    return [
        {"of": "the run", **measure_parts(run, parts, refs[0]["fingerprint"], repetitions)},
        {"of": "ViT-B/16's shape", **measure_parts(scratch / "large-parts", made_parts(large), MADE_BY, repetitions)},
    ]


def made_parts(store: Store) -> list[PartRef]:
    rng = np.random.default_rng(0)
    labels = np.zeros(PART_ROWS, np.int64)
    made = []
    for number in range(LARGE_PARTS):
        tokens = rng.standard_normal((PART_ROWS, *LARGE_TOKENS), np.float32).astype(np.float16)
        keys = [rng.bytes(16) for _ in labels]
        made.append(
            write_part(
                store, "parts", number, keys=keys, labels=labels, tokens=tokens, dtype="float16", fingerprint=MADE_BY
            )
        )
    return made


def measure_parts(run: Path, parts: Sequence[PartRef], fingerprint: str, repetitions: int) -> dict[str, Any]:
    """Every part read plainly, mapped, and mapped with its digest checked."""
    store = Store(str(run))
    shapes = [read_part(store, part, fingerprint=fingerprint).tokens.shape for part in parts]
    into = np.zeros(max(part.bytes for part in parts), np.uint8)
    values = torch.zeros(max(int(np.prod(shape)) for shape in shapes))

    def plain(use: Use) -> None:
        for part, shape in zip(parts, shapes, strict=True):
            with open(run / part.key, "rb", buffering=0) as file:
                file.readinto(into.data[: part.bytes])
            if use is not copied:  # they are in memory already
                use(into[: 2 * int(np.prod(shape))].view(np.float16), into, values)

    def mapped(use: Use, verify: bool = False) -> None:
        for part in parts:
            use(read_part(store, part, fingerprint=fingerprint, verify=verify).tokens.reshape(-1), into, values)

    ways: dict[str, Callable[[Use], None]] = {"plain": plain, "mapped": mapped, "checked": partial(mapped, verify=True)}
    answer: dict[str, Any] = {"parts": len(parts), "bytes": sum(part.bytes for part in parts)}
    for name, use, cold in (("copied", copied, False), ("as float32", as_float32, False), ("from disk", copied, True)):
        rounds = []
        for _ in range(repetitions + 1):  # the first warms the page cache
            times = {}
            for way, read in ways.items():
                if cold:
                    drop_from_page_cache([run / part.key for part in parts])
                began = time.perf_counter()
                read(use)
                times[way] = time.perf_counter() - began
            rounds.append(times)
        answer[name] = {
            "gb_per_s": {
                way: round(answer["bytes"] / statistics.median(r[way] for r in rounds[1:]) / 1e9, 2) for way in ways
            },
            "mapped_of_plain": round(statistics.median(r["plain"] / r["mapped"] for r in rounds[1:]), 3),
            "checked_of_plain": round(statistics.median(r["plain"] / r["checked"] for r in rounds[1:]), 3),
        }
    return answer


def copied(stored: np.ndarray, into: np.ndarray, values: torch.Tensor) -> None:
    np.copyto(into[: stored.nbytes].view(stored.dtype), stored)


def as_float32(stored: np.ndarray, into: np.ndarray, values: torch.Tensor) -> None:
    """The first thing that a fit does with the tokens: it turns them into float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, for an array that may not be written to
        values[: stored.size].copy_(torch.from_numpy(stored))


def drop_from_page_cache(files: Sequence[Path]) -> None:
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)

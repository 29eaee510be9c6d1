"""A run's model and its cached tokens, in a process: what fits and measurements have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taft_ray.data import slice_of
from taft_ray.fitting import FitConfig
from taft_ray.run.environment import settle
from taft_ray.run.model import build_tangent
from taft_ray.run.rows_and_tokens import cache_fingerprint
from taft_ray.run.spec import run_spec
from taft_ray.storage import DeltaRef, PartRef, Store, read_delta, read_several
from taft_ray.sums import terms_to_delta
from taft_ray.tangent import Delta, Pictures, Prepared, TangentModel, prepare_pictures


@dataclass(frozen=True)
class Loaded:
    """A task's pictures in the order they are fitted in, and how long reading (and preparing) them took."""

    task: dict[str, Any]
    keys: list[bytes]
    labels: Tensor
    slices: np.ndarray
    pictures: Pictures
    started: float
    read_s: float
    prepare_s: float


class RunModel:
    """The tangent model of a run, and its cached tokens as pictures that are ready to be fitted or measured."""

    def __init__(self, run: str, classes: int) -> None:
        self.store = Store(run)
        self.spec = run_spec(self.store)
        settle(self.spec)
        self.tm, of_tokens = build_tangent(self.spec, classes)
        self.fingerprint = cache_fingerprint(self.spec, of_tokens)

    def read(self, parts: Sequence[dict[str, Any]]) -> tuple[list[bytes], Tensor, list[np.ndarray]]:
        """Keys, labels (n,) and token arrays of the parts, in ascending order of the sample keys."""
        read = read_several(self.store, [PartRef.from_json(part) for part in parts], fingerprint=self.fingerprint)
        keys = [key for part in read for key in part.keys]
        labels = torch.from_numpy(np.concatenate([part.labels for part in read]) if read else np.zeros(0, np.int64))
        return keys, labels, [_as_torch_readable(part.tokens) for part in read]

    def _tokens(self, arrays: Sequence[np.ndarray]) -> Tensor:
        tokens = torch.from_numpy(np.concatenate(arrays) if len(arrays) > 1 else np.array(arrays[0]))
        return tokens.view(torch.bfloat16) if self.spec.stored_dtype == "bfloat16" else tokens

    def _config(self, task: dict[str, Any]) -> FitConfig:
        config = self.spec.fit_config()
        # the comparison model is the paper's recipe: it keeps no checkpoints, so slices would only cost it accuracy
        return replace(config, slices=1) if task["shard"] == "monolith" else config

    def _load(self, task: dict[str, Any], config: FitConfig) -> Loaded:
        started = time.time()
        keys, labels, arrays = self.read(task["parts"])
        slices = slice_of(keys, slices=config.slices, seed=config.seed)
        # by slice, then by key (a monolith's parts come shard by shard)
        order = sorted(range(len(keys)), key=lambda i: (slices[i], keys[i]))
        labels, slices = labels[order], slices[order]
        tokens = self._tokens(arrays)[order] if arrays else torch.zeros(0)
        read_s = time.time() - started
        sizes = np.bincount(slices, minlength=config.slices).tolist()
        pictures: Pictures = self._prepare(tokens, sizes) if len(labels) else _nothing(self.tm)
        prepare_s = time.time() - started - read_s
        return Loaded(task, [keys[i] for i in order], labels, slices, pictures, started, read_s, prepare_s)

    def _prepare(self, tokens: Tensor, sizes: Sequence[int] = ()) -> Pictures:
        return prepare_pictures(self.tm, tokens, sizes=sizes, budget=self.spec.constants_bytes)

    def delta(self, ref: dict[str, Any]) -> Delta:
        """A stored delta as float32; IntegrityError when a byte of it differs."""
        tensors, _ = read_delta(self.store, DeltaRef.from_json(ref))
        return terms_to_delta({name: torch.from_numpy(value) for name, value in tensors.items()}, torch.float32)


def _as_torch_readable(tokens: np.ndarray) -> np.ndarray:
    return tokens if tokens.dtype != np.uint16 else tokens.view(np.int16)


def _nothing(tm: TangentModel) -> Prepared:
    return Prepared(torch.zeros(0, tm.num_classes), {}, 0)

"""The slice checkpoints of one fit: the one it goes on from, and those it writes as its stages end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.storage import CheckpointRef, Store, read_checkpoint, write_checkpoint
from taft_ray.storage import rundir as names
from taft_ray.tangent import Delta


class SliceCheckpoints:
    """The slice checkpoints of one fit of a shard.

    ``made_of``: what decided the bits of a checkpoint beside the samples and the spec. It is written with each, and a fit does
        not go on from one that was made of something else.
    """

    def __init__(self, store: Store, shard: int, generation: int, made_of: Mapping[str, str]) -> None:
        self.store, self.folder = store, names.checkpoint_folder(shard, generation)
        self.made_of = {"shard": str(shard), **made_of}
        self.written: list[CheckpointRef] = []
        self.resumed = 0  # stages that need not be made again
        self.refused: str | None = None  # why a checkpoint was not gone on from
        self.seconds = 0.0

    def begin(self, wanted: Mapping[str, Any] | None) -> Delta | None:
        """Δw after the stages that a task wants to go on from; None: begin at zero, which gives the same bits later.

        A checkpoint that is damaged, gone or made of something else is not an error: ``refused`` says what it was.
        """
        if wanted is None:
            return None
        ref, began = CheckpointRef.from_json(wanted), time.perf_counter()
        try:
            tensors, meta = read_checkpoint(self.store, ref)
            if meta != self._meta(ref.stage):
                raise IntegrityError(f"{ref.key} in {self.store.uri} was made of {meta}, not {self._meta(ref.stage)}")
        except (IntegrityError, ObjectMissing) as error:
            self.refused = str(error)
            return None
        finally:
            self.seconds += time.perf_counter() - began
        self.resumed = ref.stage
        return Delta({name: torch.from_numpy(value) for name, value in tensors.items()})

    def keep(self, stage: int, delta: Delta) -> None:
        """Write Δw after ``stage``."""
        began = time.perf_counter()
        tensors = {name: value.cpu().numpy() for name, value in delta.items()}
        self.written.append(write_checkpoint(self.store, self.folder, stage, tensors, self._meta(stage)))
        self.seconds += time.perf_counter() - began

    def facts(self) -> dict[str, Any]:
        return {
            "resumed_stage": self.resumed,
            "resume_refused": self.refused,
            "checkpoint_seconds": self.seconds,
        }

    def _meta(self, stage: int) -> dict[str, str]:
        return {**self.made_of, "stage": str(stage)}

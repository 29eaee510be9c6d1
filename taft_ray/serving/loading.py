"""Models from storage into a replica: the frozen part once for all that share it, and a composed model for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from taft_ray.additive.options import ADDITIVE
from taft_ray.errors import IntegrityError, ObjectMissing, StorageError
from taft_ray.plans.facts import Tuned
from taft_ray.plans.spec import RunSpec
from taft_ray.run.choice import choice_for, choice_of_owners
from taft_ray.run.environment import settle
from taft_ray.run.owned import sums_of_owners
from taft_ray.run.record import Record
from taft_ray.run.snapshots import load_arrays, snapshot_digest
from taft_ray.run.spec import run_spec
from taft_ray.run.sums import one_thread, sums_of
from taft_ray.serving.following import Wanted, mode_of
from taft_ray.serving.options import Source
from taft_ray.storage import Store, digest_bytes, digest_json
from taft_ray.storage import rundir as names
from taft_ray.workers.picture_model import Answers, Frozen
from taft_ray.workers.predicting import where_it_runs

# fields of a spec that its network does not depend on
_OF_DATA = (
    "data",
    "shards",
    "assignment",
    "versions",
    "max_rejected",
    "compose",
    "beside",
    "weighting",
    "constants_gib",
)


Arrays = Mapping[str, np.ndarray]


class Overtaken(StorageError):
    """The run went on while a model of it was loaded: look at its head again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A composed model in memory. digest: of its composed values, or of its sums. classes: names, in the order of the logits."""

    digest: str
    classes: tuple[str, ...]
    frozen: Frozen
    answers: Answers


class Load(Protocol):
    """Loads the model that a source is at a head; may take seconds, in a thread of its own."""

    def __call__(self, source: Source, wanted: Wanted) -> Model: ...


class Loader:
    """Frozen parts and tensors that a replica has loaded. Guarantees: networks that are equal share their tensors, whichever runs they are of."""

    def __init__(self) -> None:
        self._frozen: dict[str, Frozen] = {}
        self._tensors: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, source: Source, wanted: Wanted) -> Model:
        """Load, check by its digest and warm up. Overtaken where the run has gone on; other errors as storage has them."""
        spec = run_spec(Store(source.run))
        settle(where_it_runs(spec))
        mode = mode_of(spec, source)
        arrays = None if wanted.digest is None else _snapshot(source.run, wanted.digest)
        tuned = wanted.tuned
        if arrays is None or (tuned is not None and tuned.of != wanted.digest):
            record = _record_at(source, wanted, spec.by_records(mode))
            arrays = arrays or _composed(record, source, mode)
            tuned = _settings(record, source, arrays) if mode == ADDITIVE else None
        digest = wanted.digest or snapshot_digest(arrays)
        frozen, is_new = self._part(where_it_runs(spec), len(wanted.classes), mode == ADDITIVE)
        answers = frozen.with_model(arrays, tuned)
        if is_new:
            frozen.learn_shapes(answers)
        return Model(digest=digest, classes=wanted.classes, frozen=frozen, answers=answers)

    def _part(self, spec: RunSpec, classes: int, additive: bool) -> tuple[Frozen, bool]:
        said = {name: value for name, value in spec.to_json().items() if name not in _OF_DATA}
        key = digest_json({"spec": said, "classes": classes, "additive": additive})
        if key in self._frozen:
            return self._frozen[key], False
        made = self._frozen[key] = Frozen(spec, classes, additive=additive)
        self._share(made.maker.network)
        return made, True

    def _share(self, network: nn.Module) -> None:
        for module in network.modules():
            for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
                same = (name, tuple(value.shape), value.dtype, str(value.device), digest_bytes(content.tobytes()))
                value.data = self._tensors.setdefault(same, value.data)


def _snapshot(run: str, digest: str) -> Arrays | None:
    """The composed model with this digest; None where a purge, which removes snapshots, is under way."""
    try:
        return load_arrays(Store(run), names.composed_key(digest))
    except (ObjectMissing, IntegrityError):
        return None


def _record_at(source: Source, wanted: Wanted, by_records: bool) -> Record:
    """The run as its ledger is now; Overtaken where that is no longer what is wanted."""
    record = Record(source.run)
    if record.state.members_of(by_records) != wanted.of:
        raise Overtaken(f"{source.run} has gone on; its head is read again")
    return record


def _composed(record: Record, source: Source, mode: str) -> Arrays:
    """The composed model, from what is in the run: a composer's, to the bit."""
    if source.owners:
        return sums_of_owners(record, source.owners)
    sums = sums_of(record.store, record.state, record.spec.by_records(mode))
    if mode == ADDITIVE:
        return {name: total.numpy() for name, total in sums.totals.items()}
    with one_thread():
        delta = record.spec.composed(sums, mode)
    return {name: value.float().contiguous().numpy() for name, value in delta.items()}


def _settings(record: Record, source: Source, arrays: Arrays) -> Tuned | None:
    """The settings of an additive model by the run's policy."""
    if source.owners:
        return choice_of_owners(record, source.owners, arrays)
    return choice_for(record.store, record.state, arrays)

"""Answers of measurements: `evaluate`, `audit`, `sweep`, `reproduce`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taft_ray.answers.answer import Answer, optional
from taft_ray.answers.state import Quarantined


@dataclass(frozen=True)
class ByComposition(Answer):
    """The accuracy of one way to compose. seconds: of composing, 0 where it was composed already."""

    accuracy: float
    composed: str
    seconds: float


@dataclass(frozen=True)
class Evaluation(Answer):
    """Accuracy of the composed model on ``n`` pictures of ``data``. monolith: that of the comparison model.

    by_composition: mean, and gram or joint. by_shards: of the first m shards, {"shards": m, mode: accuracy}.
    """

    data: str
    rejected: int
    accuracy: float
    n: int
    composed: str
    by_composition: Mapping[str, ByComposition]
    monolith: float | None
    by_shards: tuple[Mapping[str, Any], ...]
    ok: bool
    quarantined: tuple[Quarantined, ...]


@dataclass(frozen=True)
class Audit(Answer):
    """The membership-inference attack on what was forgotten. ok: the run does not remember.

    verdict: in a word, and why in a sentence. auc, p_value, power: of the strongest target, and how well it sees members.
    control: the same two sets on shards that saw neither. left_out: samples that were not examined, by reason.
    """

    ok: bool
    verdict: str
    why: str
    auc: float
    auc_ci: tuple[float, ...]
    p_value: float
    power: Mapping[str, Any]
    level: float
    control: Mapping[str, Any]
    targets: Mapping[str, Any]
    forgotten: int
    never_seen: int
    shards: tuple[int, ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class Trial(Answer):
    """A trial of a sweep. status: finished, stopped or failed. effort: how much of its time it was given, in percent."""

    number: int
    settings: Mapping[str, Any]
    status: str
    accuracy: float | None = optional()
    effort: float | None = optional()
    seconds: float | None = optional()
    error: str | None = optional()


@dataclass(frozen=True)
class Swept(Answer):
    """The trials of a sweep. best: number, settings and accuracy on the pictures that were held out.

    spec: where the best settings lie, for `train`. forgotten_since: samples forgotten since the trials saw them.
    """

    sweep: str
    objective: str
    held_out: int
    fitted_on: int
    best: Mapping[str, Any]
    standard_error: float
    as_good_as_best: tuple[int, ...]
    trials: tuple[Trial, ...]
    refused: tuple[Mapping[str, Any], ...]
    resumed: int
    measured_again: int
    forgotten_since: int | None
    stale_sweeps: tuple[str, ...]
    spec: str
    page: str
    table: str
    seconds: float


@dataclass(frozen=True)
class Reproduced(Answer):
    """A table of the paper on given data; or, with ``ok``, cells that were measured once more."""

    table: str
    cells: Any
    rows: Mapping[str, Any] | None = optional()
    made: int | None = optional()
    files: tuple[str, ...] | None = optional()
    ok: bool | None = optional()

"""Answers of measurements: `evaluate`, `audit`, `sweep`, `reproduce`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.answers.state import Quarantined
from taft_ray.jsonable import optional


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
class Prediction(Answer):
    """A picture's most probable class. probabilities: of each class, in the order of the answer's ``classes``."""

    picture: str
    label: str
    probability: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Unreadable(Answer):
    """A picture that could not be read."""

    picture: str
    reason: str


@dataclass(frozen=True)
class Predictions(Answer, HasRows):
    """The classes of ``n`` pictures by the model with the digest ``composed``; and the pictures that could not be read."""

    ROWS: ClassVar[tuple[str, ...]] = ("predictions", "unreadable")

    run: str
    composed: str
    classes: tuple[str, ...]
    n: int
    predictions: tuple[Prediction, ...]
    unreadable: tuple[Unreadable, ...]

    def _row(self, one: object) -> dict[str, object]:
        """A prediction with a column per class, named p(class), and the model's digest."""
        if not isinstance(one, Prediction):
            return super()._row(one)
        each = {f"p({name})": value for name, value in zip(self.classes, one.probabilities, strict=True)}
        row = {"picture": one.picture, "label": one.label, "probability": one.probability}
        return {**row, **each, "composed": self.composed}

    def __str__(self) -> str:
        told = [f"{one.picture}: {one.label} ({one.probability:.1%})" for one in self.predictions]
        bad = [f"{one.picture}: not read, {one.reason}" for one in self.unreadable]
        end = f"{self.n} pictures by the model {self.composed[:16]}"
        return "\n".join([*told, *bad, end + (f"; {len(bad)} could not be read" if bad else "")])


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
class Swept(Answer, HasRows):
    """The trials of a sweep. best: number, settings and accuracy on the pictures that were held out.

    spec: where the best settings lie, for `train`. forgotten_since: samples forgotten since the trials saw them.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("trials", "refused")

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

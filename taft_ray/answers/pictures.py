"""Answers on pictures: `evaluate`, which has their labels, and `predict`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.answers.state import Quarantined
from taft_ray.answers.tuned import settings_text
from taft_ray.answers.why import Explained, Why
from taft_ray.counting import plural
from taft_ray.jsonable import optional

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 5  # classes and mistakes that a person is shown
_TRIALS = 10


@dataclass(frozen=True)
class ByComposition(Answer):
    """The accuracy of one way to compose. seconds: of composing, 0 where it was composed already."""

    accuracy: float
    composed: str
    seconds: float


@dataclass(frozen=True)
class OfClass(Answer):
    """The accuracy on the ``n`` pictures of a class; None where there are none."""

    label: str
    n: int
    accuracy: float | None


@dataclass(frozen=True)
class Confusion(Answer):
    """How many pictures of the class ``true`` were said to be ``predicted``."""

    true: str
    predicted: str
    n: int


@dataclass(frozen=True)
class Confident(Answer):
    """The ``n`` pictures predicted with about this confidence, and how many of them are right."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Against(Answer):
    """Another model on the same ``n`` pictures. difference: this one's accuracy less the other's ``accuracy``.

    p_value: of McNemar's exact test, that it arises by chance. only_this, only_other: pictures that one of them has right.
    """

    name: str
    n: int
    accuracy: float
    difference: float
    both_right: int
    only_this: int
    only_other: int
    neither: int
    p_value: float


@dataclass(frozen=True)
class Evaluation(Answer, HasRows):
    """Accuracy of the composed model on ``n`` pictures of ``data``. monolith: that of the comparison model.

    by_composition: mean, gram or joint, and additive. by_shards: of the first m shards, {"shards": m, mode: accuracy}.

    confusion: a row per true class, a column per predicted one; None for more than 100 classes.

    confused: the most frequent mistakes. top5: the part whose class is among the best five, None for five classes or fewer.

    calibration_error: the expected one, of 15 bins of confidence. calibration: those bins.

    left_out: pictures that were not read because the run has forgotten, or is asked to forget, samples with their ids.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("per_class", "confused", "calibration", "by_shards")

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
    per_class: tuple[OfClass, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None
    confused: tuple[Confusion, ...] = ()
    top5: float | None = None
    calibration_error: float | None = None
    calibration: tuple[Confident, ...] = ()
    against: Against | None = optional()
    left_out: int = optional(0)
    owners: tuple[str, ...] = optional(())  # whose pictures alone the model is of; empty: everybody's
    settings: Mapping[str, Any] | None = optional()  # of an additive run that was tuned: those of the model

    def __str__(self) -> str:
        own = [mode for mode, one in self.by_composition.items() if one.composed == self.composed]
        others = {mode: one for mode, one in self.by_composition.items() if one.composed != self.composed}
        how = f", composed by {own[0]}" if own and others else ""  # where there is one way, nothing is to be told apart
        told = [
            f"accuracy {self.accuracy:.1%} on {plural(self.n, 'picture')} of {self.data} (model {self.composed[:16]}{how})"
        ]
        beside = [f"composed by {mode} {one.accuracy:.1%}" for mode, one in others.items()]
        beside += [] if self.monolith is None else [f"one model over everything {self.monolith:.1%}"]
        told += ["; ".join(beside)] if beside else []
        told += [f"settings by the run's policy: {settings_text(self.settings)}"] if self.settings else []
        sure = [f"among the best five {self.top5:.1%}"] if self.top5 is not None else []
        sure += (
            [f"expected calibration error {self.calibration_error:.1%}"] if self.calibration_error is not None else []
        )
        told += ["; ".join(sure)] if sure else []
        known = sorted((one for one in self.per_class if one.accuracy is not None), key=lambda one: one.accuracy or 0)
        told += [f"  {one.label}: {one.accuracy or 0:.1%} of {one.n:,}" for one in known[:_SHOWN]]
        told += (
            [f"  and {plural(len(known) - _SHOWN, 'class', 'classes')} recognised as well or better"]
            if len(known) > _SHOWN
            else []
        )
        mistakes = [f"{one.true} as {one.predicted} ({one.n})" for one in self.confused[:_SHOWN]]
        told += [f"most frequent mistakes: {', '.join(mistakes)}"] if mistakes else []
        told += [f"{plural(self.rejected, 'row was', 'rows were')} not read"] if self.rejected else []
        if self.left_out:
            left_out = plural(self.left_out, "picture was", "pictures were")
            told.append(f"{left_out} left out: the run was asked to forget samples with these ids")
        if self.against is not None:
            other = self.against
            told.append(
                f"against {other.name}: {other.accuracy:.1%} there, {100 * other.difference:+.1f} points here, on "
                f"{plural(other.n, 'picture')}; right here alone {other.only_this:,}, there alone {other.only_other:,} (p = {other.p_value:.2g})"
            )
        told += [one.told() for one in self.quarantined]
        return "\n".join(told)


@dataclass(frozen=True)
class Prediction(Answer):
    """A picture's most probable class, ``label``; the tables call it predicted.

    probabilities: of each class, in the order of the answer's ``classes``.
    """

    picture: str
    label: str
    probability: float
    probabilities: tuple[float, ...]
    why: Why | None = optional()


@dataclass(frozen=True)
class Unreadable(Answer):
    """A picture that could not be read."""

    picture: str
    reason: str


@dataclass(frozen=True)
class Predictions(Answer, HasRows):
    """The classes of ``n`` pictures by the model with the digest ``composed``; and the pictures that could not be read.

    `to_pandas` has a row for each of both, with the reason under ``problem``.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("predictions", "unreadable")

    run: str
    composed: str
    classes: tuple[str, ...]
    n: int
    predictions: tuple[Prediction, ...]
    unreadable: tuple[Unreadable, ...]
    settings: Mapping[str, Any] | None = optional()  # of an additive run that was tuned: those of the model
    explained: Explained | None = optional()  # how the predictions that have a ``why`` were explained

    def to_pandas(self, rows: str | None = None) -> pd.DataFrame:
        """A row per picture: what is predicted, or why it could not be read. rows: only "predictions" or "unreadable"."""
        if rows is not None:
            return super().to_pandas(rows)
        import pandas as pd

        names = ["picture", "predicted", "probability", *(f"p({name})" for name in self.classes), "composed", "problem"]
        return pd.DataFrame([self._row(one) for one in (*self.predictions, *self.unreadable)], columns=names)

    def _row(self, one: object) -> dict[str, object]:
        """A prediction with a column per class, named p(class), and the model's digest; or a picture with its problem."""
        if isinstance(one, Unreadable):
            return {"picture": one.picture, "composed": self.composed, "problem": one.reason}
        assert isinstance(one, Prediction)
        each = {f"p({name})": value for name, value in zip(self.classes, one.probabilities, strict=True)}
        row = {"picture": one.picture, "predicted": one.label, "probability": one.probability}
        return {**row, **each, "composed": self.composed, "problem": ""}

    def __str__(self) -> str:
        told: list[str] = []
        for one in self.predictions:
            told.append(f"{one.picture}: {one.label} ({one.probability:.1%})")
            told += [one.why.told(one.label)] if one.why is not None else []
        bad = [f"{one.picture}: not read, {one.reason}" for one in self.unreadable]
        end = f"{plural(self.n, 'picture')} by the model {self.composed[:16]}"
        end += f" with {settings_text(self.settings)}" if self.settings else ""
        how = [str(self.explained)] if self.explained is not None else []
        return "\n".join([*told, *bad, end + (f"; {len(bad)} could not be read" if bad else ""), *how])

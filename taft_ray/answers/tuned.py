"""The answer of `tune`, and how settings of an additive model are said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.answers.text import columns, duration, facts, paragraphs, short
from taft_ray.counting import plural
from taft_ray.jsonable import optional

_AROUND = 3  # λ below and above the chosen one that a person is shown


@dataclass(frozen=True)
class TunedCandidate(Answer):
    """Some numbers of a row with some weights of the groups, at the λ with the least GCV.

    leave_one_out: accuracy of pictures that are each left out. None: GCV or accuracy could not be told.
    """

    size: int
    weights: Mapping[str, float]
    penalty: float
    gcv: float | None
    degrees_of_freedom: float
    leave_one_out: float | None
    chosen: bool


@dataclass(frozen=True)
class TunedPenalty(Answer):
    """One λ with the chosen numbers and weights. residual: mean |error|² per picture on the pictures themselves."""

    penalty: float
    gcv: float | None
    degrees_of_freedom: float
    residual: float
    chosen: bool


@dataclass(frozen=True)
class TunedKappa(Answer):
    """One factor of the logits. log_loss: mean −log probability of the true class, of pictures that are each left out."""

    kappa: float
    log_loss: float | None
    chosen: bool


@dataclass(frozen=True)
class Tuned(Answer, HasRows):
    """A policy's choice for an additive run's model, and its criteria. settings: None where the policy was given up.

    composed: the digest of the sums that it is of. pictures: in them. left_out: how many were left out, each once.

    features: the numbers of a row. groups: of sites, in the order of the weights.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("candidates", "penalties", "kappas")

    run: str
    composed: str | None
    seconds: float
    pictures: int | None = optional()
    left_out: int | None = optional()
    settings: Mapping[str, Any] | None = optional()
    groups: tuple[str, ...] = optional(())
    features: int | None = optional()
    candidates: tuple[TunedCandidate, ...] = optional(())
    penalties: tuple[TunedPenalty, ...] = optional(())
    kappas: tuple[TunedKappa, ...] = optional(())

    def __str__(self) -> str:
        if self.settings is None:
            return "No settings are chosen any more: λ is that of the least GCV, and κ that of the run."
        told = facts(
            [
                ("model", f"{short(self.composed)} of {plural(self.pictures or 0, 'picture')}"),
                ("chosen", settings_text(self.settings)),
                ("groups", ", ".join(self.groups)),
                ("left out", f"{plural(self.left_out or 0, 'picture')}, one by one"),
                ("took", duration(self.seconds)),
            ]
        )
        return paragraphs(
            told,
            self._candidates(),
            self._penalties(),
            self._kappas(),
            self._ends(),
            "GCV and pictures left out chose, so both flatter what is chosen. No test picture was looked at.",
        )

    def _candidates(self) -> str:
        rows = [
            [
                f"{one.size:,}",
                weights_text(list(one.weights.values())),
                f"{one.penalty:.1e}",
                _number(one.gcv),
                f"{one.degrees_of_freedom:,.0f}",
                None if one.leave_one_out is None else f"{one.leave_one_out:.1%}",
                _mark(one.chosen),
            ]
            for one in self.candidates
        ]
        head = ["numbers", "weights", "λ", "GCV", "degrees of freedom", "leave-one-out accuracy", ""]
        return columns(head, rows, (0, 2, 3, 4, 5))

    def _penalties(self) -> str:
        """The chosen λ with its neighbours: the rest is in --json."""
        at = next(place for place, one in enumerate(self.penalties) if one.chosen)
        rows = [
            [f"{one.penalty:.1e}", _number(one.gcv), f"{one.degrees_of_freedom:,.0f}", _mark(one.chosen)]
            for one in self.penalties[max(0, at - _AROUND) : at + _AROUND + 1]
        ]
        return columns(["λ", "GCV", "degrees of freedom", ""], rows, (0, 1, 2))

    def _kappas(self) -> str:
        rows = [[f"{one.kappa:.3g}", _number(one.log_loss), _mark(one.chosen)] for one in self.kappas]
        return columns(["κ", "leave-one-out log loss", ""], rows, (0, 1))

    def _ends(self) -> str | None:
        """A sentence on what was chosen at the end of its candidates: beyond may be better ones."""
        ends = []
        for name, several in (("λ", [(one.penalty, one.chosen) for one in self.penalties]),
                              ("κ", [(one.kappa, one.chosen) for one in self.kappas])):  # fmt: skip
            values = [value for value, _ in several]
            at = next(value for value, chosen in several if chosen)
            if len(values) > 1 and at in (min(values), max(values)):
                ends.append(name)
        return (
            f"The chosen {' and '.join(ends)} is the last of the candidates; beyond may be better ones."
            if ends
            else None
        )


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in a line."""
    return (
        f"{settings['size']:,} numbers per picture, {weights_text(settings['weights'])}, "
        f"λ = {settings['penalty']:.1e}, κ = {settings['kappa']:.3g}"
    )


def weights_text(weights: Sequence[float]) -> str:
    """Weights of groups, in their order."""
    if all(weight == 1 for weight in weights):
        return "groups alike"
    return f"groups {' '.join(f'{weight:g}' for weight in weights)}"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _mark(chosen: bool) -> str:
    return "chosen" if chosen else ""

"""Answers of studies: `audit`, `sweep`, `reproduce`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.answers.text import columns, duration, facts, listed, paragraphs
from taft_ray.counting import plural, which
from taft_ray.jsonable import optional

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 5  # classes and mistakes that a person is shown
_TRIALS = 10


@dataclass(frozen=True)
class Audit(Answer):
    """The membership-inference attack on what was forgotten. ok: the run does not remember.

    verdict: in a word, and why in a sentence.

    auc, p_value, power: of the strongest target, and how well it sees members.

    control: the same two sets on shards that saw neither.

    left_out: samples that were not examined, by reason.

    recorded: the key under which the answer was kept in the run.
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
    recorded: str | None = optional()

    def __str__(self) -> str:
        verdicts = {
            "remembers": "The run remembers what it was asked to forget.",
            "at chance": "The run does not remember.",
        }
        rows = [
            [
                name,
                f"{one['auc']:.3f}",
                f"{one['p_value']:.2g}",
                f"{one['power']['detects']:.0%}",
                _said(one["remembers"]),
            ]
            for name, one in self.targets.items()
        ]
        told = facts(
            [
                (
                    "compared",
                    f"{plural(self.forgotten, 'forgotten sample')} with {plural(self.never_seen, 'never-seen one')}",
                ),
                ("attacked", which("shard", self.shards)),
                ("level", f"{self.level:g}: how likely a false alarm may be"),
                ("recorded", self.recorded),
            ]
        )
        head = ["attack on", "AUC", "p-value", "members found", "remembers"]
        return paragraphs(
            f"{verdicts.get(self.verdict, 'The attack could not have told.')} {self.why[:1].upper()}{self.why[1:]}.",
            columns(head, rows, (1, 2, 3)),
            "An AUC of 0.5 is chance. Members found: how often samples that are in the model would have been noticed.",
            told,
            listed("Left out:", [f"{reason}: {count:,}" for reason, count in self.left_out.items() if count]),
        )


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

    spec: where the best settings lie, for `train`. as_good_as_best: trials within a standard error of it, itself too.

    forgotten_since: samples forgotten since the trials saw them.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("trials", "refused")

    sweep: str
    objective: str
    held_out: int
    fitted_on: int
    best: Mapping[str, Any]
    standard_error: float
    as_good_as_best: int
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

    def __str__(self) -> str:
        ordered = sorted(self.trials, key=lambda one: -1.0 if one.accuracy is None else -one.accuracy)
        rows = [
            [
                one.number,
                None if one.accuracy is None else f"{one.accuracy:.1%}",
                one.status,
                _settings(one.settings),
                one.error,
            ]
            for one in ordered[:_TRIALS]
        ]
        more = len(ordered) - _TRIALS
        told = facts(
            [
                ("best", f"trial {self.best['number']}, {self.best['accuracy']:.1%} ± {self.standard_error:.1%}"),
                ("settings", _settings(self.best["settings"])),
                ("as good", self._as_good()),
                ("measured", f"on {plural(self.held_out, 'held-out picture')}, fitted on {self.fitted_on:,}"),
                ("took", duration(self.seconds)),
                ("spec", f"{self.spec} (taft-ray train --spec)"),
                ("page", self.page),
                ("table", self.table),
            ]
        )
        return paragraphs(
            told,
            columns(["trial", "accuracy", "state", "settings", "error"], rows, (0, 1)),
            f"and {plural(more, 'trial')} more; the table has all" if more > 0 else None,
            listed("Not tried:", [f"{_settings(one['settings'])}: {one['reason']}" for one in self.refused]),
            self._outdated(),
        )

    def _as_good(self) -> str | None:
        others = self.as_good_as_best - 1
        return f"{plural(others, 'other trial')}, within one standard error of the best" if others > 0 else None

    def _outdated(self) -> str | None:
        """A sentence on sweeps that saw what was forgotten since."""
        told = []
        if self.forgotten_since:
            told.append(
                f"{plural(self.forgotten_since, 'sample was', 'samples were')} forgotten since the trials saw them."
            )
        if self.stale_sweeps:
            told.append(f"Out of date, for they saw forgotten samples: {which('sweep', self.stale_sweeps)}.")
        return " ".join(told) or None


@dataclass(frozen=True)
class Reproduced(Answer, HasRows):
    """A table of the paper on given data; or, with ``ok``, cells that were measured once more.

    rows: by a row's name its values, by a column's. cells: how many there are; with ``ok`` each that was measured again.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("rows", "cells")

    table: str
    cells: Any
    rows: Mapping[str, Any] | None = optional()
    made: int | None = optional()
    files: tuple[str, ...] | None = optional()
    ok: bool | None = optional()

    def to_pandas(self, rows: str | None = None) -> pd.DataFrame:
        """A row per row of the table, with its name under ``row``; or per cell that was measured again."""
        import pandas as pd

        wanted = rows or ("rows" if self.rows is not None else "cells")
        if wanted == "rows":
            return pd.DataFrame([{"row": name, **values} for name, values in (self.rows or {}).items()])
        if wanted == "cells":
            return pd.DataFrame(self.cells if isinstance(self.cells, list | tuple) else [])
        return super().to_pandas(wanted)

    def __str__(self) -> str:
        if self.rows is None:
            return self._again()
        names = list(dict.fromkeys(name for values in self.rows.values() for name in values))
        rows = [[row, *(_number(values.get(name)) for name in names)] for row, values in self.rows.items()]
        made = f"{plural(int(self.cells), 'cell')}, {self.made or 0:,} of them measured now"
        return paragraphs(
            f"{self.table}: {made}.",
            columns(["row", *names], rows, range(1, len(names) + 1)),
            listed("Files:", self.files or ()),
        )

    def _again(self) -> str:
        """Cells that were measured once more."""
        rows = [
            [str(one["cell"])[:12], _number(one["accuracy"]), _number(one.get("before")), _said(one.get("same"))]
            for one in self.cells
        ]
        new = sum(one.get("same") is None for one in self.cells)
        kept = "Every cell is what it was." if self.ok else "Some cell has another accuracy than before."
        lacking = f"OUT had no earlier number of {plural(new, 'cell')}; compare with the CSV that has the digest."
        verdict = [kept] * (new < len(rows)) + [lacking] * (new > 0)
        return paragraphs(
            " ".join([f"{self.table}, by its cells.", *verdict]), columns(["cell", "now", "before", "same"], rows)
        )


def _said(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _number(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_number(one)}" for name, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else value


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_number(value)}" for name, value in settings.items()) or "as the run"

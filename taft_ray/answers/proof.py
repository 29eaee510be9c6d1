"""Answers of checks: `verify`, of a run and of a certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taft_ray.answers.answer import Answer
from taft_ray.answers.text import columns, facts, listed, paragraphs
from taft_ray.counting import plural
from taft_ray.jsonable import optional


@dataclass(frozen=True)
class Verification(Answer):
    """The checks of a run from storage alone. ok: nothing is wrong. checks: how much each check looked at.

    head: the digest of the newest ledger entry; kept elsewhere, it lets a later `verify` see that entries were cut off.

    recorded: the key under which the answer was kept in the run.
    """

    ok: bool
    checks: Mapping[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    forgotten_samples: int | None
    head: str | None
    recorded: str | None = optional()

    def __str__(self) -> str:
        verdict = "The run is as its ledger says: no problem was found."
        if self.problems:
            verdict = f"{plural(len(self.problems), 'problem was', 'problems were')} found."
        told = facts(
            [
                ("forgotten", self._forgotten()),
                (
                    "head",
                    self.head and f"{self.head} (kept elsewhere, verify --head sees later that entries were cut off)",
                ),
                ("recorded", self.recorded),
            ]
        )
        wrong = listed("Problems:", self.problems)
        repair = "taft-ray repair makes again what can be made again." if self.problems else None
        return paragraphs(verdict, wrong, _looked_at(self.checks), told, listed("Notes:", self.notes), repair)

    def _forgotten(self) -> str | None:
        return None if self.forgotten_samples is None else plural(self.forgotten_samples, "sample")


@dataclass(frozen=True)
class CertificateVerification(Answer):
    """The checks of a certificate's file, by itself and against its run. signed_by: the fingerprint of the key.

    run: the address that it was compared with, None where there was none.
    """

    ok: bool
    checks: Mapping[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    request: str | None
    digest: str | None
    signed_by: str | None
    run: str | None

    def __str__(self) -> str:
        verdict = "The certificate holds: no problem was found."
        if self.problems:
            verdict = (
                f"The certificate does not hold: {plural(len(self.problems), 'problem was', 'problems were')} found."
            )
        told = facts(
            [
                ("request", self.request),
                ("digest", self.digest),
                ("signed by", self.signed_by or "nobody"),
                ("run", self.run or "not compared with one"),
            ]
        )
        return paragraphs(
            verdict, listed("Problems:", self.problems), told, _looked_at(self.checks), listed("Notes:", self.notes)
        )


def _looked_at(checks: Mapping[str, int]) -> str | None:
    """A table of the checks."""
    return (
        columns(["checked", "how many"], [[name, f"{count:,}"] for name, count in checks.items()], (1,))
        if checks
        else None
    )

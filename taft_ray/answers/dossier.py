"""The answer of `dossier`: the folder that was written, and what could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taft_ray.answers.answer import Answer
from taft_ray.answers.text import facts, listed, paragraphs
from taft_ray.counting import plural
from taft_ray.jsonable import optional


@dataclass(frozen=True)
class Dossier(Answer):
    """A folder about a run. ok: everything could be read, and no problem was found.

    digest: SHA-256 of its dossier.json. pdf: {"file"}, or {"left_out"} with the reason.

    not_read: what could not be read. problems: what `verify` found.
    """

    run: str
    folder: str
    ok: bool
    digest: str
    files: tuple[str, ...]
    pdf: Mapping[str, Any]
    requests: int
    certificates: int
    not_read: tuple[str, ...]
    problems: tuple[str, ...]
    release: str | None = optional()  # its name in the run's register
    registered: bool | None = optional()  # False: the ledger could not be written, and the dossier says so

    def __str__(self) -> str:
        told = facts(
            [
                ("folder", f"{self.folder}, {plural(len(self.files), 'file')}"),
                ("requests", f"{self.requests:,}, {self.certificates:,} of them with a certificate"),
                ("pdf", self.pdf.get("file") or f"left out: {self.pdf.get('left_out')}"),
                ("sha256", f"{self.digest} (of dossier.json)"),
                (
                    "release",
                    "NOT registered: the ledger could not be written" if self.registered is False else self.release,
                ),
            ]
        )
        return paragraphs(
            told, listed("Could not be read:", self.not_read), listed("Problems of the run:", self.problems)
        )

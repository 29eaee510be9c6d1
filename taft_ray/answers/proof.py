"""Answers of checks: `verify`, of a run and of a certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taft_ray.answers.answer import Answer


@dataclass(frozen=True)
class Verification(Answer):
    """The checks of a run from storage alone. ok: nothing is wrong. checks: how much each check looked at.

    head: the digest of the newest ledger entry; kept elsewhere, it lets a later `verify` see that entries were cut off.
    """

    ok: bool
    checks: Mapping[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    forgotten_samples: int | None
    head: str | None


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

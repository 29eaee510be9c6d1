"""The parts of a run that `verify` has read so far, and what it found wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from taft_ray.errors import IntegrityError, ObjectMissing, TaftError
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.privacy import PublicKey
from taft_ray.progress import Report, silent
from taft_ray.storage import MALFORMED, Entry, Manifest, Store

_SHOWN = 100  # names in one problem


def named(keys: Sequence[str]) -> str:
    """Keys in a problem, with commas; of very many the first."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


@dataclass(kw_only=True)
class Findings:
    """The findings of checks: how much each looked at, what is wrong, and what a reader should know although nothing is wrong."""

    checks: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)  # shards of which an object is

    @contextmanager
    def examining(self, what: str, shard: int | None = None) -> Iterator[None]:
        """An error inside is a problem of ``what``, and of ``shard``; the next object is looked at all the same."""
        try:
            yield
        except TaftError as error:
            self.problems.append(f"{what}: {error}")
            if shard is not None and isinstance(error, IntegrityError | ObjectMissing):
                self.damaged.add(shard)
        except MALFORMED as error:  # its digests are right, its fields are not: somebody wrote it who could seal it
            self.problems.append(
                f"{what}: a record has not the fields it should have ({type(error).__name__}: {error})"
            )

    def answer(self) -> dict[str, Any]:
        return {"ok": not self.problems, "checks": self.checks, "problems": self.problems, "notes": self.notes}


@dataclass(kw_only=True)
class Evidence(Findings):
    """A run as its storage shows it. Each check reads its part, and leaves here what later ones stand on."""

    address: str
    store: Store
    spec: RunSpec
    report: Report = silent
    public_keys: Sequence[PublicKey] = ()  # of which one must have signed each certificate; none: not asked
    entries: Sequence[Entry] = ()
    state: RunState = field(default_factory=RunState)
    sizes: Mapping[str, int] = field(default_factory=dict)  # every object listed: key -> bytes
    manifest: Manifest | None = None
    sums: Mapping[str, np.ndarray] | None = None  # of an additive run: those of its rows; None while they are not known
    snapshots: Mapping[str, str] | None = None  # what the deltas compose to: key -> digest; None while it is not known

    @property
    def parts(self) -> Mapping[str, list[dict[str, Any]]]:
        """The manifest's cache parts, by shard."""
        return {} if self.manifest is None else self.manifest.parts

"""`verify` of recorded outcomes: each is whole, and of an entry that the ledger still has."""

from __future__ import annotations

from taft_ray.errors import IntegrityError
from taft_ray.proof.evidence import Evidence
from taft_ray.run.outcomes import read_outcome
from taft_ray.storage.rundir import OUTCOMES_FOLDER, outcome_of


def outcomes(run: Evidence) -> None:
    """An outcome of an entry that is not there tells that the newest entries were cut off, as `verify --head` does."""
    keys = [key for key in run.sizes if key.startswith(f"{OUTCOMES_FOLDER}/") and outcome_of(key) is not None]
    for key in keys:
        with run.examining("outcomes"):
            made = read_outcome(run.store, key)
            there = run.entries[made.number].digest if made.number < len(run.entries) else "nothing"
            if there != made.head:
                raise IntegrityError(
                    f"{key} is of ledger entry {made.number} with digest {made.head[:16]}, and the ledger has {there[:16]} there: "
                    "the newest entries were removed, or it is another run's. Restore the ledger, or remove the outcome"
                )
    if keys:
        run.checks["outcomes"] = len(keys)

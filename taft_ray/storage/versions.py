"""What removing an object for good took."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """`versions`: older versions and delete markers removed. `beyond`: what could not be reached and why, or None."""

    versions: int = 0
    beyond: str | None = None

"""Counted and listed things in sentences."""

from __future__ import annotations

from collections.abc import Sequence


def plural(count: int, one: str, many: str | None = None) -> str:
    """A number and what it counts: 1 sample, 2 samples. many: the words for several, where an s is not enough."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def which(word: str, names: Sequence[object], most: int = 8) -> str:
    """Names with a word for their kind: shard 0, shards 0 and 4, shards 0, 1, 2 and 5 more."""
    shown = [str(name) for name in names[:most]]
    if len(names) > most:
        return f"{word}s {', '.join(shown)} and {len(names) - most:,} more"
    if len(shown) < 2:
        return f"{word} {shown[0]}" if shown else f"no {word}"
    return f"{word}s {', '.join(shown[:-1])} and {shown[-1]}"


def are(count: int) -> str:
    """Gives the verb that goes with so many."""
    return "is" if count == 1 else "are"

"""The name of a published data set: which it is, where it lies, and which split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from taft_ray.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Named:
    """``<dataset>:<place>[?split=<split>]``."""

    dataset: str
    place: str
    split: str | None

    @classmethod
    def parse(cls, uri: str) -> Named:
        """UsageError for what is no such name."""
        dataset, _, rest = uri.partition(":")
        place, _, query = rest.rpartition("?") if "?split=" in rest else (rest, "", "")
        options = dict(parse_qsl(query, keep_blank_values=True))
        if not place or options.keys() - {"split"} or options.get("split") == "":
            raise UsageError(f"{uri!r}: expected {dataset}:<path or URI>, perhaps with ?split=<name> behind it")
        return cls(dataset=dataset, place=place, split=options.get("split"))

    def at(self, resolve: Callable[[str], str]) -> Named:
        """The same at another name of its place."""
        return replace(self, place=resolve(self.place))

    def __str__(self) -> str:
        return f"{self.dataset}:{self.place}" + (f"?split={self.split}" if self.split is not None else "")

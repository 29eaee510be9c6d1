"""The parts of which every fact of the ledger is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from taft_ray.jsonable import JsonObject


@dataclass(frozen=True)
class ObjectRef(JsonObject):
    """An object of storage, and what it must be."""

    key: str
    digest: str


@dataclass(frozen=True)
class Removed(JsonObject):
    """An object that was, or is to be, removed. digest: None where no record had it."""

    key: str
    digest: str | None


@dataclass(frozen=True)
class Damage(JsonObject):
    """An object that is not what it must be."""

    key: str
    problem: str


@dataclass(frozen=True)
class Fact(JsonObject):
    """The body of a ledger entry."""

    KIND: ClassVar[str]

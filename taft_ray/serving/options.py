"""Options of a serving, and the models in its pool: what a command line, a manifest or Python says. Needs neither torch nor ray."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from urllib.parse import parse_qsl

from taft_ray.additive.options import ADDITIVE
from taft_ray.errors import UsageError
from taft_ray.jsonable import JsonObject, optional
from taft_ray.run.address import run_address
from taft_ray.sums.options import COMPOSITIONS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ASKED = ("owners", "compose")
MODES = (*COMPOSITIONS, ADDITIVE)


@dataclass(frozen=True)
class Source(JsonObject):
    """A model of the pool. name: in addresses of requests. run: its address. compose: None is the run's own composition.

    owners: of an additive run, the model of these owners' pictures alone; empty is everybody's.
    """

    name: str
    run: str
    compose: str | None = optional()
    owners: tuple[str, ...] = optional(())


@dataclass(frozen=True)
class ServingOptions(JsonObject):
    """How models are served. Times in seconds.

    replicas: processes that answer. cpus, gpus: of each; as its runs need them by default. gateways: processes that take
    requests, check and pass them on.

    lease: a replica that could not read the ledger's head for that long answers 503. poll: between two looks at it.

    drain: an answer is handed over within that time of its question to a replica, or never.

    max_bytes, max_pictures: of a request. max_pixels: of a picture. max_batch: requests that are computed together.

    batch_wait: the first of them waits for others so long. max_queued: requests that wait in a gateway; others get a 503.

    tokens: SHA-256 of each token that is let in, as hex; without any, only callers on this machine are.
    """

    replicas: int = 1
    cpus: float | None = None
    gpus: float | None = None
    gateways: int = 1
    lease: float = 5.0
    drain: float = 5.0
    poll: float = 0.25
    max_bytes: int = 32 << 20
    max_pictures: int = 64
    max_pixels: int = 89_478_485
    max_batch: int = 16
    batch_wait: float = 0.002
    max_queued: int = 256
    tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("replicas", 1), ("gateways", 1), ("max_bytes", 1), ("max_pictures", 1), ("max_pixels", 1),
                            ("max_batch", 1), ("max_queued", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise UsageError(
                    f"expected {name} >= {least}, got {getattr(self, name)}; set --{name.replace('_', '-')}"
                )
        for name in ("lease", "drain", "poll"):
            if not 0 < getattr(self, name) < 86_400:
                raise UsageError(f"expected 0 < {name} < 86,400 seconds, got {getattr(self, name)}; set --{name}")
        if self.poll > self.lease / 2:
            raise UsageError(f"expected poll <= lease / 2, got {self.poll} and {self.lease}; set --poll or --lease")

    @classmethod
    def of(cls, values: Mapping[str, object]) -> ServingOptions:
        """The options with these names; UsageError for another name."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise UsageError(
                f"unknown options of a serving: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        return cls(**values)  # type: ignore[arg-type]  # the names are checked, and a wrong type fails a comparison


def sources_of(runs: Sequence[str], *, compose: str | None = None, owners: Sequence[str] = ()) -> tuple[Source, ...]:
    """The models that a command names, each as [NAME=]RUN[?owners=A,B&compose=MODE].

    compose, owners: of those that say nothing else. A name is by default the last part of the run's address. UsageError for two
    models of one name.
    """
    if not runs:
        raise UsageError("no run to serve was given; give the folder or URI of one")
    found = [_source(text, compose, tuple(owners)) for text in runs]
    names = [source.name for source in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two models are named {', '.join(twice)}; give each a name, as in NAME=RUN")
    return tuple(found)


def _source(text: str, compose: str | None, owners: tuple[str, ...]) -> Source:
    address, _, asked = text.partition("?")
    name, equals, rest = address.partition("=")
    if equals and _NAME.fullmatch(name):
        address = rest
    else:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", address.rstrip("/").rpartition("/")[2]).strip("-._") or "model"
    said = dict(parse_qsl(asked, keep_blank_values=True))
    if unknown := sorted(said.keys() - set(_ASKED)):
        raise UsageError(f"{text}: {', '.join(unknown)} is not known behind a run; give {' or '.join(_ASKED)}")
    source = Source(name, run_address(address), said.get("compose", compose), owners)
    if "owners" in said:
        source = replace(source, owners=tuple(one for one in said["owners"].split(",") if one))
    if source.compose is not None and source.compose not in MODES:
        raise UsageError(f"compose={source.compose!r}: expected one of {', '.join(MODES)}")
    if source.owners and source.compose not in (None, ADDITIVE):
        raise UsageError(
            f"compose={source.compose!r}: the model of some owners alone is the additive one; leave it out"
        )
    if not _NAME.fullmatch(source.name):
        raise UsageError(f"{source.name!r} cannot name a model; give another, as in NAME=RUN")
    return source

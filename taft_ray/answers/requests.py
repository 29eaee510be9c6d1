"""Answers to requests to forget: estimates, promises and certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taft_ray.answers.answer import Answer, lines
from taft_ray.jsonable import optional

ADDED = ("signature", "repeated", "forgotten_before", "signed_too")
"""Fields of an answer that are not part of the certificate, its digest and its signature."""


@dataclass(frozen=True)
class Estimate(Answer):
    """The reach and cost of a forget; or, with ``already_forgotten``, the request that answers it.

    seconds: None where nothing was measured yet. cost: in the currency of ``gpu_hour_price``.
    identical_that_stay: samples of the same bytes that the request does not name.
    """

    mode: str
    samples_to_forget: int | None = optional()
    shards: tuple[int, ...] | None = optional()
    samples_to_retrain: int | None = optional()
    seconds: float | None = None
    bytes_to_purge: int | None = optional()
    gpu_hour_price: float | None = None
    cost: float | None = None
    identical_that_stay: int | None = optional()
    already_forgotten: bool | None = optional()
    request: str | None = optional()

    def to_json(self) -> dict[str, Any]:
        told = super().to_json()
        if self.request is not None:  # nothing would be touched
            for name in ("seconds", "gpu_hour_price", "cost"):
                told.pop(name, None)
        return told


@dataclass(frozen=True)
class EarlierRequest(Answer):
    """A request that answered for some of the ids before."""

    request: str
    mode: str
    samples: int
    done: bool


@dataclass(frozen=True)
class Promise(Answer):
    """A request that waits. Its samples are tombstones already. runs_at, deadline: ISO 8601, UTC."""

    request: str
    mode: str
    waiting: bool
    runs_with: tuple[str, ...]
    runs_at: str
    deadline: str
    forgotten_before: tuple[EarlierRequest, ...] | None = optional()


@dataclass(frozen=True)
class Step(Answer):
    """A step of a request: the ledger entry that committed it."""

    step: str
    number: int
    digest: str
    time: str


@dataclass(frozen=True)
class Refitted(Answer):
    """A shard that was fitted again without the samples. delta: where it lies and its digest."""

    shard: int
    generation: int
    samples: int
    delta: Mapping[str, Any]
    facts: Mapping[str, Any]


_SHOWN = (
    "request", "mode", "samples", "shards", "shards_after", "composed_after", "seconds", "cost", "does_not_cover",
)  # fmt: skip


@dataclass(frozen=True)
class Certificate(Answer):
    """The samples forgotten, the objects removed for it, and the model after it; sealed by ``digest``.

    signature: Ed25519 over the certificate's bytes, where it was signed. repeated: nothing was left to forget, and this is
    the certificate of then. forgotten_before: the requests that answered for some of the ids before.

    carried_out_with: other requests whose time came with this one, each with a certificate of its own.

    signed_too: those of them that were signed with this one's key.
    """

    schema: str
    request: str
    mode: str
    requested: str
    deadline: float | None
    issued: str
    samples: int
    id_hashes: tuple[str, ...]
    owners: tuple[str, ...]
    whole_shards: tuple[int, ...]
    shards: tuple[int, ...]
    run: Mapping[str, str]
    rests_on: Mapping[str, Any]
    steps: tuple[Step, ...]
    composed_before: str | None
    composed_after: str | None
    composition: str
    manifest_before: str | None
    manifest_after: str | None
    deltas_removed: tuple[Mapping[str, Any], ...]
    objects_removed: tuple[Mapping[str, Any], ...]
    older_versions_removed: int
    still_listed_after_purge: tuple[str, ...]
    beyond_reach: tuple[str, ...]
    local_copies_removed: Mapping[str, Any] | None
    retrained: tuple[Refitted, ...]
    shards_after: tuple[Mapping[str, Any], ...]
    seconds: Mapping[str, float | None]
    cost: Mapping[str, float | None]
    environment: Mapping[str, Any]
    does_not_cover: tuple[str, ...]
    digest: str
    composed_before_unknown: str | None = optional()
    damage: Mapping[str, Any] | None = optional()
    signature: Mapping[str, Any] | None = optional()
    repeated: bool | None = optional()
    forgotten_before: tuple[EarlierRequest, ...] | None = optional()
    carried_out_with: tuple[str, ...] = optional(())
    signed_too: tuple[str, ...] | None = optional()

    @property
    def address(self) -> str:
        """Where the certificate lies."""
        from taft_ray.storage import canonical_json, digest_bytes
        from taft_ray.storage.rundir import certificate_key

        data = canonical_json({name: value for name, value in self.to_json().items() if name not in ADDED})
        return f"{self.run['address']}/{certificate_key(self.request, digest_bytes(data))}"

    def __str__(self) -> str:
        """The outcome of the request, and where the whole certificate lies."""
        told = self.to_json()
        shown: dict[str, Any] = {}
        if self.repeated:
            shown["done_before"] = f"nothing was left to forget; this is what was certified then, by mode {self.mode}"
        if self.forgotten_before:
            shown["forgotten_before"] = told["forgotten_before"]
        if self.carried_out_with:
            shown["carried_out_with"] = list(self.carried_out_with)
        if self.signed_too is not None:
            unsigned = sorted(set(self.carried_out_with) - set(self.signed_too))
            shown["signed_too"] = list(self.signed_too)
            shown |= {"not_signed": unsigned} if unsigned else {}
        shown |= {name: told[name] for name in _SHOWN}
        out = [one["shard"] for one in self.shards_after if one["state"] == "dropped"]
        if out:
            shown["out_of_the_model"] = f"shards {out}, until the same is asked with mode retrain"
        return "\n".join(lines({**shown, "certificate": self.address}))


@dataclass(frozen=True)
class Due(Answer):
    """The certificates of the requests that were carried out because their time had come."""

    certificates: tuple[Certificate, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.certificates)) or "no request's time has come"

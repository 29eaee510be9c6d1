"""Certificates, the answers to requests that were carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taft_ray.answers.answer import Answer
from taft_ray.answers.requests import EarlierRequest, Waiting
from taft_ray.answers.text import duration, facts, listed, moment, paragraphs, short, written_moment
from taft_ray.counting import plural, which
from taft_ray.evaluation.notation import timed_step
from taft_ray.jsonable import optional

ADDED = ("signature", "repeated", "forgotten_before", "signed_too")
"""Fields of an answer that are not part of the certificate, its digest and its signature."""


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


@dataclass(frozen=True)
class BroughtBack(Answer):
    """An earlier drop, and those of its shards that are in the model again, without the drop's samples."""

    request: str
    samples: int
    id_hashes: tuple[str, ...]
    shards: tuple[int, ...]

    def __str__(self) -> str:
        return f"{which('shard', self.shards)}, without what request {self.request} forgot ({plural(self.samples, 'sample')})"


@dataclass(frozen=True)
class OutsideRelease(Answer):
    """A release that holds what was forgotten, and had not expired. notified: whether its recall had been told by then."""

    release: str
    what: str
    digest: str
    to: str | None
    until: float | None
    notified: bool

    def __str__(self) -> str:
        to = f" to {self.to}" if self.to else ""
        until = f", until {moment(self.until)}" if self.until else ""
        told = "its recall had been told by then" if self.notified else "its recall had not been told by then"
        return f"{self.what} {self.release}{to}{until} (sha256 {short(self.digest)}); {told}"


@dataclass(frozen=True)
class Withdrawal(Answer):
    """A model that replicas answered with before the request, and do no more. number: of the ledger entry that did it.

    acknowledged: replicas that said so. lapsed: those that did not, whose lease has ended. Times in seconds.
    """

    request: str
    serving: str
    digest: str
    number: int
    acknowledged: tuple[str, ...]
    lapsed: tuple[str, ...]
    lease: float
    drain: float
    waited: float

    def __str__(self) -> str:
        told = f"{short(self.digest)}, {plural(len(self.acknowledged), 'replica')} acknowledged"
        told += f", the lease of {plural(len(self.lapsed), 'replica')} has ended" if self.lapsed else ""
        return f"{told}; {duration(self.waited)} after ledger entry {self.number}"


@dataclass(frozen=True)
class Certificate(Answer):
    """The samples forgotten, the objects removed for it, and the model after it; sealed by ``digest``.

    samples: those that nobody had forgotten before; 0 where a request only brought dropped shards back.

    brought_back: the drops whose shards it brought back.

    signature: Ed25519 over the certificate's bytes, where it was signed.

    repeated: nothing was left to forget, and this is the certificate of then.

    forgotten_before: the requests that answered for some of the ids before.

    beside: of a run of two tiers, how its deltas are composed and the digest of that after it.

    privacy: of a private run, what is exact and towards whom, what (ε, δ) remains, and what the fits cost those who stay.

    outside: the releases that hold what was forgotten, and had not expired; None in a run that had released nothing.

    publication: of a run with a release gate, whether the model after the request is held back, and until what.

    withdrawn: of a run that was served, the models that no replica answers with any more.

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
    beside: Mapping[str, Any] | None = optional()
    privacy: Mapping[str, Any] | None = optional()
    composed_before_unknown: str | None = optional()
    damage: Mapping[str, Any] | None = optional()
    brought_back: tuple[BroughtBack, ...] | None = optional()
    outside: tuple[OutsideRelease, ...] | None = optional()
    publication: Mapping[str, Any] | None = optional()
    withdrawn: tuple[Withdrawal, ...] | None = optional()
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
        title = self._title()
        if self.repeated:
            title = f"Nothing was left to forget. This was certified on {written_moment(self.issued)}: {title}"
        told = facts(
            [
                ("request", f"{self.request}, made {written_moment(self.requested)}"),
                ("deadline", moment(self.deadline)),
                *(("came back", str(one)) for one in self.brought_back or ()),
                ("removed", self._removed()),
                *self._shards(),
                ("model", self._model()),
                ("beside it", self._beside()),
                *(("served no more", str(one)) for one in self.withdrawn or ()),
                ("privacy", self._privacy()),
                ("took", self._took()),
                ("cost", self._cost()),
                ("signed", None if self.signature is None else "yes, the signature is in the ledger"),
                ("certificate", self.address),
                (
                    "as a page",
                    f"taft-ray report {self.run['address']} writes it: reports/certificate-{self.request}.html",
                ),
            ]
        )
        notes = [str(one) for one in self.forgotten_before or ()] + self._others()
        notes += [f"still listed after its removal: {key}" for key in self.still_listed_after_purge]
        notes += [f"beyond reach: {one}" for one in self.beyond_reach]
        still = listed(
            f"Still outside, and holding what was forgotten (taft-ray recalls {self.run['address']}):",
            [str(one) for one in self.outside or ()],
        )
        return paragraphs(
            title, told, *notes, still, self._publication(), listed("It does not cover:", self.does_not_cover)
        )

    def _publication(self) -> str | None:
        if self.publication is None or not self.publication["held"]:
            return None
        return (
            f"Publication of the model after this request is held until {self.publication['until']}. The release gate asks for "
            f"{self.publication['gate']} since release {self.publication['since']}."
        )

    def _title(self) -> str:
        if self.samples:
            return f"Forgot {plural(self.samples, 'sample')} of {which('shard', self.shards)} by {self.mode}."
        fitted = [one.shard for one in self.retrained]
        back = f" {which('shard', fitted).capitalize()} came back by {self.mode}, without them." if fitted else ""
        return f"Every sample that was named had been forgotten before.{back}"

    def _removed(self) -> str:
        """The objects that saw the samples; the list of samples, which saw no picture, is told apart."""
        lists = sum(one["key"].startswith("manifest/") for one in self.objects_removed)
        older = [plural(self.older_versions_removed, "older version")] if self.older_versions_removed else []
        if not self.samples:  # what saw the samples went with the requests that forgot them
            return "; ".join([f"{plural(len(self.objects_removed), 'object')} out of date", *older])
        objects = len(self.objects_removed) - lists
        # a subtraction replaces records of shards that stay, so that none of its deltas left the model
        deltas = max(len(self.deltas_removed), sum(one["key"].startswith("deltas/") for one in self.objects_removed))
        named = ["the list of samples that named them"] if lists else []
        saw = f"{plural(objects, 'object')} that saw the samples, {plural(deltas, 'delta')} among them"
        return "; ".join([saw, *named, *older])

    def _shards(self) -> list[tuple[str, str]]:
        """A line per shard: what it is now, and how far from its optimum where it was solved again."""
        fits = {one.shard: one for one in self.retrained}
        return [(f"shard {one['shard']}", _after(one, fits.get(one["shard"]))) for one in self.shards_after]

    def _model(self) -> str:
        if self.composed_after is None:
            return "no shard is in it any more"
        before = f", before the request {short(self.composed_before)}" if self.composed_before else ""
        return f"{short(self.composed_after)}{before}"

    def _beside(self) -> str | None:
        if self.beside is None:
            return None
        composed = self.beside["composed_after"]
        return f"{self.beside['composition']} composition {short(composed) if composed else 'of no shard'}"

    def _privacy(self) -> str | None:
        if self.privacy is None:
            return None
        left = self.privacy["remains"]
        charged = [one for one in self.privacy["neighbours"] if one["epsilon_after"] > one["epsilon_before"]]
        cost = f"; those who stay now have ε = {max(one['epsilon_after'] for one in charged):.3g}" if charged else ""
        return (
            f"exact towards {self.privacy['exact_towards']}; ε = {left['epsilon']:.3g} at δ = {left['delta']:g} "
            f"towards {left['towards']}{cost}"
        )

    def _took(self) -> str | None:
        total = self.seconds.get("total")
        steps = [(name, seconds) for name, seconds in self.seconds.items() if name != "total" and seconds is not None]
        if total is None:
            return None
        rest = total - sum(seconds for _, seconds in steps)
        steps += [("the rest", rest)] if rest > total / 100 else []
        return f"{duration(total)}: " + ", ".join(f"{timed_step(self.mode, step)} {duration(s)}" for step, s in steps)

    def _cost(self) -> str | None:
        money, price = self.cost.get("money"), self.cost.get("price_per_hour")
        return None if money is None or price is None else f"{money:.4g} for the fits, at {price:g} per worker hour"

    def _others(self) -> list[str]:
        """Sentences on the requests that were carried out with this one."""
        if not self.carried_out_with:
            return []
        told = [f"Carried out with {which('request', self.carried_out_with)}; each has its own certificate."]
        if self.signed_too is not None:
            unsigned = sorted(set(self.carried_out_with) - set(self.signed_too))
            told += [f"Signed too: {which('request', self.signed_too)}."] if self.signed_too else []
            told += [f"Not signed by this key: {which('request', unsigned)}."] if unsigned else []
        return told


def _after(shard: Mapping[str, Any], fit: Refitted | None) -> str:
    """A request's shard as it is now."""
    samples, state = plural(shard["samples"], "sample"), shard["state"]
    if state == "dropped":
        return f"out of the model with its {samples}, until the same is asked with --mode retrain"
    if state == "quarantined":
        return f"in quarantine, out of the model with its {samples}; taft-ray status says what brings it back"
    if state == "empty" or fit is None:
        return "empty: no sample is left" if state == "empty" else f"in the model with {samples}"
    how = "solved again" if fit.facts.get("resolved") else "fitted again"
    bound, norm = fit.facts.get("distance_bound"), fit.facts.get("norm")
    if bound is None:
        return f"{how} on {samples}"
    part = f" ({bound / norm:.2%} of its size)" if norm else ""
    if not fit.facts.get("resolved"):  # how far the solver went: nothing of what left is in it
        return f"{how} on {samples} from nothing; the solver stopped within {bound:.3g} of its optimum{part}"
    return f"{how} on {samples}, certified within {bound:.3g} of its optimum{part}"


@dataclass(frozen=True)
class Late(Answer):
    """A request whose deadline had passed. deadline: unix seconds. carried_out: whether it has its certificate now."""

    request: str
    deadline: float
    carried_out: bool

    def __str__(self) -> str:
        now = "carried out now" if self.carried_out else "not carried out yet"
        return f"late: the deadline of request {self.request} was {moment(self.deadline)}; it is {now}"


@dataclass(frozen=True)
class Due(Answer):
    """The certificates of the requests that were carried out because their time had come. ok: none of them was late.

    to_do: what somebody has to run besides, such as once the date for the key of the id hashes has passed.

    waiting: the requests whose time has not come, the next one first.
    """

    certificates: tuple[Certificate, ...]
    ok: bool = optional(True)
    late: tuple[Late, ...] = optional(())
    to_do: tuple[str, ...] = optional(())
    waiting: tuple[Waiting, ...] = optional(())

    def __str__(self) -> str:
        done = [str(one) for one in self.certificates] or ["No request's time has come; nothing was to be done."]
        told = [*done, *map(str, self.late), *self._next(), *(f"to do: {one}" for one in self.to_do)]
        return "\n\n".join(told)

    def _next(self) -> list[str]:
        """How many requests wait, and which begins first."""
        if not self.waiting:
            return []
        count = len(self.waiting)
        how = "request waits" if count == 1 else "requests wait. The next one"
        return [f"{count:,} {how}: {self.waiting[0]}."]

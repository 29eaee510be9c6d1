"""Answers to requests to forget that are not carried out: estimates and promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taft_ray.answers.answer import Answer
from taft_ray.answers.text import duration, facts, listed, paragraphs, size, written_moment
from taft_ray.counting import are, plural, which
from taft_ray.jsonable import optional


@dataclass(frozen=True)
class Waiting(Answer):
    """A request that waits, and how many of the samples it will forget. runs_at, deadline: ISO 8601, UTC."""

    request: str
    samples: int
    runs_at: str
    deadline: str

    def __str__(self) -> str:
        """One sentence."""
        return (
            f"{plural(self.samples, 'sample')} in request {self.request}, which begins {written_moment(self.runs_at)} "
            f"for the deadline {written_moment(self.deadline)}"
        )


@dataclass(frozen=True)
class Estimate(Answer):
    """The reach and cost of a forget; or, with ``already_forgotten``, the request that answers it.

    seconds: of the fits, and of removing as ``earlier_forgets`` took for it (median); None where no fit was measured yet.

    seconds_besides: what earlier forgets with a fit took besides (median), such as the start of Ray.

    cost: of the fits, in the currency of ``gpu_hour_price``.

    identical_that_stay: samples of the same bytes that the request does not name.

    waiting: requests with a deadline that would forget some of the samples.

    privacy: of a private run, ε of each shard that is fitted again, before and after; those who stay are charged.
    """

    mode: str
    samples_to_forget: int | None = optional()
    shards: tuple[int, ...] | None = optional()
    samples_to_retrain: int | None = optional()
    seconds: float | None = None
    bytes_to_purge: int | None = optional()
    gpu_hour_price: float | None = None
    cost: float | None = None
    earlier_forgets: int = optional(0)
    identical_that_stay: int | None = optional()
    already_forgotten: bool | None = optional()
    request: str | None = optional()
    seconds_besides: float | None = optional()
    waiting: tuple[Waiting, ...] | None = optional()
    privacy: Mapping[str, Any] | None = optional()

    def to_json(self) -> dict[str, Any]:
        told = super().to_json()
        if self.request is not None:  # nothing would be touched
            for name in ("seconds", "gpu_hour_price", "cost"):
                told.pop(name, None)
        return told

    def __str__(self) -> str:
        if self.request is not None:
            return self._answered()
        shards = self.shards or ()
        reach = facts(
            [
                ("mode", self.mode),
                ("forgets", self._forgets(shards)),
                ("fits again", self._fits(shards)),
                (
                    "removes",
                    f"up to {size(self.bytes_to_purge or 0)}: caches, deltas and snapshots that "
                    + ("saw the samples" if self.samples_to_forget else "are out of date"),
                ),
                ("takes", self._takes()),
                ("besides", self._besides()),
                ("cost", self._cost()),
                ("privacy", self._privacy()),
                ("identical", self._identical()),
                *(("waiting", one) for one in self.waiting or ()),
            ]
        )
        again = f"Nothing has happened yet: taft-ray forget with the same options and --mode {self.mode} does it."
        return paragraphs(reach, again)

    def _answered(self) -> str:
        """A request answers for all the samples."""
        if not self.waiting:
            return (
                f"The samples are forgotten: request {self.request} answers for them. The same taft-ray forget shows its "
                "certificate, and first finishes the request where it was interrupted."
            )
        waits = listed("Waiting:", [str(one) for one in self.waiting])
        return paragraphs(waits, "taft-ray forget with the same options and no --deadline forgets them at once.")

    def _forgets(self, shards: Sequence[int]) -> str:
        if self.samples_to_forget:
            return f"{plural(self.samples_to_forget, 'sample')} of {which('shard', shards)}"
        back = "comes back" if len(shards) == 1 else "come back"
        return f"no sample that was not forgotten before; {which('shard', shards)} {back} without those"

    def _privacy(self) -> str | None:
        if self.privacy is None:
            return None
        charged = self.privacy["neighbours"]
        if not charged:
            return "nothing is charged"
        worst = max(charged, key=lambda one: one["epsilon_after"])
        stay = self.samples_to_retrain or 0
        told = (
            f"{plural(stay, 'sample')} that stay beside them {are(stay)} charged: ε {worst['epsilon_before']:.3g} → "
            f"{worst['epsilon_after']:.3g} at most (δ = {self.privacy['delta']:g})"
        )
        return (
            told if self.privacy["allowed"] else f"{told}; above the budget of {self.privacy['budget']:g}, so refused"
        )

    def _fits(self, shards: Sequence[int]) -> str:
        if self.mode == "subtract" and self.samples_to_retrain:
            beside = "delta" if len(shards) == 1 else "deltas"
            return (
                f"the {beside} of {which('shard', shards)}, behind the sums: "
                f"{plural(self.samples_to_retrain, 'sample')} in all; no shard leaves the model"
            )
        if self.mode == "subtract":
            return "nothing: the samples leave the sums, and their shards stay in the model"
        if self.mode == "drop":
            return f"nothing: {which('shard', shards)} {are(len(shards))} out of the model until a retrain is asked"
        return f"{plural(len(shards), 'shard')}, {plural(self.samples_to_retrain or 0, 'sample')} in all"

    def _takes(self) -> str:
        if self.seconds is None:
            return "unknown: no fit of this run was measured yet"
        if not self.seconds:
            return "unknown: no forget of this run has measured how long removing takes"
        if not self.earlier_forgets:
            return f"about {duration(self.seconds)} for the fits; no forget of this run has measured how long removing takes"
        removing = f"removing, as {plural(self.earlier_forgets, 'earlier forget')} of this run did"
        if not self.samples_to_retrain:
            return f"about {duration(self.seconds)} for {removing}"
        return f"about {duration(self.seconds)} for the fits, and for {removing}"

    def _besides(self) -> str | None:
        """The part of a forget that the seconds leave out."""
        if not self.samples_to_retrain:
            return None
        what = "starting Ray and a worker where none runs"
        if self.seconds_besides is None:
            return f"{what}; not measured in this run yet"
        return f"{what}; earlier forgets took {duration(self.seconds_besides)} for all the rest"

    def _cost(self) -> str | None:
        return (
            None if self.cost is None else f"{self.cost:.4g} for the fits, at {self.gpu_hour_price:g} per worker hour"
        )

    def _identical(self) -> str | None:
        if not self.identical_that_stay:
            return None
        others = plural(self.identical_that_stay, "other sample has", "other samples have")
        return f"{others} the same bytes and would stay; --with-identical forgets them too"


@dataclass(frozen=True)
class EarlierRequest(Answer):
    """A request that answered for some of the ids before."""

    request: str
    mode: str
    samples: int
    done: bool

    def __str__(self) -> str:
        """One sentence."""
        how = "forgotten before" if self.done else "asked to be forgotten"
        return f"{plural(self.samples, 'sample')} {how}, by request {self.request} (mode {self.mode})"


RESERVED = (
    "A waiting request begins before its deadline: a tenth of the time, or three times the estimated seconds, is kept in "
    "reserve for fits and retries."
)
"""The rule of `plans.gather.runs_at` in words."""


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

    def __str__(self) -> str:
        told = facts(
            [
                ("request", self.request),
                ("mode", self.mode),
                ("begins", written_moment(self.runs_at)),
                ("deadline", written_moment(self.deadline)),
                ("together", f"with {which('request', self.runs_with)}" if self.runs_with else None),
            ]
        )
        return paragraphs(
            told,
            listed("Asked before:", [str(one) for one in self.forgotten_before or ()]),
            f"The request is recorded and waits; its samples are in the model until it is carried out. {RESERVED}",
            "Nothing begins by itself: run taft-ray forget RUN --due from a timer, or after the time above.",
        )

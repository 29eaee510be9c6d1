"""Answers of verbs that write or remove files: `export`, `report`, `gc`, `destroy`, `destroy-key`, `demo`; and `runs`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.answers.state import Quarantined
from taft_ray.answers.text import columns, facts, listed, moment, paragraphs, short, size, some
from taft_ray.answers.tuned import settings_text
from taft_ray.counting import plural, which
from taft_ray.jsonable import optional

_SHOWN = 8  # objects that a person is shown


@dataclass(frozen=True)
class Exported(Answer):
    """A model file that runs without taft_ray. size: pixels per side. mean, std: of the scaling of pictures in 0..1."""

    output: str
    bytes: int
    composed: str
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shards: tuple[int, ...]
    version: str
    owners: tuple[str, ...] = optional(())  # whose pictures alone it is of; empty: everybody's
    settings: Mapping[str, Any] | None = optional()  # of an additive run that was tuned: those of the model
    digest: str | None = optional()  # SHA-256 of the file
    release: str | None = optional()  # its name in the run's register
    registered: bool | None = optional()  # False: the ledger could not be written, and the file says so

    def __str__(self) -> str:
        return facts(
            [
                ("file", f"{self.output}, {size(self.bytes)}"),
                ("model", f"{short(self.composed)} of {which('shard', self.shards)}"),
                ("settings", settings_text(self.settings) if self.settings else None),
                ("classes", f"{len(self.classes)}: {some(self.classes)}"),
                ("takes", f"pictures of {self.size} × {self.size} pixels, scaled to 0..1 and then by mean and std"),
                ("mean", ", ".join(f"{one:.4g}" for one in self.mean)),
                ("std", ", ".join(f"{one:.4g}" for one in self.std)),
                ("sha256", self.digest),
                (
                    "release",
                    "NOT registered: the ledger could not be written" if self.registered is False else self.release,
                ),
            ]
        )


@dataclass(frozen=True)
class Reported(Answer):
    """Where the report lies. derived: its numbers by name. not_measured: what no measurement was made for.

    certificates: the pages of the certificates, in the order of the requests.

    ``shards[i]`` in names, and in report.json, is a fit and no shard: one that was fitted again has a row per generation.
    """

    page: str
    json: str
    derived: Mapping[str, Any]
    not_measured: Any
    ok: bool
    quarantined: tuple[Quarantined, ...]
    damaged: tuple[str, ...]
    notes: tuple[str, ...] = ()
    certificates: tuple[str, ...] = optional(())

    def __str__(self) -> str:
        known = self.derived.get
        models = [
            f"{what} {accuracy:.1%}"
            for what, accuracy in (
                ("composed", known("accuracy")),
                ("one model over everything", known("accuracy_monolith")),
            )
            if accuracy is not None
        ]
        speeds = [
            f"{what} {ratio:.3g} times"
            for what, ratio in (
                ("training on shards", known("speedup_wall")),
                ("a retrain (median)", known("speedup_retrain_median")),
            )
            if ratio is not None
        ]
        forgets = len({name.partition(".")[0] for name in self.derived if name.startswith("forgets[")})
        told = [
            f"page: {self.page}",
            *self._certificates(),
            f"forgotten: {plural(forgets, 'request')}",
            f"accuracy: {', '.join(models) or 'not measured; taft-ray evaluate measures it'}",
            f"as fast as one model over everything: {', '.join(speeds) or self._no_speeds()}",
            f"every number: {self.json}",
        ]
        ill = [one.told() for one in self.quarantined]
        return "\n".join(
            [*told, *(f"note: {one}" for one in self.notes), *ill, *(f"damaged: {one}" for one in self.damaged)]
        )

    def _certificates(self) -> list[str]:
        """A line per page of a certificate, the newest ones; of many, where the others lie."""
        shown = [f"certificate: {one}" for one in self.certificates[-_SHOWN:]]
        more = len(self.certificates) - len(shown)
        folder = self.page.rpartition("/")[0]
        return [*shown, *([f"and {plural(more, 'older certificate')}: {folder}/certificate-*.html"] if more else [])]

    def _no_speeds(self) -> str:
        why = str(dict(self.not_measured).get("speedup_wall", ""))
        return why if "additive" in why else "not measured; train --monolithic measures it"


@dataclass(frozen=True)
class Collected(Answer):
    """Objects that nothing referred to, and how many bytes they had."""

    removed: tuple[str, ...]
    bytes: int

    def __str__(self) -> str:
        if not self.removed:
            return "Nothing was removed: something refers to every object of the run."
        more = len(self.removed) - _SHOWN
        shown = [*self.removed[:_SHOWN], *([f"and {more:,} more; --json has all"] if more > 0 else [])]
        return str(listed(f"Removed {plural(len(self.removed), 'object')} with {size(self.bytes)}:", shown))


@dataclass(frozen=True)
class KeyDestroyed(Answer):
    """The key of the id hashes is gone. beyond_reach: why older versions of it could not be removed."""

    destroyed: str
    older_versions: int
    beyond_reach: str | None

    def __str__(self) -> str:
        older = f", with {plural(self.older_versions, 'older version')}" if self.older_versions else ""
        told = f"Destroyed {self.destroyed}{older}. Nobody can tell any more whom a tombstone names."
        beyond = f"Beyond reach: {self.beyond_reach}" if self.beyond_reach else None
        return paragraphs(told, "Samples that are still in the run can be forgotten as before.", beyond)


@dataclass(frozen=True)
class Retention(Answer):
    """Until when the key of the id hashes is kept (unix seconds; None: no date is set). passed: and the key is still there.

    tombstones, owner_tombstones: hashes of ids and owners that were forgotten.
    """

    run: str
    until: float | None
    passed: bool
    key_destroyed: bool
    tombstones: int
    owner_tombstones: int

    def __str__(self) -> str:
        hashes = f"{plural(self.tombstones, 'tombstone')} and {plural(self.owner_tombstones, 'owner')}"
        if self.key_destroyed:
            return f"The key of {self.run} is destroyed: nobody can tell whom its {hashes} name."
        if self.until is None:
            return f"{self.run} keeps the key of its {hashes} without a date; --until DATE sets one."
        if self.passed:
            return (
                f"The key of {self.run} was to be kept until {moment(self.until)}, and it is still there: "
                f"taft-ray destroy-key {self.run} --yes"
            )
        return f"The key of {self.run} is kept until {moment(self.until)}, for {hashes}."


@dataclass(frozen=True)
class Finding(Answer):
    """A thing that was looked at. told: how it is, and the way out where it is not well."""

    check: str
    ok: bool
    told: str


@dataclass(frozen=True)
class Diagnosis(Answer):
    """Obstacles to runs here. ok: there is none. run: the place that was tried; None: none was named."""

    run: str | None
    ok: bool
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        width = max(len(one.check) for one in self.findings)
        rows = [f"{'ok ' if one.ok else 'BAD'}  {one.check:<{width}}  {one.told}" for one in self.findings]
        bad = sum(not one.ok for one in self.findings)
        return "\n".join([*rows, "", f"{plural(bad, 'thing')} to mend." if bad else "Nothing is in the way."])


@dataclass(frozen=True)
class Destroyed(Answer):
    """A run that is gone. left: objects in its folder that are none of the run's, and stay.

    tombstones: where what was forgotten is kept, so that an older copy of the folder forgets it again; None: nowhere.
    """

    run: str
    removed: int
    older_versions: int
    left: tuple[str, ...]
    tombstones: str | None
    beyond_reach: str | None

    def __str__(self) -> str:
        older = f" and {plural(self.older_versions, 'older version')}" if self.older_versions else ""
        kept = (
            f"The tombstones, which are the requests to forget, stay beside it in {self.tombstones}. By them a copy of the "
            "run that is put back forgets again. Once there is no copy, also in no backup, remove that folder by hand."
        )
        return paragraphs(
            f"Destroyed {self.run}: {plural(self.removed, 'object')}{older} removed.",
            listed("Left, for it is none of the run's:", self.left),
            kept if self.tombstones else None,
            f"Beyond reach: {self.beyond_reach}" if self.beyond_reach else None,
        )


@dataclass(frozen=True)
class Demonstrated(Answer):
    """The demo: accuracies, what the forgets took, and what `verify` found. run: the folder, which stays."""

    ok: bool
    shards: int
    accuracy: Mapping[str, float | None]
    forget: Mapping[str, Any]
    speedup: Mapping[str, Any]
    verify: Mapping[str, int]
    problems: tuple[str, ...]
    report: str
    run: str

    def __str__(self) -> str:
        accuracy, subtract, drop = self.accuracy, self.forget["subtract"], self.forget["drop"]
        wall = self.speedup.get("speedup_wall")
        told = [
            f"Trained {plural(self.shards, 'shard')} of scikit-learn's digits: sums over pictures, which are the model, and a "
            "tangent model per shard beside them.",
            f"Accuracy: {_percent(accuracy.get('composed'))} by the sums, {_percent(accuracy.get('beside'))} by the tangent "
            f"models composed, {_percent(accuracy.get('monolith'))} by one tangent model over everything.",
            f"Forgot 3 pictures by subtraction: {_seconds(subtract['seconds'])}, accuracy then "
            f"{_percent(accuracy.get('after subtract'))}; the tangent model of {which('shard', subtract['shards'])} was fitted "
            f"again behind it in {_seconds(subtract['retrain'])}.",
            f"Forgot 3 more by drop, which took {which('shard', drop['shards'])} out of the model: "
            f"{_seconds(drop['seconds'])}, accuracy then {_percent(accuracy.get('after drop'))}.",
            f"Checked the run from storage alone: {plural(len(self.problems), 'problem')} in {plural(sum(self.verify.values()), 'check')}."
            if self.problems
            else "Checked the run from storage alone: every object is as the ledger says, and nothing forgotten is left.",
            f"The report: {self.report} (the run: {self.run})",
        ]
        if wall is not None and wall < 1:
            told.insert(2, f"Training on shards was {wall:.2f} times as fast: at this size starting workers takes longer than the "
                        "fits, and lanes share this machine's cores.")  # fmt: skip
        return "\n".join([*told, *self.problems])


@dataclass(frozen=True)
class RunSummary(Answer):
    """A run that was found. samples: in its shards. open_requests: forgets that are not finished.

    problem: why nothing more is known of it.
    """

    run: str
    model: str | None
    shards: int | None
    samples: int | None
    open_requests: int | None
    composed: str | None
    problem: str | None


@dataclass(frozen=True)
class Paged(Answer):
    """A page of runs that was shown until it was ended. url: where. place: that of the runs."""

    url: str
    place: str

    def __str__(self) -> str:
        return f"{self.url} showed the runs at {self.place}"


@dataclass(frozen=True)
class Runs(Answer, HasRows):
    """The runs at a place; a sequence of them."""

    ROWS: ClassVar[tuple[str, ...]] = ("runs",)

    place: str
    runs: tuple[RunSummary, ...]

    def __iter__(self) -> Iterator[RunSummary]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, number: int) -> RunSummary:
        return self.runs[number]

    def __str__(self) -> str:
        if not self.runs:
            return f"there are no runs at {self.place}"
        head = ["run", "model", "shards", "samples", "open requests", "composed"]
        rows = [
            [one.run, one.model, one.shards, one.samples, one.open_requests, short(one.composed)] for one in self.runs
        ]
        problems = [f"{one.run}: {one.problem}" for one in self.runs if one.problem]
        return "\n\n".join([columns(head, rows, (2, 3, 4)), *problems])


def _percent(accuracy: float | None) -> str:
    return "not measured" if accuracy is None else f"{accuracy:.1%}"


def _seconds(seconds: float | None) -> str:
    return "in a time that was not measured" if seconds is None else f"{seconds:.2f} s"

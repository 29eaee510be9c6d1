"""Answers on what left the house: `recalls`, `check`, `release`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.answers.text import columns, facts, moment, paragraphs, short, some, written_moment
from taft_ray.counting import are, plural, which
from taft_ray.jsonable import optional

SUPERSEDED_CODE = 3  # with which `check` exits for a file that holds nothing forgotten, and is not the newest


@dataclass(frozen=True)
class TakenNotice(Answer):
    """A notice of a recall that was taken. where: scheme, host and port. answer: the beginning of what was answered."""

    where: str
    status: int
    answer: str


@dataclass(frozen=True)
class Telling(Answer):
    """A recall that was told by other means than a notice. by: who told it, and how. when: it was noted, ISO 8601."""

    by: str
    when: str

    def __str__(self) -> str:
        return f"told by {self.by}, noted {written_moment(self.when)}"


@dataclass(frozen=True)
class Release(Answer):
    """A file that left the house. what: export or statement. status: current, superseded, recalled or expired.

    digest: SHA-256 of the file. until: unix seconds. recalled_by: the forgets whose samples it holds, also where it has expired.

    told: how its recall was told otherwise than by a notice.

    owners: of how many owners' pictures alone it is. overrode: the release gate that was overridden for it.
    """

    release: str
    what: str
    status: str
    released: str
    digest: str
    bytes: int
    composed: str | None
    shards: tuple[int, ...]
    to: str | None
    contact: str | None
    until: float | None
    recalled_by: tuple[str, ...]
    notified: tuple[TakenNotice, ...]
    owners: int | None = optional()
    overrode: str | None = optional()
    told: tuple[Telling, ...] = optional(())

    def is_told(self) -> bool:
        """Whether its recall was told, by a notice or otherwise."""
        return bool(self.notified or self.told)


@dataclass(frozen=True)
class WrittenNotice(Answer):
    """A notice that was written into a file, to be sent by whoever wrote it. to, contact: of its release."""

    release: str
    file: str
    to: str | None
    contact: str | None
    sha256: str

    def __str__(self) -> str:
        whom = (
            ", ".join(one for one in (self.to, self.contact) if one) or "whoever has it; the release does not say who"
        )
        return f"notice of release {self.release} for {whom}: {self.file}"


@dataclass(frozen=True)
class SentNotice(Answer):
    """A notice that was sent now. ok: whether it was taken. status: of the last answer. problem: why it was not taken."""

    release: str
    ok: bool
    status: int | None
    answer: str
    problem: str | None
    tries: int

    def __str__(self) -> str:
        how = f"taken with status {self.status}" if self.ok else f"NOT taken: {self.problem}"
        return f"notice of release {self.release}: {how} ({plural(self.tries, 'try', 'tries')})"


@dataclass(frozen=True)
class AnsweredModel(Answer):
    """A model that a serving may have answered with. status: answering, withdrawn, replaced or ended. Times are ISO 8601.

    since: when the ledger first had it while the run was served; None where the ledger does not have that.

    until: from when on no replica answered with it. withdrawn_by: the forgets for which it was withdrawn.
    """

    digest: str
    mode: str | None
    status: str
    since: str | None
    until: str | None
    withdrawn_by: tuple[str, ...]


@dataclass(frozen=True)
class ServingHistory(Answer):
    """A serving of the run. modes: the compositions that its replicas answer with. began, ended: ISO 8601; ended: None while it runs.

    overrode: the release gate that was overridden when it began.
    """

    serving: str
    modes: tuple[str, ...]
    replicas: int
    began: str
    ended: str | None
    models: tuple[AnsweredModel, ...]
    overrode: str | None = optional()


@dataclass(frozen=True)
class Recalls(Answer, HasRows):
    """The register of what left the house. ok: every notice that was sent now was taken.

    undecided: forgets of which nobody can tell yet whether a release holds their samples. notices: those sent now.

    written: the notices that were written into files now.

    servings: of a run that was served, with the models that replicas may have answered with.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("releases", "notices", "written", "servings")

    run: str
    ok: bool
    releases: tuple[Release, ...]
    undecided: tuple[str, ...] = optional(())
    notices: tuple[SentNotice, ...] | None = optional()
    servings: tuple[ServingHistory, ...] = optional(())
    written: tuple[WrittenNotice, ...] | None = optional()

    def __str__(self) -> str:
        if not self.releases and not self.servings:
            return f"nothing of {self.run} has left the house"
        return paragraphs(self._released(), self._served())

    def _served(self) -> str | None:
        """A line per model that was answered with."""
        head = ["serving", "of", "model", "status", "since", "until", "withdrawn by"]
        rows = [
            [
                serving.serving,
                model.mode,
                short(model.digest),
                model.status,
                model.since and written_moment(model.since),
                model.until and written_moment(model.until),
                some(model.withdrawn_by, 3) or None,
            ]
            for serving in self.servings
            for model in serving.models
        ]
        if not self.servings:
            return None
        running = sum(one.ended is None for one in self.servings)
        told = (
            f"{plural(len(self.servings), 'serving')}, of which {running} {'has' if running == 1 else 'have'} not ended"
        )
        return paragraphs(told, columns(head, rows) if rows else None)

    def _written(self) -> str | None:
        """A line per notice that was written now."""
        if self.written is None:
            return None
        if not self.written:
            return "No notice was written: every recall was told."
        return "\n".join(map(str, self.written))

    def _released(self) -> str:
        """A line per file that left the house, and what is to be told of them."""
        if not self.releases:
            return f"no file of {self.run} has left the house"
        counts = Counter(one.status for one in self.releases)
        head = ["release", "what", "status", "released", "to", "contact", "until", "recalled by", "told"]
        rows = [
            [
                one.release,
                one.what,
                one.status,
                written_moment(one.released),
                one.to,
                one.contact,
                moment(one.until),
                some(one.recalled_by, 3) or None,
                "yes" if one.is_told() else None,
            ]
            for one in self.releases
        ]
        untold = sum(one.status == "recalled" and not one.is_told() for one in self.releases)
        key = "--sign key.pem"
        return paragraphs(
            ", ".join(f"{count} {status}" for status, count in counts.most_common()),
            columns(head, rows),
            f"Nobody can tell yet which releases hold the samples of {which('request', self.undecided)}: "
            f"taft-ray repair {self.run}"
            if self.undecided
            else None,
            "\n".join(f"release {one.release}: {told}" for one in self.releases for told in one.told),
            "\n".join(map(str, self.notices or ())),
            self._written(),
            f"{plural(untold, 'recall')} {are(untold)} not told: taft-ray recalls {self.run} --notify URL {key}. "
            f"Where no URL takes notices, --write FOLDER {key} makes files to send by mail. "
            "Then --told RELEASE --by TEXT notes that it was sent."
            if untold
            else None,
        )


@dataclass(frozen=True)
class Checked(Answer):
    """A file against a run's register. status: current, superseded, recalled, expired, changed or unknown.

    ok: it is current or superseded. digest: SHA-256 of the file. release: None for a file that the run does not know.
    """

    file: str
    run: str
    ok: bool
    status: str
    digest: str
    release: Release | None
    note: str | None

    @property
    def exit_code(self) -> int:
        """0 for a current file, 3 for a superseded one, 1 for any other."""
        return SUPERSEDED_CODE if self.status == "superseded" else int(not self.ok)

    def __str__(self) -> str:
        release = self.release
        verdict = {
            "current": "current: it is of the model that the run has now",
            "superseded": "superseded: the run has another model now; the file holds nothing that was forgotten",
            "recalled": "RECALLED: it holds what was forgotten; stop using it, and delete it",
            "expired": "EXPIRED: the time for which it was given out is over; delete it",
            "changed": "CHANGED: it is not the file that was released",
            "unknown": "UNKNOWN to this run",
        }[self.status]
        told = [("file", self.file), ("sha256", self.digest)]
        if release is not None:
            told += [
                ("release", f"{release.release}, {release.what} of {written_moment(release.released)}"),
                ("model", short(release.composed)),
                ("to", release.to),
                ("until", moment(release.until)),
                ("recalled by", some(release.recalled_by) or None),
            ]
        return paragraphs(verdict, facts(told), self.note)


@dataclass(frozen=True)
class Publication(Answer):
    """When a newer model may be published. gate: None where there is none. held: whether one is held back now.

    releases: models that were registered. since: the release beside which a newer model would show too much.

    forgets: how many it would show. until: what has to come first.
    """

    run: str
    gate: str | None
    held: bool
    releases: int
    since: str | None = optional()
    forgets: int | None = optional()
    until: str | None = optional()

    def __str__(self) -> str:
        if self.gate is None:
            return f"{self.run} has no release gate: a newer model may be published at any time"
        gate = f"A newer model may be published {self.gate} after the last release, where anything was forgotten since."
        if not self.held:
            return f"{gate} It is not held now."
        return (
            f"{gate} It is held until {self.until}: the release {self.since} holds the samples of "
            f"{plural(self.forgets or 0, 'forget')}."
        )

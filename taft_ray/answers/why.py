"""Why a picture has its answer: `predict --why`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taft_ray.answers.answer import Answer
from taft_ray.answers.text import columns, duration
from taft_ray.counting import plural
from taft_ray.jsonable import optional

_SHOWN = 5  # groups of a kind that a person is shown
_MEANING = {
    "left-out pictures": "Without: the model of the sums without the group's pictures, solved at the same settings; exact.",
    "parts of the mean": "Part: the shard's exact part in the margin. Without: the mean of the other shards; exact.",
    "left-out shards": "Without: composed without the shard, as after a drop; exact.",
}


@dataclass(frozen=True)
class WhyGroup(Answer):
    """A shard or an owner, and the answer without it. name: a shard's number, an owner's given name or a hash.

    label: the class without it. margin: without it, of the class that was predicted. change: that less the margin with it.

    logits: those without it. All are None where nothing else is in the model. part: of a mean, its part in each logit.
    """

    group: str
    name: str
    samples: int
    label: str | None
    margin: float | None
    change: float | None
    logits: tuple[float, ...] | None
    part: tuple[float, ...] | None = optional()


@dataclass(frozen=True)
class Why(Answer):
    """Why a picture has its class. margin: its logit less the largest other one. groups: those that change it most first."""

    margin: float
    logits: tuple[float, ...]
    groups: tuple[WhyGroup, ...]

    def told(self, label: str) -> str:
        """A short table of the groups of each kind that change the answer most."""
        head = ["group", "samples", *(["part"] if self._has_parts else []), "margin without", "change", "class without"]
        rows = [self._row(one, label) for kind in ("owner", "shard") for one in self._of(kind)[:_SHOWN]]
        table = columns(head, rows, range(1, len(head) - 1))
        return "\n".join(f"    {line}" for line in [f"margin {self.margin:.4g}", *table.splitlines()])

    @property
    def _has_parts(self) -> bool:
        return any(one.part is not None for one in self.groups)

    def _of(self, kind: str) -> list[WhyGroup]:
        return [one for one in self.groups if one.group == kind]

    def _row(self, one: WhyGroup, label: str) -> list[object]:
        name = one.name if len(one.name) <= 32 or one.group == "shard" else f"{one.name[:29]}…"
        parts = [f"{self._part_of_margin(one.part):+.4g}"] if one.part is not None else []
        if one.margin is None or one.change is None:
            return [f"{one.group} {name}", one.samples, *parts, None, None, None]
        changed = f"{one.label} (changes)" if one.label != label else one.label
        return [f"{one.group} {name}", one.samples, *parts, f"{one.margin:.4g}", f"{one.change:+.3g}", changed]

    def _part_of_margin(self, part: tuple[float, ...]) -> float:
        """A shard's part in the logit of the class less that in the next one's."""
        first, *rest = sorted(range(len(self.logits)), key=lambda at: -self.logits[at])
        return part[first] - (part[rest[0]] if rest else 0.0)


@dataclass(frozen=True)
class Explained(Answer):
    """How answers were explained. kind: "left-out pictures", "parts of the mean" or "left-out shards".

    groups: how many shards and owners were evaluated. left_out: what was not, and why. penalty: λ of sums, which stays.
    """

    kind: str
    groups: Mapping[str, int]
    pictures: int
    left_out: tuple[str, ...]
    seconds: float
    penalty: float | None = optional()

    def __str__(self) -> str:
        counted = " and ".join(plural(count, group) for group, count in self.groups.items())
        first = f"explained by {self.kind}: {counted}, {plural(self.pictures, 'picture')}, {duration(self.seconds)}"
        return "\n".join(
            [first, _MEANING.get(self.kind, ""), *(f"{one[:1].upper()}{one[1:]}." for one in self.left_out)]
        )

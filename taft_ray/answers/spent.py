"""The answers of `privacy`: what a private run has spent, and the statement that may be published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.answers.text import columns, facts, paragraphs, short
from taft_ray.counting import plural
from taft_ray.jsonable import optional

_SHOWN = 20  # shards that a person is shown, the dearest first


@dataclass(frozen=True)
class SpentShard(Answer):
    """The privacy that the fits of one shard have spent together. restored: of how many an older copy of the folder did not know."""

    shard: int
    state: str
    fits: int
    generations: tuple[int, ...]
    mu: float
    epsilon: float
    restored: int = 0


@dataclass(frozen=True)
class Spent(Answer, HasRows):
    """The privacy that a private run has spent. epsilon: of the dearest shard, which is that of the run.

    budget: the most that a shard may spend, and what of it is left; None is no cap.

    epsilon_of_a_fit, mu_of_a_fit, noise_multiplier, steps, clip: of each fit. mean_multiplier: of its release of the rows' mean.

    sampling_rate: with which each unit is in a step's batch; None is the full batch. With it each μ is that of the Gaussian mechanism
    with the same ε at δ.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("shards",)

    run: str
    epsilon: float
    delta: float
    budget: float | None
    left: float | None
    unit: str
    adjacency: str
    epsilon_of_a_fit: float
    mu_of_a_fit: float
    noise_multiplier: float
    steps: int
    clip: float
    accountant: str
    composed: str | None
    shards: tuple[SpentShard, ...]
    mean_multiplier: float | None = optional()
    sampling_rate: float | None = optional()

    def __str__(self) -> str:
        cap = (
            "no cap"
            if self.budget is None
            else f"{self.budget:g}, of which {self.left:.3g} is left to the dearest shard"
        )
        batches = "" if self.sampling_rate is None else f" on batches at rate {self.sampling_rate:g}"
        told = facts(
            [
                ("model", short(self.composed) if self.composed else "none"),
                ("spent", f"ε = {self.epsilon:.3g} at δ = {self.delta:g}, per {self.unit} ({self.adjacency})"),
                ("budget", cap),
                (
                    "a fit",
                    f"ε = {self.epsilon_of_a_fit:g}: {plural(self.steps, 'step')}{batches}, noise {self.noise_multiplier:.3g} × clip"
                    + ("" if self.mean_multiplier is None else f"; the rows' mean, noise {self.mean_multiplier:.3g}"),
                ),
            ]
        )
        dearest = sorted(self.shards, key=lambda one: (-one.epsilon, one.shard))
        rows = [
            [f"{one.shard}", one.state, f"{one.fits}", f"{one.mu:.3g}", f"{one.epsilon:.3g}"]
            for one in dearest[:_SHOWN]
        ]
        more = len(dearest) - _SHOWN
        return paragraphs(
            told,
            columns(["shard", "state", "fits", "μ", "ε"], rows, (0, 2, 3, 4)),
            f"{plural(more, 'shard')} more spent no more than these (--json shows them)." if more > 0 else None,
            "Shards are disjoint, so the run spends what its dearest shard does. Fits of one shard add up. Dropping costs nothing.",
        )


@dataclass(frozen=True)
class PrivacyStatement(Answer):
    """The statement that may be published beside a private model. digest: of all other fields."""

    schema: str
    model: str | None
    network: str
    weights: str
    classes: tuple[str, ...]
    epsilon: float
    delta: float
    unit: str
    adjacency: str
    mechanism: Mapping[str, Any]
    accountant: str
    holds_towards: str
    does_not_cover: tuple[str, ...]
    digest: str
    written: str | None = optional()
    release: str | None = optional()  # its name in the run's register
    registered: bool | None = optional()  # False: the ledger could not be written, and the file says so

    def __str__(self) -> str:
        told = facts(
            [
                ("model", short(self.model) if self.model else "none"),
                ("guarantee", f"ε = {self.epsilon:.4g}, δ = {self.delta:g}, per {self.unit} ({self.adjacency})"),
                ("holds towards", self.holds_towards),
                ("written to", self.written or "nowhere"),
                (
                    "release",
                    "NOT registered: the ledger could not be written" if self.registered is False else self.release,
                ),
            ]
        )
        return paragraphs(told, "It does not cover:\n" + "\n".join(f"  - {one}" for one in self.does_not_cover))

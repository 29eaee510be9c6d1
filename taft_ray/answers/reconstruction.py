"""The answer of `audit --reconstruct`: how near an attacker comes to a deleted sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.answers.text import columns, duration, listed, paragraphs
from taft_ray.jsonable import optional


@dataclass(frozen=True)
class ReconstructionRisk(Answer):
    """One way to forget, ``batch`` samples at once, and what the attacker knew. samples: how many were looked for.

    cosine: of recovered and true features, the mean of its size. median_rank: 1 is the nearest.

    first: the share of samples that none of ``among`` others is nearer than.
    """

    way: str
    batch: int
    known: str
    samples: int
    among: int
    cosine: float
    first: float
    median_rank: float


@dataclass(frozen=True)
class Reconstruction(Answer, HasRows):
    """The attack on models before and after simulated forgets. epsilon, delta: of one release of noisy sums.

    left_out: what was not attacked, and why. recorded: the key under which the answer was kept in the run.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("attacks",)

    run: str
    attacks: tuple[ReconstructionRisk, ...]
    left_out: tuple[str, ...]
    seconds: float
    epsilon: float | None = optional()
    delta: float | None = optional()
    recorded: str | None = optional()

    def __str__(self) -> str:
        head = ["way", "at once", "attacker knows", "cosine", "found", "median rank", "of"]
        rows = [
            [
                one.way,
                one.batch,
                one.known,
                f"{one.cosine:.3f}",
                f"{one.first:.0%}",
                f"{one.median_rank:g}",
                one.among + 1,
            ]
            for one in self.attacks
        ]
        noise = f"Noisy sums have ε = {self.epsilon:g} at δ = {self.delta:g} per release." if self.epsilon else None
        return paragraphs(
            "Features of deleted samples, recovered from the models before and after.",
            columns(head, rows, (1, 3, 4, 5, 6)),
            "A cosine of 1 is the sample itself, up to a factor. Found: no other sample of the run is nearer.",
            noise,
            listed("Not attacked:", self.left_out),
            f"Forgets were simulated in memory; the run is unchanged. It took {duration(self.seconds)}.",
            f"Recorded as {self.recorded}." if self.recorded else None,
        )

"""The answer of `audit --privacy`: what canaries give away, beside what a private run claims."""

from __future__ import annotations

from dataclasses import dataclass

from taft_ray.answers.answer import Answer
from taft_ray.answers.text import columns, duration, facts, paragraphs
from taft_ray.counting import plural
from taft_ray.jsonable import optional


@dataclass(frozen=True)
class ManyRuns(Answer):
    """Fits with one canary, and as many with nothing. right_with, right_without: how many were guessed right.

    mu, epsilon: the lower bounds. detects: times by which noise must be too small so that 4 of 5 such audits convict it.
    """

    runs: int
    right_with: int
    right_without: int
    mu: float
    epsilon: float
    detects: float | None


@dataclass(frozen=True)
class OneRun(Answer):
    """One fit with about half of the canaries. guesses, right: how many were guessed, and guessed right.

    mu, epsilon: the lower bounds. epsilon_of_any_noise: that without assuming Gaussian noise. detects: as of `ManyRuns`.
    """

    canaries: int
    guesses: int
    right: int
    mu: float
    epsilon: float
    epsilon_of_any_noise: float
    detects: float | None


@dataclass(frozen=True)
class PrivacyAudit(Answer):
    """Lower bounds on the ε of one fit. ok: none is above the claim. convicted_by: those that are, such as "many_runs".

    epsilon, delta, mu, unit: the claim. steps, clip, noise_multiplier: the recipe that was audited. level: how likely a
    false conviction is at most.

    mu: what the claim allows the steps, where the rows' mean has a part of it. A bound on the steps above it convicts.

    sampling_rate: of sampled batches. Then mu, here and in many_runs, is of all steps with the canary in each. That in one_run is of
    Gaussian noise with the same ε at δ.

    recorded: the key under which the answer was kept in the run.
    """

    run: str
    ok: bool
    convicted_by: tuple[str, ...]
    epsilon: float
    delta: float
    mu: float
    unit: str
    steps: int
    clip: float
    noise_multiplier: float
    level: float
    many_runs: ManyRuns
    one_run: OneRun
    seconds: float
    sampling_rate: float | None = optional()
    recorded: str | None = optional()

    def __str__(self) -> str:
        many, one = self.many_runs, self.one_run
        batches = "" if self.sampling_rate is None else f" on batches at rate {self.sampling_rate:g}"
        rows = [
            [
                f"{plural(many.runs, 'fit')} with a canary, {many.runs:,} without",
                f"{many.right_with + many.right_without:,} of {2 * many.runs:,}",
                f"{many.epsilon:.3g}",
                _times(many.detects),
            ],
            [
                f"one fit, {plural(one.canaries, 'canary', 'canaries')}",
                f"{one.right:,} of {one.guesses:,}",
                f"{one.epsilon:.3g}",
                _times(one.detects),
            ],
        ]
        verdict = (
            f"The audit does not refute ε = {self.epsilon:g}."
            if self.ok
            else f"A fit gives away more than ε = {self.epsilon:g}: its noise is too small, or its gradients are not bounded."
        )
        told = facts(
            [
                ("claimed", f"ε = {self.epsilon:g} at δ = {self.delta:g}, per {self.unit} and fit"),
                (
                    "audited",
                    f"{plural(self.steps, 'step')}{batches}, noise {self.noise_multiplier:.3g} × clip {self.clip:g}",
                ),
                ("level", f"{self.level:g}: how likely a false conviction may be"),
                ("took", duration(self.seconds)),
                ("recorded", self.recorded),
            ]
        )
        return paragraphs(
            verdict,
            columns(["audit by", "guessed right", "ε is at least", "would notice"], rows, (1, 2, 3)),
            "Would notice: noise too small by this factor, in 4 of 5 audits.",
            told,
            "This answer is for whoever runs the audit. Fits were made on canaries alone, with fresh keys, and thrown away.",
        )


def _times(factor: float | None) -> str:
    return "nothing" if factor is None else f"{factor:.2f} times"

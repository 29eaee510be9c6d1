"""The promise of a private run, as options of its spec: the guarantee of one fit, its unit, and the mechanism's public numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.fitting.config import LARGEST_CLIP, LEAST_CLIP, PRIVATE, PRIVATE_ROWS, PRIVATE_SOLVERS
from taft_ray.jsonable import JsonObject, optional

UNITS = ("sample", "owner")
ADJACENCIES = ("zero-out", "add-remove")
PINK_NOISE = "pink-noise"
"""In the place of public pictures: pictures of nobody (`additive.probes`)."""

ACCOUNTANT = "gdp/1"
"""The accountant of `taft_ray.privacy.accounting`, and its version."""
SAMPLED_ACCOUNTANT = "prv/opacus-"
"""The beginning of the name of `taft_ray.privacy.sampled`; the version of Opacus follows."""
_ROUNDING = 1e-9  # of a rate times a number
MOST_STEPS = 1 << 40
LARGEST_NOISE = 1_000_000  # of clips: the noise's own scale goes to 2^49 units of a grid of 2^-29 clips at least
LARGEST_VALUE = 1 << 22  # half of those that a delta's fixed-point numbers hold


@dataclass(frozen=True, kw_only=True)
class Privacy(JsonObject):
    """Each fit of a shard is (ε, δ)-differentially private; further fits of the same shard add up.

    unit: whose presence is hidden, that of a sample or of all samples of an owner.

    adjacency: "zero-out" hides what a unit was, and sizes of shards are public. "add-remove" also hides whether it was
    there, and needs a public ``divisor``.

    steps, clip, learning_rate: T steps of gradient descent; each unit's gradient has at most the norm C. They are fixed
    beforehand. divisor: the public number that sums of gradients are divided by; of "zero-out" the number of units.

    sampling_rate: q, with which each unit is in a step's batch, by itself (Poisson). None is the full batch.

    budget: the ε that the fits of a shard may have in all, at the same δ; None is no cap.

    public: pictures that nobody has to protect, by which rows are whitened (`prefix.whitening`), or `PINK_NOISE`, and the digest of that.

    logit_noise: a bound on how far the noise of all steps moves a logit in the mean of all shards' heads. It is a standard
    deviation, for rows of length one. The learning rate is smaller where it would be more. None is no bound.

    mean_share: the part of μ² that a release of the rows' mean has (`additive.centring`); the steps have the rest. None is no release.
    """

    epsilon: float
    delta: float
    unit: str = "sample"
    adjacency: str = "zero-out"
    steps: int = 50
    clip: float = 1.0
    learning_rate: float = 1.0
    divisor: int | None = optional()
    budget: float | None = optional()
    public: str | None = optional()
    public_digest: str = optional("")
    mean_share: float | None = optional()
    logit_noise: float | None = optional()
    accountant: str = ACCOUNTANT
    sampling_rate: float | None = optional()

    def __post_init__(self) -> None:
        if self.sampling_rate is not None and self.accountant == ACCOUNTANT:  # the default
            object.__setattr__(self, "accountant", accountant_of(self.sampling_rate))
        self._check_types()
        for name in ("epsilon", "clip", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"expected {name} > 0, got {getattr(self, name)}; set --{name.replace('_', '-')}")
        if not LEAST_CLIP <= self.clip <= LARGEST_CLIP:
            raise UsageError(f"expected {LEAST_CLIP:g} <= clip <= {LARGEST_CLIP:g}, got {self.clip}; set --clip")
        if not 0 < self.delta < 1:
            raise UsageError(f"expected 0 < delta < 1, got {self.delta}; set --delta to less than 1 / samples")
        if not 1 <= self.steps <= MOST_STEPS:
            raise UsageError(f"expected steps >= 1, and at most {MOST_STEPS:,}, got {self.steps}; set --steps")
        if self.public == "":
            raise UsageError(f"public='': expected a folder or file, {PINK_NOISE} or none; set --public")
        for name, allowed in (("unit", UNITS), ("adjacency", ADJACENCIES)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        sampled = self.sampling_rate is not None
        known = self.accountant.startswith(SAMPLED_ACCOUNTANT) if sampled else self.accountant == ACCOUNTANT
        if not known:
            raise UsageError(
                f"accountant={self.accountant!r}: expected {SAMPLED_ACCOUNTANT + 'VERSION' if sampled else ACCOUNTANT}"
            )
        if self.adjacency == "add-remove" and self.divisor is None:
            raise UsageError(
                "adjacency add-remove hides how large a shard is, so the divisor cannot be read from it. "
                "Set --divisor to a public number, such as the samples per shard that were expected"
            )
        if self.divisor is not None and not 1 <= self.divisor <= MOST_STEPS:
            raise UsageError(f"expected divisor >= 1, and at most {MOST_STEPS:,}, got {self.divisor}; set --divisor")
        if self.mean_share is not None and not 0 < self.mean_share < 1:
            raise UsageError(
                f"mean_share={self.mean_share}: expected a part of the privacy between 0 and 1; set --mean-share, 0 for none"
            )
        if self.mean_share is not None and self.sampling_rate is not None:
            raise UsageError(
                "the rows' mean is of a full batch, and its release does not add up with sampled ones; use --mean-share 0"
            )
        self._check_rate()
        if self.budget is not None and not self.budget >= self.epsilon:
            raise UsageError(
                f"budget={self.budget} is less than epsilon={self.epsilon}, so that no fit could be made; raise --budget"
            )

    def _check_types(self) -> None:
        for name in ("steps", "divisor"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise UsageError(f"{name}={value!r}: expected a whole number >= 1; set --{name}")
        for name in ("epsilon", "delta", "clip", "learning_rate", "budget", "mean_share", "logit_noise"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise UsageError(f"{name}={value!r}: expected {name} > 0, as a number; set --{name.replace('_', '-')}")

    def check_fit(self, divisor: int, shards: int) -> None:
        """UsageError for a fit that could not be made, whatever the data: its numbers would not be those of the grid."""
        noise = self.noise_multiplier
        if noise > LARGEST_NOISE:
            raise UsageError(
                f"epsilon={self.epsilon:g} in {self.steps:,} steps needs noise of {noise:.3g} times the clip. At most "
                f"{LARGEST_NOISE:,} can be drawn; make a run with a larger --epsilon or fewer --steps"
            )
        per_unit = self.rate(divisor, shards) * self.clip / (self.sampling_rate or 1.0)
        moved = per_unit * (self.steps + 13 * noise * math.sqrt(self.steps) / divisor)
        if moved > LARGEST_VALUE:
            raise UsageError(
                f"learning_rate={self.learning_rate:g} and clip={self.clip:g} may move a value by {moved:.3g}, more than "
                f"{LARGEST_VALUE:,}; make a run with a smaller --learning-rate or --clip"
            )

    def as_begun(self, begun: Privacy) -> Privacy:
        """These options for a run that began with ``begun``, by an earlier version whose defaults were others."""
        if begun.logit_noise is not None:
            return self
        new = {"public": PINK_NOISE, "mean_share": MEAN_SHARE, "logit_noise": LOGIT_NOISE}
        return replace(
            self,
            **{n: None for n, default in new.items() if getattr(self, n) == default and getattr(begun, n) is None},
        )

    def _check_rate(self) -> None:
        rate = self.sampling_rate
        if rate is None:
            return
        if not isinstance(rate, int | float) or not 0 < rate < 1:  # false for NaN, too
            raise UsageError(
                f"expected 0 < sampling_rate < 1, got {rate!r}; set --sampling-rate, or leave it out for full batches"
            )
        if self.divisor is not None:
            check_batch(rate, self.divisor, "divisor")

    @property
    def mu(self) -> float:
        """μ of one fit as Gaussian differential privacy.

        With a sampling rate it is that of the Gaussian mechanism with the same ε at δ. It never stands for the fit in a sum.
        """
        return _mu(self.epsilon, self.delta)

    @property
    def noise_multiplier(self) -> float:
        """σ: the noise of a step, as a multiple of the sensitivity. With a sampling rate it takes seconds, once per process."""
        if self.sampling_rate is not None:
            from taft_ray.privacy import sampled_noise_multiplier

            return sampled_noise_multiplier(self.epsilon, self.delta, self.sampling_rate, self.steps)
        from taft_ray.privacy import noise_multiplier

        return noise_multiplier(self.mu * math.sqrt(1 - (self.mean_share or 0.0)), self.steps)

    def rate(self, divisor: int, shards: int) -> float:
        """The learning rate of a shard's fit with the public divisor n: η, or b·√N·q·n / (σ·C·√T) with the bound b on a logit's noise.

        The mean of N shards' heads has 1/√N of the noise of one.
        """
        if self.logit_noise is None:
            return self.learning_rate
        noise = self.noise_multiplier * self.clip * math.sqrt(self.steps) / (divisor * (self.sampling_rate or 1.0))
        return min(self.learning_rate, self.logit_noise * math.sqrt(shards) / noise)

    @property
    def mean_multiplier(self) -> float | None:
        """σ_m: the noise of the mean's release, as a multiple of its sensitivity; None without one."""
        from taft_ray.privacy import noise_multiplier

        return None if self.mean_share is None else noise_multiplier(self.mu * math.sqrt(self.mean_share), 1)


def accountant_of(sampling_rate: float | None) -> str:
    """The accountant at work here, and its version."""
    if sampling_rate is None:
        return ACCOUNTANT
    from importlib.metadata import version

    return SAMPLED_ACCOUNTANT + version("opacus")


def check_batch(rate: float, units: int, what: str) -> None:
    """UsageError where a batch is expected to hold less than one unit. what: the name of the number of units."""
    if rate * units < 1 - _ROUNDING:
        raise UsageError(
            f"sampling_rate={rate:g} of {what}={units}: less than one unit per batch is expected, so that most steps would be noise "
            f"alone. Set --sampling-rate to at least 1 / {units}, or leave it out for full batches"
        )


@cache
def _mu(epsilon: float, delta: float) -> float:
    from taft_ray.privacy import mu_of

    return mu_of(epsilon, delta)


RATE = {PRIVATE: 1.0, PRIVATE_ROWS: 10.0}
"""Learning rates where none is asked for; chosen on CIFAR-10 at ε = 3 (`systems.private_table`)."""

LOGIT_NOISE, MEAN_SHARE = 0.15, 0.1
"""Of fits on rows, where neither a rate nor a share is asked for; chosen on CIFAR-10 (1,650 and 5,000 pictures)."""

SHARED = frozenset(["epsilon", "learning_rate"])
"""Options that mean something to other runs, too."""

OWN = frozenset(Privacy.__dataclass_fields__) - SHARED - {"accountant", "public_digest", "logit_noise"}
"""Options that mean something to a private run alone."""

_NONE = {"public": "none", "mean_share": 0}
"""How options say that a run has none of it."""


def private_fields(given: Mapping[str, Any], asked: Collection[str]) -> dict[str, Any]:
    """The fields of a spec that these options make: those of privacy become one, and what they imply is filled in.

    given: fields of RunSpec and of `Privacy`, and "private". asked: those that a person gave. UsageError for what is missing,
    or means nothing without ``private``.
    """
    values = dict(given)
    own = {name: values.pop(name) for name in (*OWN, "private") if name in values}
    if not own.pop("private", False):
        if lost := sorted(set(own) & set(asked)):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in lost)
            raise UsageError(
                f"{options}: of a private run alone; add --private, or leave {'it' if len(lost) == 1 else 'them'} out"
            )
        return values
    own = {name: value for name, value in own.items() if name in asked}
    own |= {name: values.pop(name) for name in SHARED if name in asked}
    missing = [f"--{name}" for name in ("epsilon", "delta") if own.get(name) is None]
    if missing:
        raise UsageError(f"a private run needs {' and '.join(missing)}: what each fit may give away of a sample")
    solver = values["solver"] if values.get("solver") in RATE and "solver" in asked else PRIVATE
    on_rows = solver == PRIVATE_ROWS
    if "learning_rate" not in own:
        own["learning_rate"] = RATE[solver]
        own["logit_noise"] = LOGIT_NOISE if on_rows else None
    if on_rows:
        centred = {} if own.get("sampling_rate") is not None else {"mean_share": MEAN_SHARE}
        own = {"public": PINK_NOISE, **centred, **own}
    for name, none in _NONE.items():
        if own.get(name) == none:
            del own[name]
    privacy = Privacy(**own)
    for name in SHARED:
        values.pop(name, None)
    implied = {
        "solver": PRIVATE, "loss": "ce", "compose": "mean", "assignment": "grouped" if privacy.unit == "owner" else "hash",
    }  # fmt: skip
    return {**values, **{name: value for name, value in implied.items() if name not in asked}, "privacy": privacy}


def check_private(spec: Any) -> None:
    """UsageError for a spec whose fits would not be private, each with its reason and the way out.

    spec: a RunSpec.
    """
    private = spec.solver in PRIVATE_SOLVERS
    if private != (spec.privacy is not None):
        raise UsageError(
            f"solver={spec.solver!r} needs --private, with --epsilon and --delta"
            if private
            else f"solver={spec.solver!r} adds no noise; a private run needs --solver {' or '.join(PRIVATE_SOLVERS)}"
        )
    if spec.privacy is None:
        return
    wanted = "grouped" if spec.privacy.unit == "owner" else "hash"
    if spec.assignment != wanted:
        why = (
            "all samples of an owner must be in one shard"
            if wanted == "grouped"
            else "a sample's shard must depend on its id alone, or another sample's presence would show in it"
        )
        raise UsageError(f"assignment={spec.assignment!r} in a private run: {why}; use --assignment {wanted}")
    if spec.compose != "mean":
        raise UsageError(f"compose={spec.compose!r} in a private run: its statistics have no noise; use --compose mean")
    if spec.weighting != "uniform" and spec.privacy.adjacency == "add-remove":
        raise UsageError(
            "weighting='samples' shows how large shards are, which adjacency add-remove hides; use --weighting uniform"
        )
    if spec.classes is None:
        raise UsageError(
            "a private run needs a public list of classes: classes read from the data would show that a class occurs; "
            "set --classes"
        )
    if spec.privacy.public is not None and spec.privacy.public.rstrip("/") == spec.data.rstrip("/"):
        raise UsageError(
            f"--public {spec.privacy.public} is the private data itself, so that the whitening would show it without noise; use "
            f"other pictures, or {PINK_NOISE}"
        )
    if spec.solver != PRIVATE_ROWS:
        for name, does in (("public", "whitens rows"), ("mean_share", "centres rows"), ("logit_noise", "is of rows")):
            if getattr(spec.privacy, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} {does}, and solver={spec.solver!r} has none; use --solver {PRIVATE_ROWS}"
                )
    if spec.slices != 1:
        raise UsageError(
            f"slices={spec.slices} in a private run: checkpoints between slices have no noise; leave --slices out"
        )

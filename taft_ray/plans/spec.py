"""A run's immutable spec: everything that decides the bits of its deltas, and nothing else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from taft_ray.additive.options import ADDITIVE, DEFAULT_BLOCKS, DEFAULT_FEATURES
from taft_ray.data import METHODS, ORIENTATIONS
from taft_ray.errors import SpecMismatch, UsageError
from taft_ray.fitting.config import FitConfig
from taft_ray.sums.options import COMPOSITIONS, DEFAULT_EPSILON, JOINT_PENALTY
from taft_ray.tangent.options import PREPARED_BUDGET, TRAINABLE
from taft_ray.version import VERSION

if TYPE_CHECKING:
    from taft_ray.sums import Sums
    from taft_ray.tangent import Delta

WEIGHTINGS = ("uniform", "samples")
DTYPES = ("float16", "bfloat16")
PRECISIONS = ("bfloat16", "float32")
_MOST_GIB = 1 << 20
# fields that specs of earlier runs lack: left out of the JSON where they say what held then, so that its digest stays
_ADDED = ("constants_gib", "exif_orientation", "joint_penalty", "features", "site_blocks")
_OF_ADDITIVE = ("features", "site_blocks")  # an additive run's spec always has them


def _versions() -> dict[str, str]:
    """The versions that a new run's bits may depend on."""
    import timm
    import torch

    return {"taft_ray": VERSION, "torch": str(torch.__version__), "timm": timm.__version__}


def fastest_precision(device: str) -> str:
    """ "bfloat16" where this kind of device multiplies it itself, "float32" elsewhere.

    On a CPU without such instructions torch emulates bfloat16: a pass of DeiT-Tiny was 7 times slower than in float32.
    """
    if device == "cuda":
        return "bfloat16"
    import torch

    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16") else "float32"


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a run is. Two runs with equal specs and equal data have equal deltas on equal hardware.

    threads: CPU threads of every lane and every prefix actor; the last bits of a sum depend on it, so it is fixed here
        and not taken from the machine.
    weighting: "uniform" is the paper's plain mean of shards; "samples" weighs a shard by its number of samples.
    slices: of adam; checkpoints are kept between this many parts of a shard, and a retrain starts at the part that lost a
        sample. 1 is the paper's recipe; more is another recipe (`fitting.slices`).
    radius: of adam; Δw is projected onto the ball of this radius (the paper's Table 7, where the penalty is 0).
    epsilon, joint_penalty: of the compositions by Gram and by joint statistics.
    max_rejected: the fraction of source rows that may be rejected before the run fails.
    exif_orientation: whether a picture is turned as its EXIF says, in training, evaluation and audit alike.
    precision: of the frozen prefix's passes; see `fastest_precision`.
    features: of an additive run (``solver="additive"``): how many numbers a picture's row has (S of `additive`).
    site_blocks: of an additive run: how many last blocks its sites are in, "all", or "default" (7/12 of them).
    constants_gib: of memory, for the constants of the shard that a worker is at; beyond it some are computed again for every batch, whose
        last bits differ (`tangent.prepare_pictures`).
    """

    data: str
    model: str
    weights: str | None = None
    weights_digest: str = ""
    image_size: int | None = None
    classes: tuple[str, ...] | None = None
    shards: int = 10
    assignment: str = "hash"
    last_blocks: int | str = 1
    trainable: str = "full"
    reset: bool = False
    cls_token: bool = False
    seed: int = 0
    solver: str = FitConfig.solver
    loss: str = FitConfig.loss
    kappa: float = FitConfig.kappa
    alpha: float = FitConfig.alpha
    penalty: float = FitConfig.penalty
    tolerance: float = FitConfig.tolerance
    max_iterations: int = FitConfig.max_iterations
    epochs: int = FitConfig.epochs
    batch_size: int = FitConfig.batch_size
    learning_rate: float = FitConfig.learning_rate
    milestones: tuple[int, ...] = FitConfig.milestones
    slices: int = FitConfig.slices
    radius: float | None = FitConfig.radius
    compose: str = "gram"
    epsilon: float = DEFAULT_EPSILON
    joint_penalty: float = JOINT_PENALTY
    weighting: str = "uniform"
    precision: str = "float32"
    cache_dtype: str = "float16"
    device: str = "cpu"
    threads: int = 1
    max_rejected: float = 0.01
    exif_orientation: str = "ignore"
    constants_gib: float = PREPARED_BUDGET / 2**30
    features: int = DEFAULT_FEATURES
    site_blocks: int | str = DEFAULT_BLOCKS
    versions: Mapping[str, str] = dataclasses.field(default_factory=lambda: _versions())

    def __post_init__(self) -> None:
        if self.additive and self.compose == type(self).compose:
            object.__setattr__(self, "compose", ADDITIVE)  # the one way to compose such a run
        if self.shards < 1:
            raise UsageError(f"expected shards >= 1, got {self.shards}; set --shards")
        if self.threads < 1:
            raise UsageError(f"expected threads >= 1, got {self.threads}; set --threads")
        if not 0 <= self.max_rejected <= 1:
            raise UsageError(f"expected 0 <= max_rejected <= 1, got {self.max_rejected}; set --max-rejected")
        if not 0 <= self.constants_gib <= _MOST_GIB:
            raise UsageError(
                f"expected 0 <= constants_gib <= {_MOST_GIB:,}, got {self.constants_gib}; set --constants-gib"
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"expected 0 <= seed < 2^63, got {self.seed}; set --seed")
        for name, allowed in (
            ("assignment", METHODS),
            ("compose", (ADDITIVE,) if self.additive else COMPOSITIONS),
            ("weighting", WEIGHTINGS),
            ("cache_dtype", DTYPES),
            ("precision", PRECISIONS),
            ("device", ("cpu", "cuda")),
            ("trainable", TRAINABLE),
            ("exif_orientation", ORIENTATIONS),
        ):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        if self.last_blocks != "all" and not (isinstance(self.last_blocks, int) and self.last_blocks >= 0):
            raise UsageError(f'last_blocks={self.last_blocks!r}: expected a number >= 0, or "all"; set --last-blocks')
        if not self.epsilon > 0:
            raise UsageError(f"expected epsilon > 0, got {self.epsilon}; set --epsilon")
        if not 0 < self.joint_penalty < math.inf:
            raise UsageError(f"expected a number joint_penalty > 0, got {self.joint_penalty}; set --joint-penalty")
        if self.classes is not None and (not all(self.classes) or len(set(self.classes)) != len(self.classes)):
            raise UsageError(f"classes={list(self.classes)}: expected different names; set --classes")
        if self.features < 1:
            raise UsageError(f"expected features >= 1, got {self.features}; set --features")
        if self.site_blocks not in (DEFAULT_BLOCKS, "all") and not (
            isinstance(self.site_blocks, int) and self.site_blocks >= 1
        ):
            raise UsageError(
                f"site_blocks={self.site_blocks!r}: expected a number >= 1, all or {DEFAULT_BLOCKS}; set --site-blocks"
            )
        if self.additive and self.weighting != "uniform":
            raise UsageError(f"weighting={self.weighting!r}: an additive model sums pictures; leave --weighting out")
        if not self.additive:
            self.fit_config()

    @property
    def additive(self) -> bool:
        """Whether the model is a function of exact sums over pictures, and nothing is fitted (`additive`)."""
        return self.solver == ADDITIVE

    def check_tangent(self, verb: str) -> None:
        """UsageError for a verb that is about tangent models, where this run has none."""
        if self.additive:
            way = "use taft-ray tune, which needs no trial" if verb == "sweep" else "it cannot be done here yet"
            raise UsageError(f"{verb} is made for tangent models, and this run is additive; {way}")

    def check_additive(self, what: str) -> None:
        """UsageError for what an additive run alone can do, where this is none."""
        if not self.additive:
            raise UsageError(f"{what} needs --solver additive, and this run's solver is {self.solver}")

    @property
    def stored_dtype(self) -> str:
        """The type of the numbers in the cache."""
        return "int16" if self.additive else self.cache_dtype

    def fit_config(self) -> FitConfig:
        names = {field.name for field in fields(FitConfig)}
        return FitConfig(**{name: getattr(self, name) for name in names if hasattr(self, name)})

    def linearize_options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("last_blocks", "trainable", "reset", "cls_token", "seed")}

    @property
    def constants_bytes(self) -> int:
        return int(self.constants_gib * 2**30)

    def composed(self, sums: Sums, mode: str, workers: int = 1) -> Delta:
        """`Sums.compose` by this spec's ε and λ."""
        return sums.compose(mode, self.epsilon, self.joint_penalty, workers)

    @property
    def modes(self) -> tuple[str, ...]:
        """The compositions that its shards' deltas allow, the mean first."""
        if self.additive:
            return (ADDITIVE,)
        return ("mean",) if self.compose == "mean" else ("mean", self.compose)

    def weight_of(self, samples: int) -> int:
        """How often a shard's delta counts in the mean: an empty shard weighs nothing."""
        return samples if self.weighting == "samples" else int(samples > 0)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _ADDED and value == field.default and not (self.additive and field.name in _OF_ADDITIVE):
                continue
            out[field.name] = (
                list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            )
        return out

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunSpec:
        known = {field.name for field in fields(cls)}
        if values.keys() - known:
            raise SpecMismatch(
                f"the run was made by another version of taft_ray: unknown fields {sorted(values.keys() - known)}"
            )
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})

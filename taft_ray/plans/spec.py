"""A run's immutable spec: everything that decides the bits of its deltas, and nothing else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from taft_ray.additive.options import ADDITIVE, DEFAULT_BLOCKS, check_views
from taft_ray.data import METHODS, ORIENTATIONS
from taft_ray.errors import SpecMismatch, UsageError
from taft_ray.fitting.config import FIT_PRECISIONS, PRIVATE_ROWS, FitConfig
from taft_ray.plans.privacy import Privacy, check_private
from taft_ray.sums.options import COMPOSITIONS, DEFAULT_COMPOSITION, DEFAULT_EPSILON, JOINT_PENALTY
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
_ADDED = (
    "constants_gib",
    "exif_orientation",
    "joint_penalty",
    "features",
    "site_blocks",
    "views",
    "beside",
    "privacy",
    "fit_precision",
)
_OF_ADDITIVE = ("site_blocks",)  # an additive run's spec always has it


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
    """The definition of a run. Two runs with equal specs and equal data have equal deltas on equal hardware.

    threads: CPU threads of every lane and every prefix actor. The last bits of a sum depend on it, so it is fixed here
    and not taken from the machine.

    weighting: "uniform" is the paper's plain mean of shards; "samples" weighs a shard by its number of samples.

    slices: of adam; checkpoints are kept between this many parts of a shard, and a retrain starts at the part that lost a
    sample. The paper's recipe is 1; more is another recipe (`fitting.slices`).

    radius: of adam; Δw is projected onto the ball of this radius (the paper's Table 7, where the penalty is 0).

    epsilon, joint_penalty: of the compositions by Gram and by joint statistics.

    max_rejected: the fraction of source rows that may be rejected before the run fails.

    exif_orientation: whether a picture is turned as its EXIF says, in training, evaluation and audit alike.

    precision: of the frozen prefix's passes; see `fastest_precision`.

    fit_precision: of the fits' products.

    compose: "additive" with a solver that fits makes a run of two tiers: rows, whose sums are the model, and deltas beside it.
        Any other makes a run of deltas alone.

    features: of an additive run, S of `additive`. None: 2,048, or all that the sites have where they are fewer; a new run keeps
        the number. site_blocks: how many last blocks have sites. Also "all", or "default" (7/12). views: of each picture, over which
        its row is averaged: 1 to 4, and as many passes.

    beside: how deltas are composed beside rows; "gram" by default.

    privacy: of a private run; None is no privacy.

    constants_gib: of memory, for the constants of a worker's shard. Beyond it some are computed again for every batch, whose
    last bits differ (`tangent.prepare_pictures`).

    Examples:
        >>> spec = tr.RunSpec(data="pets/train", model="deit_tiny_patch16_224", shards=50)
        >>> spec.solver, spec.compose, spec.beside
        ('ridge', 'additive', 'gram')
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
    compose: str = ADDITIVE
    epsilon: float = DEFAULT_EPSILON
    joint_penalty: float = JOINT_PENALTY
    weighting: str = "uniform"
    precision: str = "float32"
    fit_precision: str = FitConfig.fit_precision
    cache_dtype: str = "float16"
    device: str = "cpu"
    threads: int = 1
    max_rejected: float = 0.01
    exif_orientation: str = "ignore"
    constants_gib: float = PREPARED_BUDGET / 2**30
    features: int | None = None
    site_blocks: int | str = DEFAULT_BLOCKS
    views: int = 1
    beside: str | None = None
    privacy: Privacy | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=lambda: _versions())

    def __post_init__(self) -> None:
        if isinstance(self.privacy, Mapping):
            object.__setattr__(self, "privacy", Privacy.from_json(self.privacy))
        if self.two_tiers and self.beside is None:
            object.__setattr__(self, "beside", DEFAULT_COMPOSITION)
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
            ("compose", (ADDITIVE,) if self.lean else (*COMPOSITIONS, ADDITIVE)),
            ("beside", COMPOSITIONS if self.two_tiers else (None,)),
            ("weighting", WEIGHTINGS),
            ("cache_dtype", DTYPES),
            ("precision", PRECISIONS),
            ("device", ("cpu", "cuda")),
            ("fit_precision", FIT_PRECISIONS.get(self.device, ())),
            ("trainable", TRAINABLE),
            ("exif_orientation", ORIENTATIONS),
        ):
            if getattr(self, name) not in allowed:
                if name == "beside" and not self.two_tiers:
                    raise UsageError(f"beside={self.beside!r} needs --compose additive, and a solver that fits")
                raise UsageError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(str, allowed))}")
        if self.last_blocks != "all" and not (isinstance(self.last_blocks, int) and self.last_blocks >= 0):
            raise UsageError(f'last_blocks={self.last_blocks!r}: expected a number >= 0, or "all"; set --last-blocks')
        if not self.epsilon > 0:
            raise UsageError(f"expected epsilon > 0, got {self.epsilon}; set --epsilon")
        if not 0 < self.joint_penalty < math.inf:
            raise UsageError(f"expected a number joint_penalty > 0, got {self.joint_penalty}; set --joint-penalty")
        if self.classes is not None and (not all(self.classes) or len(set(self.classes)) != len(self.classes)):
            raise UsageError(f"classes={list(self.classes)}: expected different names; set --classes")
        if self.features is not None and self.features < 1:
            raise UsageError(f"expected features >= 1, got {self.features}; set --features")
        if self.site_blocks not in (DEFAULT_BLOCKS, "all") and not (
            isinstance(self.site_blocks, int) and self.site_blocks >= 1
        ):
            raise UsageError(
                f"site_blocks={self.site_blocks!r}: expected a number >= 1, all or {DEFAULT_BLOCKS}; set --site-blocks"
            )
        check_views(self.views)
        if self.additive and self.weighting != "uniform":
            other = "" if self.lean else f", or choose --compose {DEFAULT_COMPOSITION}"
            raise UsageError(
                f"weighting={self.weighting!r}: an additive model sums pictures; leave --weighting out{other}"
            )
        check_private(self)
        if not self.lean:
            self.fit_config()

    @property
    def lean(self) -> bool:
        """Whether nothing is fitted: the run has rows, and no deltas."""
        return self.solver == ADDITIVE

    @property
    def additive(self) -> bool:
        """Whether the model is a function of exact sums over pictures (`additive`)."""
        return self.lean or self.compose == ADDITIVE

    @property
    def two_tiers(self) -> bool:
        """Whether the run has rows, whose sums are the model, and deltas beside them."""
        return self.additive and not self.lean

    @property
    def tiers(self) -> tuple[bool, ...]:
        """The sums that a run has, as `by_records` tells them apart: of deltas (or a lean run's records), and of records beside them."""
        return (False, True) if self.two_tiers else (False,)

    @property
    def of_deltas(self) -> str:
        """The composition of the deltas for which fits keep statistics; of a lean run, its own."""
        return self.beside or self.compose

    def by_records(self, mode: str) -> bool:
        """Whether a composition is of the records that shards have beside their deltas."""
        return self.two_tiers and mode == ADDITIVE

    def check_additive(self, what: str) -> None:
        """UsageError for what an additive run alone can do, where this is none."""
        if not self.additive:
            raise UsageError(
                f"{what} needs --solver additive, or --compose additive; this run's are {self.solver} and {self.compose}"
            )

    @property
    def rows_alone(self) -> bool:
        """Whether the cache has rows, and no tokens: of an additive run without deltas, or of private fits on rows."""
        return self.lean or self.solver == PRIVATE_ROWS

    @property
    def stored_dtype(self) -> str:
        """The type of the numbers in the cache's first column: tokens, or rows where there are no tokens."""
        return "int16" if self.rows_alone else self.cache_dtype

    def fit_config(self) -> FitConfig:
        names = {field.name for field in fields(FitConfig)}
        return FitConfig(**{name: getattr(self, name) for name in names if hasattr(self, name)})

    def linearize_options(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("last_blocks", "trainable", "reset", "cls_token", "seed")}
        return named | ({"tangent_only": True} if self.privacy is not None else {})

    @property
    def constants_bytes(self) -> int:
        return int(self.constants_gib * 2**30)

    def composed(self, sums: Sums, mode: str, workers: int = 1) -> Delta:
        """`Sums.compose` by this spec's ε and λ."""
        return sums.compose(mode, self.epsilon, self.joint_penalty, workers)

    @property
    def modes(self) -> tuple[str, ...]:
        """The compositions that its shards allow: the mean of deltas first, the model's own last."""
        return (*self.modes_of_deltas, ADDITIVE) if self.additive else self.modes_of_deltas

    @property
    def modes_of_deltas(self) -> tuple[str, ...]:
        """Those of `modes` that compose deltas."""
        return () if self.lean else tuple(dict.fromkeys(("mean", self.of_deltas)))

    def weight_of(self, samples: int) -> int:
        """How often a shard's delta counts in the mean: an empty shard weighs nothing."""
        return samples if self.weighting == "samples" else int(samples > 0)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if (
                field.name in _ADDED
                and value == field.default
                and not ((self.additive or self.rows_alone) and field.name in _OF_ADDITIVE)
            ):
                continue
            out[field.name] = (
                list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            )
        if self.privacy is not None:
            out["privacy"] = self.privacy.to_json()
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

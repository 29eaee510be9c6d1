"""A cell: one network fitted on the shards of one data set with one seed, from which tables read their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.plans.spec import RunSpec
from taft_ray.storage import digest_json
from taft_ray.systems.private import Private

NETWORKS = ("tangent", "nonlinear", "frozen", "additive", "head2toe")
ON_SITES = ("additive", "head2toe")  # their cache holds site vectors instead of tokens
# where a cell's inputs lie, which does not change its numbers; their contents are in `Cell.inputs`
_PLACES = ("data", "weights", "max_rejected", "versions", "compose")
_LAST_BITS = ("constants_gib",)  # of its numbers no more than these are changed by: not of seconds


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The definition of a cell. Cells of several tables that are alike are one: nothing here names a table.

    ``spec``: data, model, trained part, fit, shards, seed and the rest, as of a run. ``spec.data`` is the training data.
    ``network``: "tangent" (TAFT), "nonlinear" (NLFT of the same parameters, Adam only), or one that is not trained. The latter
        are "frozen" (ridge and nearest neighbours on the head's inputs), "additive" and "head2toe" (both on the sites of the
        last blocks).
    ``forget``: this fraction of the samples is left out before anything is fitted, the same ones for every cell of a seed.
    ``kept``: also read out this many of the shards (all where fewer have samples). They are the first ones of each of
        ``orders`` random orders.
    ``leaving``: so many pictures leave after everything was fitted, and each way to forget them is measured.
    ``merges``: fine-tuned shards are merged by RegMean and RegMean++ as well.
    ``epsilons``, ``joint_penalties``: of the Gram and of the joint composition, measured beside the spec's own.
    ``timed``: its seconds are read, so nothing else may run beside it, and a fit that does not count comes first.
    ``private``: the fit is differentially private: `measure_private` says how.
    ``inputs``: digests of the training data, the evaluation data and the weights.
    """

    spec: RunSpec
    network: str = "tangent"
    forget: float = 0.0
    kept: tuple[int, ...] = ()
    orders: int = 3
    epsilons: tuple[float, ...] = ()
    joint_penalties: tuple[float, ...] = ()
    timed: bool = False
    leaving: int = 0
    merges: bool = False
    private: Private | None = None
    inputs: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise UsageError(f"network={self.network!r}: expected one of {', '.join(NETWORKS)}")
        if self.network == "nonlinear" and self.spec.solver != "adam":
            raise UsageError(f"network='nonlinear' with solver={self.spec.solver!r}: it is trained by adam only")
        if (self.network in ON_SITES) != self.spec.additive:
            raise UsageError(
                f"network={self.network!r} with solver={self.spec.solver!r}: {' and '.join(ON_SITES)} need additive"
            )
        if self.merges and self.network != "nonlinear":
            raise UsageError(
                f"merges=True with network={self.network!r}: fine-tuned shards alone are merged by RegMean"
            )
        if self.leaving < 0 or (self.leaving and self.forget):
            raise UsageError(f"leaving={self.leaving}, forget={self.forget}: expected leaving >= 0, and one of the two")
        if self.spec.assignment == "grouped":
            raise UsageError("assignment='grouped' needs owners, which cached tokens do not have; use hash or equal")
        if not 0 <= self.forget < 1:
            raise UsageError(f"forget={self.forget}: expected a fraction in [0, 1)")
        if not all(1 <= count <= self.spec.shards for count in self.kept):
            raise UsageError(f"kept={list(self.kept)}: expected numbers from 1 to {self.spec.shards}, the shards")

    def to_json(self) -> dict[str, Any]:
        values = {
            "spec": self.spec.to_json(),
            "network": self.network,
            "forget": self.forget,
            "kept": list(self.kept),
            "orders": self.orders,
            "epsilons": list(self.epsilons),
            "timed": self.timed,
            "inputs": dict(self.inputs),
        }
        if self.joint_penalties:  # cells of earlier versions have none of these, and keep their digests
            values["joint_penalties"] = list(self.joint_penalties)
        if self.leaving:
            values["leaving"] = self.leaving
        if self.merges:
            values["merges"] = True
        if self.private is not None:
            values["private"] = self.private.to_json()
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        lists = {name: tuple(values.get(name, ())) for name in ("kept", "epsilons", "joint_penalties")}
        private = {"private": Private.from_json(values["private"])} if "private" in values else {}
        return cls(**{**values, **lists, **private, "spec": RunSpec.from_json(values["spec"])})

    @property
    def digest(self) -> str:
        """The digest of everything that decides its numbers, wherever data and weights lie."""
        values, beside = self.to_json(), _PLACES if self.timed else _PLACES + _LAST_BITS
        return digest_json({**values, "spec": {k: v for k, v in values["spec"].items() if k not in beside}})

    def with_spec(self, **changes: Any) -> Cell:
        """The same cell with other fields of its spec."""
        return replace(self, spec=replace(self.spec, **changes))

"""A worker's share of a cluster, beside its threads. No bit of a result depends on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taft_ray.errors import UsageError
from taft_ray.jsonable import JsonObject, optional
from taft_ray.plans.fact import Fact

if TYPE_CHECKING:
    from taft_ray.plans.spec import RunSpec

LANE_SHARE = 0.4  # of each of a CPU lane's cores: see PREFIX_SHARE
# a lane that starts beside the prefix pass, and one of its workers, share a core; what is left is for reading
PREFIX_SHARE = 0.3334
_FINEST = 1e-4  # Ray counts no finer


@dataclass(frozen=True)
class LaneResources(JsonObject):
    """Lanes, workers of the prefix pass, and those that fit again or measure take this, each for itself.

    cpus: cores that each holds. By default as many as the run's ``threads``, and none beside a GPU.

    gpus: the part of a GPU that each holds, in (0, 1]. With 0.5 two share one.

    resources: custom resources of the cluster's nodes, and how much each takes.

    accelerator_type: Ray's name of a kind of GPU, such as "L4".

    label_selector: labels of the nodes, by Ray's syntax: "value", "!value", "in(a,b)", "!in(a,b)".

    Raises UsageError for amounts that are none.

    Examples:
        >>> tr.LaneResources(gpus=0.5, accelerator_type="L4").per_gpu  # workers that share a GPU
        2
    """

    cpus: float | None = None
    gpus: float = 1.0
    resources: Mapping[str, float] = optional(dict)
    accelerator_type: str | None = None
    label_selector: Mapping[str, str] = optional(dict)

    def __post_init__(self) -> None:
        if self.cpus is not None and not _FINEST <= self.cpus < math.inf:
            raise UsageError(f"expected cpus per lane > 0, got {self.cpus}; set --cpus-per-lane")
        if not _FINEST <= self.gpus <= 1:
            raise UsageError(f"expected 0 < gpus per lane <= 1, got {self.gpus}; a lane uses one GPU at most")
        # Ray takes a blank after a comma for a part of the value
        labels = {name: "".join(wanted.split()) for name, wanted in self.label_selector.items()}
        object.__setattr__(self, "label_selector", labels)
        for name, amount in self.resources.items():
            if name in ("CPU", "GPU", "memory", "object_store_memory") or not name:
                raise UsageError(f"{name!r} is no custom resource; use --cpus-per-lane or --gpus-per-lane")
            if not _FINEST <= amount < math.inf:
                raise UsageError(f"expected more than 0 of the resource {name!r} per lane, got {amount}")

    def cores(self, threads: int) -> float:
        """That a worker on CPUs counts for."""
        return threads if self.cpus is None else self.cpus

    @property
    def per_gpu(self) -> int:
        """How many workers share a GPU."""
        return int(1 / self.gpus + 1e-9)

    def said(self, device: str, threads: int) -> str:
        """For "waits for …": what a worker takes."""
        gpu = "a GPU" if self.gpus == 1 else f"{self.gpus:g} of a GPU"
        if self.accelerator_type:
            gpu += f" of type {self.accelerator_type}"
        cpus = f"{self.cores(threads):g} CPU" + ("" if self.cores(threads) == 1 else "s")
        held = [gpu, *([cpus] if self.cpus else [])] if device == "cuda" else [cpus]
        held += [f"{amount:g} of {name}" for name, amount in sorted(self.resources.items())]
        labels = ", ".join(f"{name}={value}" for name, value in sorted(self.label_selector.items()))
        return " and ".join(held) + (f" on a node with {labels}" if labels else "")

    def for_lane(self, spec: RunSpec) -> dict[str, float]:
        """`resources_per_worker` of Ray Train."""
        if spec.device == "cuda":
            own = {"GPU": self.gpus, **({"CPU": self.cpus} if self.cpus else {})}
        else:
            own = {"CPU": self.cpus or LANE_SHARE * spec.threads}
        return {**own, **self.resources}

    def for_pass(self, spec: RunSpec) -> dict[str, Any]:
        """Ray's options of a worker of the prefix pass."""
        if spec.device == "cuda":
            return {"num_cpus": self.cpus or 1, "num_gpus": self.gpus, **self._where()}
        return {"num_cpus": PREFIX_SHARE * self.cores(spec.threads), "num_gpus": 0, **self._where()}

    def for_worker(self, spec: RunSpec) -> dict[str, Any]:
        """Ray's options of a warm worker."""
        if spec.device == "cuda":
            return {"num_cpus": self.cpus or 0, "num_gpus": self.gpus, **self._where()}
        return {"num_cpus": self.cores(spec.threads), "num_gpus": 0, **self._where()}

    def _where(self) -> dict[str, Any]:
        return {
            **({"resources": dict(self.resources)} if self.resources else {}),
            **({"accelerator_type": self.accelerator_type} if self.accelerator_type else {}),
            **({"label_selector": dict(self.label_selector)} if self.label_selector else {}),
        }


ANYWHERE = LaneResources()
"""Where a person has said nothing."""


@dataclass(frozen=True)
class LaneResourcesSet(Fact):
    """A person has said what workers of the run take from now on. number: how often it was said before."""

    KIND = "lane-resources-set"
    per_lane: LaneResources
    number: int

"""The process that composes for all composers of a cluster, so that none of them holds torch: it takes half a GB."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from taft_ray.orchestration.session import HEAD, NAMESPACE, head_memory
from taft_ray.orchestration.standing import Standing, giving_signs
from taft_ray.run.solve import Model, solve
from taft_ray.version import VERSION
from taft_ray.workers.warm import Warm, in_use

if TYPE_CHECKING:
    from taft_ray.plans.spec import RunSpec
    from taft_ray.sums import Totals

SOLVER_IDLE_S = 180.0
SOLVER_MEMORY = 600 << 20  # bytes: torch, and the sums of a small run


class SolverActor(Warm):
    """`solve`, in a process that leaves when nobody has called for a while."""

    def __init__(self, idle_s: float) -> None:
        import taft_ray.run.sums  # noqa: F401  # with torch, before the first call waits for it

        super().__init__(idle_s)

    @in_use
    def solve(self, spec: RunSpec, totals: Totals, mode: str, workers: int) -> Model:
        return solve(spec, totals, mode, workers)


class RemoteSolver:
    """`run.solve.solve`, by the cluster's solver. Nothing starts before the first call, or `start`."""

    def __init__(self) -> None:
        self._standing: Standing | None = None

    def start(self) -> None:
        """Have it there soon: somebody will compose."""
        self._standing = self._standing or Standing(_solver)

    def __call__(self, spec: RunSpec, totals: Totals, mode: str, workers: int) -> Model:
        self.start()
        assert self._standing is not None
        return self._standing.ask("solve", spec, totals, mode, workers)


def solver_name() -> str:
    """Versions never share one: a composition's bits may depend on them."""
    return f"taft_ray/solver/{VERSION}/{version('torch')}"


def _solver() -> object:
    return (
        giving_signs(SolverActor)
        .options(
            name=solver_name(),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            memory=head_memory(SOLVER_MEMORY) or None,
            resources=HEAD,
            max_restarts=0,
        )
        .remote(SOLVER_IDLE_S)
    )

"""Cells of a table, measured by warm actors on one shared prefix, and kept in storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import ray

from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.orchestration import places, session
from taft_ray.orchestration.calls import own_errors
from taft_ray.orchestration.pulse import looked_after, new_group, with_pulse
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.train import lanes_for
from taft_ray.progress import Report
from taft_ray.storage import Store, digest_json, json_object
from taft_ray.studies.cell_worker import CellWorker, cell_key
from taft_ray.studies.shared_tokens import Tokens, prefix_of, shared_tokens
from taft_ray.systems import ON_SITES, Cell, Table


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A table with its results, and how many of its cells were there already."""

    table: Table
    results: dict[str, dict[str, Any]]
    made: int


@dataclass(kw_only=True)
class TokenSource:
    """Where tokens come from: one pair of (training, evaluation) tokens for each depth of the suffix, and one of sites."""

    root: str
    data: str
    test: str
    rows: int | None
    test_rows: int | None
    report: Report
    public: str | None = None
    public_rows: int | None = None

    def __post_init__(self) -> None:
        self._held: tuple[Any, tuple[Tokens, ...]] | None = None

    def of(self, cell: Cell) -> tuple[Tokens, ...]:
        """The pair for this cell, in Ray; the last one is kept, for cells come depth by depth. Public tokens are beside it."""
        places.check_device(cell.spec.device)
        depth = tokens_in_common(cell)
        if self._held is None or self._held[0] != depth:
            self._held = None
            train = shared_tokens(
                self.root, cell.spec, self.data, rows=self.rows, classes=cell.spec.classes, report=self.report
            )
            test = shared_tokens(
                self.root, cell.spec, self.test, rows=self.test_rows, classes=train.classes, report=self.report
            )
            beside = ()
            if depth[-1] and self.public is not None:
                beside = (
                    shared_tokens(
                        self.root, cell.spec, self.public, rows=self.public_rows, classes=None, report=self.report
                    ),
                )
            self._held = (depth, (train, test, *beside))
        return self._held[1]


def tokens_in_common(cell: Cell) -> tuple[str, bool]:
    """Cells that read the same tokens have this in common; the last says whether public ones are among them."""
    return digest_json(prefix_of(cell.spec).to_json()), cell.network in ON_SITES and cell.private is not None


def _workers(spec: RunSpec) -> int:
    cpus, gpus = places.resources()
    return lanes_for(cpus, gpus=gpus if spec.device == "cuda" else 0, cpus=cpus, threads=spec.threads)


def _actor(root: str, spec: RunSpec, group: str) -> Any:
    on_gpu = spec.device == "cuda"
    worker: Any = ray.remote(with_pulse(CellWorker, group))
    return worker.options(num_cpus=0 if on_gpu else spec.threads, num_gpus=1 if on_gpu else 0).remote(root)


def measured(store: Store, asked: Table, source: TokenSource, workers: int | None, report: Report) -> Measured:
    """Results of every cell; those in storage are read, and where all are, Ray is not started."""
    results: dict[str, dict[str, Any]] = {}
    missing: list[Cell] = []
    for cell in asked.cells:
        try:
            found = json_object(store.read(cell_key(cell)), cell_key(cell))
            if found.get("digest") != cell.digest or not isinstance(found.get("accuracy"), dict):
                raise IntegrityError(f"{cell_key(cell)} is of another cell")
            results[cell.digest] = found
        except (ObjectMissing, IntegrityError):  # a damaged one is measured again
            missing.append(cell)
    total, found = len(asked.cells), len(results)
    report("cells", found, total)
    # seed by seed, so that what was interrupted can be drawn with --seeds of those that are whole; long cells do not start last
    missing.sort(key=lambda c: (*tokens_in_common(c), c.timed, c.spec.seed, -c.spec.shards))
    with session.connected() if missing else nullcontext():
        for group in _alike(missing):
            tokens = source.of(group[0])
            at_once = 1 if group[0].timed else min(workers or _workers(group[0].spec), len(group))
            for result in _run(source.root, group, tokens, at_once):
                results[result["digest"]] = result
                report("cells", len(results), total)
    return Measured(table=asked, results=results, made=total - found)


def measured_again(cells: Sequence[Cell], source: TokenSource) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Measure these cells once more, and compare with what is kept of them."""
    with session.connected():
        for cell in cells:
            (result,) = _run(source.root, [cell], source.of(cell), 1, again=True)
            yield cell, result


def _alike(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Consecutive cells that share tokens, and whether they may run side by side."""
    group: list[Cell] = []
    for cell in cells:
        if group and (tokens_in_common(cell), cell.timed) != (tokens_in_common(group[0]), group[0].timed):
            yield group
            group = []
        group.append(cell)
    if group:
        yield group


def _run(
    root: str, cells: Sequence[Cell], tokens: Sequence[Tokens], workers: int, *, again: bool = False
) -> Iterator[dict[str, Any]]:
    """Measure cells on ``workers`` warm actors, each answer as it comes. The first error stops it; what was written stays."""
    waiting, group = list(reversed(cells)), new_group("cells")
    actors = [_actor(root, cells[0].spec, group) for _ in range(workers)]
    running: dict[Any, Any] = {}

    def start(actor: Any) -> None:
        if waiting:
            cell = waiting.pop()
            arrays = [array for each in tokens for array in each.arrays]
            running[actor.measure.remote(cell.to_json(), len(tokens[0].classes), again, *arrays)] = actor

    try:
        with (
            looked_after("a table", group, closes=True),
            own_errors("a worker died ({error}); run the same command again, finished cells are kept"),
        ):
            for actor in actors:
                start(actor)
            while running:
                (done,), _ = ray.wait(list(running), num_returns=1)
                actor = running.pop(done)
                start(actor)
                yield ray.get(done)
    finally:
        for actor in actors:
            ray.kill(actor)

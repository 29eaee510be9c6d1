"""`reproduce`: a table of the paper on any data. Cells are measured by warm actors on one shared prefix, and kept in storage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from taft_ray import evaluation
from taft_ray.data import open_source
from taft_ray.errors import IntegrityError, ObjectMissing, StorageError, UnsupportedModel, UsageError
from taft_ray.models import LoadedModel, load_model
from taft_ray.orchestration import session
from taft_ray.orchestration.actors import own_error
from taft_ray.orchestration.cell_worker import CellWorker, cell_key
from taft_ray.orchestration.features import Report
from taft_ray.orchestration.run import data_address, data_stamp, model_address, run_address, silent
from taft_ray.orchestration.shared_tokens import Tokens, shared_tokens
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.train import lanes_for
from taft_ray.storage import Store, json_object
from taft_ray.systems import Cell, Table, Wanted, summarise, table
from taft_ray.tangent import check_joint, linearize


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A table with its results, and how many of its cells were there already."""

    table: Table
    results: dict[str, dict[str, Any]]
    made: int


def reproduce(
    name: str,
    out: str,
    spec: RunSpec,
    test: str,
    *,
    seeds: Sequence[int],
    shards: Sequence[int],
    many_blocks: int,
    rows: int | None = None,
    test_rows: int | None = None,
    label: str | None = None,
    cell: str | None = None,
    workers: int | None = None,
    command: str = "",
    report: Report = silent,
) -> dict[str, Any]:
    """Measure what the table lacks and write it to OUT/tables/<name>-<label>.{json,csv,md,svg}. Safe to repeat after a kill.

    spec: the data, the model and everything that rows do not change. test: the evaluation data.
    cell: measure only the cells whose digest begins so, again, and say whether they are what they were.
    label: of the data in titles and file names; the data's own name by default.

    Raises UsageError for a table, a cell or a choice that is not there; what `train` raises for data and models.
    """
    out, test = run_address(out), data_address(test)
    spec = replace(
        spec,
        data=data_address(spec.data),
        model=model_address(spec.model),
        weights=spec.weights and run_address(spec.weights),
    )
    for uri in (spec.data, test):
        open_source(uri)  # before anything is written
    loaded = load_model(spec.model, spec.weights, spec.image_size)
    spec = replace(spec, weights_digest=loaded.weights_digest)
    label = label or spec.data.rstrip("/").rpartition("/")[2].partition(".")[0]
    stamps = {"data": data_stamp(spec.data), "test": data_stamp(test), "weights": loaded.weights_digest}
    inputs = {**stamps, "rows": str(rows), "test_rows": str(test_rows)}
    joint = _composes_jointly(loaded, spec)
    wanted = Wanted(
        base=Cell(spec=spec, inputs=inputs), seeds=seeds, shards=shards, many_blocks=many_blocks, joint=joint
    )
    asked = table(name, wanted)
    for options in {tuple({**cell.spec.linearize_options(), "seed": 0}.items()) for cell in asked.cells}:
        linearize(loaded.network, num_classes=2, **dict(options))  # refuses what this model cannot do
    store = Store(out)
    source = _Source(root=out, data=spec.data, test=test, rows=rows, test_rows=test_rows, report=report)
    if cell is not None:
        return _again(asked, cell, source)
    measured = _measured(store, asked, source, workers, report)
    return _write(store, measured, spec, label=label, seeds=seeds, command=command)


def _composes_jointly(loaded: LoadedModel, spec: RunSpec) -> bool:
    tm = linearize(loaded.network, num_classes=2, **spec.linearize_options())
    size = loaded.preprocess.size
    try:
        check_joint(tm, tm.prefix(torch.zeros(1, 3, size, size)))
    except UnsupportedModel:
        return False
    return True


@dataclass(kw_only=True)
class _Source:
    """Where tokens come from: one pair of (training, evaluation) tokens for each depth of the suffix."""

    root: str
    data: str
    test: str
    rows: int | None
    test_rows: int | None
    report: Report

    def __post_init__(self) -> None:
        self._held: tuple[Any, Tokens, Tokens] | None = None

    def of(self, cell: Cell) -> tuple[Tokens, Tokens]:
        """The pair for this cell, in Ray, which is started here; the last one is kept, for cells come depth by depth."""
        session.connect()
        session.check_device(cell.spec.device)
        depth = cell.spec.last_blocks
        if self._held is None or self._held[0] != depth:
            self._held = None
            train = shared_tokens(
                self.root, cell.spec, self.data, rows=self.rows, classes=cell.spec.classes, report=self.report
            )
            test = shared_tokens(
                self.root, cell.spec, self.test, rows=self.test_rows, classes=train.classes, report=self.report
            )
            self._held = (depth, train, test)
        return self._held[1:]


def _workers(spec: RunSpec) -> int:
    cpus, gpus = session.resources()
    return lanes_for(cpus, gpus=gpus if spec.device == "cuda" else 0, cpus=cpus, threads=spec.threads)


def _actor(root: str, spec: RunSpec) -> Any:
    on_gpu = spec.device == "cuda"
    return (
        ray.remote(CellWorker).options(num_cpus=0 if on_gpu else spec.threads, num_gpus=1 if on_gpu else 0).remote(root)
    )


def _measured(store: Store, asked: Table, source: _Source, workers: int | None, report: Report) -> Measured:
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
    missing.sort(key=lambda c: (str(c.spec.last_blocks), c.timed, c.spec.seed, -c.spec.shards))
    for group in _alike(missing):
        train, test = source.of(group[0])
        at_once = 1 if group[0].timed else min(workers or _workers(group[0].spec), len(group))
        for result in _run(source.root, group, train, test, at_once):
            results[result["digest"]] = result
            report("cells", len(results), total)
    return Measured(table=asked, results=results, made=total - found)


def _alike(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Consecutive cells that share tokens, and whether they may run side by side."""
    group: list[Cell] = []
    for cell in cells:
        if group and (cell.spec.last_blocks, cell.timed) != (group[0].spec.last_blocks, group[0].timed):
            yield group
            group = []
        group.append(cell)
    if group:
        yield group


def _run(
    root: str, cells: Sequence[Cell], train: Tokens, test: Tokens, workers: int, *, again: bool = False
) -> Iterator[dict[str, Any]]:
    """Measure cells on ``workers`` warm actors, each answer as it comes. The first error stops it; what was written stays."""
    waiting = list(reversed(cells))
    actors = [_actor(root, cells[0].spec) for _ in range(workers)]
    running: dict[Any, Any] = {}

    def start(actor: Any) -> None:
        if waiting:
            cell = waiting.pop()
            running[actor.measure.remote(cell.to_json(), len(train.classes), again, *train.arrays, *test.arrays)] = (
                actor
            )

    try:
        for actor in actors:
            start(actor)
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(done)
            start(actor)
            yield ray.get(done)
    except RayTaskError as error:
        own = own_error(error)
        if own is None:
            raise
        raise own from None
    except RayActorError as error:
        raise StorageError(f"a worker died ({error}); run the same command again, finished cells are kept") from error
    finally:
        for actor in actors:
            ray.kill(actor)


def _again(asked: Table, wanted: str, source: _Source) -> dict[str, Any]:
    """Measure the named cells once more."""
    cells = [cell for cell in asked.cells if cell.digest.startswith(wanted)]
    if not cells:
        some = ", ".join(cell.digest[:12] for cell in asked.cells[:4])
        raise UsageError(f"{asked.name} has no cell {wanted!r} with these options; there are {some}, …")
    answers = []
    for cell in cells:
        train, test = source.of(cell)
        (result,) = _run(source.root, [cell], train, test, 1, again=True)
        answers.append(
            {
                "cell": cell.digest,
                "accuracy": result["accuracy"],
                **{k: result[k] for k in ("same", "before") if k in result},
            }
        )
    return {"table": asked.name, "cells": answers, "ok": all(answer.get("same", True) for answer in answers)}


def _write(
    store: Store, measured: Measured, spec: RunSpec, *, label: str, seeds: Sequence[int], command: str
) -> dict[str, Any]:
    first = next(iter(measured.results.values()))
    summary = {
        **summarise(measured.table, measured.results),
        "data": f"{label} ({sum(first['samples'])} / {first['evaluated']})",
        "model": spec.model,
        "seeds": list(seeds),
        "command": command,
        "ensemble_difference": max(
            (r["ensemble_difference"] for r in measured.results.values() if r["ensemble_difference"] is not None),
            default=None,
        ),
        "cells": {
            digest: {"seconds": result["seconds"], "absent_classes": result["absent_classes"]}
            for digest, result in sorted(measured.results.items())
        },
        "environment": first["environment"],
    }
    where = f"tables/{measured.table.name}-{label}"
    files = {
        "json": json.dumps(summary, indent=1).encode(),
        "csv": evaluation.as_csv(summary).encode(),
        "md": evaluation.markdown(summary).encode(),
        "svg": evaluation.picture(summary),
    }
    for kind, content in files.items():
        store.write(f"{where}.{kind}", content)
    return {
        "table": measured.table.name,
        "rows": {
            row: {entry["column"] or "value": entry["mean"] for entry in summary["values"] if entry["row"] == row}
            for row in summary["rows"]
        },
        "cells": len(measured.results),
        "made": measured.made,
        "files": [f"{store.uri}/{where}.{kind}" for kind in files],
    }

"""`reproduce`: a table of the paper on any data. Cells are measured by warm actors on one shared prefix, and kept in storage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taft_ray import evaluation, pages
from taft_ray.data import open_source
from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.plans.spec import RunSpec
from taft_ray.progress import Report, silent
from taft_ray.run.address import data_address, data_stamp, model_address, run_address
from taft_ray.storage import Store
from taft_ray.sums.options import DEFAULT_COMPOSITION
from taft_ray.systems import Cell, Table, Wanted, summarise, table

if TYPE_CHECKING:
    from taft_ray.models import LoadedModel
    from taft_ray.studies.cells import Measured, TokenSource


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
    public: str | None = None,
    public_rows: int | None = None,
    label: str | None = None,
    cell: str | None = None,
    workers: int | None = None,
    command: str = "",
    report: Report = silent,
) -> dict[str, Any]:
    """Measure what the table lacks and write it to OUT/tables/<name>-<label>.{json,csv,md,svg}. Safe to repeat after a kill.

    ``spec``: the data, the model and everything that rows do not change. ``test``: the evaluation data.
    ``cell``: measure only the cells whose digest begins so, again, and say whether they are what they were.
    ``label``: of the data in titles and file names; the data's own name by default.
    ``public``: pictures that nobody need hide, by which more rows of table3 are whitened.

    Raises UsageError for a table, a cell or a choice that is not there; what `train` raises for data and models.
    """
    out, test = run_address(out), data_address(test)
    spec = replace(
        spec,
        data=data_address(spec.data),
        model=model_address(spec.model),
        weights=spec.weights and run_address(spec.weights),
        compose=DEFAULT_COMPOSITION,  # a cell is fitted, or is on rows: nothing has both
        beside=None,
    )
    public = public and data_address(public)
    for uri in filter(None, (spec.data, test, public)):
        open_source(uri)  # before anything is written
    from taft_ray.models import load_model
    from taft_ray.tangent import linearize

    loaded = load_model(spec.model, spec.weights, spec.image_size)
    spec = replace(spec, weights_digest=loaded.weights_digest)
    label = label or spec.data.rstrip("/").rpartition("/")[2].partition(".")[0]
    stamps = {"data": data_stamp(spec.data), "test": data_stamp(test), "weights": loaded.weights_digest}
    inputs = {**stamps, "rows": str(rows), "test_rows": str(test_rows)}
    if public is not None:
        if not name.startswith("table3"):
            raise UsageError(f"public={public!r} with {name}: only table3 reads public pictures; leave --public out")
        inputs |= {"public": data_stamp(public), "public_rows": str(public_rows)}
    wanted = Wanted(
        base=Cell(spec=spec, inputs=inputs), seeds=seeds, shards=shards, many_blocks=many_blocks,
        joint=_composes_jointly(loaded, spec), site_width=_site_width(loaded), public=public is not None,
    )  # fmt: skip
    asked = table(name, wanted)
    for options in {tuple({**cell.spec.linearize_options(), "seed": 0}.items()) for cell in asked.cells}:
        linearize(loaded.network, num_classes=2, **dict(options))  # refuses what this model cannot do
    store = Store(out)
    from taft_ray.studies.cells import TokenSource, measured

    source = TokenSource(
        root=out, data=spec.data, test=test, rows=rows, test_rows=test_rows, report=report, public=public,
        public_rows=public_rows,
    )  # fmt: skip
    if cell is not None:
        return _again(asked, cell, source)
    return _write(
        store, measured(store, asked, source, workers, report), spec, label=label, seeds=seeds, command=command
    )


def _composes_jointly(loaded: LoadedModel, spec: RunSpec) -> bool:
    import torch

    from taft_ray.sums import check_joint
    from taft_ray.tangent import linearize

    tm = linearize(loaded.network, num_classes=2, **spec.linearize_options())
    size = loaded.preprocess.size
    try:
        check_joint(tm, tm.prefix(torch.zeros(1, 3, size, size)))
    except UnsupportedModel:
        return False
    return True


def _site_width(loaded: LoadedModel) -> int | None:
    """The numbers that the additive model's sites have of this network; None where it has no sites."""
    from taft_ray.additive import sites_of
    from taft_ray.additive.sites import default_blocks
    from taft_ray.tangent.network import units_of

    try:
        blocks = default_blocks(len(units_of(loaded.network).names))
        return sites_of(loaded.network, loaded.preprocess.size, size=blocks).width  # a number per block is the least
    except UnsupportedModel:
        return None


def _again(asked: Table, wanted: str, source: TokenSource) -> dict[str, Any]:
    """Measure the named cells once more."""
    cells = [cell for cell in asked.cells if cell.digest.startswith(wanted)]
    if not cells:
        some = ", ".join(cell.digest[:12] for cell in asked.cells[:4])
        raise UsageError(f"{asked.name} has no cell {wanted!r} with these options; there are {some}, …")
    from taft_ray.studies.cells import measured_again

    answers = []
    for cell, result in measured_again(cells, source):
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
            digest: {name: result[name] for name in ("seconds", "absent_classes", "digests") if name in result}
            for digest, result in sorted(measured.results.items())
        },
        "environment": first["environment"],
    }
    where = f"tables/{measured.table.name}-{label}"
    files = {
        "json": json.dumps(summary, indent=1).encode(),
        "csv": evaluation.as_csv(summary).encode(),
        "md": evaluation.markdown(summary).encode(),
        "svg": pages.picture(summary),
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

"""`report` of several runs: their reports side by side, stored with the first of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from taft_ray.evaluation import compared
from taft_ray.log import operation
from taft_ray.pages import comparison_page
from taft_ray.storage import Store
from taft_ray.storage import rundir as names
from taft_ray.verbs.report import address_of, measured


def compare(runs: Sequence[str]) -> dict[str, Any]:
    """Write comparison.html and comparison.json among the reports of the first run; {"page", "json", "runs", "notes"}."""
    stores = [Store(run) for run in runs]
    comparison = compared([measured(store).summary for store in stores])
    return _written(runs[0], stores[0], comparison)


@operation("compare")
def _written(run: str, store: Store, comparison: dict[str, Any]) -> dict[str, Any]:
    page, data = names.report_key("comparison.html"), names.report_key("comparison.json")
    store.write(data, json.dumps(comparison, allow_nan=False, indent=1).encode())
    store.write(page, comparison_page(comparison).encode())
    rows = [
        {
            **{key: one[key] for key in ("name", "uri", "composed", "samples", "requests")},
            **{key: number["value"] for key, number in one["numbers"].items()},
        }
        for one in comparison["runs"]
    ]
    return {
        "page": address_of(store, page),
        "json": address_of(store, data),
        "runs": rows,
        "notes": comparison["notes"],
    }

"""`demo`: the whole path on a small data set and a small model that the package carries, offline."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from taft_ray.composer.selection import Selection
from taft_ray.data import assign, sample_keys
from taft_ray.embedded.names import EMBEDDED_NAME
from taft_ray.plans.spec import RunSpec, fastest_precision
from taft_ray.progress import Report, silent
from taft_ray.proof.verify_run import verify
from taft_ray.verbs.evaluate import evaluate
from taft_ray.verbs.forget import forget
from taft_ray.verbs.report import report as write_report
from taft_ray.verbs.train import train

SHARDS = 10
FOLDER = "runs/demo"  # from where it is called


def demo(
    folder: str | None = None, *, model: str = EMBEDDED_NAME, weights: str | None = None, report: Report = silent
) -> dict[str, Any]:
    """Train 10 shards of scikit-learn's digits and a monolith. Forget three samples by subtraction, and three by drop.

    Evaluates before and after each, verifies the run, and draws the report.

    folder: where the data and the run go; `FOLDER` by default. An earlier demo's run there is replaced.
    """
    import torch

    from taft_ray.embedded import write_digits
    from taft_ray.orchestration import session

    root = Path(folder or FOLDER).expanduser().absolute()
    run = root / "run"
    if run.exists():  # an earlier demo's
        shutil.rmtree(run)
    train_uri, test_uri = write_digits(root / "data")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = fastest_precision(device)
    spec = RunSpec(data=str(train_uri), model=model, weights=weights, shards=SHARDS, device=device, precision=precision)
    with session.connected(report):
        trained = train(str(run), spec, monolithic=True, report=report)
        before = evaluate(str(run), str(test_uri), report=report)
        ids = _ids_of_two_shards(str(train_uri))
        subtracted = forget(str(run), Selection(ids=tuple(ids[:3])), mode="subtract", report=report)
        after_subtract = evaluate(str(run), str(test_uri), report=report)
        dropped = forget(str(run), Selection(ids=tuple(ids[3:6])), mode="drop", report=report)
        after_drop = evaluate(str(run), str(test_uri), report=report)
    checked = verify(str(run))
    page = write_report(str(run))
    return {
        "ok": checked["ok"],
        "shards": len(trained["shards"]),
        "accuracy": {
            "composed": before["accuracy"],
            "beside": before["by_composition"][spec.of_deltas]["accuracy"],
            "monolith": before["monolith"],
            "after subtract": after_subtract["accuracy"],
            "after drop": after_drop["accuracy"],
        },
        "forget": {
            "subtract": {
                "shards": subtracted["shards"],
                "seconds": subtracted["seconds"]["drop"] + subtracted["seconds"]["purge"],  # until the model is whole
                "retrain": subtracted["seconds"]["retrain"],
            },
            "drop": {"shards": dropped["shards"], "seconds": dropped["seconds"]["drop"]},
        },
        "speedup": {
            name: page["derived"].get(name)
            for name in ("speedup_wall", "speedup_critical_path", "speedup_retrain_median")
        },
        "verify": checked["checks"],
        "problems": checked["problems"],
        "report": page["page"],
        "run": str(run),
    }


def _ids_of_two_shards(data: str) -> list[str]:
    """Six samples of two shards: three to subtract, three to drop, so that the drop is not of the same shard."""
    ids: list[str] = pq.read_table(data, columns=["id"])["id"].to_pylist()
    shard = assign(sample_keys(ids, 0), shards=SHARDS, method="hash")
    members = [[name for name, s in zip(ids, shard, strict=True) if s == wanted] for wanted in (0, 1)]
    return members[0][:3] + members[1][:3]

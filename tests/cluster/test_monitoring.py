"""The alerts and the dashboard: of metrics that there are, in Prometheus' language, and right in made-up histories of a run."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from taft_ray.plans.gauges import FITS, GAUGES, PREFIX, VERIFIED

MONITORING = Path(__file__).parents[2] / "cluster" / "monitoring"
ALERTS, DASHBOARD = MONITORING / "alerts.yaml", MONITORING / "grafana.json"
DAY = 86_400
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [rule["expr"] for rule in RULES] + [target["expr"] for panel in panels for target in panel["targets"]]


def test_alerts_and_dashboard_name_metrics_that_there_are_and_use_them_all() -> None:
    there = {f"{PREFIX}{name}" for name in (*GAUGES, *VERIFIED)} | {f"{PREFIX}{name}_total" for name in FITS}
    named = {name for expr in expressions() for name in re.findall(rf"\b{PREFIX}taft_\w+", expr)}
    assert named - there == set()
    assert there - named == {f"{PREFIX}taft_samples"}


@needs_promtool
def test_prometheus_understands_every_panel(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": expr.replace("$run", ".*")} for n, expr in enumerate(expressions())]
    check(tmp_path / "rules.yaml", {"groups": [{"name": "panels", "rules": rules}]}, "check", "rules")


def series(worker: str, name: str, values: str, **labels: str) -> dict[str, str]:
    """A series of a composer's process."""
    own = {"run": "s3://b/r", "WorkerId": worker, **labels}
    inside = ",".join(f'{key}="{value}"' for key, value in own.items())
    return {"series": f"{PREFIX}{name}{{{inside}}}", "values": values}


def composer(worker: str, since: int, until: int, entries: int, **gauges: float) -> list[dict[str, str]]:
    """A composer's process tells this once an hour, from one hour to another. Before and after there is nothing."""

    def told(value: float) -> str:
        return " ".join([*["_"] * since, *[f"{value:g}"] * (until - since), "stale"])

    return [
        series(worker, "taft_ledger_entries", told(entries)),
        *(series(worker, f"taft_{name}", told(value)) for name, value in gauges.items()),
    ]


DEADLINE, UNPURGED = "next_deadline_timestamp_seconds", "oldest_unpurged_timestamp_seconds"
PENDING, QUARANTINED = {"state": "pending"}, {"state": "quarantined"}

CASES: dict[str, tuple[list[dict[str, str]], int, list[str]]] = {
    "nothing is open": (composer("a", 0, 2, 9, **{DEADLINE: 0, UNPURGED: 0}), 30, []),
    "a deadline is far": (composer("a", 0, 2, 9, **{DEADLINE: 5 * DAY}), 4, []),
    "a deadline is near, and its composer has left": (composer("a", 0, 2, 9, **{DEADLINE: 2 * DAY}), 30, ["TaftDeadlineNear"]),
    "a deadline has passed": (
        composer("a", 0, 2, 9, **{DEADLINE: DAY}), 30, ["TaftDeadlineNear", "TaftDeadlinePassed"]
    ),
    "a later composer has met the deadline": (
        composer("a", 0, 2, 9, **{DEADLINE: DAY, UNPURGED: 60}) + composer("b", 3, 5, 14, **{DEADLINE: 0, UNPURGED: 0}), 30, []
    ),
    "a later composer has another deadline": (
        composer("a", 0, 2, 9, **{DEADLINE: 9 * DAY}) + composer("b", 3, 5, 14, **{DEADLINE: 2 * DAY}), 30, ["TaftDeadlineNear"]
    ),
    "a purge was cut off": (composer("a", 0, 2, 9, **{UNPURGED: 60}), 3, ["TaftPurgeLags"]),
    "a purge has just begun": (composer("a", 0, 4, 9, **{UNPURGED: 2 * 3600}), 2, []),
    "a shard is in quarantine": (
        [*composer("a", 0, 2, 9), series("a", "taft_shards", "1 1 stale", **QUARANTINED)], 9, ["TaftQuarantine"]
    ),
    "a later composer has it no more": (
        [*composer("a", 0, 2, 9), series("a", "taft_shards", "1 1 stale", **QUARANTINED),
         *composer("b", 2, 4, 11), series("b", "taft_shards", "_ _ 0 0 stale", **QUARANTINED)], 9, []
    ),
    "shards wait and nobody fits": (
        [series("a", "taft_shards", "5x600", **PENDING), series("a", "taft_fits_total", "3x600")], 5, ["TaftNoProgress"]
    ),
    "shards wait and one after the other is fitted": (
        [series("a", "taft_shards", "5x600", **PENDING), series("a", "taft_fits_total", "0+1x600")], 5, []
    ),
    "pictures are read": (
        [series("a", "taft_shards", "5x600", **PENDING), series("d", "taft_pictures_read_total", "0+50x600")], 5, []
    ),
    "verify found nothing": ([series("", "taft_verify_ok", "1x2")], 9, []),
    "verify failed": ([series("", "taft_verify_ok", "1 0 stale")], 9, ["TaftVerifyFailed"]),
    "verify was mended": ([series("", "taft_verify_ok", "0 1 stale")], 9, []),
    "verify did not run again": ([series("", "taft_verify_timestamp_seconds", "60 stale")], 24 * 9, ["TaftNotVerified"]),
}  # fmt: skip


@needs_promtool
@pytest.mark.parametrize("case", CASES)
def test_each_alert_fires_when_it_must_and_not_before(case: str, tmp_path: Path) -> None:
    """promtool runs the rules over the history: series of one value per hour, or per minute where it has many values."""
    history, hours, fire = CASES[case]
    every = "1m" if any("x600" in one["values"] for one in history) else "1h"
    names = [rule["alert"] for rule in RULES if "alert" in rule]
    asked = [{"eval_time": f"{hours}h", "alertname": name, "exp_alerts": []} for name in names if name not in fire]
    test: dict[str, Any] = {"interval": every, "input_series": history, "alert_rule_test": asked}
    expected = {"interval": every, "input_series": history, "promql_expr_test": [
        {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing",run="s3://b/r"}})', "eval_time": f"{hours}h",
         "exp_samples": [{"labels": "{}", "value": 1}]} for name in fire
    ]}  # fmt: skip
    check(
        tmp_path / "tests.yaml",
        {"rule_files": [str(ALERTS)], "evaluation_interval": every, "tests": [test, expected]},
        "test",
        "rules",
    )


def check(file: Path, content: dict[str, Any], *command: str) -> None:
    file.write_text(yaml.safe_dump(content))
    done = subprocess.run(["promtool", *command, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

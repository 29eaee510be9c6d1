"""Numbers for monitoring follow from the ledger, and are text that Prometheus reads."""

import shutil
import subprocess
from pathlib import Path

import pytest
from command import here
from history import Entry, cached, forget_entries, forgotten, requested, trained
from toy_run import make_run

from taft_ray.errors import UsageError
from taft_ray.plans.fold import replay
from taft_ray.plans.gauges import GAUGES, PREFIX, VERIFIED, exposition, gauges
from taft_ray.verbs.metrics_file import check_metrics_file

NOW = 1_767_300_000.0
MADE = 1.0  # when requests of these histories were made


def values(*entries: Entry, now: float = NOW) -> dict[str, float]:
    """By name and state."""
    state = replay([cached([5, 4, 0]), *entries])
    told = gauges(state, len(entries) + 1, now)
    return {one.name + (f"/{one.labels['state']}" if one.labels else ""): one.value for one in told}


def test_shards_are_counted_by_state_and_none_is_left_out() -> None:
    told = values(trained(0, 5))
    states = {name: value for name, value in told.items() if name.startswith("taft_shards/")}
    assert sum(states.values()) == 3
    assert (told["taft_shards/trained"], told["taft_shards/pending"], told["taft_shards/empty"]) == (1, 1, 1)
    assert told["taft_shards/quarantined"] == 0, "a series that alerts must be there before it is needed"
    assert told["taft_delta_bytes"] == 8
    assert told["taft_samples"] == 9
    assert told["taft_ledger_entries"] == 2


def test_a_request_is_open_until_its_certificate_and_times_are_those_of_the_oldest() -> None:
    fits = (trained(0, 5), trained(1, 4))
    assert values(*fits)["taft_oldest_open_request_timestamp_seconds"] == 0
    told = values(*fits, requested("r", "retrain", ["h"], [0]))
    assert (told["taft_requests/open"], told["taft_requests/done"]) == (1, 0)
    assert told["taft_oldest_open_request_timestamp_seconds"] == MADE
    assert told["taft_oldest_unpurged_timestamp_seconds"] == MADE
    purged = [*fits, *forget_entries("r", "drop", ["h"], {0: 4})]
    done = values(*purged, *([] if any(one.kind == "forgotten" for one in purged) else [forgotten("r")]))
    assert (done["taft_requests/open"], done["taft_requests/done"]) == (0, 1)
    assert done["taft_oldest_unpurged_timestamp_seconds"] == 0


def test_a_request_that_waits_has_a_deadline_and_lags_behind_nothing() -> None:
    later = requested("r", "retrain", ["h"], [0])
    later.body |= {"deadline": NOW + 1000, "runs_at": NOW + 500}
    told = values(trained(0, 5), later)
    assert (told["taft_requests/waiting"], told["taft_requests/open"]) == (1, 0)
    assert told["taft_next_deadline_timestamp_seconds"] == NOW + 1000
    assert told["taft_oldest_unpurged_timestamp_seconds"] == 0
    overdue = values(trained(0, 5), later, now=NOW + 600)
    assert (overdue["taft_requests/waiting"], overdue["taft_requests/open"]) == (0, 1)
    assert overdue["taft_oldest_unpurged_timestamp_seconds"] == MADE


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("run", ["s3://bucket/run", 'odd "name"\\with\nlines', "日本"])
def test_prometheus_reads_the_text_whatever_the_runs_name(run: str) -> None:
    text = exposition(gauges(replay([cached([5, 4]), trained(0, 5)]), 2, NOW), GAUGES, run)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_status_and_verify_write_files_for_a_collector(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    assert here("status", tmp_path / "run", "--metrics", tmp_path / "new" / "run.prom").code == 0
    text = (tmp_path / "new" / "run.prom").read_text()
    assert all(f"\n{PREFIX}{name}{{" in text for name in GAUGES)
    assert here("verify", tmp_path / "run", "--metrics", tmp_path / "verify.prom").code == 0
    assert f'{PREFIX}taft_verify_ok{{run="{tmp_path}/run"}} 1\n' in (tmp_path / "verify.prom").read_text()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert here("verify", tmp_path / "run", "--metrics", tmp_path / "verify.prom").code == 1
    text = (tmp_path / "verify.prom").read_text()
    assert f'{PREFIX}taft_verify_ok{{run="{tmp_path}/run"}} 0\n' in text
    assert all(f"\n{PREFIX}{name}{{" in text for name in VERIFIED)
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"


def test_a_verify_that_found_nothing_out_writes_nothing(tmp_path: Path) -> None:
    assert here("verify", tmp_path / "nowhere", "--metrics", tmp_path / "verify.prom").code == 1
    assert not (tmp_path / "verify.prom").exists()


def test_a_file_that_no_collector_would_read_is_refused_before_any_work(tmp_path: Path) -> None:
    here("status", tmp_path / "nowhere", "--metrics", tmp_path / "a.txt").complains(2, ".prom")
    here("status", tmp_path / "nowhere", "--metrics", tmp_path / "a.prom", "--rejected").complains(2, "--metrics")
    with pytest.raises(UsageError):
        check_metrics_file("a")

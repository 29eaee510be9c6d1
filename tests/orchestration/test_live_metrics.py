"""While a command is at work on a cluster, whoever scrapes the cluster's metrics sees the run."""

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import socket

import pytest
from command import started
from own_cluster import own_cluster
from processes import wait_for
from tiny import MODEL, SAMPLES, SHARDS, SIZE

from taft_ray.plans.gauges import FITS, GAUGES, PREFIX


def free_port() -> int:
    with closing(socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def scraped(port: int) -> Iterator[str]:
    """The metrics of the cluster's node."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        yield answer.read().decode()


def value(text: str, name: str, run: Path, state: str = "") -> float | None:
    """The largest value of a metric of this run."""
    found = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(f"{PREFIX}{name}{{") and f'run="{run}"' in line and (not state or f'state="{state}"' in line)
    ]
    return max(found, default=None)


@pytest.mark.slow
def test_a_scrape_shows_what_a_training_has_done(tmp_path: Path, parquet: Path, weights: Path) -> None:
    port, run = free_port(), tmp_path / "run"
    model = ("--model", MODEL, "--weights", weights, "--image-size", SIZE, "--shards", SHARDS, "--compose", "gram")

    def told() -> str | None:
        with scraped(port) as text:
            there = (
                value(text, "taft_shards", run, "trained") == SHARDS and value(text, "taft_fits_total", run) == SHARDS
            )
            return text if there else None

    with own_cluster(1, metrics_port=port) as address:
        with started(tmp_path / "log", "train", run, "--data", parquet, *model, env=address) as command:
            assert command.wait(300) == 0, (tmp_path / "log").read_text()
        text = wait_for(told, 60, 1.0)
    assert all(value(text, name, run) is not None for name in GAUGES)
    assert value(text, "taft_fitted_samples_total", run) == value(text, "taft_samples", run) == SAMPLES
    assert (value(text, "taft_fit_seconds_total", run) or 0) > 0
    helps = dict(re.findall(rf"# HELP {PREFIX}(taft_\w+?)(?:_total)? (.*)", text))
    assert {**GAUGES, **FITS}.items() >= {name: helps[name] for name in helps}.items()


def test_commands_without_a_cluster_tell_nobody_and_import_no_metrics() -> None:
    code = "import sys; import taft_ray.verbs.forget, taft_ray.verbs.status; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

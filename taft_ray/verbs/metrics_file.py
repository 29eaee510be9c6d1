"""Numbers of a run in a file of Prometheus' text format: for a timer, where no process of the run is there to be asked."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from taft_ray.errors import StorageError, UsageError
from taft_ray.plans.gauges import GAUGES, VERIFIED, Sample, exposition, gauges
from taft_ray.run.record import Record

SUFFIX = ".prom"  # by which the node exporter's textfile collector knows its files


def check_metrics_file(file: str | os.PathLike[str] | None) -> None:
    """UsageError for a file that a collector would not read, before any work is done."""
    if file is not None and Path(file).suffix != SUFFIX:
        raise UsageError(f"--metrics {file}: expected a file ending in {SUFFIX}, which the textfile collector reads")


def write_status(run: str, file: str | os.PathLike[str]) -> None:
    """The gauges of a run."""
    record = Record(run)
    record.refresh()
    _write(gauges(record.state, len(record.ledger.known), time.time()), GAUGES, record.store.uri, file)


def write_verified(run: str, ok: bool, file: str | os.PathLike[str]) -> None:
    """The outcome of a verify, just now."""
    samples = [Sample("taft_verify_ok", float(ok)), Sample("taft_verify_timestamp_seconds", time.time())]
    _write(samples, VERIFIED, run, file)


def _write(samples: list[Sample], helps: Mapping[str, str], run: str, file: str | os.PathLike[str]) -> None:
    """In one step: a collector must never read half of a file."""
    path = Path(file).expanduser()
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(exposition(samples, helps, run), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error}") from error

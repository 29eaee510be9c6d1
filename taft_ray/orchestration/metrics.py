"""Ray's metrics of runs, while processes are at work on them: `plans.gauges` has the names."""

from __future__ import annotations

import time
from functools import cache

from ray.util.metrics import Counter, Gauge

from taft_ray.plans.gauges import FITS, GAUGES, gauges
from taft_ray.run.record import Record

EVERY_S = 2.0  # at most: a busy composer has other things to do
_LABELS = {"taft_shards": ("run", "state"), "taft_requests": ("run", "state")}


class RunMetrics:
    """The metrics of a run, told by its composer's process after calls to it."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._fits = len(record.state.fits)
        self._told = 0.0

    def tell(self, at_once: bool = False) -> None:
        """Gauges and counters of the state as last read."""
        now = time.monotonic()
        if not at_once and now - self._told < EVERY_S:
            return
        self._told = now
        run, state = self.record.store.uri, self.record.state
        for sample in gauges(state, len(self.record.ledger.known), time.time()):
            _gauge(sample.name).set(sample.value, {"run": run, **sample.labels})
        new, self._fits = state.fits[self._fits :], len(state.fits)
        for fit in new:
            count("taft_fits", run)
            count("taft_fit_seconds", run, float(fit.facts.get("seconds", 0.0)))
            count("taft_fitted_samples", run, fit.samples)


def count(name: str, run: str, by: float = 1) -> None:
    """Add to one of the counters of `plans.gauges.FITS`."""
    if by > 0:
        _counter(name).inc(by, {"run": run})


@cache
def _gauge(name: str) -> Gauge:
    return Gauge(name, description=GAUGES[name], tag_keys=_LABELS.get(name, ("run",)))


@cache
def _counter(name: str) -> Counter:
    return Counter(name, description=FITS[name], tag_keys=("run",))

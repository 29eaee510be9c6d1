"""Ray's metrics of runs, while processes are at work on them: `plans.gauges` has the names."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cache

from ray.util.metrics import Counter, Gauge

from taft_ray.composer.composer import Composer
from taft_ray.errors import TaftError
from taft_ray.plans.gauges import FITS, GAUGES, gauges

EVERY_S = 2.0  # at most: a busy composer has other things to do
_LABELS = {"taft_shards": ("run", "state"), "taft_requests": ("run", "state")}


class RunMetrics:
    """The metrics of a run, told by its composer's process after calls to it."""

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self._fits: int | None = None  # that were there before, or were counted
        self._told = 0.0

    def begin(self) -> None:
        """Count from here on. A run that cannot be read has no metrics: whoever asked is told."""
        if self._fits is None:
            with suppress(TaftError):
                self._fits = len(self.composer.record.state.fits)

    def tell(self, at_once: bool = False) -> None:
        """Gauges and counters of the state as last read."""
        now = time.monotonic()
        if not at_once and now - self._told < EVERY_S:
            return
        self._told = now
        record = self.composer.record
        run, state = record.store.uri, record.state
        for sample in gauges(state, len(record.ledger.known), time.time()):
            _gauge(sample.name).set(sample.value, {"run": run, **sample.labels})
        new, self._fits = state.fits[self._fits or 0 :], len(state.fits)
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

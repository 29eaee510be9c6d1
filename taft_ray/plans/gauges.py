"""Numbers of a run for monitoring systems. They follow from its ledger.

Times are unix seconds and not ages, so that they stay true while nobody works on the run. 0 stands for "there is none".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from taft_ray.plans.state import DROPPED, EMPTY, PENDING, QUARANTINED, SUBTRACTED, TRAINED, RequestState, RunState

PREFIX = "ray_"
"""Ray puts it before the name of each metric; a file of metrics has it too, so that one dashboard serves both."""

GAUGES = {
    "taft_shards": "Shards by state.",
    "taft_samples": "Samples in all shards.",
    "taft_ledger_entries": "Entries of the ledger.",
    "taft_delta_bytes": "Bytes of the deltas and records in the model.",
    "taft_cache_bytes": "Bytes of the activation cache, as the passes wrote it.",
    "taft_requests": "Requests to forget by state: waiting for their time, open, or done.",
    "taft_oldest_open_request_timestamp_seconds": "When the oldest request was made that has no certificate.",
    "taft_next_deadline_timestamp_seconds": "The earliest deadline of a request that has no certificate.",
    "taft_oldest_unpurged_timestamp_seconds": "When the oldest request was made whose samples may still be in the cache, although its time has come.",
}
"""Gauges of a run, and their help texts."""
FITS = {
    "taft_fits": "Fits of shards that came to an end.",
    "taft_fit_seconds": "Seconds of these fits.",
    "taft_fitted_samples": "Samples of these fits.",
    "taft_pictures_read": "Pictures that went through the frozen prefix.",
}
"""Counters of the processes at work; Ray appends "_total"."""
VERIFIED = {
    "taft_verify_ok": "1 where the last verify found nothing wrong, else 0.",
    "taft_verify_timestamp_seconds": "When that was.",
}

_STATES = (PENDING, TRAINED, DROPPED, EMPTY, QUARANTINED, SUBTRACTED)


@dataclass(frozen=True)
class Sample:
    """A value of a metric."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def gauges(state: RunState, entries: int, now: float) -> list[Sample]:
    """The values of `GAUGES`. entries: how many the ledger has."""
    return list(_gauges(state, entries, now))


def _gauges(state: RunState, entries: int, now: float) -> Iterator[Sample]:
    shards = Counter(shard.told for shard in state.shards.values())
    for name in (*_STATES, *(shards.keys() - set(_STATES))):
        yield Sample("taft_shards", shards[name], {"state": name})
    yield Sample("taft_samples", sum(shard.samples for shard in state.shards.values()))
    yield Sample("taft_ledger_entries", entries)
    held = [ref for shard in state.shards.values() for ref in (shard.member(), shard.member(True)) if ref is not None]
    yield Sample("taft_delta_bytes", sum({ref.key: ref.bytes for ref in held}.values()))
    passes = [*([] if state.cached is None else [state.cached]), *state.additions]
    yield Sample("taft_cache_bytes", sum(one.bytes for one in passes))
    unfinished = [request for request in state.requests.values() if request.forgotten is None]
    waiting = sum(_waits(request, now) for request in unfinished)
    counted = {"waiting": waiting, "open": len(unfinished) - waiting, "done": len(state.requests) - len(unfinished)}
    for name, count in counted.items():
        yield Sample("taft_requests", count, {"state": name})
    yield Sample(
        "taft_oldest_open_request_timestamp_seconds", min((request.asked for request in unfinished), default=0.0)
    )
    deadlines = [request.deadline for request in unfinished if request.deadline is not None]
    yield Sample("taft_next_deadline_timestamp_seconds", min(deadlines, default=0.0))
    unpurged = [request.asked for request in unfinished if request.purged is None and not _waits(request, now)]
    yield Sample("taft_oldest_unpurged_timestamp_seconds", min(unpurged, default=0.0))


def _waits(request: RequestState, now: float) -> bool:
    return request.waiting and request.runs_at is not None and request.runs_at > now


def exposition(samples: list[Sample], helps: Mapping[str, str], run: str) -> str:
    """The samples in Prometheus' text format, by metric in the order of ``helps``."""
    lines: list[str] = []
    for name, text in helps.items():
        lines += [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} gauge"]
        for sample in samples:
            if sample.name == name:
                labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in {"run": run, **sample.labels}.items())
                lines.append(f"{PREFIX}{name}{{{labels}}} {sample.value:.17g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

"""A run of 10,000 shards on 500 GPUs that the cloud takes away now and then, put together from measured parts.

    python -m benchmarks.simulate [--json] [--parts measured.json] [--set fit_s=12 --set losses_an_hour=0.2 ...] [--seed 0]

``--parts`` is what `python -m benchmarks.orchestration --json` printed: its times of a commit, a lane, a manifest and a ledger take the
place of the defaults. `Parts` has every input with where its default comes from; ``--set`` changes one.

Training is simulated event by event: lanes take shards from the composer, which serves one call at a time in the order of
arrival. A lane lost while it fits loses that fit only, and comes back. A lane that finds the queue empty goes home. Forgetting: requests
arrive at random (Poisson), each for one sample of a random shard; the composer drops, purges and certifies, one warm worker fits.
The rest (storage, a composer that starts again) is arithmetic. Not in it: the prefix pass, network contention between lanes, a
lane lost while it waits, two requests for one shard sharing a fit.

The same seed gives the same answer. Every second and byte printed is a prediction, not a measurement.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

RATES = (1.0, 10.0, 100.0)  # forget requests a minute
HOURS = 2.0  # of requests simulated at each rate
GIB = 2.0**30
PARALLEL_READS = 16  # of ledger entries, as `storage/ledger.py` has it
READ_AHEAD = 8  # deltas read side by side, as `composer/composition.py` has it
LISTED = 1000  # keys a page of an S3 listing
PUTS_A_SHARD = 3  # a cache part, a delta, a ledger entry


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The seconds and bytes that the pieces take; "measured" ones come from this folder's benchmarks, the others are assumptions."""

    shards: int = 10_000
    lanes: int = 500
    samples: int = 100  # a shard
    # --- a lane
    fit_s: float = 10.0  # assumed: of one shard on one GPU, in the mean
    fit_spread: float = 0.3  # assumed: sigma of its logarithm
    lane_s: float = 0.012  # measured: what a lane does for a shard beside computing, less the composer's part
    lane_start_s: float = 23.0  # measured, on 2 CPU cores: from the trainer's start to the first question
    losses_an_hour: float = 0.05  # assumed: how often the cloud takes one GPU
    replacement_s: float = 180.0  # assumed: until another is there
    # --- the composer
    call_s: float = 0.0015  # assumed: a call through Ray, in the composer
    commit_s: float = 0.0008  # measured, local: one ledger entry made durable, without round trips
    delta_bytes: float = 184.5e6  # ViT-B/16, last block, with Gram statistics; 57e6 by --compose mean
    add_bytes_s: float = 8.9e8  # measured: a delta's bytes checked by digest and added to the sums
    drop_s: float = 1.8  # measured: `forget`, ViT-B by Gram matrices, subtraction and solve; 0.073 by the mean
    compose_s: float = 1.8  # the same solve after a fit was added; after a drop the model is there already
    snapshot_bytes: float = 28.4e6  # 7.1 M values, float32
    find_s_a_row: float = 1e-8  # measured: finding a sample in the manifest
    rewrite_s_a_row: float = 7e-7  # measured: writing the manifest anew
    manifest_bytes_a_row: float = 50.0  # measured
    # --- the storage
    round_trip_s: float = 0.02  # assumed: of S3 in its region
    bytes_s: float = 3e8  # assumed: of one process
    page_s: float = 0.15  # assumed: of 1,000 listed keys
    entry_s: float = 1.5e-4  # measured: one ledger entry parsed, checked and folded in
    entry_bytes: float = 1180.0  # measured
    token_bytes: float = 197 * 768 * 2.0  # of a picture in the cache: ViT-B/16 at 224 px, float16
    gib_month_price: float = 0.023  # assumed: S3 standard, USD
    put_price: float = 5e-6
    gpu_hour_price: float = 1.0  # assumed: a spot GPU, USD

    def __post_init__(self) -> None:
        wrong = [field.name for field in fields(self) if not getattr(self, field.name) >= 0]
        if wrong or min(self.shards, self.lanes, self.bytes_s, self.add_bytes_s) <= 0:
            raise ValueError(f"expected shards, lanes and rates > 0 and nothing below 0, got {asdict(self)}")

    @property
    def take_s(self) -> float:
        """The composer's time to answer a lane that brings nothing: it looks for new entries once."""
        return self.call_s + self.round_trip_s

    @property
    def admit_s(self) -> float:
        """The composer's time to read a delta, check it, add it and commit that: look, read, create."""
        return self.commit_s + 3 * self.round_trip_s + self.delta_bytes * (1 / self.bytes_s + 1 / self.add_bytes_s)

    @property
    def purge_s(self) -> float:
        """The composer's time to write the manifest anew and remove what saw a sample (some twenty calls of the storage)."""
        rows = self.shards * self.samples
        written = rows * self.manifest_bytes_a_row / self.bytes_s
        return rows * self.rewrite_s_a_row + written + 20 * self.round_trip_s

    @property
    def request_s(self) -> float:
        """The composer's time from a request to the model without the shard: find it, two commits, subtract, solve."""
        found = self.shards * self.samples * self.find_s_a_row
        return found + self.drop_s + self.delta_bytes / self.bytes_s + 2 * (self.commit_s + 2 * self.round_trip_s)

    @property
    def conclude_s(self) -> float:
        """The composer's time to write the snapshot of a composed model and the certificate, and to commit both."""
        return self.snapshot_bytes / self.bytes_s + 2 * self.commit_s + 6 * self.round_trip_s

    @property
    def retrain_s(self) -> float:
        """The worker's time to fit a shard again and write its delta."""
        return self.fit_s + self.lane_s + self.delta_bytes / self.bytes_s


class Server:
    """One thing that does one job at a time, in the order in which they come."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self.busy_s = 0.0
        self.waited_s = 0.0

    def serve(self, arrival: float, seconds: float) -> float:
        """When a job that comes now, no earlier than the one before it, is done."""
        begins = max(arrival, self.free_at)
        self.free_at = begins + seconds
        self.busy_s += seconds
        self.waited_s += begins - arrival
        return self.free_at


def fit_seconds(parts: Parts, seed: int) -> list[float]:
    """Seconds of each shard's fit, the longest first as in the queue. A shard's number does not depend on how many there are."""
    spread = parts.fit_spread
    drawn = [
        parts.fit_s * random.Random(f"{seed}/{shard}").lognormvariate(-spread * spread / 2, spread)
        for shard in range(parts.shards)
    ]
    return sorted(drawn, reverse=True)


def train(parts: Parts, seed: int = 0) -> dict[str, float]:
    """Every shard fitted and committed, and the model composed."""
    losses = random.Random(f"{seed}/losses")
    queue = deque(fit_seconds(parts, seed))
    composer = Server()
    # (when, order, whether it brings a delta, the fit that it lost); a lane is an event in this list, or it has gone home
    events = [(parts.lane_start_s, order, False, 0.0) for order in range(parts.lanes)]
    order, lost, lost_s, committed = parts.lanes, 0, 0.0, parts.lane_start_s
    while events:
        now, _, brings, returned = heapq.heappop(events)
        if returned:
            queue.appendleft(returned)  # its lease ends when it asks again
        done = composer.serve(now, parts.take_s + parts.admit_s * brings)
        if brings:
            committed = done
        if not queue:
            continue
        seconds = queue.popleft()
        order += 1
        takes = parts.lane_s + seconds + parts.delta_bytes / parts.bytes_s
        holds = losses.expovariate(parts.losses_an_hour / 3600) if parts.losses_an_hour else takes + 1
        if holds < takes:
            lost, lost_s = lost + 1, lost_s + holds
            back = done + holds + parts.replacement_s + parts.lane_start_s
            heapq.heappush(events, (back, order, False, seconds))
        else:
            heapq.heappush(events, (done + takes, order, True, 0.0))
    makespan = committed + parts.compose_s + parts.conclude_s
    work = sum(fit_seconds(parts, seed))
    return {
        "makespan_s": makespan,
        "lanes_alone_s": parts.lane_start_s + work / parts.lanes,  # were the composer and the storage for nothing
        "composer_busy": composer.busy_s / makespan,
        "composer_waited_s": composer.waited_s / (parts.shards + parts.lanes),  # a call, in the mean
        "commits_a_second": parts.shards / makespan,
        "most_commits_a_second": 1 / (parts.take_s + parts.admit_s),
        "lanes_lost": lost,
        "fits_lost_s": lost_s,
        "gpu_price": parts.lanes * makespan / 3600 * parts.gpu_hour_price,
    }


def forget(parts: Parts, a_minute: float, *, retrain: bool, hours: float = HOURS, seed: int = 0) -> dict[str, Any]:
    """Latencies from a request to its certificate, with requests coming at random for so many hours."""
    arrivals = random.Random(f"{seed}/{a_minute}")
    composer, worker = Server(), Server()
    events: list[tuple[float, int, int, float]] = []  # (when, order, step, when the request came)
    at, order = arrivals.expovariate(a_minute / 60), 0
    while at < hours * 3600:
        events.append((at, order, 0, at))
        at, order = at + arrivals.expovariate(a_minute / 60), order + 1
    if not events:
        raise ValueError(f"no request came in {hours} hours at {a_minute} a minute; simulate more hours")
    steps = [(composer, parts.call_s + parts.request_s), (composer, parts.call_s + parts.purge_s)]
    if retrain:
        steps += [(worker, parts.retrain_s), (composer, parts.call_s + parts.admit_s)]
    steps.append((composer, parts.call_s + parts.conclude_s + parts.compose_s * retrain))
    latencies, out_of_model = [], []
    heapq.heapify(events)
    while events:
        now, _, step, came = heapq.heappop(events)
        if step == 1:
            out_of_model.append(now - came)
        if step == len(steps):
            latencies.append(now - came)
            continue
        server, seconds = steps[step]
        order += 1
        heapq.heappush(events, (server.serve(now, seconds), order, step + 1, came))
    loads = {
        name: a_minute / 60 * sum(seconds for server, seconds in steps if server is whose)
        for name, whose in (("composer", composer), ("worker", worker))
    }
    return {
        "a_minute": a_minute,
        "service_s": sum(seconds for _, seconds in steps),
        "median_s": statistics.median(latencies),
        "p95_s": sorted(latencies)[int(0.95 * (len(latencies) - 1))],
        "out_of_the_model_median_s": statistics.median(out_of_model),
        "composer_load": loads["composer"],
        "worker_load": loads["worker"],
        "sustained_a_minute": a_minute / max(loads.values()),
        "binds": max(loads, key=lambda name: loads[name]),
    }


def storage(parts: Parts) -> dict[str, float]:
    """The sizes of what lies in the bucket, and its price."""
    rows = parts.shards * parts.samples
    sizes = {
        "cache": rows * parts.token_bytes,
        "deltas": parts.shards * parts.delta_bytes,
        "manifest": rows * parts.manifest_bytes_a_row,
        "ledger": parts.shards * parts.entry_bytes,
    }
    return {
        **{f"{name}_gib": size / GIB for name, size in sizes.items()},
        "price_a_month": sum(sizes.values()) / GIB * parts.gib_month_price,
        "price_of_writes": parts.shards * PUTS_A_SHARD * parts.put_price,
    }


def start_again(parts: Parts) -> dict[str, float]:
    """The seconds of a composer that was killed when all was trained: it lists and reads the ledger, and sums every delta anew."""
    listing = parts.page_s * -(-parts.shards // LISTED)
    reading = parts.shards * (parts.round_trip_s / PARALLEL_READS + parts.entry_s)
    read_s = (parts.round_trip_s + parts.delta_bytes / parts.bytes_s) / READ_AHEAD
    summing = parts.shards * max(read_s, parts.delta_bytes / parts.add_bytes_s)
    return {"ledger_listing_s": listing, "ledger_reading_s": reading, "sums_s": summing}


def breaks_first(parts: Parts) -> list[dict[str, Any]]:
    """The demands that keep N shards from being a matter of N GPUs, the heaviest first.

    Each has its share of the time that the lanes alone would take.
    """
    alone = parts.shards * (parts.fit_s + parts.lane_s) / parts.lanes
    per_byte = 1 / parts.bytes_s + 1 / parts.add_bytes_s
    again = start_again(parts)
    demands = {
        "the composer reads and adds every delta's bytes": parts.shards * parts.delta_bytes * per_byte,
        "the composer's round trips to the storage": parts.shards * 4 * parts.round_trip_s,
        "the composer's commits and calls": parts.shards * (parts.commit_s + parts.call_s),
        "a composer that starts again reads every delta": again["sums_s"],
        "a composer that starts again lists and reads the ledger": again["ledger_listing_s"]
        + again["ledger_reading_s"],
        "a lane's own handling of its shards": parts.shards * parts.lane_s / parts.lanes,
        "lanes lost": alone
        * parts.losses_an_hour
        / 3600
        * (parts.replacement_s + parts.lane_start_s + parts.fit_s / 2),
    }
    rows = [
        {"what": what, "seconds": seconds, "of_the_lanes_time": seconds / alone} for what, seconds in demands.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def from_measured(parts: Parts, rows: Sequence[Mapping[str, Any]]) -> Parts:
    """The parts with what `benchmarks.orchestration` measured in their place (of its runs the one with the most shards)."""
    known: dict[str, float] = {}
    runs = sorted((row for row in rows if "overhead_ms" in row), key=lambda row: row["shards"])
    if runs:
        own = runs[-1]["overhead_ms"] / 1000 - parts.call_s - parts.commit_s
        known |= {
            "lane_start_s": runs[-1]["lanes_start_s"],
            "lane_s": max(0.0, own),
            "add_bytes_s": runs[-1]["shards"] * runs[-1]["delta_bytes"] / runs[-1]["composer_again_s"],
        }
    for row in rows:
        if "replay_cold_s" in row:
            known |= {
                "commit_s": row["commit_ms"] / 1000,
                "entry_s": row["replay_cold_s"] / row["ledger_entries"],
                "entry_bytes": row["entry_bytes"],
            }
        if "manifest_rows" in row:
            a_row = 1 / row["manifest_rows"]
            known |= {
                "find_s_a_row": row["find_s"] * a_row,
                "rewrite_s_a_row": row["manifest_rewrite_s"] * a_row,
                "manifest_bytes_a_row": row["manifest_bytes"] * a_row,
            }
    return replace(parts, **known)


def simulate(parts: Parts, seed: int = 0) -> dict[str, Any]:
    """Everything, as one JSON-able answer."""
    modes = {"drop": False, "retrain": True}
    return {
        "parts": asdict(parts),
        "seed": seed,
        "train": train(parts, seed),
        "forget": {
            mode: [forget(parts, rate, retrain=retrain, seed=seed) for rate in RATES] for mode, retrain in modes.items()
        },
        "storage": storage(parts),
        "composer_starts_again": start_again(parts),
        "breaks_first": breaks_first(parts),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, help="what benchmarks.orchestration --json printed")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another value of one of the parts"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    parts = Parts()
    if options.parts is not None:
        parts = from_measured(parts, json.loads(options.parts.read_text()))
    kinds = {field.name: type(getattr(parts, field.name)) for field in fields(Parts)}
    for given in options.set:
        name, _, value = given.partition("=")
        if name not in kinds:
            parser.error(f"expected one of {', '.join(kinds)}, got {name!r}")
        parts = replace(parts, **{name: kinds[name](value)})
    answer = simulate(parts, options.seed)
    print(json.dumps(answer) if options.json else json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()

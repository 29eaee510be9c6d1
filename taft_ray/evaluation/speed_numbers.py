"""The numbers of a report about time: training on shards against one model, and the pass through the prefix."""

import math
from typing import Any

from taft_ray.evaluation.derived import NO_MONOLITH, divide, number, ratio, why
from taft_ray.evaluation.measured import Measured, first_fits, lookup

NO_WALL = "not measured: no wall clock of the sharded training is recorded"
NO_FITS = "not measured: no shard has a recorded fit time"
WALL_NOTE = "wall clock from when the lanes had work (the cache was there) to the last commit, with what was left of starting the lanes"
CRITICAL_NOTE = "critical path, not wall clock: what as many workers as shards would give"


def training(measured: Measured, notes: list[str]) -> dict[str, Any]:
    """How long the shards took, and what the monolith took beside them. notes: what a reader must know is added."""
    fits = measured.take(f"shards[{i}].seconds" for i in first_fits(measured.facts))
    total = math.fsum(fits.values()) if fits else None
    slowest = max(fits, key=lambda path: fits[path]) if fits else None
    critical = fits[slowest] if slowest else None
    monolith = measured.take(["monolith.seconds"])
    lanes = next((path for path in ("training.lanes", "environment.lanes") if measured.number(path)), None)

    numbers = {
        "sum_of_fits": number("sum of all shard fits", "s", "sum of shards[*].seconds", fits, total, reason=NO_FITS),
        "critical_path": number(
            "slowest shard (critical path)",
            "s",
            "max of shards[*].seconds",
            fits,
            critical,
            reason=NO_FITS,
            note=f"the slowest is that of shard {lookup(measured.facts, slowest.removesuffix('seconds') + 'shard')}"
            if slowest
            else None,
        ),
        "speedup_wall": ratio(
            measured,
            "sharded training against the monolith",
            "×",
            "monolith.seconds",
            "training.wall_seconds",
            missing={"monolith.seconds": NO_MONOLITH, "training.wall_seconds": NO_WALL},
            note=WALL_NOTE,
        ),
        "speedup_critical_path": number(
            "slowest shard against the monolith",
            "×",
            "monolith.seconds / max of shards[*].seconds",
            monolith | fits,
            divide(monolith.get("monolith.seconds"), critical),
            reason=why(monolith, NO_MONOLITH, fits, NO_FITS, "no ratio: every shard fit was measured as 0"),
            note=CRITICAL_NOTE,
        ),
        "speedup_one_worker": number(
            "all shard fits one after the other against the monolith",
            "×",
            "monolith.seconds / sum of shards[*].seconds",
            monolith | fits,
            divide(monolith.get("monolith.seconds"), total),
            reason=why(monolith, NO_MONOLITH, fits, NO_FITS, "no ratio: every shard fit was measured as 0"),
            note="work against work: below 1 the shards together cost more than the monolith",
        ),
    }

    wall = measured.take(["training.wall_seconds"])
    sources = wall | measured.take([lanes] if lanes else []) | fits
    busy = divide(total, wall["training.wall_seconds"] * sources[lanes]) if wall and lanes else None
    numbers["lane_use"] = number(
        "share of the lanes' time spent fitting",
        "share",
        f"sum of shards[*].seconds / (training.wall_seconds × {lanes or 'lanes'})",
        sources,
        busy,
        reason=why(wall, NO_WALL, fits, NO_FITS, "not measured: the number of lanes is not recorded"),
    )

    wall_sources = measured.take(["training.wall_seconds"])
    numbers["training_seconds"] = number(
        "training on shards, wall clock",
        "s",
        "training.wall_seconds",
        wall_sources,
        wall_sources.get("training.wall_seconds"),
        reason=NO_WALL,
        note=WALL_NOTE,
    )
    every = measured.take(f"shards[{i}].seconds" for i in range(measured.count("shards")))
    passed = measured.take(["cache.seconds"])
    numbers["work_seconds"] = number(
        "prefix pass and every fit, refits too",
        "s",
        "cache.seconds + sum of shards[*].seconds of every generation",
        passed | every,
        math.fsum((passed | every).values()) if every else None,
        reason=NO_FITS,
        note="work, not wall clock: what one worker would have taken",
    )

    _check_wall(measured, numbers, notes)
    if lanes and critical is not None and sources[lanes] < len(fits):
        notes.append(
            f"{len(fits)} shards took turns on {sources[lanes]:g} lane{'s' * (sources[lanes] != 1)}: the wall clock is "
            "this machine's; the critical path is the slowest single fit as measured here."
        )
    samples = measured.take(f"shards[{i}].samples" for i in first_fits(measured.facts))
    whole = measured.number("monolith.samples")
    if whole is not None and samples and whole != sum(samples.values()):
        notes.append(
            f"The monolith saw {whole:g} samples, the shards {sum(samples.values()):g}: "
            "the two are not on the same data."
        )
    return numbers


def _check_wall(measured: Measured, numbers: dict[str, Any], notes: list[str]) -> None:
    """A wall clock that leaves out some of the work, or contains the monolith's, must not pass for a fair one."""
    began, ended = measured.number("training.started"), measured.number("training.ended")
    if began is None or ended is None:
        return
    fits = first_fits(measured.facts)
    before = [i for i in fits if (done := measured.number(f"shards[{i}].ended")) is not None and done < began]
    if before:
        reason = (
            f"{len(before)} of {len(fits)} shards were trained before this wall clock began "
            "(an interrupted run taken up again), so it would overstate the speed"
        )
        for name in ("speedup_wall", "lane_use"):
            numbers[name] |= {"value": None, "reason": numbers[name]["reason"] or f"withheld: {reason}"}
        notes.append(f"Wall-clock figures are withheld: {reason}.")
    start, stop = measured.number("monolith.started"), measured.number("monolith.ended")
    if start is not None and stop is not None and (shared := min(stop, ended) - max(start, began)) > 0:
        notes.append(
            f"The monolith trained for {shared:.3g} s of the sharded training's wall clock: "
            "both shared the machine then."
        )


def throughput(measured: Measured) -> dict[str, Any]:
    """The pass through the frozen prefix, per second and per picture."""
    silent = "not measured: the pass through the frozen prefix is not recorded"
    return {
        "cache_rate": ratio(
            measured,
            "images through the frozen prefix",
            "images/s",
            "cache.images",
            "cache.seconds",
            missing={"cache.images": silent, "cache.seconds": silent},
        ),
        "cache_bytes_per_image": ratio(
            measured,
            "activation cache per image",
            "bytes",
            "cache.bytes",
            "cache.images",
            missing={"cache.bytes": silent, "cache.images": silent},
        ),
        "data_kept": ratio(
            measured,
            "share of the source rows kept",
            "share",
            "data.kept",
            "data.rows",
            missing={"data.kept": "not measured: no manifest counts", "data.rows": "not measured: no manifest counts"},
        ),
    }

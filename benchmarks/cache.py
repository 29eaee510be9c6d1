"""Making the activation cache against the forward pass alone, what memory it takes as pictures grow, and reading it back.

    python -m benchmarks.cache --assets FOLDER [--only build memory read] [--rounds 5] [--pictures 4000] [--json]

build: the prefix pass as `train` runs it, against the same prefix on normalised pictures that lie in memory. The pass is
Ray Data's: JPEG in Parquet, decoded, resized, through the frozen prefix in bfloat16, written as parts. The plain prefix
runs in as many processes with as many threads, before and after the pass in the same Ray. It is measured with the
attention that the pass takes, and with timm's fused one. Both are measured several times by turns, and the medians of the
ratios are given. The reason is the speed of a shared machine, which moves by more than the difference looked for. The
pass is counted from its first answer on: the start of Ray's tasks and actors is not in it and is given apart. The last
round is left out, for one actor may then have nothing left to do. On a shared machine, read ``cpu_ratio``. It is the CPU
time per picture of the forward pass alone, over that of the pass with all its processes and Ray's own. The cost of
decoding one picture on one core is given too.

memory: passes with the embedded model over 5,000, 20,000 and 50,000 pictures; the most that driver, tasks, actors and object store held.

read: the parts of that cache, memory-mapped, against a plain sequential read of the same files into one buffer,
interleaved. Larger parts of random values in the shape of ViT-B/16's are read too. Reads are from a warm page cache,
copied out or turned into float32 (what a fit does first), and from the disk. The digest check is given apart.

Pictures are CIFAR-10's, the model DeiT-Tiny at 224 px (and the embedded model at 32 px for memory).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pyarrow.parquet as pq
import ray
import torch

from benchmarks.processes import ProcessWatch
from benchmarks.reading import measure_reading
from taft_ray.data import decode_image
from taft_ray.models import Preprocess
from taft_ray.orchestration import places, session
from taft_ray.orchestration.prefix_pass import passes
from taft_ray.plans.spec import RunSpec, fastest_precision
from taft_ray.plans.state import RunState
from taft_ray.plans.train import lanes_for
from taft_ray.prefix.cache import CacheResult, build_cache
from taft_ray.prefix.passes import index_source
from taft_ray.prefix.tokens import PREFIX_BATCH, arithmetic
from taft_ray.run.model import build_tangent
from taft_ray.storage import Store, write_spec
from taft_ray.storage import rundir as names

MODEL, EMBEDDED = "deit_tiny_patch16_224", "taft_vit_cifar"
WEIGHTS, DATA = f"{MODEL}.safetensors", "cifar10_jpeg_train.parquet"
CLASSES = 10
SHARDS = 10
GROWTH = (5_000, 20_000, 50_000)
RAW_POOL = 128  # different pictures that the plain forward goes round
RAW_S = 6.0
DECODED = 500
SAME_CALL_S = 0.05


class RawForward:
    """The frozen prefix and nothing else: normalised pictures in memory, tokens thrown away."""

    def __init__(self, spec: RunSpec, pictures: Sequence[bytes]) -> None:
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.tm, _ = build_tangent(spec, CLASSES)
        preprocess = Preprocess.of(self.tm.network)
        self.images = preprocess(torch.from_numpy(np.stack([decode_image(p, preprocess.size) for p in pictures])))

    def measure(self, seconds: float, timm_attention: bool = False) -> tuple[float, float]:
        """Pictures a second, and CPU seconds a picture: with the pass's own attention, or with timm's fused one."""
        batches = self.images.split(PREFIX_BATCH["cpu"])
        plain = torch.autocast("cpu", torch.bfloat16, enabled=self.spec.precision == "bfloat16")
        done, began, began_cpu = 0, time.perf_counter(), time.process_time()
        with plain if timm_attention else arithmetic(self.tm, self.spec):
            while (spent := time.perf_counter() - began) < seconds:
                done += len(self.tm.prefix(batches[(done // len(batches[0])) % len(batches)]))
        return done / spent, (time.process_time() - began_cpu) / done


class Timeline:
    """When how many pictures were done: the `report` of a pass."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.points: list[tuple[float, int]] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.perf_counter() - self.began
        if len(self.points) > 1 and now - self.points[-1][0] < SAME_CALL_S:
            self.points[-1] = (self.points[-1][0], done)  # the parts of one call of an actor
        else:
            self.points.append((now, done))

    def first_s(self) -> float:
        """Until the first answer; `build_cache` reports once before it begins."""
        return self.points[1][0]

    def steady(self, workers: int) -> tuple[float, float, int]:
        """From when until when (of ``perf_counter``) all ``workers`` were at work, and how many pictures they made.

        Between two answers of one worker each of the others has answered as often, so a whole number of rounds is counted.
        The last round is left out: some workers then have nothing left to do.
        """
        ends = self.points[1:]
        rounds = (len(ends) - 1) // workers - 1
        if rounds < 1:
            raise SystemExit(f"{len(ends)} calls of {workers} workers are too few to measure; give more --pictures")
        (first, few), (last, many) = ends[0], ends[rounds * workers]
        return self.began + first, self.began + last, many - few


def spec_for(data: Path, assets: Path, threads: int, model: str = MODEL) -> RunSpec:
    weights = None if model == EMBEDDED else str(assets / WEIGHTS)
    return RunSpec(
        data=str(data),
        model=model,
        weights=weights,
        shards=SHARDS,
        compose="gram",
        threads=threads,
        precision=fastest_precision("cpu"),
    )


def first_pictures(assets: Path, count: int, into: Path) -> Path:
    file = into / f"cifar-{count}.parquet"
    pq.write_table(pq.read_table(assets / DATA).slice(0, count), file)
    return file


def run_pass(run: Path, spec: RunSpec, workers: int) -> tuple[CacheResult, Timeline]:
    store = Store(str(run))
    write_spec(store, spec.to_json())
    timeline = Timeline()
    result = build_cache(
        passes(), store, str(run), spec, source=index_source(passes(), spec.data, None), shards=spec.shards,
        assignment=spec.assignment,
        folders=f"{names.CACHE_FOLDER}/shard={{shard:05d}}", tombstones=RunState(), secret=None, workers=workers,
        report=timeline,
    )  # fmt: skip
    return result, timeline


def measure_decoding(pictures: Sequence[bytes], size: int) -> float:
    """Milliseconds a picture of `decode_image` on one core, the best of three."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        for picture in pictures:
            decode_image(picture, size)
        times.append(time.perf_counter() - began)
    return 1e3 * min(times) / len(pictures)


def measure_build(assets: Path, scratch: Path, pictures: int, threads: int, rounds: int) -> tuple[dict[str, Any], Path]:
    """Passes by turns with measurements of the plain forward; and the folder of the last pass's run."""
    data = first_pictures(assets, pictures, scratch)
    spec = spec_for(data, assets, threads)
    encoded = pq.read_table(data, columns=["image"])["image"].to_pylist()
    workers = lanes_for(spec.shards, gpus=0, cpus=places.resources()[0], threads=threads)
    raw = [plain_forward(spec, encoded[:RAW_POOL], workers)]
    passes = []
    for number in range(rounds):
        run = scratch / f"run-{number}"
        facts = measure_pass(run, spec, workers)
        raw.append(plain_forward(spec, encoded[:RAW_POOL], workers))
        beside = {way: [measured[way] for measured in raw[-2:]] for way in ("own", "timm")}
        passes.append({**facts, **compared(facts, beside)})
        say(passes[-1])
        if number < rounds - 1:
            shutil.rmtree(run)
    ratios = ("ratio", "ratio_to_timm", "cpu_ratio", "cpu_ratio_to_timm")
    return {
        "model": MODEL,
        "precision": spec.precision,
        "processes": workers,
        "threads": threads,
        **{name: statistics.median(one[name] for one in passes) for name in ratios},
        "passes": passes,
        "decode_ms": round(measure_decoding(encoded[:DECODED], 224), 3),
        "load": round(os.getloadavg()[0], 1),
    }, run


def measure_pass(run: Path, spec: RunSpec, workers: int) -> dict[str, Any]:
    """One pass: pictures a second and CPU time a picture while all its workers are at work, its start apart, its memory."""
    with ProcessWatch(every_s=0.5) as watch:
        result, timeline = run_pass(run, spec, workers)
    since, until, done = timeline.steady(workers)
    began, first = timeline.began, timeline.first_s()
    return {
        "pictures": result.images,
        "per_s": round(done / (until - since), 1),
        "cpu_ms": {role: round(1e3 * spent / done, 2) for role, spent in watch.cpu_s(since, until).items()},
        "until_first_answer_s": round(first, 1),
        "until_first_answer_cpu_s": {
            role: round(spent, 1) for role, spent in watch.cpu_s(began, began + first).items()
        },
        "whole_pass_s": round(result.seconds, 1),
        "bytes": result.bytes,
        "peak_mb": {role: round(size) for role, size in watch.peak_mb.items()},
    }


def compared(facts: dict[str, Any], beside: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """A pass over the mean of the plain forwards before and after it, of each way."""
    answer: dict[str, Any] = {}
    for way, suffix in (("own", ""), ("timm", "_to_timm")):
        per_s, cpu_s = (statistics.mean(measured) for measured in zip(*beside[way], strict=True))
        answer[f"{way}_forward_per_s"] = [round(rate, 1) for rate, _ in beside[way]]
        answer[f"{way}_forward_cpu_ms"] = round(1e3 * cpu_s, 2)
        answer[f"ratio{suffix}"] = round(facts["per_s"] / per_s, 3)
        answer[f"cpu_ratio{suffix}"] = round(1e3 * cpu_s / sum(facts["cpu_ms"].values()), 3)
    return answer


def plain_forward(spec: RunSpec, pictures: Sequence[bytes], workers: int) -> dict[str, tuple[float, float]]:
    """Pictures per second and CPU seconds per picture of ``workers`` processes at once, by attention: the pass's own, timm's."""
    actor = ray.remote(RawForward).options(num_cpus=spec.threads)
    actors = [actor.remote(spec, pictures) for _ in range(workers)]
    found = {}
    for way in ("own", "timm"):
        ray.get([one.measure.remote(1.0, way == "timm") for one in actors])  # warm-up; and all have started
        measured = ray.get([one.measure.remote(RAW_S, way == "timm") for one in actors])
        found[way] = (sum(per_s for per_s, _ in measured), statistics.mean(cpu for _, cpu in measured))
    for one in actors:
        ray.kill(cast(Any, one))  # Ray's stubs have two types for a handle
    return found


def measure_memory(assets: Path, scratch: Path, threads: int, growth: Sequence[int]) -> list[dict[str, Any]]:
    """Passes over more and more pictures, in one Ray."""
    rows = []
    for count in growth:
        spec = spec_for(first_pictures(assets, count, scratch), assets, threads, EMBEDDED)
        workers = lanes_for(spec.shards, gpus=0, cpus=places.resources()[0], threads=threads)
        with ProcessWatch() as watch:
            result, timeline = run_pass(scratch / f"run-{count}", spec, workers)
        rows.append(
            {
                "model": EMBEDDED,
                "pictures": result.images,
                "cache_mb": round(result.bytes / 1e6),
                "per_s_with_start": round(result.images / result.prefix_seconds),
                "until_first_answer_s": round(timeline.first_s(), 1),
                "peak_mb": {role: round(size) for role, size in watch.peak_mb.items()},
            }
        )
        say(rows[-1])
    return rows


def say(measured: dict[str, Any]) -> None:
    """Before all is measured, for who waits."""
    print(json.dumps(measured), file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=("build", "memory", "read"), default=["build", "memory", "read"])
    parser.add_argument("--pictures", type=int, default=4000, help="of the build")
    parser.add_argument(
        "--rounds", type=int, default=5, help="of the build: passes by turns with the forward pass alone"
    )
    parser.add_argument("--growth", type=int, nargs="+", default=list(GROWTH), help="pictures of each pass of memory")
    parser.add_argument("--threads", type=int, default=1, help="of each process; there are as many as fit the cores")
    parser.add_argument("--repetitions", type=int, default=9, help="of reading")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    missing = [file for file in (WEIGHTS, DATA) if not (options.assets / file).is_file()]
    if missing:
        parser.error(f"{options.assets} lacks {', '.join(missing)}")
    assets, answer = options.assets.absolute(), {}
    with tempfile.TemporaryDirectory(prefix="taft-ray-cache-") as folder:
        began = time.perf_counter()
        session.connect()
        answer["ray_start_s"] = round(time.perf_counter() - began, 1)
        try:
            if {"build", "read"} & set(options.only):
                answer["build"], run = measure_build(
                    assets, Path(folder), options.pictures, options.threads, options.rounds
                )
                say(answer["build"])
            if "memory" in options.only:
                answer["memory"] = measure_memory(assets, Path(folder), options.threads, options.growth)
            if "read" in options.only:
                answer["read"] = measure_reading(run, Path(folder), options.repetitions)
        finally:
            ray.shutdown()
    print(json.dumps(answer) if options.json else json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()

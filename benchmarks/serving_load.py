"""Serving a run on Ray Serve: against the plain network under the same settings, and forgets and killed replicas under load.

    python -m benchmarks.serving_load [--json] [--model NAME] [--parts latency swaps] [--replicas 1] [--seconds 8] [--rounds 9]
        [--rate R] [--of-capacity 0.8] [--minutes 10] [--forgets 20] [--kills 3]

*latency*: the composed model and timm's own network answer the same pictures, behind the same gateway, with the same replicas,
batches and limits, in turns. Both get the same open-loop load: R requests per second, by default a share of what the
slower one answers in a closed loop. Latencies are counted from the time that a request was due.

*swaps*: an open-loop load at that share of the run's own capacity. Forgets by drop and kills of replicas are spread over it.
Counted are requests that failed, and answers with a model after the ledger had it as withdrawn. Per forget: seconds from the
ledger's entry to the first answer of the model after it, from every replica.

The pictures and weights are random: the time does not depend on their values.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import timm
import torch
from PIL import Image
from ray import serve
from safetensors.torch import save_file

import taft_ray as tr
from benchmarks.open_loop import Answered, Load, kill, load_on, post, replicas_of
from taft_ray.data import decode_image
from taft_ray.models import Preprocess
from taft_ray.orchestration import session
from taft_ray.serving.deployments import Gateway
from taft_ray.serving.options import ServingOptions
from taft_ray.storage import Ledger, Store

CLASSES, PORT = 10, 8137


def picture(number: int, size: int) -> bytes:
    """A JPEG of noise around a class's grey."""
    random = np.random.default_rng(number)
    pixels = np.clip(random.normal(25 * (number % CLASSES), 40, (size, size, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def made_run(folder: Path, model: str, samples: int, shards: int) -> tuple[str, int]:
    """A run on random pictures, and its pictures' size."""
    torch.manual_seed(0)
    network = timm.create_model(model, num_classes=CLASSES)
    size = Preprocess.of(network).size
    save_file(network.state_dict(), folder / "weights.safetensors")
    table = {
        "image": [picture(n, size) for n in range(samples)],
        "label": [f"class {n % CLASSES}" for n in range(samples)],
        "id": [str(n) for n in range(samples)],
    }
    (folder / "data").mkdir()
    pq.write_table(pa.table(table), folder / "data" / "all.parquet")
    tr.Run(folder / "run").train(
        data=folder / "data", model=model, weights=str(folder / "weights.safetensors"), shards=shards, compose="mean",
        precision="float32", device="cpu", lanes=1,
    )  # fmt: skip
    return str(folder / "run"), size


class PlainReplica:
    """timm's network behind the same gateway, with the same decoder and the same batches."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self.options = ServingOptions.from_json(options)
        self._network = timm.create_model(model, num_classes=CLASSES).eval()
        self._preprocess = Preprocess.of(self._network)
        self._decodes, self._computes = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        batched: Any = self._batched
        batched.set_max_batch_size(self.options.max_batch)
        batched.set_batch_wait_timeout_s(self.options.batch_wait)

    async def predict(self, name: str, pictures: list[bytes]) -> dict[str, Any]:
        loop, size = asyncio.get_running_loop(), self._preprocess.size
        pixels = await loop.run_in_executor(self._decodes, lambda: [decode_image(one, size) for one in pictures])
        return await self._batched(pixels)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.002)
    async def _batched(self, questions: list[list[np.ndarray]]) -> list[dict[str, Any]]:
        return await asyncio.get_running_loop().run_in_executor(self._computes, self._computed, questions)

    @torch.inference_mode()
    def _computed(self, questions: list[list[np.ndarray]]) -> list[dict[str, Any]]:
        torch.set_num_threads(1)
        pixels = torch.from_numpy(np.stack([one for several in questions for one in several]))
        rows = iter(self._network(self._preprocess(pixels)).double().softmax(1).tolist())
        told = []
        for several in questions:
            each = [next(rows) for _ in several]
            predictions = [{"label": "", "probability": max(row), "probabilities": row} for row in each]
            told.append({"composed": "plain", "ledger": 0, "classes": [], "predictions": predictions})
        return told

    async def told(self, name: str) -> dict[str, Any]:
        return {"name": name, "confirmed": True}


def plain_served(model: str, options: ServingOptions) -> str:
    """Serve timm's network beside the run, under /plain; its URL."""
    told = options.to_json()
    replicas = serve.deployment(
        PlainReplica, name="replicas", num_replicas=options.replicas, ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=4 * options.max_batch, max_queued_requests=options.max_queued,
        logging_config={"enable_access_log": False},
    ).bind(model, told)  # fmt: skip
    gateway = serve.deployment(
        Gateway, name="gateway", num_replicas=options.gateways, ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=options.max_queued + options.replicas * 4 * options.max_batch,
        logging_config={"enable_access_log": False},
    ).bind(replicas, ["run"], told)  # fmt: skip
    serve.run(gateway, name="plain", route_prefix="/plain")
    return f"http://127.0.0.1:{PORT}/plain"


def capacity(url: str, pictures: Sequence[bytes], seconds: float, callers: int) -> float:
    """Answers per second of a closed loop with so many callers."""
    until = time.time() + seconds
    answers: list[Answered] = []

    def ask() -> None:
        while time.time() < until:
            answers.append(post(url, pictures[len(answers) % len(pictures)], time.time()))

    began = time.time()
    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed := [one.status for one in answers if one.status != 200]:
        raise RuntimeError(f"{len(failed)} of {len(answers)} answers of the closed loop are {set(failed)}")
    return len(answers) / (time.time() - began)


def quantiles(load: Load) -> dict[str, float]:
    """Milliseconds from the time that a request was due."""
    late = sorted(1000 * (one.come - one.planned) for one in load.answers)
    return {
        "n": len(late),
        "failed": len(load.failed()),
        "p50_ms": round(statistics.median(late), 2),
        "p99_ms": round(late[min(len(late) - 1, int(0.99 * len(late)))], 2),
    }


def latency(run: str, plain: str, pictures: Sequence[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Both under the same load, in turns: medians over the rounds, and of the ratios of each round."""
    capacities = {
        "plain": capacity(plain, pictures, 6, 2 * options.replicas),
        "run": capacity(run, pictures, 6, 2 * options.replicas),
    }
    rate = options.rate or options.of_capacity * min(capacities.values())
    rounds: list[dict[str, dict[str, float]]] = []
    for turn in range(options.rounds):
        took: dict[str, dict[str, float]] = {}
        order = [("plain", plain), ("run", run)]
        for name, url in order if turn % 2 == 0 else order[::-1]:
            with load_on(url, pictures, rate) as load:
                time.sleep(options.seconds)
            took[name] = quantiles(load)
        rounds.append(took)
        print(json.dumps({"round": turn, "rate_per_s": rate, **took}), file=sys.stderr, flush=True)
    ratios = {
        f"{which}_ratio": round(
            statistics.median(one["run"][f"{which}_ms"] / one["plain"][f"{which}_ms"] for one in rounds), 3
        )
        for which in ("p50", "p99")
    }
    return {"capacity_per_s": capacities, "rate_per_s": rate, "rounds": rounds, **ratios}


def swaps(
    run: str, serving: Any, pictures: Sequence[bytes], options: argparse.Namespace, samples: int
) -> dict[str, Any]:
    """Forgets and kills under load."""
    able = capacity(serving.url, pictures, 6, 2 * options.replicas)
    rate = options.rate or options.of_capacity * able
    duration = 60 * options.minutes
    killed: list[str] = []
    certificates: list[Any] = []
    behind: list[str] = []

    def carry_out(began: float) -> None:
        for number in range(options.forgets):
            wait = began + duration * (number + 0.5) / (options.forgets + 0.5) - time.time()
            time.sleep(max(0.0, wait))
            certificates.append(tr.Run(run).forget([str(samples - 1 - number)], mode="drop"))

    def end_replicas(began: float) -> None:
        for number in range(options.kills):
            time.sleep(max(0.0, began + duration * (number + 0.75) / (options.kills + 0.5) - time.time()))
            there = replicas_of(serving.name)
            if len(there) < options.replicas:
                behind.append(f"kill {number}: {len(there)} replicas were there")
            kill(there[0])
            killed.append(there[0])

    with load_on(serving.url, pictures, rate) as load:
        began = time.time()
        workers = [threading.Thread(target=one, args=(began,)) for one in (carry_out, end_replicas)]
        for one in workers:
            one.start()
        for one in workers:
            one.join()
        time.sleep(max(0.0, began + duration - time.time()))
    return {
        "capacity_per_s": able,
        "rate_per_s": rate,
        "minutes": options.minutes,
        "forgets": len(certificates),
        "killed": len(killed),
        "notes": behind,
        **quantiles(load),
        "statuses": {
            str(s): sum(one.status == s for one in load.answers) for s in sorted({a.status for a in load.answers})
        },
        **withdrawals(run, load, certificates),
    }


def withdrawals(run: str, load: Load, certificates: Sequence[Any]) -> dict[str, Any]:
    """Old answers after each withdrawal, and seconds from the drop to the first and to the last old or new answer."""
    entries = Ledger(Store(run)).entries()
    old_after, first_new, last_old, took = 0, [], [], []
    for entry in entries:
        if entry.kind != "withdrawn":
            continue
        dropped = next(e for e in entries if e.kind == "dropped" and e.body["request"] == entry.body["request"])
        at, out = (datetime.fromisoformat(one.time).timestamp() for one in (dropped, entry))
        old = entry.body["digest"]
        old_after += len(load.after(out, [old]))
        took.append(out - at)
        olds = [one.come - at for one in load.answers if one.composed == old]
        last_old.append(max(olds, default=0.0))
        later = [one.come - at for one in load.answers if one.come > at and one.ledger >= dropped.number]
        first_new.append(min(later, default=float("nan")))
    return {
        "withdrawn": len(took),
        "forgets_that_changed_no_model": sum(not one.to_json()["withdrawn"] for one in certificates),
        "old_answers_after_withdrawal": old_after,
        "lapsed": sum(len(one["lapsed"]) for c in certificates for one in c.to_json()["withdrawn"]),
        "drop_to_first_new_answer_s": spread(first_new),
        "drop_to_last_old_answer_s": spread(last_old),
        "drop_to_withdrawn_s": spread(took),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "most": round(max(values), 3)} if values else {}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--parts", nargs="*", choices=("latency", "swaps"), default=("latency", "swaps"))
    parser.add_argument("--samples", type=int, default=120)
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each round of a latency")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rate", type=float, help="requests per second")
    parser.add_argument("--of-capacity", type=float, default=0.8)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--forgets", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--lease", type=float, default=5.0)
    parser.add_argument("--drain", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="taft-ray-serving-") as name:
        ray.init(
            address="local", num_cpus=max(8, os.cpu_count() or 1), namespace=session.NAMESPACE, include_dashboard=False,
            log_to_driver=False, logging_level=logging.ERROR,
        )  # fmt: skip
        run, size = made_run(Path(name), options.model, options.samples, options.shards)
        pictures = [picture(10_000 + n, size) for n in range(32)]
        asked: dict[str, Any] = {
            "replicas": options.replicas,
            "cpus": 0.1,
            "lease": options.lease,
            "drain": options.drain,
        }
        serving: AbstractContextManager[Any] = tr.Run(run).serve(port=PORT, **asked)
        with serving as started:
            told: dict[str, Any] = {
                "model": options.model,
                "replicas": options.replicas,
                "lease": options.lease,
                "drain": options.drain,
            }
            if "latency" in options.parts:
                plain = plain_served(options.model, ServingOptions.of(asked))
                told["latency"] = latency(started.url, plain, pictures, options)
                serve.delete("plain")
            if "swaps" in options.parts:
                told["swaps"] = swaps(run, started, pictures, options, options.samples)
        ray.shutdown()
    told["load"] = os.getloadavg()[0]
    print(json.dumps(told) if options.json else json.dumps(told, indent=1))


if __name__ == "__main__":
    main()

"""Processor seconds of a tune as a multiple of one solve; and what tuning gives on pictures.

    python -m benchmarks.additive_tune [--features 2048] [--pictures 5000] [--repetitions 3] [--json]
    python -m benchmarks.additive_tune --assets FOLDER --cache FOLDER [--data signs,cifar] [--seeds 3] [--json]

The first form takes random rows: no time depends on their values, but for which weights the search tries. The second takes the
site vectors of ``benchmarks.additive_sites`` and its cache. Test pictures measure and choose nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.additive_sites import DATA, Recipe, vectors_of
from taft_ray.additive import (
    AdditiveModel,
    Policy,
    Projection,
    Settings,
    SiteGroup,
    Sums,
    Tuner,
    sites_of,
    solve,
    to_rows,
)
from taft_ray.additive.settings import KAPPAS, LEFT_OUT
from taft_ray.additive.tuning import log_loss
from taft_ray.evaluation.classification import classification
from taft_ray.fitting.config import FitConfig

CLASSES, GROUPS = 10, 7


def policy_for(groups: Sequence[SiteGroup]) -> Policy:
    """The default policy of ``taft-ray tune`` for rows of these groups."""
    features = sum(group.kept for group in groups)
    kappas = tuple(dict.fromkeys((FitConfig.kappa, *KAPPAS)))
    return Policy(tuple(groups), (features // 4, features // 2, features), kappas)


def random_rows(pictures: int, features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that say something of their labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, pictures)
    centres = generator.standard_normal((CLASSES, features))
    values = 0.3 * centres[labels] + generator.standard_normal((pictures, features))
    return to_rows(torch.from_numpy(0.8 * values / np.sqrt(features))), labels


def seconds(actions: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """The median processor time of each. They take turns, for other work on the machine comes and goes."""
    took: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repetitions):
        for name, action in actions.items():
            began = time.process_time()
            action()
            took[name].append(time.process_time() - began)
    return {name: statistics.median(each) for name, each in took.items()}


def timed(features: int, pictures: int, repetitions: int) -> dict[str, Any]:
    """A solve, and the parts of a tune by the default policy."""
    rows, labels = random_rows(pictures, features, seed=0)
    sums = Sums(features, CLASSES)
    sums.add(rows, labels)
    shares = [features // GROUPS + (place < features % GROUPS) for place in range(GROUPS)]
    policy = policy_for([SiteGroup(f"blocks.{place}", share) for place, share in enumerate(shares)])
    left = slice(None, LEFT_OUT)

    def choose() -> Settings:
        tuner = Tuner(sums, policy)
        return tuner.settings(tuner.left_out(tuner.chosen, rows[left], labels[left]))

    tuner = Tuner(sums, policy)
    found: dict[str, Any] = {
        "features": features,
        "pictures": pictures,
        "left_out": min(pictures, LEFT_OUT),
        "candidates": len(tuner.candidates),
        **seconds(
            {
                "solve_s": lambda: solve(sums),
                "tune_s": choose,
                "from_sums_s": lambda: Tuner(sums, policy).candidates,
                "left_out_s": lambda: tuner.left_out(tuner.chosen, rows[left], labels[left]),
            },
            repetitions,
        ),
    }
    return {**found, "ratio": found["tune_s"] / found["solve_s"]}


def measured(name: str, assets: Path, cache: Path, seeds: int) -> list[dict[str, Any]]:
    """A data set by seed of R: test accuracy, log loss and calibration of the model as it is solved, and of the tuned one."""
    network, image_size, vectors = vectors_of(name, assets, cache)
    recipe = Recipe()
    blocks = recipe.blocks(len(vectors.sites.groups))
    sites = sites_of(network, image_size, last_blocks=blocks, members=recipe.members, size=recipe.size)
    train, test = vectors.of("train", sites), vectors.of("test", sites)
    groups = [SiteGroup(group.name, group.kept) for group in sites.groups]
    labels, wanted = vectors.labels["train"], vectors.labels["test"]
    found = []
    for seed in range(seeds):
        projection = Projection(sites, seed)
        rows, others = to_rows(projection(train)), to_rows(projection(test))
        sums = Sums(projection.size, int(labels.max()) + 1, projection.digest)
        sums.add(rows, labels)
        policy = policy_for(groups)
        tuner = Tuner(sums, policy)
        left = {
            candidate: tuner.left_out(candidate, rows[:LEFT_OUT], labels[:LEFT_OUT]) for candidate in tuner.candidates
        }
        settings = tuner.settings(left[tuner.chosen])
        before = AdditiveModel.of(sums).scaled(FitConfig.kappa).logits(others)
        after = AdditiveModel.chosen(sums, groups, settings).logits(others)
        found.append(
            {
                "data": DATA[name].title,
                "seed": seed,
                "settings": settings.to_json(),
                "before": _quality(before, wanted),
                "after": _quality(after, wanted),
                "candidates": [
                    {
                        "size": one.size,
                        "weights": list(one.weights),
                        "gcv": one.score.gcv,
                        "leave_one_out": 100 * told.accuracy,
                        "test": _quality(
                            AdditiveModel.chosen(
                                sums, groups, Settings(one.size, one.weights, one.score.penalty, 1.0)
                            ).logits(others),
                            wanted,
                        )["accuracy"],
                    }
                    for one, told in left.items()
                ],
                "losses": dict(zip(map(str, policy.kappas), left[tuner.chosen].losses, strict=True)),
            }
        )
    return found


def _quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    names = [str(number) for number in range(logits.shape[1])]
    told = classification(labels, logits.argmax(1), probabilities, names)
    return {
        "accuracy": 100 * float((logits.argmax(1) == labels).mean()),
        "log_loss": log_loss(logits, labels),
        "calibration_error": 100 * float(told["calibration_error"]),
    }


def _spread(values: Sequence[float], digits: int) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


def _page(found: Sequence[dict[str, Any]]) -> str:
    lines = ["| data | model | test accuracy | test log loss | test calibration error |", "|---|---|---|---|---|"]
    for data in dict.fromkeys(one["data"] for one in found):
        rows = [one for one in found if one["data"] == data]
        for when in ("before", "after"):
            told = [
                _spread([row[when][name] for row in rows], digits)
                for name, digits in (("accuracy", 1), ("log_loss", 3), ("calibration_error", 1))
            ]
            lines.append(f"| {data} | {when} | {' | '.join(told)} |")
    lines += ["", "| data | numbers | weights | GCV | leave-one-out | test |", "|---|---|---|---|---|---|"]
    for one in found:
        for tried in one["candidates"]:
            weights = " ".join(f"{weight:g}" for weight in tried["weights"])
            lines.append(
                f"| {one['data']}, seed {one['seed']} | {tried['size']} | {weights} | {tried['gcv']:.4f} | "
                f"{tried['leave_one_out']:.1f} | {tried['test']:.1f} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--data", default="signs,cifar")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    if (given.assets is None) != (given.cache is None):
        parser.error("--assets and --cache go together")
    if given.assets is not None:
        given.cache.mkdir(parents=True, exist_ok=True)
        each = [measured(name, given.assets, given.cache, given.seeds) for name in given.data.split(",")]
        found: Any = [one for several in each for one in several]
        print(json.dumps(found) if given.json else _page(found))
        return
    found = timed(given.features, given.pictures, given.repetitions)
    if given.json:
        print(json.dumps(found))
        return
    print(f"{found['pictures']:,} pictures, {found['features']:,} numbers each, {found['left_out']:,} left out")
    print(f"a solve: {found['solve_s']:.2f} s of a processor")
    print(f"a tune: {found['tune_s']:.2f} s, {found['ratio']:.1f} solves")
    print(f"  from the sums, {found['candidates']} candidates and the search: {found['from_sums_s']:.2f} s")
    print(f"  pictures left out: {found['left_out_s']:.2f} s")


if __name__ == "__main__":
    main()

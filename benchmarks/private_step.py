"""A step of private descent against the same step without privacy, and against Opacus's ghost clipping on the same cached tokens.

    python -m benchmarks.private_step [--json] [--model vit_small_patch16_224] [--model ...] [--pictures 5000] [--memory]

Trained are the last block, the final norm and the head. The first two ways have the same Jacobian rows in memory and take a full-batch
step: J·Δw, residuals and the sum of all pictures' gradients. The private one adds norms, clipping, the integer grid and noise
(`taft_ray.privacy.noise`). The other sums pictures in products of 512.
Opacus differentiates timm's own last block on the same tokens, ``--opacus-batch`` pictures at a time, twice, as its ghost clipping does.
Its optimizer's step and noise are left out: of a full batch they are small, and in its favour.

Repetitions are interleaved. Medians are taken, and quartiles of the ratio. ``--memory`` makes two private steps in a process of its own, with all
constants in memory. It gives how far resident memory grew beyond cached tokens of ``--memory-pictures``.
Weights and tokens are random: nothing is downloaded, and times do not depend on the values.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see benchmarks.step

import timm
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import Tensor

from benchmarks.ways import Suffix
from taft_ray.fitting import Loss, PrivateRecipe
from taft_ray.fitting.clipping import views
from taft_ray.fitting.private import PrivateStep
from taft_ray.privacy.noise import GaussianStream
from taft_ray.tangent import Pictures, TangentModel, linearize, prepare_pictures
from taft_ray.tangent.gradient_passes import KeptRows
from taft_ray.tangent.options import PREPARED_BUDGET
from taft_ray.tangent.unit_gradients import UnitGradients

DEFAULT_MODELS = ("vit_small_patch16_224", "vit_base_patch16_224")
CLASSES = 10
CLIP = 1
EVERYTHING = 1 << 50  # bytes: rows are kept, whatever their size
CE = Loss(kind="ce")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Times are medians, in milliseconds per picture; a ratio has quartiles of neighbouring repetitions."""

    model: str
    pictures: int
    classes: int
    parameters: int
    threads: int
    load: float
    repetitions: int
    private_ms: float
    noise_ms: float  # of it, drawing the noise
    without_privacy_ms: float
    passes_ms: float  # a private step that passes through the network instead of keeping rows
    opacus_ms: float
    private_over_plain: float
    private_over_plain_range: tuple[float, float]
    opacus_over_private: float
    opacus_over_private_range: tuple[float, float]
    opacus_over_passes: float
    norm_difference: float  # of our norms from Opacus's, the largest, relative
    torch: str
    timm: str
    opacus: str


class Opacus:
    """Ghost clipping of timm's own suffix at the linearisation point: norms by a backward pass, then one of the weighted losses."""

    def __init__(self, tm: TangentModel, batch: int) -> None:
        self.batch = batch
        suffix = Suffix(copy.deepcopy(tm.network), 1).train()  # Opacus sees no other; nothing is dropped
        trained = set(tm.zero_delta())
        for name, parameter in suffix.named_parameters():
            parameter.requires_grad_(name.removeprefix("network.") in trained)
        for module in suffix.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = True  # type: ignore[assignment]  # as timm has it
        self.module = GradSampleModuleFastGradientClipping(
            suffix, max_grad_norm=CLIP, use_ghost_clipping=True, loss_reduction="sum"
        )

    def __call__(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Σ of clipped gradients into the parameters' ``grad``; the norms (B,)."""
        self.module.zero_grad(set_to_none=True)
        found = []
        for part, of_part in zip(tokens.split(self.batch), labels.split(self.batch), strict=True):
            self.module.enable_hooks()
            kept = {parameter: parameter.grad for parameter in self.module.parameters()}
            self.module.zero_grad(set_to_none=True)  # or the first pass would add to what is kept
            losses = CE.per_sample(self.module(part), of_part)
            losses.sum().backward(retain_graph=True)
            for parameter, grad in kept.items():
                parameter.grad = grad
            norms = self.module.get_norm_sample()
            self.module.disable_hooks()
            (losses * (CLIP / (norms + 1e-6)).clamp(max=1.0)).sum().backward()
            found.append(norms.detach())
        return torch.cat(found)


def problem(model: str, pictures: int) -> tuple[TangentModel, Tensor, Tensor]:
    torch.manual_seed(0)
    tm = linearize(timm.create_model(model, num_classes=CLASSES))
    shape = tm.prefix(torch.zeros(1, 3, 224, 224)).shape[1:]
    tokens = torch.empty(pictures, *shape, dtype=torch.float16)  # as a cache has them
    for part in tokens.split(256):
        part.copy_(torch.randn(part.shape))
    return tm, tokens, torch.randint(CLASSES, (pictures,))


def private_step(tm: TangentModel, pictures: Pictures, labels: Tensor, budget: int) -> PrivateStep:
    recipe = PrivateRecipe(steps=1, learning_rate=0.1, clip=CLIP, noise_multiplier=4.24, divisor=len(labels))
    noise = GaussianStream(bytes(32))  # a key that everybody knows: a benchmark has no secret
    return PrivateStep(tm, pictures, labels, CE, recipe, noise, budget=budget)


class WithoutPrivacy:
    """The same full-batch step on the same rows: no norms, no clipping, no grid, no noise."""

    def __init__(self, private: PrivateStep) -> None:
        assert isinstance(private.passes, KeptRows)
        self.passes, self.private = private.passes, private
        self.values = torch.zeros(len(private.values))
        self.sum = torch.zeros(len(private.values))
        self.of_sum = views(self.sum, private.zero)

    @torch.no_grad()
    def __call__(self) -> None:
        delta = views(self.values, self.private.zero)
        self.sum.zero_()
        for number, (block, gradients) in enumerate(self.passes(delta, self.private._residual)):
            whole = copy.copy(gradients.inputs)
            whole.size = len(block.index)
            UnitGradients(whole, gradients.back).write(0, self.of_sum, first=number == 0)
        self.values.add_(self.sum, alpha=-0.1 / len(self.private.labels))


def compare_norms(tm: TangentModel, opacus: Opacus, tokens: Tensor, labels: Tensor) -> float:
    """Our norms against Opacus's on the network itself, whose logits are f_w(x): its residuals are given to our gradients."""
    prepared = tm.prepare(tokens)
    expected = opacus(tokens, labels)
    step = PrivateStep(
        tm, prepared, labels, CE,
        PrivateRecipe(steps=1, learning_rate=1.0, clip=CLIP, noise_multiplier=1.0, divisor=1), GaussianStream(bytes(32)),
    )  # fmt: skip
    assert step.passes is not None
    with torch.no_grad():
        norms = torch.cat(
            [
                gradients.norms()
                for _, gradients in step.passes(
                    step.delta, lambda logits, numbers: CE.residual(prepared.primal[numbers], labels[numbers])
                )
            ]
        )
    difference = float(((norms - expected) / expected).abs().max())
    if not difference < 1e-2:
        raise AssertionError(f"our norms and Opacus's differ by {difference:.2g}: there is nothing to compare")
    return difference


def seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def measure(model: str, *, pictures: int, opacus_batch: int, threads: int, repetitions: int) -> Measurement:
    import opacus

    torch.set_num_threads(threads)
    load = os.getloadavg()[0]
    tm, tokens, labels = problem(model, pictures)
    ghost = Opacus(tm, opacus_batch)
    difference = compare_norms(tm, ghost, tokens[:opacus_batch].float(), labels[:opacus_batch])
    few, some = 2 * opacus_batch, min(pictures, 512)
    passes = private_step(tm, tm.prepare(tokens[:some]), labels[:some], 0)
    private = private_step(tm, prepare_pictures(tm, tokens), labels, EVERYTHING)
    plain = WithoutPrivacy(private)
    count = private.zero.numel()
    ghost_tokens = tokens[:few].float()
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "private": (private, pictures),
        "plain": (plain, pictures),
        "passes": (passes, some),
        "opacus": (lambda: ghost(ghost_tokens, labels[:few]), few),
        "noise": (lambda: private.noise(0, count, 4.24 * 2.0**28), pictures),
    }
    for way, _ in ways.values():
        way()
    rounds = [
        {name: 1e3 * seconds(way) / of_pictures for name, (way, of_pictures) in ways.items()}
        for _ in range(repetitions)
    ]
    median = {name: statistics.median(times[name] for times in rounds) for name in ways}

    def quartiles(above: str, below: str) -> tuple[float, float]:
        found = statistics.quantiles([times[above] / times[below] for times in rounds], n=4)
        return round(found[0], 2), round(found[2], 2)

    return Measurement(
        model=model,
        pictures=pictures,
        classes=CLASSES,
        parameters=count,
        threads=threads,
        load=round(load, 1),
        repetitions=repetitions,
        private_ms=round(median["private"], 4),
        noise_ms=round(median["noise"], 4),
        without_privacy_ms=round(median["plain"], 4),
        passes_ms=round(median["passes"], 4),
        opacus_ms=round(median["opacus"], 3),
        private_over_plain=round(median["private"] / median["plain"], 2),
        private_over_plain_range=quartiles("private", "plain"),
        opacus_over_private=round(median["opacus"] / median["private"], 1),
        opacus_over_private_range=quartiles("opacus", "private"),
        opacus_over_passes=round(median["opacus"] / median["passes"], 1),
        norm_difference=difference,
        torch=torch.__version__,
        timm=timm.__version__,
        opacus=opacus.__version__,
    )


def memory(model: str, pictures: int, threads: int) -> dict[str, Any]:
    """GB by which the resident memory of a process grew over two private steps, at its peak, beyond its tokens in float16."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (model, pictures, threads))


def _growth(model: str, pictures: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    tm, tokens, labels = problem(model, pictures)
    before = _resident("VmRSS")
    step = private_step(tm, prepare_pictures(tm, tokens), labels, PREPARED_BUDGET)
    step()
    step()
    peak = _resident("VmHWM")
    return {
        "model": model,
        "pictures": pictures,
        "classes": CLASSES,
        "path": type(step.passes).__name__,
        "base_gb": round(before, 3),
        "growth_gb": round(peak - before, 3),
    }


def _resident(field: str) -> float:
    """GB (10⁹ bytes) of this process."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e9


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.private_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", action="append", help="a timm vision transformer; ViT-S and ViT-B by default")
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--opacus-batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--memory", action="store_true", help="the growth of resident memory of the last model")
    parser.add_argument("--memory-pictures", type=int, default=5000)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    models = options.model or list(DEFAULT_MODELS)
    measured: dict[str, Any] = {}
    if options.memory:
        measured["memory"] = memory(models[-1], options.memory_pictures, options.threads)
    measured["private_step"] = [
        asdict(
            measure(
                model,
                pictures=options.pictures,
                opacus_batch=options.opacus_batch,
                threads=options.threads,
                repetitions=options.repetitions,
            )
        )
        for model in models
    ]
    print(json.dumps(measured) if options.json else json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()

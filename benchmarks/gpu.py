"""Prefix, training step, ridge and serving on one device, against plain fine-tuning of the same block and against the roofline.

    python -m benchmarks.gpu [--json] [--deterministic]                          on a GPU: ViT-B/16 and ViT-L/16, 224 px
    python -m benchmarks.gpu --device cpu --model vit_tiny_patch16_224 --json    to try it

Needs torch and timm: neither ray nor a network. Weights and pictures are random; no time depends on the values. Trained are the
last block, the final norm and the head. One kind of times a part, by events on the device; nothing in a timed step waits for it.

prefix: pictures per second of the frozen prefix under autocast (as runs do it), and with its weights and residuals in
bfloat16. `prefix_tokens`, which a run's pass calls, is timed too: 8-bit pictures in, cached tokens out, both in the host's
memory.

plain: one step of fine-tuning without a cache: the whole network forward, the same block backward, Adam. The frozen part
is bfloat16, without a graph, and the pictures lie on the device. The better of the batches counts.

step: forward, backward and Adam on cached constants, eager and as a replayed CUDA graph. Precision float32 is exact, tf32
rounds the products' inputs, bfloat16 keeps constants and base weights in half the bytes. Δw and Adam are float32 in all.
``difference``: of tangent and gradient from float32, relative to the norm. ``of_floor``: the floor of `benchmarks.floor`
over the time, by the measured rates, and which of bytes and products binds.

fit: `fit` by the paper's recipe (also with constants and base weights in bfloat16), and by ridge to a relative residual of
1e-6. Both are called as a shard's worker calls them. Everything of a fit counts, from its first allocation to its report.

serving: the composed model against the plain network in the same precision, its fused attention on.

With --deterministic torch may only take kernels that repeat; ``repeats`` says in any case whether tokens and both fits gave the same bits twice.
"""

# B batch, T tokens, D width, H heads, K classes

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import timm
import torch
from torch import Tensor

from benchmarks.floor import floor_of
from benchmarks.roofline import PRECISIONS, Clock, Roofline, dtype_of, products
from benchmarks.training_step import PlainFineTuning, TrainingStep, relative, waits
from taft_ray.errors import TaftError
from taft_ray.fitting import FitConfig, Loss, fit
from taft_ray.models import Preprocess
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.tokens import prefix_tokens
from taft_ray.tangent import ComposedModel, Delta, Prepared, TangentModel, concatenate, linearize

MODELS = ("vit_base_patch16_224", "vit_large_patch16_224")
CLASSES = 10
EPOCHS = FitConfig().epochs  # of the paper's recipe, in which plain fine-tuning is counted against a ridge fit


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything: what fills a large GPU, or what a CPU does in seconds."""

    prefix: int  # pictures a forward pass
    chunk: int  # pictures a `prepare`
    pool: int  # pictures whose constants lie on the device; batches are drawn from them
    batches: tuple[int, ...]  # of the step
    plain: tuple[int, ...]  # batches of plain fine-tuning
    shard: int  # pictures of a fit
    epochs: int  # of a fit by Adam
    served: int
    repetitions: int

    @classmethod
    def of(cls, device: torch.device) -> Sizes:
        if device.type == "cuda":
            return cls(
                prefix=128, chunk=128, pool=8192, batches=(32, 256, 2048, 8192), plain=(32, 128, 256), shard=1024, epochs=30, served=64,
                repetitions=30,
            )  # fmt: skip
        return cls(prefix=4, chunk=16, pool=32, batches=(8,), plain=(4,), shard=16, epochs=3, served=4, repetitions=3)


class Bench:
    """One model on one device."""

    def __init__(self, model: str, clock: Clock, roofline: Roofline, sizes: Sizes) -> None:
        self.model, self.clock, self.roofline, self.sizes = model, clock, roofline, sizes
        self.device = clock.device
        torch.manual_seed(0)
        self.network = timm.create_model(model, num_classes=CLASSES).eval()
        self.tm = linearize(self.network).to(self.device)
        self.height, self.width = map(int, self.network.get_submodule("patch_embed").img_size)  # type: ignore[arg-type]
        self.plain_per_s = 0.0

    def in_precision(self, precision: str) -> TangentModel:
        """The model with weights of that precision."""
        if precision != "bfloat16":
            return self.tm
        return linearize(copy.deepcopy(self.network).to(torch.bfloat16)).to(self.device)

    def pictures(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(count, 3, self.height, self.width, device=self.device, dtype=dtype)

    def labels(self, count: int) -> Tensor:
        return torch.randint(CLASSES, (count,), device=self.device)

    # --- the frozen prefix

    def prefix(self) -> dict[str, Any]:
        count, depth = self.sizes.prefix, len(self.network.get_submodule("blocks"))  # type: ignore[arg-type]
        images = self.pictures(count)
        tokens = self.tm.prefix(images)
        tokens_T, width_D = tokens.shape[1:]
        patches = self.network.get_submodule("patch_embed").get_submodule("proj").weight[0].numel()  # type: ignore
        flops = 2 * tokens_T * width_D * ((depth - 1) * (12 * width_D + 2 * tokens_T) + patches)
        rates = {}

        def autocast() -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16):
                return self.tm.prefix(images)

        rates["autocast"] = count / self.clock.seconds(autocast, self.sizes.repetitions)
        half, half_images = self.in_precision("bfloat16"), images.bfloat16()
        rates["bfloat16"] = count / self.clock.seconds(lambda: half.prefix(half_images), self.sizes.repetitions)
        spec = RunSpec(data="none", model=self.model, device=self.device.type, precision="bfloat16", compose="gram")
        pixels = torch.randint(256, (3 * count, 3, self.height, self.width), dtype=torch.uint8).numpy()
        preprocess = Preprocess.of(self.tm.network)
        prefix_tokens(self.tm, preprocess, pixels, spec)  # a run's parts are of one size: pinned memory is there
        seconds = self.clock.whole_seconds(lambda: prefix_tokens(self.tm, preprocess, pixels, spec))
        return {
            "batch": count,
            "tokens": tokens_T,
            "width": width_D,
            "gflop_a_picture": round(flops / 1e9, 2),
            "per_s": {way: round(rate, 1) for way, rate in rates.items()},
            "of_matmul_rate": {
                way: round(rate * flops / self.roofline.flops["bfloat16"], 3) for way, rate in rates.items()
            },
            "prefix_tokens_per_s": round(len(pixels) / seconds, 1),
        }

    # --- plain fine-tuning

    def plain(self) -> dict[str, Any]:
        model = PlainFineTuning(self.network).to(self.device)
        for module in (model.block, model.norm, model.head):
            module.requires_grad_(True)  # type: ignore[union-attr]  # modules
        rates = {}
        for batch in self.sizes.plain:
            images, labels, loss = self.pictures(batch, torch.bfloat16), self.labels(batch), Loss()
            trained = [p for module in (model.block, model.norm, model.head) for p in module.parameters()]  # type: ignore
            optimizer = self.adam(trained)

            def step(images=images, labels=labels, optimizer=optimizer, loss=loss) -> None:
                optimizer.zero_grad(set_to_none=True)
                loss.per_sample(model(images).float(), labels).mean().backward()
                optimizer.step()

            rates[batch] = batch / self.clock.seconds(step, self.sizes.repetitions)
        self.plain_per_s = max(rates.values())
        return {"per_s": {batch: round(rate, 1) for batch, rate in rates.items()}}

    def adam(self, parameters: Sequence[Tensor]) -> torch.optim.Adam:
        on_gpu = self.clock.on_gpu
        return torch.optim.Adam(parameters, lr=1e-3, fused=on_gpu or None, capturable=on_gpu)

    # --- steps and fits on cached constants

    def constants(self, count: int) -> tuple[Prepared, Tensor]:
        """The constants of ``count`` random pictures, float32, and their labels."""
        sizes = self.sizes
        parts = []
        for at in range(0, count, sizes.chunk):
            with torch.autocast(self.device.type, torch.bfloat16):
                tokens = self.tm.prefix(self.pictures(min(sizes.chunk, count - at)))
            parts.append(self.tm.prepare(tokens.half()))
        return concatenate(parts), self.labels(count)

    def step(self) -> dict[str, Any]:
        prepared, labels = self.constants(self.sizes.pool)
        exact = self._probe(self.tm, prepared[: self.sizes.chunk], labels[: self.sizes.chunk])
        rows = []
        for precision in PRECISIONS if self.clock.on_gpu else ("float32", "bfloat16"):
            tm = self.in_precision(precision)
            kept = prepared.to(torch.bfloat16) if precision == "bfloat16" else prepared
            with products(precision):
                got = self._probe(tm, kept[: self.sizes.chunk], labels[: self.sizes.chunk])
                for batch in self.sizes.batches:
                    step = TrainingStep(tm, kept, labels, batch)
                    row: dict[str, Any] = {"precision": precision, "batch": batch}
                    row["difference"] = [relative(a, b) for a, b in zip(got, exact, strict=True)]
                    if self.clock.on_gpu:
                        row["waits_for_the_device"] = waits(step)
                    ways: dict[str, Callable[[], None]] = {"eager": step}
                    if self.clock.on_gpu:
                        try:
                            ways["graph"] = step.captured()
                        except RuntimeError as error:
                            row["graph_failed"] = str(error)
                    seconds = {way: self.clock.seconds(call, self.sizes.repetitions) for way, call in ways.items()}
                    floor_s, bound = self.floor(batch, prepared.token_count, precision)
                    rows.append(
                        row
                        | {"per_s": {way: round(batch / s) for way, s in seconds.items()}}
                        | {"times_plain": {way: round(batch / s / self.plain_per_s, 1) for way, s in seconds.items()}}
                        | {"of_floor": {way: round(floor_s / s, 3) for way, s in seconds.items()}, "bound": bound}
                    )
            del tm, kept
        return {"rows": rows, "gb_of_constants": round(prepared.nbytes() / 1e9, 3)}

    def floor(self, batch: int, tokens_T: int, precision: str) -> tuple[float, str]:
        """Seconds a step takes at least: the floor of `benchmarks.floor`, with constants and base weights in this precision."""
        least = floor_of(self.tm, batch=batch, tokens=tokens_T)
        moved = (least.token_bytes + least.weight_bytes) * dtype_of(precision).itemsize / 4 + least.adam_bytes
        return self.roofline.floor_s(moved, 2 * least.multiply_adds, precision)

    def _probe(self, tm: TangentModel, prepared: Prepared, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The tangent along a fixed Δ, and the loss's gradient there, as vectors."""
        generator = torch.Generator().manual_seed(1)
        delta = self.tm.zero_delta().map(lambda value: (torch.randn(value.shape, generator=generator) * 0.02).to(value))
        leaves = {name: value.requires_grad_() for name, value in delta.items()}
        tangent = tm.tangent(prepared, {name: value.to(tm.dtype) for name, value in leaves.items()}).float()
        Loss().per_sample(prepared.primal.float() + tangent, labels).mean().backward()
        return tangent.detach(), torch.cat([leaf.grad.flatten() for leaf in leaves.values() if leaf.grad is not None])

    def fits(self) -> dict[str, Any]:
        prepared, labels = self.constants(self.sizes.shard)
        count = len(prepared)
        adam = FitConfig(solver="adam", epochs=self.sizes.epochs)
        ways = {"adam": (self.tm, prepared, adam), "ridge": (self.tm, prepared, FitConfig(tolerance=1e-6))}
        ways["adam_bfloat16"] = (self.in_precision("bfloat16"), prepared.to(torch.bfloat16), adam)
        found: dict[str, list[Delta]] = {name: [] for name in ways}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for name, (tm, pictures, config) in list(ways.items()) * 3:
            took = self.clock.whole_seconds(
                lambda name=name, tm=tm, pictures=pictures, config=config: found[name].append(
                    fit(tm, pictures, labels, config)
                )
            )
            seconds[name].append(took)
        reports = {name: fitted[-1].report for name, fitted in found.items()}  # type: ignore[attr-defined]  # FittedDelta
        took = {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first is the warm-up
        with torch.autocast(self.device.type, torch.bfloat16):
            images = self.pictures(self.sizes.prefix)
            tokens = [self.tm.prefix(images) for _ in range(2)]
        return {
            "pictures": count,
            "batch": adam.batch_size,
            "epochs": adam.epochs,
            **{f"{name}_per_s": round(adam.epochs * count / took[name]) for name in ("adam", "adam_bfloat16")},
            **{
                f"{name}_times_plain": round(adam.epochs * count / took[name] / self.plain_per_s, 1)
                for name in ("adam", "adam_bfloat16")
            },
            "adam_bfloat16_difference": relative(*(vector(found[name][-1]) for name in ("adam_bfloat16", "adam"))),
            "ridge_s": round(took["ridge"], 4),
            "ridge_iterations": reports["ridge"].iterations,
            "ridge_residual": reports["ridge"].residual,
            "ridge_times_plain": round(EPOCHS * count / self.plain_per_s / took["ridge"], 1),
            "repeats": {
                "tokens": torch.equal(*tokens),
                **{
                    name: all(torch.equal(fitted[0][key], fitted[1][key]) for key in fitted[0])
                    for name, fitted in found.items()
                },
            },
        }

    # --- serving

    @torch.inference_mode()
    def serving(self) -> dict[str, Any]:
        count = self.sizes.served
        answer: dict[str, Any] = {"batch": count}
        for precision in ("tf32", "bfloat16") if self.clock.on_gpu else ("float32",):
            dtype = dtype_of(precision)
            plain = copy.deepcopy(self.network).to(self.device, dtype)
            tm = self.in_precision(precision)
            composed = ComposedModel(tm, tm.zero_delta().map(lambda value: torch.randn_like(value) * 0.01))
            images = self.pictures(count, dtype)
            with products(precision):
                seconds = [
                    self.clock.seconds(lambda model=model, images=images: model(images), self.sizes.repetitions)
                    for model in (plain, composed)
                ]
            answer[precision] = {
                "plain_per_s": round(count / seconds[0], 1),
                "composed_per_s": round(count / seconds[1], 1),
                "ratio_of_times": round(seconds[1] / seconds[0], 3),
            }
        return answer


def vector(delta: Delta) -> Tensor:
    return torch.cat([value.flatten() for value in delta.values()])


def measure(model: str, clock: Clock, roofline: Roofline) -> dict[str, Any]:
    """All parts; one that fails says why, and the others go on."""
    bench = Bench(model, clock, roofline, Sizes.of(clock.device))
    answer: dict[str, Any] = {"model": model}
    for part in (bench.prefix, bench.plain, bench.step, bench.fits, bench.serving):
        try:
            answer[part.__name__] = part()
        except (RuntimeError, TaftError) as error:  # out of memory is one, too
            answer[part.__name__] = {"failed": f"{type(error).__name__}: {error}"}
        answer[part.__name__]["peak_gb"] = clock.free()
    return answer


def facts(clock: Clock, deterministic: bool) -> dict[str, Any]:
    """The device and the versions that were measured."""
    found: dict[str, Any] = {"device": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    if clock.on_gpu:
        properties = torch.cuda.get_device_properties(clock.device)
        found = {
            "device": properties.name,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    return found | {"torch": torch.__version__, "timm": timm.__version__, "deterministic": deterministic}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", action="append", help=f"a timm ViT with a class token ({' and '.join(MODELS)})")
    parser.add_argument("--deterministic", action="store_true", help="only kernels that repeat")
    parser.add_argument("--threads", type=int, default=2, help="on a CPU")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no GPU that torch can use; try --device cpu --model vit_tiny_patch16_224")
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first product
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it finds errors, and costs time
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # sums are float32
    torch.set_num_threads(options.threads)
    clock = Clock(torch.device(options.device))
    roofline = Roofline.measure(clock, Sizes.of(clock.device).repetitions)
    clock.free()
    measured = [measure(model, clock, roofline) for model in options.model or MODELS]
    answer = {**facts(clock, options.deterministic), "roofline": roofline.to_json(), "models": measured}
    print(json.dumps(answer) if options.json else json.dumps(answer, indent=1))
    return int(any("failed" in part for row in measured for part in row.values() if isinstance(part, dict)))


if __name__ == "__main__":
    sys.exit(main())

"""One training step on the class-token short cut against the same step through torch.func.jvp, in one run.

    python -m benchmarks.step [--json] [--model vit_small_patch16_224] [--model ...]

A step is: take a batch of cached tokens, forward, backward, Adam. Trained are the last block, the final norm and the head.
Both ways start from the same cached tokens at the entrance of the last block, so that the frozen prefix counts for neither,
and both use the same loss, optimizer and batches. The repetitions are interleaved and the median is taken: on a shared
machine the times move a lot, their ratio less: the load average and the quartiles of the ratio are given with it.

Weights and pictures are random: nothing is downloaded, and the time of a step does not depend on the values.
"""

# B batch, T tokens, D width, K classes

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

# On a machine busy with other things a thread that spins at a barrier waits for one that is not scheduled, and the way with
# the smaller matrices suffers most. To be set before torch is loaded; it holds for both ways. OMP_WAIT_POLICY=active undoes it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import timm
import torch
from torch import Tensor, nn

from taft_ray.tangent import Loss, TangentModel, linearize

DEFAULT_MODEL = "vit_small_patch16_224"
POOL = 2  # batches' worth of pictures that batches are drawn from


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one model gave. Times are medians of ``repetitions``, in milliseconds a step."""

    model: str
    batch: int
    tokens: int
    threads: int
    wait_policy: str  # OMP_WAIT_POLICY
    load: float  # the machine's load average when the measurement began
    repetitions: int
    short_cut_ms: float
    func_jvp_ms: float
    ratio: float  # median over median
    ratio_range: tuple[float, float]  # quartiles of the ratio of neighbouring repetitions
    cpu_ratio: float  # the same of CPU time over all threads, which other programs disturb less
    prepare_ms: float  # once a batch of pictures, before the first epoch
    difference: float  # of the two ways' tangents, relative to the largest value
    torch: str
    timm: str


class Suffix(nn.Module):
    """timm's own last block, final norm and head."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        blocks = self.network.get_submodule("blocks")
        last = blocks.get_submodule(str(len(list(blocks.children())) - 1))
        x = self.network.get_submodule("norm")(last(tokens))
        return self.network.forward_head(x)  # type: ignore[operator]  # every timm vision transformer has it


class FuncJvp:
    """(f_w(x), J_w f(x)·Δ) by torch.func.jvp over the suffix; `linearize` has switched its fused attention off."""

    def __init__(self, tm: TangentModel) -> None:
        self.suffix = Suffix(tm.network)
        self.base = {f"network.{name}": value for name, value in tm.base.items()}

    def __call__(self, tokens: Tensor, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        def forward(parameters: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.suffix, parameters, (tokens,))

        direction = {f"network.{name}": delta[name] for name in delta}
        primal, tangent, *_ = torch.func.jvp(forward, (self.base,), (direction,))
        return primal, tangent


def training_step(
    tm: TangentModel, logits: Callable[[Tensor, Mapping[str, Tensor]], Tensor], labels: Tensor, batch: int
) -> Callable[[], tuple[float, float]]:
    """A function that makes one step on the next batch and returns its seconds, by the clock and of CPU. ``logits(index, delta)`` -> (B, K)."""
    leaves = {name: value.requires_grad_() for name, value in tm.zero_delta().items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    loss = Loss()

    def step() -> tuple[float, float]:
        index = torch.randperm(len(labels), generator=generator)[:batch]
        began, began_cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss.per_sample(logits(index, leaves), labels[index]).mean().backward()
        optimizer.step()
        return time.perf_counter() - began, time.process_time() - began_cpu

    return step


def measure(model: str, *, batch: int, classes: int, threads: int, repetitions: int) -> Measurement:
    """Both ways on one model, interleaved."""
    load = os.getloadavg()[0]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tm = linearize(timm.create_model(model, num_classes=classes))
    height, width = map(int, tm.network.get_submodule("patch_embed").img_size)  # type: ignore[arg-type]  # timm's own
    count = POOL * batch
    tokens = torch.cat([tm.prefix(torch.randn(batch, 3, height, width)) for _ in range(POOL)])
    labels = torch.randint(classes, (count,))
    began = time.perf_counter()
    prepared = tm.prepare(tokens)
    prepare_seconds = (time.perf_counter() - began) / POOL

    reference = FuncJvp(tm)
    probe = tm.zero_delta().map(lambda value: torch.randn_like(value) * 0.02)
    expected = reference(tokens[:batch], probe)[1]
    difference = float((tm.tangent(prepared[:batch], probe) - expected).abs().max() / expected.abs().max())
    if not difference < 1e-3:
        raise AssertionError(f"the two ways disagree by {difference:.2g}: there is nothing to compare")

    short_cut = training_step(
        tm, lambda index, delta: (part := prepared[index]).primal + tm.tangent(part, delta), labels, batch
    )
    func_jvp = training_step(tm, lambda index, delta: sum_of(reference(tokens[index], delta)), labels, batch)
    for step in (short_cut, func_jvp):
        step()  # warm-up: Adam's state, torch.func's decompositions
    seconds = [(short_cut(), func_jvp()) for _ in range(repetitions)]
    fast, fast_cpu = (statistics.median(quick[kind] for quick, _ in seconds) for kind in (0, 1))
    slow, slow_cpu = (statistics.median(long[kind] for _, long in seconds) for kind in (0, 1))
    quartiles = statistics.quantiles([long[0] / quick[0] for quick, long in seconds], n=4)
    return Measurement(
        model=model,
        batch=batch,
        tokens=tokens.shape[1],
        threads=threads,
        wait_policy=os.environ["OMP_WAIT_POLICY"],
        load=round(load, 1),
        repetitions=repetitions,
        short_cut_ms=round(1e3 * fast, 2),
        func_jvp_ms=round(1e3 * slow, 1),
        ratio=round(slow / fast, 1),
        ratio_range=(round(quartiles[0], 1), round(quartiles[2], 1)),
        cpu_ratio=round(slow_cpu / fast_cpu, 1),
        prepare_ms=round(1e3 * prepare_seconds, 1),
        difference=difference,
        torch=torch.__version__,
        timm=timm.__version__,
    )


def sum_of(pair: tuple[Tensor, Tensor]) -> Tensor:
    """primal + tangent."""
    return pair[0] + pair[1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description="one training step: the short cut against torch.func.jvp"
    )
    parser.add_argument(
        "--model", action="append", help=f"a timm vision transformer with a class token ({DEFAULT_MODEL})"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    measured = [
        measure(
            model,
            batch=options.batch,
            classes=options.classes,
            threads=options.threads,
            repetitions=options.repetitions,
        )
        for model in options.model or [DEFAULT_MODEL]
    ]
    if options.json:
        print(json.dumps({"step": [asdict(result) for result in measured]}))
        return
    print(f"one step (forward, backward, Adam), batch {options.batch}, {options.threads} threads, medians")
    print(f"{'model':28} {'short cut':>12} {'torch.func.jvp':>16} {'ratio (quartiles)':>22} {'of CPU time':>12}")
    for result in measured:
        low, high = result.ratio_range
        print(
            f"{result.model:28} {result.short_cut_ms:9.1f} ms {result.func_jvp_ms:13.0f} ms "
            f"{result.ratio:10.1f} ({low:.1f}-{high:.1f}) {result.cpu_ratio:12.1f}"
        )


if __name__ == "__main__":
    main()

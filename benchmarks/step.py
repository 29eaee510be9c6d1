"""One training step on the class-token short cut against `torch.func.jvp` on the same cached tokens, in one run.

    python -m benchmarks.step [--model vit_small_patch16_224] [--json]

A step is forward, backward and Adam on a batch of cached tokens; the last block, final norm and a head of 10 classes are
trained. The two are timed in turns and their medians compared: on a shared machine read the ratio, not the times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from taft_ray import linearize
from taft_ray.tangent.loss import Loss

CLASSES = 10


class Suffix(nn.Module):
    """timm's own last block, norm and head, from tokens on: what `torch.func.jvp` is taken of."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        network = self.network
        return network.forward_head(network.norm(network.blocks[-1](tokens)))  # type: ignore[operator]  # a timm ViT


def step_of(
    tangent: Callable[[dict[str, Tensor]], Tensor], start: dict[str, Tensor], labels: Tensor
) -> Callable[[], None]:
    leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=1e-3)
    loss = Loss()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.per_sample(tangent(leaves), labels).mean().backward()
        optimizer.step()

    return step


def measure(model: str, *, batch: int, repeats: int, threads: int) -> dict[str, object]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tm = linearize(timm.create_model(model), num_classes=CLASSES)
    with torch.no_grad():
        tokens = tm.prefix(torch.randn(batch, 3, 224, 224))
    labels = torch.arange(batch) % CLASSES
    start = dict(tm.zero_delta())
    prepared = tm.prepare(tokens)
    suffix = Suffix(tm.network)  # its last block already has fused attention off: it has no forward-mode rule
    base = {f"network.{name}": value for name, value in tm.base.items() if name in start}

    def short_cut(leaves: dict[str, Tensor]) -> Tensor:
        return prepared.primal + tm.tangent(prepared, leaves)

    def forward_mode(leaves: dict[str, Tensor]) -> Tensor:
        moved = {f"network.{name}": value for name, value in leaves.items()}
        primal, tangent = torch.func.jvp(lambda p: torch.func.functional_call(suffix, p, (tokens,)), (base,), (moved,))
        return primal + tangent

    probe = {name: torch.randn_like(value) for name, value in start.items()}
    with torch.no_grad():
        left, right = short_cut(probe), forward_mode(probe)
    difference = float((left - right).norm() / right.norm())
    steps = {"short_cut": step_of(short_cut, start, labels), "func_jvp": step_of(forward_mode, start, labels)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            inner = 10 if name == "short_cut" else 1
            began = time.perf_counter()
            for _ in range(inner):
                step()
            times[name].append((time.perf_counter() - began) / inner)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "model": model,
        "batch": batch,
        "threads": threads,
        "repeats": repeats,
        "relative_difference": difference,
        "short_cut_ms": 1e3 * medians["short_cut"],
        "func_jvp_ms": 1e3 * medians["func_jvp"],
        "ratio": medians["func_jvp"] / medians["short_cut"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224", help="a plain timm ViT of 224 px")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    row = measure(options.model, batch=options.batch, repeats=options.repeats, threads=options.threads)
    if options.json:
        print(json.dumps(row))
    else:
        print(
            f"{row['model']}: short cut {row['short_cut_ms']:.1f} ms, torch.func.jvp {row['func_jvp_ms']:.0f} ms, "
            f"{row['ratio']:.0f} times (outputs differ by {row['relative_difference']:.1e})"
        )


if __name__ == "__main__":
    main()

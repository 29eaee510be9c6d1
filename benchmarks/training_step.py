"""A step of plain fine-tuning, and a step on cached constants, as `benchmarks.gpu` times them: neither waits for the device."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from taft_ray.fitting import FitConfig, Loss
from taft_ray.fitting.adam import EAGER_STEPS, AdamStep
from taft_ray.tangent import Prepared, TangentModel, linearize


class PlainFineTuning(nn.Module):
    """timm's network in two: the frozen part in bfloat16, and the last block, final norm and head, which are trained."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        frozen, trained = copy.deepcopy(network), copy.deepcopy(network)
        self.frozen = linearize(frozen).to(torch.bfloat16)
        self.block = trained.get_submodule("blocks")[-1]  # type: ignore[index]  # timm's Sequential
        self.norm, self.pool, self.head = trained.norm, trained.forward_head, trained.head

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.frozen.prefix(images)  # without a graph
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.pool(self.norm(self.block(tokens)))  # type: ignore[operator]  # a method of timm's


class TrainingStep:
    """`AdamStep` on the next batch of the constants, as `fit` takes it; calling it takes one step and returns at once."""

    def __init__(self, tm: TangentModel, prepared: Prepared, labels: Tensor, batch: int) -> None:
        self.step = AdamStep(tm, prepared, labels, Loss(), FitConfig(solver="adam").as_recipe(), start=tm.zero_delta())
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(labels.device)
        self.next = itertools.cycle(order[: len(order) // batch * batch].split(batch))

    def __call__(self) -> None:
        numbers = next(self.next)
        self.step.eager(numbers, numbers)

    def captured(self) -> Callable[[], None]:
        """The same step as one CUDA graph."""
        for _ in range(EAGER_STEPS):
            self()
        graph = self.step.record(next(self.next))
        return lambda: graph(next(self.next))


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def waits(step: Callable[[], None]) -> bool:
    """Whether a step, warmed up, makes the host wait for the device."""
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False

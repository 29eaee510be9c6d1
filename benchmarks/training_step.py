"""A step of plain fine-tuning, and a step on cached constants, as `benchmarks.gpu` times them: neither waits for the device."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from benchmarks.roofline import WARM_UP
from taft_ray.tangent import Loss, Prepared, TangentModel, linearize


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
    """Forward, backward and Adam on the next batch of the constants; calling it makes one step and returns at once."""

    def __init__(
        self,
        tm: TangentModel,
        prepared: Prepared,
        labels: Tensor,
        batch: int,
        adam: Callable[[Sequence[Tensor]], torch.optim.Adam],
    ) -> None:
        self.tm, self.prepared, self.labels = tm, prepared, labels
        zero = tm.zero_delta()
        self.leaves = {name: torch.zeros_like(v, dtype=torch.float32, requires_grad=True) for name, v in zero.items()}
        self.optimizer, self.loss = adam(list(self.leaves.values())), Loss()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(labels.device)
        whole = len(order) // batch * batch
        self.next = itertools.cycle(order[:whole].split(batch))
        self.index = order[:batch].clone()  # a captured step reads it from here

    def __call__(self) -> None:
        self.index.copy_(next(self.next))
        self._step()

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        primal, tangent = logits_of(self.tm, self.prepared[self.index], self.leaves)
        self.loss.per_sample(primal + tangent, self.labels[self.index]).mean().backward()
        self.optimizer.step()

    def captured(self) -> Callable[[], None]:
        """The same step as one CUDA graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()

        def replay() -> None:
            self.index.copy_(next(self.next))
            graph.replay()

        return replay


def logits_of(tm: TangentModel, prepared: Prepared, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(f_w(x), J_w f(x)·Δ) as float32, with the products in the model's own type."""
    cast = {name: value.to(tm.dtype) for name, value in delta.items()}
    return prepared.primal.float(), tm.tangent(prepared, cast).float()


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

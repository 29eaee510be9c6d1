"""The paper's recipe (appendix A): Adam over epochs of small batches, learning rate divided by ten at milestones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from taft_ray.tangent.delta import Delta
from taft_ray.tangent.loss import Loss
from taft_ray.tangent.prepared import Pictures, Prepared

EpochOrder = Callable[[int, int, int], Tensor]  # (count, seed, epoch) -> permutation, (count,) int64
Watch = Callable[[int, int, Delta], None]  # (epochs done, epochs at most, Δw after them, which is written to later)


def index_order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation that depends on (count, seed, epoch) alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(((seed << 20) ^ epoch) % 2**63))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How Adam descends. ``milestones``: the epochs at which the learning rate is divided by ten.

    radius: after each step Δw is projected onto the ball ‖Δw‖ ≤ radius (TAFT appendix B); None is no constraint.
    """

    penalty: float
    epochs: int
    batch_size: int
    learning_rate: float
    milestones: tuple[int, ...]
    seed: int
    radius: float | None = None


class Trainable(Protocol):
    """What Adam can train: the tangent model, or another function of the same Δw."""

    @property
    def num_classes(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def zero_delta(self) -> Delta: ...

    def logits(self, prepared: Prepared, delta: Mapping[str, Tensor]) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Descent:
    delta: Delta
    steps: int
    objective: float  # mean loss of the last epoch, as seen in training, + penalty
    history: list[float]  # the same, an epoch


def descend(
    model: Trainable,
    pictures: Pictures,
    labels: Tensor,
    loss: Loss,
    recipe: Recipe,
    *,
    order: EpochOrder,
    start: Delta,
    progress: Callable[[int, int], None] | None = None,
    watch: Watch | None = None,
) -> Descent:
    """Minimise mean loss + penalty · ‖Δw‖² by Adam. Deterministic given (order, seed, start) and the thread count.

    order may leave pictures out, the same number in every epoch and never all: they are then not seen at all.
    """
    leaves = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
    # the penalty's gradient, 2·penalty·Δw, is what PyTorch calls the weight decay of Adam (not AdamW)
    optimizer = torch.optim.Adam(leaves.values(), lr=recipe.learning_rate, weight_decay=2 * recipe.penalty, fused=True)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(recipe.milestones), gamma=0.1)
    penalty, batch_size = recipe.penalty, recipe.batch_size
    steps_a_epoch = 0
    history: list[float] = []
    for epoch in range(recipe.epochs):
        permutation = order(len(labels), recipe.seed, epoch)
        numbers = permutation.to(labels.device)  # once an epoch: every look at a GPU's values waits for it
        steps_a_epoch = -(-len(permutation) // batch_size)
        total = torch.zeros((), dtype=torch.float64, device=labels.device)
        for step in range(steps_a_epoch):
            part = slice(step * batch_size, (step + 1) * batch_size)
            index = numbers[part]
            batch = pictures[index if isinstance(pictures, Prepared) else permutation[part]]
            optimizer.zero_grad(set_to_none=True)
            value = loss.per_sample(model.logits(batch, leaves), labels[index]).mean()
            value.backward()
            for leaf in leaves.values():
                if leaf.grad is None:  # without a gradient Adam would not apply the penalty
                    leaf.grad = torch.zeros_like(leaf)
            optimizer.step()
            if recipe.radius is not None:
                _project(leaves, recipe.radius)
            total += value.detach().double() * len(index)
            if progress is not None:
                progress(epoch * steps_a_epoch + step + 1, recipe.epochs * steps_a_epoch)
        scheduler.step()
        history.append(float(total) / len(permutation))
        if watch is not None:
            watch(epoch + 1, recipe.epochs, Delta({name: leaf.detach() for name, leaf in leaves.items()}))
    delta = Delta({name: leaf.detach() for name, leaf in leaves.items()})
    return Descent(
        delta=delta,
        steps=recipe.epochs * steps_a_epoch,
        objective=history[-1] + penalty * float(delta.dot(delta)),
        history=history,
    )


@torch.no_grad()
def _project(leaves: Mapping[str, Tensor], radius: float) -> None:
    """The nearest point of the ball, in place."""
    norm = float(Delta(leaves).norm())
    if norm > radius:
        for leaf in leaves.values():
            leaf.mul_(radius / norm)

"""The paper's recipe (appendix A): Adam over epochs of small batches, learning rate divided by ten at milestones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from taft_ray.fitting.loss import Loss
from taft_ray.tangent.delta import Delta, at_least_float32
from taft_ray.tangent.prepared import Pictures, Prepared

EpochOrder = Callable[[int, int, int], Tensor]  # (count, seed, epoch) -> permutation, (count,) int64
Watch = Callable[[int, int, Delta], None]  # (epochs done, epochs at most, Δw after them, which is written to later)


EAGER_STEPS = 3  # of a size, before it is recorded: what allocates or chooses once has happened then


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
    """A function that Adam can train: the tangent model, or another function of the same Δw."""

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


class AdamStep:
    """Forward, backward and Adam on one batch, by its pictures' numbers; nothing in it waits for a GPU.

    Δw and Adam's state are float32 or wider, whatever the model's type.
    On a GPU, with constants in memory, a step is recorded as a CUDA graph when batches of its size come back, and replayed. A step
    that cannot be recorded (a module that waits for the GPU, another thread's work) is taken as it is.

    leaves: Δw, written to by each step. total: the sum of all pictures' losses as they were seen, float64; the caller resets it.
    """

    def __init__(
        self, model: Trainable, pictures: Pictures, labels: Tensor, loss: Loss, recipe: Recipe, *, start: Delta
    ) -> None:
        self.model, self.pictures, self.labels, self.loss, self.recipe = model, pictures, labels, loss, recipe
        self.leaves = {name: at_least_float32(value.detach()).clone().requires_grad_() for name, value in start.items()}
        on_gpu = labels.is_cuda
        # the penalty's gradient, 2·penalty·Δw, is what PyTorch calls the weight decay of Adam (not AdamW)
        self.optimizer = torch.optim.Adam(
            self.leaves.values(),
            lr=recipe.learning_rate,
            weight_decay=2 * recipe.penalty,
            fused=True,
            capturable=on_gpu,
        )
        self.total = torch.zeros((), dtype=torch.float64, device=labels.device)
        self._graphs: dict[int, Graph] | None = {} if on_gpu and isinstance(pictures, Prepared) else None
        self._steps: dict[int, int] = {}

    def __call__(self, index: Tensor, numbers: Tensor) -> None:
        """One step. index, numbers: (B,) int64, the same pictures, on the host and where the labels are."""
        size = len(numbers)
        if self._graphs is None or self._steps.get(size, 0) < EAGER_STEPS:
            self._steps[size] = self._steps.get(size, 0) + 1
            return self.eager(numbers if isinstance(self.pictures, Prepared) else index, numbers)
        if size not in self._graphs:
            try:
                self._graphs[size] = self.record(numbers)
            except RuntimeError:  # nothing that it would have written was written
                self._graphs = None
        if self._graphs is None:  # only now is what the attempt held released
            return self.eager(numbers, numbers)
        return self._graphs[size](numbers)

    def eager(self, index: Tensor, numbers: Tensor) -> None:
        """The step itself."""
        self.optimizer.zero_grad(set_to_none=True)
        logits = at_least_float32(self.model.logits(self.pictures[index], self.leaves))
        value = self.loss.per_sample(logits, self.labels[numbers]).mean()
        value.backward()
        for leaf in self.leaves.values():
            if leaf.grad is None:  # without a gradient Adam would not apply the penalty
                leaf.grad = torch.zeros_like(leaf)
        self.optimizer.step()
        if self.recipe.radius is not None:
            _project(self.leaves, self.recipe.radius)
        self.total += value.detach().double() * len(numbers)

    def record(self, numbers: Tensor) -> Graph:
        """The step as a CUDA graph for batches of as many pictures as these, which it does not take itself. RuntimeError where it cannot be."""
        return Graph(lambda held: self.eager(held, held), numbers)

    def forget_graphs(self) -> None:
        """The learning rate changed, and is written into them."""
        if self._graphs is not None:
            self._graphs.clear()


class Graph:
    """The work that ``step`` asks of a GPU, recorded once and replayed for other numbers (B,) int64."""

    def __init__(self, step: Callable[[Tensor], None], numbers: Tensor) -> None:
        self._numbers = numbers.clone()
        here = torch.cuda.current_stream(numbers.device)  # a recording that fails would leave its own stream behind
        with torch.cuda.device(numbers.device), torch.cuda.stream(here):
            self._graph = torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream(numbers.device)
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                step(self._numbers)

    def __call__(self, numbers: Tensor) -> None:
        self._numbers.copy_(numbers)
        self._graph.replay()


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
    take = AdamStep(model, pictures, labels, loss, recipe, start=start)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(take.optimizer, list(recipe.milestones), gamma=0.1)
    penalty, batch_size = recipe.penalty, recipe.batch_size
    steps_a_epoch = 0
    history: list[float] = []
    for epoch in range(recipe.epochs):
        permutation = order(len(labels), recipe.seed, epoch)
        numbers = permutation.to(labels.device)  # once an epoch: every look at a GPU's values waits for it
        steps_a_epoch = -(-len(permutation) // batch_size)
        take.total.zero_()
        for step in range(steps_a_epoch):
            part = slice(step * batch_size, (step + 1) * batch_size)
            take(permutation[part], numbers[part])
            if progress is not None:
                progress(epoch * steps_a_epoch + step + 1, recipe.epochs * steps_a_epoch)
        scheduler.step()
        if epoch + 1 in recipe.milestones:
            take.forget_graphs()
        history.append(float(take.total) / len(permutation))
        if watch is not None:
            watch(epoch + 1, recipe.epochs, Delta({name: leaf.detach() for name, leaf in take.leaves.items()}))
    delta = Delta({name: leaf.detach() for name, leaf in take.leaves.items()})
    return Descent(
        delta=delta,
        steps=recipe.epochs * steps_a_epoch,
        objective=history[-1] + penalty * float(delta.dot(delta)),
        history=history,
    )


@torch.no_grad()
def _project(leaves: Mapping[str, Tensor], radius: float) -> None:
    """The nearest point of the ball, in place."""
    norm = Delta(leaves).norm()
    shrink = (
        torch.full_like(norm, radius).div_(norm).clamp_(max=1.0)
    )  # radius / norm would be the product with an inverse
    for leaf in leaves.values():
        leaf.mul_(shrink)

"""The ways to make one training step of a tangent model, which `benchmarks.step` compares.

A step: take a batch, forward, backward, Adam. The same loss, optimizer and batches in every way.
Legend: B batch, T tokens, D width, K classes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from taft_ray.fitting import Loss
from taft_ray.tangent import TangentModel, between, linearize, prepare_pictures
from taft_ray.tangent.options import PREPARED_BUDGET

POOL = 2  # batches' worth of pictures that batches are drawn from

Logits = Callable[[Tensor, Mapping[str, Tensor]], Tensor]  # (pictures' numbers (B,), Δ) -> f_lin (B, K)
WAYS = ("ours", "kept", "recomputed", "func_jvp", "whole")


@dataclass(frozen=True)
class Problem:
    """A linearised network, random pictures, and their tokens at the entrance of the last blocks."""

    tm: TangentModel
    last_blocks: int
    pictures: Tensor
    tokens: Tensor
    labels: Tensor
    batch: int
    budget: int  # bytes of constants that our way keeps


def problem(model: str, *, last_blocks: int, batch: int, classes: int, budget: int = PREPARED_BUDGET) -> Problem:
    """model: a timm name, and ``@token`` behind it for another ``global_pool`` than the model's own."""
    torch.manual_seed(0)
    name, _, pool = model.partition("@")
    pooled: dict[str, Any] = {"global_pool": pool} if pool else {}
    tm = linearize(timm.create_model(name, num_classes=classes, **pooled), last_blocks=last_blocks)
    height, width = map(int, tm.network.get_submodule("patch_embed").img_size)  # type: ignore[arg-type]  # timm's own
    pictures = torch.randn(POOL * batch, 3, height, width)
    tokens = torch.cat([tm.prefix(part) for part in pictures.split(batch)])
    return Problem(tm, last_blocks, pictures, tokens, torch.randint(classes, (len(pictures),)), batch, budget)


class Suffix(nn.Module):
    """timm's own last blocks, final norm and head."""

    def __init__(self, network: nn.Module, last_blocks: int) -> None:
        super().__init__()
        self.network, self.blocks = network, between(network, last_blocks, 0)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.blocks(tokens)
        return self.network.forward_head(self.network.get_submodule("norm")(x))  # type: ignore[operator]  # timm has it


class FuncJvp:
    """f_w(x) + J_w f(x)·Δ by torch.func.jvp over the suffix, on cached tokens; `linearize` has switched its fused attention off."""

    def __init__(self, given: Problem) -> None:
        self.tokens = given.tokens
        self.suffix = Suffix(given.tm.network, given.last_blocks)
        self.base = {f"network.{name}": value for name, value in given.tm.base.items()}

    def tangent(self, index: Tensor, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        def forward(parameters: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.suffix, parameters, (self.tokens[index],))

        direction = {f"network.{name}": delta[name] for name in delta}
        primal, tangent, *_ = torch.func.jvp(forward, (self.base,), (direction,))
        return primal, tangent

    def __call__(self, index: Tensor, delta: Mapping[str, Tensor]) -> Tensor:
        primal, tangent = self.tangent(index, delta)
        return primal + tangent


class Whole:
    """The same from the pictures, without a cache. Every layer of the network carries a pair, as in TAFT's public code.

    The frozen layers of that code have Δ = 0.
    """

    def __init__(self, given: Problem) -> None:
        self.pictures = given.pictures
        self.network = copy.deepcopy(given.tm.network)
        for module in self.network.modules():
            if hasattr(module, "fused_attn"):  # it has no forward-mode derivative
                module.fused_attn = False  # type: ignore[assignment]
        self.base = {name: value.detach() for name, value in self.network.named_parameters()}

    def __call__(self, index: Tensor, delta: Mapping[str, Tensor]) -> Tensor:
        def forward(parameters: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.network, parameters, (self.pictures[index],))

        direction = {
            name: delta[name] if name in delta else torch.zeros_like(value) for name, value in self.base.items()
        }
        primal, tangent, *_ = torch.func.jvp(forward, (self.base,), (direction,))
        return primal + tangent


def logits_of(way: str, given: Problem) -> Logits:
    """``ours`` keeps what fits into the budget of the constants of all pictures, ``kept`` all of them, ``recomputed`` none."""
    tm = given.tm
    if way == "func_jvp":
        return FuncJvp(given)
    if way == "whole":
        return Whole(given)
    budget = {"ours": given.budget, "kept": 1 << 40, "recomputed": 0}[way]
    pictures = prepare_pictures(tm, given.tokens, budget=budget)
    return lambda index, delta: tm.logits(pictures[index], delta)


def training_step(given: Problem, logits: Logits) -> Callable[[], tuple[float, float]]:
    """A function that makes one step on the next batch and returns its seconds, by the clock and of CPU."""
    leaves = {name: value.requires_grad_() for name, value in given.tm.zero_delta().items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=1e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    loss = Loss()

    def step() -> tuple[float, float]:
        index = torch.randperm(len(given.labels), generator=generator)[: given.batch]
        began, began_cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss.per_sample(logits(index, leaves), given.labels[index]).mean().backward()
        optimizer.step()
        return time.perf_counter() - began, time.process_time() - began_cpu

    return step

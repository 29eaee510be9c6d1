"""The general cut: any network whose forward pass runs through an ordered list of blocks or stages.

The list is found in the network's trace (`trace.py`) and not by the network's class. Its items are numbered modules,
such as ``blocks.0``.. or ``layer1``.., each called once, in order, with one tensor and nothing else known beside it. A layer may
lie between two units, or behind the last one. It counts as after the entrance of the later unit only if it is called after it.
Each unit's tangent is taken by torch.func.jvp; the layers behind the last unit have their own rules, so that linear
ones have Gram statistics.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from taft_ray.counting import plural
from taft_ray.errors import UnsupportedModel
from taft_ray.tangent.rule import OfItsInput, Rule, Saved
from taft_ray.tangent.rules import Fallback, Function, Sequence, rule_for
from taft_ray.tangent.trace import Part, Trace, ancestors, returns_several
from taft_ray.tangent.units import Cut

_NUMBERED = re.compile(r"(.*?)(\d+(?:_\d+)*)")  # the number of conv4_13 is (4, 13)


class Ordered:
    """The units of a network, verified in its trace. UnsupportedModel, naming the module in the way, otherwise."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._heads = _classifiers(network)
        self.names, self._trace, self._entrances = _found(network, self._heads)
        self.noun = f"units, {self.names[0]} to {self.names[-1]}"

    def between(self, first: int, last: int) -> Callable[[Tensor], Tensor]:
        return Part(self._trace, self._entrances[first], self._entrances[last])

    def cut(self, first: int) -> Cut:
        entrance = self._entrances[first]
        steps = self._trace.between(entrance, self._trace.result)
        called = self._trace.modules(steps)
        pools = [getattr(self._network.get_submodule(name), "pool_type", None) for name in called]
        if "" in (*pools, getattr(self._network, "global_pool", None)):
            raise UnsupportedModel(
                "global_pool='' gives no single vector a picture; create the model with global_pool='avg'"
            )
        return Cut(
            prefix=self._prefix(first),
            suffix=Sequence("", [self._rule(given, result) for given, result in self._stretches(entrance, steps)]),
            units=called,
            heads=self._heads,
            class_token_rows=None,
            first_rows_only=False,
        )

    def _prefix(self, first: int) -> Callable[[Tensor], Tensor]:
        run = Part(self._trace, self._trace.picture, self._entrances[first])
        where = self.names[first] if first < len(self.names) else f"what follows {self.names[-1]}"

        def prefix(images: Tensor) -> Tensor:
            tokens = run(images)
            if not isinstance(tokens, Tensor) or tokens.ndim == 0 or len(tokens) != len(images):
                raise refusal(
                    self._network, f"{where} takes {_described(tokens)} and not one tensor with a row per picture"
                )
            return tokens

        return prefix

    def _stretches(self, entrance: fx.Node, steps: list[fx.Node]) -> Iterator[tuple[fx.Node, fx.Node]]:
        """The steps in stretches, as long as one tensor enters each and one leaves it: (what enters, what leaves).

        As short as they can be, except that steps without a module go together.
        """
        given = open_at = entrance  # behind open_at there is no module yet
        for step in steps:
            if self._trace.behind(step) != [step]:
                continue
            if self._trace.modules(self._trace.between(open_at, step)):
                if open_at is not given:
                    yield given, open_at
                yield open_at, step
                given = step
            open_at = step
        if open_at is not given:
            yield given, open_at

    def _rule(self, given: fx.Node, result: fx.Node) -> Rule:
        steps = self._trace.between(given, result)
        modules = self._trace.modules(steps)
        part = Part(self._trace, given, result)
        if not modules:
            return Function(f"{result.name}()", part)
        name = modules[0]
        alone = len(steps) == 1 and result.args == (given,) and not result.kwargs
        if not alone or len(self._trace.calls(name)) > 1:
            return Stretch(f"{result.name}()", part, modules)
        module = self._network.get_submodule(name)
        return Fallback(name, module) if name in self.names else rule_for(name, module)


class Stretch(OfItsInput):
    """torch.func.jvp of several modules together, where no single tensor lies between them."""

    def __init__(self, name: str, part: Part, modules: tuple[str, ...]) -> None:
        super().__init__(name)
        self.part = part
        self.parameters = [
            f"{module}.{name}"
            for module in sorted(modules)
            for name, _ in part.network.get_submodule(module).named_parameters()
        ]
        self.worth = math.sqrt(sum(part.network.get_parameter(name).numel() for name in self.parameters))

    def output(self, x: Tensor) -> Tensor:
        return self.part(x)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        mine = {name: delta[name] for name in self.parameters if name in delta}
        if x_dot is None and not mine:
            return None
        x = saved[self.key("input")]
        trained = {name: self.part.network.get_parameter(name).detach() for name in mine}
        x_dot = torch.zeros_like(x) if x_dot is None else x_dot
        return torch.func.jvp(self.part.at, (trained, x), (mine, x_dot))[1]


def refusal(network: nn.Module, reason: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{type(network).__name__} cannot be linearised: {reason}. Supported: timm VisionTransformer (vit, deit, augreg, "
        "CLIP, DINOv2, SigLIP, …), Eva (EVA-02, DINOv3, PE, …), Beit, and networks that run through numbered blocks or stages, one "
        "tensor from each to the next "
        "(ResNet, ConvNeXt, Swin, MaxViT, EfficientNet, …); docs/reference/models.md lists them"
    )


def _classifiers(network: nn.Module) -> tuple[str, ...]:
    """The names of the network's classifier: more than one where it is distilled."""
    get_classifier = getattr(network, "get_classifier", None)
    if not callable(get_classifier):
        raise refusal(network, "it has no get_classifier, as a classifier of timm has")
    found = get_classifier()
    heads = found if isinstance(found, (tuple, list)) else (found,)
    names = tuple(name for name, module in network.named_modules() if any(module is head for head in heads))
    if len(names) != len(heads) or "" in names:
        raise refusal(network, "its classifier is no module of its own")
    return names


def _lists(network: nn.Module, heads: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Numbered modules of one parent, at the top of the network or in a container there, in order: the likeliest list first.

    Blocks come before single layers. A parent of numbered modules alone (``stages``) comes before one that has others too
    (a stem). Then the list with more parameters comes first. Nothing within a block of another list is one.
    """
    in_a_head = set().union(*(ancestors(head) | {head} for head in heads)) - {""}
    ranked: dict[tuple[str, ...], tuple[bool, bool, int]] = {}
    for path, parent in network.named_modules():
        if "." in path or path in in_a_head or (path and not isinstance(parent, (nn.Sequential, nn.ModuleList))):
            continue
        numbered: dict[str, list[tuple[tuple[int, ...], str]]] = defaultdict(list)
        children = dict(parent.named_children())
        for name, child in children.items():
            match = _NUMBERED.fullmatch(name)
            full_name = f"{path}.{name}" if path else name
            if match and full_name not in heads and any(True for _ in child.parameters()):
                numbered[match[1]].append((tuple(map(int, match[2].split("_"))), full_name))
        for several in numbered.values():
            names = tuple(name for _, name in sorted(several))
            modules = [network.get_submodule(name) for name in names]
            if len(names) > 1:
                has_blocks = all(any(True for _ in module.children()) for module in modules)
                size = sum(value.numel() for module in modules for value in module.parameters())
                ranked[names] = (has_blocks, all(map(_NUMBERED.fullmatch, children)), size)
    members = {name for names in ranked for name in names}
    outermost = [names for names in ranked if not ancestors(names[0]) & members]
    return sorted(outermost, key=lambda names: ranked[names], reverse=True)


def _found(network: nn.Module, heads: tuple[str, ...]) -> tuple[tuple[str, ...], Trace, list[fx.Node]]:
    """The likeliest list, the trace, and what enters each unit and what leaves the last one."""
    lists = _lists(network, heads)
    if not lists:
        raise refusal(network, "it has no numbered blocks or stages")
    return lists[0], *_entrances(network, lists[0], heads)


def _entrances(network: nn.Module, names: tuple[str, ...], heads: tuple[str, ...]) -> tuple[Trace, list[fx.Node]]:
    def told(name: str) -> str:
        return f"{name} ({type(network.get_submodule(name)).__name__})"

    kinds = {type(network.get_submodule(name)): name for name in reversed(names)}
    for name in kinds.values():
        if returns_several(network.get_submodule(name)):
            raise refusal(network, f"{told(name)} returns several values, not one tensor")
    trace = _traced(network, set().union(*map(ancestors, (*names, *heads))), heads)
    entrances: list[fx.Node] = []
    for name in names:
        calls = trace.calls(name)
        if len(calls) != 1:
            raise refusal(network, f"{told(name)} is called {plural(len(calls), 'time')}, not once")
        known = trace.before(calls[0])
        if len(known) != 1:
            raise refusal(network, f"{told(name)} needs {_listed(known)}, not one tensor")
        entrances.append(known[0])
    last = trace.behind(trace.calls(names[-1])[0])
    if len(last) != 1:
        raise refusal(network, f"behind {told(names[-1])} {_listed(last)} are used, not one tensor")
    return trace, [*entrances, *last]


def _traced(network: nn.Module, around: set[str], heads: tuple[str, ...]) -> Trace:
    """The trace with the modules ``around`` units and classifiers taken apart, and the classifiers too where that can be."""
    inside = {
        f"{head}.{name}" if name else head
        for head in heads
        for name, module in network.get_submodule(head).named_modules()
        if any(True for _ in module.children()) and not any(True for _ in module.parameters(recurse=False))
    }
    try:
        return Trace(network, around | inside)
    except Exception:  # the network's own code, run on stand-ins: it may raise anything
        try:
            return Trace(network, around)
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0]
            raise refusal(
                network, f"its forward pass cannot be followed ({type(error).__name__}: {first_line[:160]})"
            ) from error


def _listed(nodes: list[fx.Node]) -> str:
    return f"{len(nodes)} values ({', '.join(node.name for node in nodes)})"


def _described(tokens: object) -> str:
    return f"a tensor of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else f"a {type(tokens).__name__}"

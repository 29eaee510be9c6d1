"""A network's own forward pass as a list of steps, and parts of that list as functions of one tensor.

Only the network's top level is traced, by torch.fx: the code between its blocks. A module that is not opened is one
step, whatever its code does. So a trace takes milliseconds, and its steps are timm's own.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, fx, nn

_ROOT = "network"


class _Picture(nn.Module):
    """The network as a function of the picture alone: arguments with a default keep it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class _Tracer(fx.Tracer):
    def __init__(self, opened: Collection[str]) -> None:
        super().__init__()
        self._opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_name(module_qualified_name) not in self._opened


def module_name(target: str) -> str:
    """A step's target -> the name of the module in the network; the network itself is ""."""
    return target.removeprefix(_ROOT).removeprefix(".")


def ancestors(name: str) -> set[str]:
    """The modules that ``name`` lies in, the network ("") first among them."""
    parts = name.split(".")
    return {".".join(parts[:index]) for index in range(len(parts))}


class Trace:
    """The steps of ``network``, in order, with the modules named in ``opened`` taken apart.

    Raises what torch.fx raises where the code between the steps depends on values.
    """

    def __init__(self, network: nn.Module, opened: Collection[str]) -> None:
        self.network = network
        nodes = list(_Tracer(opened).trace(_Picture(network)).nodes)
        self.picture, output = nodes[0], nodes[-1]
        results = output.all_input_nodes
        if len(results) != 1:
            raise ValueError(f"the network returns {len(results)} values, not one tensor")
        self.result = results[0]
        live = _needed(self.result)
        self.steps = [node for node in nodes[1:-1] if node in live]
        self._at = {node: at for at, node in enumerate((self.picture, *self.steps))}
        self.batch: set[fx.Node] = set()  # steps whose value is the number of pictures
        self._free: set[fx.Node] = set()  # of parameters and that number alone, such as an expanded class token
        for node in self.steps:
            source = _counted(node)
            if source is not None and source not in self._free:
                self.batch.add(node)
            if node in self.batch or self._free.issuperset(node.all_input_nodes):
                self._free.add(node)

    def modules(self, steps: Iterable[fx.Node]) -> tuple[str, ...]:
        """The modules that ``steps`` call, but for those that see no picture: they serve the frozen blocks as well."""
        called = [node for node in steps if node.op == "call_module" and node not in self._free]
        return tuple(dict.fromkeys(module_name(str(node.target)) for node in called))

    def calls(self, module: str) -> list[fx.Node]:
        """The steps that call a module."""
        return [node for node in self.steps if node.op == "call_module" and module_name(str(node.target)) == module]

    def behind(self, node: fx.Node) -> list[fx.Node]:
        """The nodes known once ``node`` is, and used later. A step free of pictures is taken again where it is used."""
        at = self._at[node]
        return [
            known
            for known in (self.picture, *self.steps)
            if self._at[known] <= at
            and known not in self._free
            and (
                known is self.result
                or any(self._at.get(user, 0) > at and user not in self._free for user in known.users)
            )
        ]

    def before(self, node: fx.Node) -> list[fx.Node]:
        """The nodes known in front of ``node``, and used from there on."""
        return self.behind((self.picture, *self.steps)[self._at[node] - 1])

    def between(self, given: fx.Node, result: fx.Node) -> list[fx.Node]:
        """The steps that lead from ``given`` to ``result``, in order."""
        wanted = _needed(result, {given, *self.batch})
        return [node for node in self.steps if node in wanted]


class Part(nn.Module):
    """Some of a network's steps as a function of one tensor; its parameters are the network's own."""

    def __init__(self, trace: Trace, given: fx.Node, result: fx.Node) -> None:
        super().__init__()
        self.network = trace.network
        graph = fx.Graph()
        placed = {given: graph.placeholder("x")}
        batch: fx.Node | None = None

        def place(node: fx.Node) -> fx.Node:
            nonlocal batch
            if node not in trace.batch:
                return placed[node]
            if batch is None:
                batch = graph.call_method("size", (placed[given], 0))
            return batch

        for node in trace.between(given, result):
            with graph.inserting_after():
                placed[node] = graph.node_copy(node, place)
        graph.output(place(result))
        self._steps = fx.Interpreter(self, graph=graph)
        self._steps.extra_traceback = False

    def forward(self, x: Tensor) -> Tensor:
        return self._steps.run(x)

    def at(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The same with some of the network's parameters, by name, replaced."""
        return torch.func.functional_call(self, {f"{_ROOT}.{name}": value for name, value in parameters.items()}, (x,))


def returns_several(module: nn.Module) -> bool:
    """True where a module's own code ends with several values; False where it ends with one or cannot be followed."""
    tracer = fx.Tracer()
    tracer.is_leaf_module = lambda m, module_qualified_name: True  # type: ignore[method-assign]  # its own code alone
    try:
        (output,) = [node for node in tracer.trace(module).nodes if node.op == "output"]
    except Exception:  # the module's own code, run on stand-ins: it may raise anything
        return False
    return not isinstance(output.args[0], fx.Node)


def _needed(result: fx.Node, known: Collection[fx.Node] = ()) -> set[fx.Node]:
    """The steps that ``result`` is made by, itself one of them, back to what is known."""
    needed: set[fx.Node] = set()
    waiting = [result]
    while waiting:
        node = waiting.pop()
        if node not in known and node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed


def _counted(node: fx.Node) -> fx.Node | None:
    """The value whose rows ``node`` counts: ``x`` of ``x.shape[0]`` and ``x.size(0)``; None for any other step."""
    if node.op == "call_method" and node.target == "size" and node.args[1:] == (0,):
        return node.args[0]  # type: ignore[return-value]  # a method's first argument is a step
    if node.op != "call_function" or node.target is not operator.getitem or node.args[1] != 0:
        return None
    shape = node.args[0]
    if isinstance(shape, fx.Node) and shape.target is getattr and shape.args[1] == "shape":
        return shape.args[0]  # type: ignore[return-value]  # a shape is a step's
    return None

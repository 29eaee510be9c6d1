"""One rule a layer (TAFT eqs. 5-12).

Legend: B batch, T tokens, D width, H heads, E head width, K classes, R rows that are read out of the last block.
A tangent of ``None`` means exactly zero and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from timm.layers import Attention, DropPath, GluMlp, LayerScale, Mlp, RmsNorm, SwiGLU
from timm.layers import LayerNorm as TimmLayerNorm
from timm.layers import Linear as TimmLinear
from torch import Tensor, nn

from taft_ray.tangent.elementwise import is_elementwise, slope, through_slope
from taft_ray.tangent.normalisation import normalised_tangent, softmax_tangent
from taft_ray.tangent.parts import Part, Stacked
from taft_ray.tangent.rule import LinearInput, OfItsInput, Rule, Saved, Saving, plus
from taft_ray.tangent.trained import linear_tangent, trained_vector


class Identity(Rule):
    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        return x

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        return x_dot


class Linear(OfItsInput):
    """ΔW x + Δb + W ẋ  (eq. 11)."""

    def __init__(self, name: str, module: nn.Linear) -> None:
        super().__init__(name)
        self.module = module
        self.worth = float(getattr(module, "in_features", 0))  # a network without a head has no layer there

    def output(self, x: Tensor) -> Tensor:
        return self.module(x)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        return linear_tangent(
            delta, self.key("weight"), self.key("bias"), saved[self.key("input")], x_dot, self.module.weight
        )

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        weight, bias = self.key("weight"), self.key("bias")
        if weight in trained:
            x = saved[self.key("input")]
            yield LinearInput(
                weight,
                bias if bias in trained else None,
                0,
                self.module.out_features,
                x.reshape(len(x), -1, x.shape[-1]),
            )


class LayerNorm(Rule):
    """n·Δγ + Δβ + γ·s·(ẋc − n·mean(n·ẋc)), with n the normalised input, s = 1/√(var + eps)  (eqs. 9-10)."""

    def __init__(self, name: str, module: nn.LayerNorm) -> None:
        super().__init__(name)
        self.module = module

    @property
    def gamma(self) -> Tensor | None:
        return self.module.weight

    @property
    def beta(self) -> Tensor | None:
        return self.module.bias

    def normalise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """n, and s with a last axis of one."""
        n, _, s = torch.native_layer_norm(x, x.shape[-1:], None, None, self.module.eps)
        return n, s.to(n.dtype)

    def affine(self, n: Tensor) -> Tensor:
        gamma, beta = self.gamma, self.beta
        if gamma is None:
            return n if beta is None else n + beta
        return n * gamma if beta is None else torch.addcmul(beta, n, gamma)

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        n, s = self.normalise(x)
        saved[self.key("n")], saved[self.key("s")] = n, s
        return self.affine(n)

    def input_tangent(self, x_dot: Tensor, n: Tensor, s: Tensor) -> Tensor:
        """The part of the tangent that comes through the input."""
        out = normalised_tangent(x_dot, n, s)
        return out if self.gamma is None else out * self.gamma

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        n, s = saved[self.key("n")], saved[self.key("s")]
        out = None if x_dot is None else self.input_tangent(x_dot, n, s)
        d_weight = trained_vector(delta, self.key("weight"), n)
        d_bias = trained_vector(delta, self.key("bias"), n)
        if d_weight is not None:
            out = n * d_weight if out is None else torch.addcmul(out, n, d_weight)
        if d_bias is not None:
            out = plus(out, d_bias.expand_as(n))
        return out


class RootMeanSquare(LayerNorm):
    """n·Δγ + γ·s·(ẋ − n·mean(n·ẋ)), with n = s·x, s = 1/√(mean x² + eps)."""

    @property
    def beta(self) -> Tensor | None:
        return None

    def normalise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.module.eps)
        return x * s, s

    def input_tangent(self, x_dot: Tensor, n: Tensor, s: Tensor) -> Tensor:
        out = (x_dot - n * (n * x_dot).mean(-1, keepdim=True)) * s
        return out if self.gamma is None else out * self.gamma


class Scale(OfItsInput):
    """LayerScale: γ·ẋ + Δγ·x."""

    def __init__(self, name: str, module: LayerScale) -> None:
        super().__init__(name)
        self.module = module

    def output(self, x: Tensor) -> Tensor:
        return x * self.module.gamma

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        out = None if x_dot is None else x_dot * self.module.gamma
        x = saved[self.key("input")]
        d_gamma = trained_vector(delta, self.key("gamma"), x)
        return out if d_gamma is None else plus(out, x * d_gamma)


class ChannelScale(OfItsInput):
    """LayerScale that is a parameter of the block itself: γ·ẋ + Δγ·x. ``name`` is the parameter's."""

    def __init__(self, name: str, block: nn.Module) -> None:
        super().__init__(name)
        self.block, self.parameter = block, name.rpartition(".")[2]

    def gamma(self) -> Tensor:
        return getattr(self.block, self.parameter)

    def output(self, x: Tensor) -> Tensor:
        return x * self.gamma()

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        x = saved[self.key("input")]
        out = None if x_dot is None else x_dot * self.gamma()
        d_gamma = trained_vector(delta, self.name, x)
        return out if d_gamma is None else plus(out, x * d_gamma)


class Elementwise(Rule):
    """φ'(x)·ẋ for an activation φ; the slope is kept, so the tangent is one product (eq. 12 for GELU)."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name)
        self.module = module

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        saved[self.key("slope")] = slope(self.module, x)
        return self.module(x)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        return None if x_dot is None else saved[self.key("slope")] * x_dot

    def dual(self, x: Tensor, x_dot: Tensor | None, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        through = None if x_dot is None else through_slope(self.module, x, x_dot)
        return self.module(x), through


class Sequence(Rule):
    """Rules one after the other."""

    def __init__(self, name: str, rules: list[Rule]) -> None:
        super().__init__(name)
        self.rules = rules

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        for rule in self.rules:
            x = rule.primal(x, saved)
        return x

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        for rule in self.rules:
            x_dot = rule.tangent(x_dot, saved, delta)
        return x_dot

    def dual(self, x: Tensor, x_dot: Tensor | None, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        for rule in self.rules:
            x, x_dot = rule.dual(x, x_dot, delta)
        return x, x_dot

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        for rule in self.rules:
            yield from rule.linear_inputs(saved, trained)


class Glu(Rule):
    """Gated MLP (SwiGLU and its kin): y = fc2(norm(φ(a)·b)), ẏ from φ'(a)·ȧ·b + φ(a)·ḃ."""

    def __init__(self, name: str, module: GluMlp | SwiGLU) -> None:
        super().__init__(name)
        self.act = module.act
        if isinstance(module, SwiGLU):
            self.gate_last = False
            self.fc1: Rule = Stacked(
                self.key("fc1"), [Part.of_layer(name, module, part) for part in ("fc1_g", "fc1_x")]
            )
        else:
            self.gate_last = module.gate_last
            self.fc1 = Linear(self.key("fc1"), module.fc1)  # type: ignore[arg-type]  # use_conv is refused in rule_for
        self.tail = Sequence(name, [rule_for(self.key("norm"), module.norm), rule_for(self.key("fc2"), module.fc2)])

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        first, second = self.fc1.primal(x, saved).chunk(2, dim=-1)
        gate, value = (second, first) if self.gate_last else (first, second)
        saved[self.key("value_slope")] = value * slope(self.act, gate)
        saved[self.key("gate")] = gated = self.act(gate)
        return self.tail.primal(gated * value, saved)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        hidden = self.fc1.tangent(x_dot, saved, delta)
        if hidden is not None:
            first, second = hidden.chunk(2, dim=-1)
            gate_dot, value_dot = (second, first) if self.gate_last else (first, second)
            hidden = saved[self.key("value_slope")] * gate_dot + saved[self.key("gate")] * value_dot
        return self.tail.tangent(hidden, saved, delta)

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        yield from self.fc1.linear_inputs(saved, trained)
        yield from self.tail.linear_inputs(saved, trained)


class SelfAttention(Rule):
    """[P⊙Ṡ − diag(PṠᵀ)P]V + PV̇ with Ṡ = (Q̇Kᵀ + QK̇ᵀ)/√E  (eqs. 5-8); only the first ``rows`` queries when given."""

    def __init__(self, name: str, module: Attention, rows: int | None = None) -> None:
        super().__init__(name)
        self.module, self.rows = module, rows
        self.qkv: Rule = Linear(self.key("qkv"), module.qkv)
        self.q_norm = rule_for(self.key("q_norm"), module.q_norm)
        self.k_norm = rule_for(self.key("k_norm"), module.k_norm)
        self.tail = Sequence(name, [rule_for(self.key("norm"), module.norm), rule_for(self.key("proj"), module.proj)])

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, 3·H·E) -> three of (B, H, T or rows, E)."""
        batch, tokens, _ = qkv.shape
        q, k, v = (
            qkv.reshape(batch, tokens, 3, self.module.num_heads, self.module.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        )
        return q[:, :, : self.rows], k, v

    def merge(self, heads: Tensor) -> Tensor:
        return heads.transpose(1, 2).flatten(2)

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        q, k, v = self.split(self.qkv.primal(x, saved))
        # contiguous once: every product would do it for itself
        q = (self.q_norm.primal(q, saved) * self.module.scale).contiguous()
        k, v = self.k_norm.primal(k, saved).contiguous(), v.contiguous()
        p = (q @ k.transpose(-2, -1)).softmax(-1)
        for part, value in (("q", q), ("k", k), ("v", v), ("p", p)):
            saved[self.key(part)] = value
        return self.tail.primal(self.merge(p @ v), saved)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        qkv_dot = self.qkv.tangent(x_dot, saved, delta)
        q, k, v, p = (saved[self.key(part)] for part in "qkvp")
        q_in, k_in, v_dot = (None, None, None) if qkv_dot is None else self.split(qkv_dot)
        q_dot = self.q_norm.tangent(q_in, saved, delta)
        k_dot = self.k_norm.tangent(k_in, saved, delta)
        q_dot = None if q_dot is None else q_dot * self.module.scale
        if q_dot is not None and k_dot is not None:  # into the memory of the first product
            s_dot = torch.bmm(q_dot.flatten(0, 1), k.flatten(0, 1).mT)
            s_dot = s_dot.baddbmm_(q.flatten(0, 1), k_dot.flatten(0, 1).mT).view_as(p)
        elif k_dot is not None:
            s_dot = q @ k_dot.transpose(-2, -1)
        else:
            s_dot = None if q_dot is None else q_dot @ k.transpose(-2, -1)
        out = None if s_dot is None else softmax_tangent(s_dot, p) @ v
        if v_dot is not None:
            out = plus(out, p @ v_dot)
        return self.tail.tangent(None if out is None else self.merge(out), saved, delta)

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        yield from self.qkv.linear_inputs(saved, trained)
        yield from self.tail.linear_inputs(saved, trained)


class Function(OfItsInput):
    """torch.func.jvp of a function without parameters (max pooling and the like)."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(name)
        self.function = function

    def output(self, x: Tensor) -> Tensor:
        return self.function(x)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        if x_dot is None:
            return None
        return torch.func.jvp(self.function, (saved[self.key("input")],), (x_dot,))[1]


class Fallback(OfItsInput):
    """torch.func.jvp of one module: right for any module without a rule of its own, and slower.

    The module must be free of fused attention (PyTorch has no forward-mode rule for it); `linearize` sees to that.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name)
        self.module = module
        # about the width, for a linear layer
        self.worth = math.sqrt(sum(value.numel() for value in module.parameters()))

    def output(self, x: Tensor) -> Tensor:
        return self.module(x)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        mine = {name: delta[self.key(name)] for name, _ in self.module.named_parameters() if self.key(name) in delta}
        if x_dot is None and not mine:
            return None
        x = saved[self.key("input")]
        trained = {name: self.module.get_parameter(name).detach() for name in mine}

        def call(parameters: dict[str, Tensor], value: Tensor) -> Tensor:
            return torch.func.functional_call(self.module, parameters, (value,))

        x_dot = torch.zeros_like(x) if x_dot is None else x_dot
        return torch.func.jvp(call, (trained, x), (mine, x_dot))[1]


def rule_for(name: str, module: nn.Module) -> Rule:
    """The closed rule of a module where there is one, else the fallback."""
    kind = type(module)
    if kind in (nn.Identity, nn.Dropout, DropPath):  # in evaluation mode all three pass their input on
        return Identity(name)
    if kind in (nn.Linear, TimmLinear):
        return Linear(name, module)  # type: ignore[arg-type]  # narrowed by kind
    if kind in (nn.LayerNorm, TimmLayerNorm):
        return LayerNorm(name, module)  # type: ignore[arg-type]  # narrowed by kind
    if kind is RmsNorm:
        return RootMeanSquare(name, module)  # type: ignore[arg-type]  # narrowed by kind
    if kind is LayerScale:
        return Scale(name, module)  # type: ignore[arg-type]  # narrowed by kind
    if kind is Attention and module.gate is None:
        return SelfAttention(name, module)  # type: ignore[arg-type]  # narrowed by kind
    if kind is Mlp and type(module.fc1) is nn.Linear:
        parts = ("fc1", "act", "norm", "fc2")
        return Sequence(name, [rule_for(f"{name}.{part}", module.get_submodule(part)) for part in parts])
    if kind is GluMlp and type(module.fc1) is nn.Linear and is_elementwise(module.act):  # type: ignore[arg-type]
        return Glu(name, module)  # type: ignore[arg-type]  # narrowed by kind
    if kind is SwiGLU and is_elementwise(module.act):  # type: ignore[arg-type]
        return Glu(name, module)  # type: ignore[arg-type]  # narrowed by kind
    if kind is nn.Sequential:
        return Sequence(name, [rule_for(f"{name}.{part}", child) for part, child in module.named_children()])
    if is_elementwise(module):
        return Elementwise(name, module)
    return Fallback(name, module)

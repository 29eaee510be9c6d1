"""The tangent model: f_lin(x) = f_w(x) + J_w f(x)·Δw around frozen pre-trained weights w  (TAFT eq. 1).

Legend: B batch, T tokens, D width, K classes.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.layers import RmsNorm
from torch import Tensor, nn

from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.tangent.delta import Delta, at_least_float32
from taft_ray.tangent.elementwise import Hardsigmoid
from taft_ray.tangent.gram import gram_matrices
from taft_ray.tangent.network import Cut, cut
from taft_ray.tangent.options import TRAINABLE
from taft_ray.tangent.prepared import Pictures, Prepared, batches
from taft_ray.tangent.rule import LinearInput, Rule, Saving
from taft_ray.tangent.trained import Probes, trained_vector

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, RmsNorm)
CLASS_TOKEN = "cls_token"
_WORTH = 64.0  # multiply-adds a value: a layer that takes fewer is computed again sooner than read


class TangentModel(nn.Module):
    """A network linearised around its weights. Made by `linearize`; holds its own copy of the network, in evaluation mode.

    Guarantees: ``jvp`` and ``vjp`` are linear and each other's adjoint; nothing here changes the base weights.

    Examples:
        >>> tm = tr.linearize("test_vit", num_classes=3)
        >>> images, labels = torch.randn(8, 3, 160, 160), torch.arange(8) % 3
        >>> tokens = tm.prefix(images)
        >>> prepared = tm.prepare(tokens)
        >>> delta = tr.fit(tm, prepared, labels)
        >>> tm(images, delta).argmax(1)
        tensor([0, 1, 2, 0, 1, 2, 0, 1])

        The methods' examples go on with these names.
    """

    def __init__(
        self,
        network: nn.Module,
        network_cut: Cut,
        trained: tuple[str, ...],
        class_token: nn.Parameter | None,
        tangent_only: bool = False,
    ):
        super().__init__()
        self.network = network
        self.class_token = class_token
        self._cut = network_cut
        self.trained = frozenset(trained)
        self.tangent_only = tangent_only

    @property
    def base(self) -> Mapping[str, Tensor]:
        """The linearisation point of the suffix: parameter name -> tensor (detached views).

        Examples:
            >>> tm.base["head.weight"].shape
            torch.Size([3, 64])
        """
        values = {
            name: value.detach() for name, value in self.network.named_parameters() if _is_under(name, self._cut.units)
        }
        if self.class_token is not None:
            values[CLASS_TOKEN] = self.class_token.detach()
        return {name: values[name] for name in sorted(values)}  # a Delta's order: torch.func.jvp wants the two alike

    @property
    def num_classes(self) -> int:
        """K, the number of logits.

        Examples:
            >>> tm.num_classes
            3
        """
        return int(self.network.num_classes)  # type: ignore[arg-type]  # every timm model carries it

    @property
    def dtype(self) -> torch.dtype:
        """The type that the network computes in.

        Examples:
            >>> tm.dtype
            torch.float32
        """
        return next(self.network.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device that the network's weights are on.

        Examples:
            >>> tm.device
            device(type='cpu')
        """
        return next(self.network.parameters()).device

    def zero_delta(self) -> Delta:
        """Δw = 0: the trained names, each with its parameter's shape.

        Examples:
            >>> tm.zero_delta()
            Delta(16 tensors, 42,051 values, norm 0)
        """
        return Delta({name: torch.zeros_like(value) for name, value in self.base.items() if name in self.trained})

    @torch.no_grad()
    def prefix(self, images: Tensor) -> Tensor:
        """(B, 3, height, width) normalised pictures -> the tokens (B, T, D) at the entrance of the suffix.

        Examples:
            >>> tm.prefix(images).shape
            torch.Size([8, 101, 64])
        """
        return self._cut.prefix(images)

    @torch.no_grad()
    def prepare(self, tokens: Tensor, known: Mapping[str, Tensor] | None = None) -> Prepared:
        """Per-picture constants of the suffix: every primal value, computed once. Tokens of any float type.

        known: some of the `layer_outputs` of the same pictures, which spare their products.

        Examples:
            >>> len(tm.prepare(tokens))
            8
        """
        saved = Saving(known)
        primal = self._cut.suffix.primal(self._entrance(tokens), saved)
        if self.tangent_only:
            primal = torch.zeros_like(primal)
        return Prepared(primal, dict(saved), token_count=_token_count(tokens))

    @torch.no_grad()
    def layer_outputs(self, tokens: Tensor) -> dict[str, Tensor]:
        """Outputs of the suffix's layers, (B, …) each, by name: those that take most for a byte first. Cheap ones are left out.

        Examples:
            >>> known = tm.layer_outputs(tokens)
            >>> known["blocks.5.attn.proj"].shape, len(tm.prepare(tokens, known))
            (torch.Size([8, 1, 64]), 8)
        """
        saved = Saving(wanted=_WORTH)
        self._cut.suffix.primal(self._entrance(tokens), saved)
        dearest = sorted(saved.outputs.items(), key=lambda entry: -entry[1][0])
        return {name: output for name, (_, output) in dearest}

    def tangent(self, prepared: Prepared, delta: Mapping[str, Tensor]) -> Tensor:
        """J(x)·Δ, (B, K); differentiable in ``delta``, which a model in half precision rounds to its own type.

        Examples:
            >>> torch.allclose(tm.tangent(prepared, 2 * delta), 2 * tm.tangent(prepared, delta))
            True
        """
        delta = self._rounded(delta)
        batch = prepared.primal.shape[0]  # not len(): an exported graph takes any number
        x_dot = self._entrance_tangent(batch, prepared.token_count, delta)
        out = self._cut.suffix.tangent(x_dot, prepared.saved, delta)
        return torch.zeros_like(prepared.primal) if out is None else out

    def _rounded(self, delta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self.dtype.itemsize >= 4 or isinstance(delta, Probes):
            return delta
        return {name: value.to(self.dtype) for name, value in delta.items()}

    def _entrance(self, tokens: Tensor, moved: Tensor | None = None) -> Tensor:
        """The suffix's input: the tokens, with the class token that is trained (or ``moved``) in the place of the network's own."""
        x = tokens.to(self.device, self.dtype)
        if self.class_token is None:
            return x
        token = self.class_token if moved is None else moved
        return torch.cat([token.expand(x.shape[0], -1, -1), x[:, 1:]], dim=1)

    def _entrance_tangent(self, batch: int, token_count: int, delta: Mapping[str, Tensor]) -> Tensor | None:
        """The tangent of the suffix's input, as many of its first rows as the suffix reads; None where it is zero."""
        if self.class_token is None or CLASS_TOKEN not in delta:
            return None
        like = self.class_token.expand(batch, -1, -1)
        row = trained_vector(delta, CLASS_TOKEN, like).expand_as(like)  # type: ignore[union-attr]  # it is in delta
        rows = self._cut.class_token_rows if self._cut.first_rows_only else token_count
        return torch.cat([row, row.new_zeros(batch, (rows or 1) - 1, row.shape[-1])], dim=1)

    def logits(self, prepared: Prepared, delta: Mapping[str, Tensor]) -> Tensor:
        """f_lin(x) = f_w(x) + J(x)·Δ, (B, K), float32 or wider; differentiable in ``delta``.

        Examples:
            >>> torch.equal(tm.logits(prepared, delta), prepared.primal + tm.tangent(prepared, delta))
            True
        """
        return at_least_float32(prepared.primal) + at_least_float32(self.tangent(prepared, delta))

    def nonlinear(self, tokens: Tensor, delta: Mapping[str, Tensor]) -> Tensor:
        """f_{w+Δ}(x), (B, K): the network itself at the weights w + Δ, on the tokens of `prefix`; differentiable in ``delta``.

        The class-token short cut holds here too, as the scores are linear in the keys' input. In a last block whose input is
        frozen, keys and values need not be formed, whatever its weights are.

        Examples:
            >>> torch.allclose(tm.nonlinear(tokens, tm.zero_delta()), prepared.primal, atol=1e-5)
            True
        """
        return self._at(tokens, delta)

    @torch.no_grad()
    def layer_inputs(self, tokens: Tensor, delta: Mapping[str, Tensor]) -> list[LinearInput]:
        """The inputs of each trained linear layer of the network at w + Δ for these pictures, the first layer first.

        Examples:
            >>> last = tm.layer_inputs(tokens, delta)[-1]
            >>> last.weight, last.inputs.shape
            ('head.weight', torch.Size([8, 1, 64]))
        """
        return self._at(tokens, delta, self.trained)

    def _at(self, tokens: Tensor, delta: Mapping[str, Tensor], trained: frozenset[str] | None = None) -> Any:
        """`_Suffix` at the weights w + Δ."""
        base = self.base
        moved = {name: (base[name] + value).to(base[name]) for name, value in delta.items()}
        x = self._entrance(tokens, moved.pop(CLASS_TOKEN, None))
        suffix = _Suffix(self.network, self._cut.suffix)
        named = {f"network.{name}": value for name, value in moved.items()}
        return torch.func.functional_call(suffix, named, (x, trained))

    def jvp(self, prepared: Prepared, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(f_w(x), J_w f(x)·Δ), each (B, K); the tangent is differentiable in ``delta``. DeltaMismatch on other names.

        Examples:
            >>> primal, tangent = tm.jvp(prepared, delta)
            >>> (primal + tangent).shape
            torch.Size([8, 3])
        """
        self.zero_delta().check_like(delta)
        return prepared.primal, self.tangent(prepared, delta)

    def vjp(self, prepared: Prepared, cotangent: Tensor) -> Delta:
        """Σ over the batch of J(x)ᵀ·cotangent, with cotangent (B, K).

        Examples:
            >>> cotangent = torch.randn(8, 3)
            >>> pulled = float(tm.vjp(prepared, cotangent).dot(delta))
            >>> abs(pulled - float((cotangent * tm.tangent(prepared, delta)).sum())) < 1e-3
            True
        """
        with torch.enable_grad():
            leaves = {name: value.requires_grad_() for name, value in self.zero_delta().items()}
            return pullback(self.tangent(prepared, leaves), leaves, cotangent)

    def forward(self, images: Tensor, delta: Mapping[str, Tensor]) -> Tensor:
        """The serving path: logits (B, K) of the linearised model, layer by layer, with no constants kept.

        Examples:
            >>> torch.allclose(tm(images, delta), tm.logits(prepared, delta), atol=1e-4)
            True
        """
        self.zero_delta().check_like(delta)
        delta = self._rounded(delta)
        tokens = self.prefix(images)
        x_dot = self._entrance_tangent(tokens.shape[0], _token_count(tokens), delta)
        primal, tangent = self._cut.suffix.dual(self._entrance(tokens), x_dot, delta)
        if self.tangent_only:
            primal = torch.zeros_like(primal)
        return primal if tangent is None else primal + tangent

    def gram(self, pictures: Pictures) -> dict[str, Tensor]:
        """Gram matrices of the primal inputs of every trained linear layer, for `compose(statistics=…)`; float64.

        Examples:
            >>> {tuple(matrix.shape) for matrix in tm.gram(prepared).values()} == {(65, 65), (193, 193)}  # width + 1
            True
        """
        total: dict[str, Tensor] = {}
        for _, batch in batches(pictures, max(1, len(pictures))):
            for name, matrix in gram_matrices(self._cut.suffix.linear_inputs(batch.saved, self.trained)).items():
                total[name] = total[name] + matrix if name in total else matrix
        return total


class _Suffix(nn.Module):
    """The primal pass of the suffix as a module whose parameters can be replaced for a call.

    Its answer is the logits, or with ``trained`` the inputs of those layers.
    """

    def __init__(self, network: nn.Module, suffix: Rule) -> None:
        super().__init__()
        self.network = network
        self._suffix = suffix

    def forward(self, x: Tensor, trained: frozenset[str] | None) -> Tensor | list[LinearInput]:
        saved = Saving()
        logits = self._suffix.primal(x, saved)
        return logits if trained is None else list(self._suffix.linear_inputs(saved, trained))


def _token_count(tokens: Tensor) -> int:
    return tokens.shape[1] if tokens.ndim == 3 else 0


def pullback(tangent: Tensor, leaves: Mapping[str, Tensor], cotangent: Tensor) -> Delta:
    """Jᵀ·cotangent from a tangent pass that was recorded at ``leaves``."""
    names = list(leaves)
    if not tangent.requires_grad:
        return Delta({name: torch.zeros_like(leaves[name]) for name in names})
    grads = torch.autograd.grad(tangent, [leaves[name] for name in names], cotangent, allow_unused=True)
    return Delta(
        {name: torch.zeros_like(leaves[name]) if g is None else g for name, g in zip(names, grads, strict=True)}
    )


def _is_under(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _trained_names(network: nn.Module, network_cut: Cut, trainable: str) -> tuple[str, ...]:
    norms = tuple(name for name, module in network.named_modules() if isinstance(module, _NORMS))
    chosen = []
    for name, _ in network.named_parameters():
        if not _is_under(name, network_cut.units):
            continue
        kind = (
            trainable == "full"
            or (trainable == "bitfit" and name.endswith("bias"))
            or (trainable == "norm" and _is_under(name, norms))
        )
        if kind or _is_under(name, network_cut.heads):
            chosen.append(name)
    return tuple(chosen)


def seeded_normal(shape: torch.Size, *, std: float, seed: int, name: str) -> Tensor:
    """Normal values that depend on the seed and the parameter's name alone, not on the order of initialisation."""
    mixed = hashlib.blake2b(name.encode(), digest_size=8, key=seed.to_bytes(8, "little", signed=True)).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(mixed, "little") >> 1)
    return torch.randn(shape, generator=generator, dtype=torch.float32).clamp_(-2, 2) * std


@torch.no_grad()
def _initialise(module: nn.Module, name: str, seed: int, *, is_new: bool) -> None:
    """Re-initialise every layer under ``module``: weights N(0, 1/fan_in) cut at 2σ, biases 0, norms 1 and 0.

    is_new: timm has made the module just now, so that a batch norm in it has seen nothing yet.

    The head's scale is what the block's tangent features are multiplied with. Timm's N(0, 0.02²) head makes a ViT-Tiny's
    model lose 3 points on Sign-Digits against this one (measured, ridge, one model).
    """
    for child_name, child in module.named_modules(prefix=name):
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not is_new:
            raise UnsupportedModel(
                f"reset=True cannot re-initialise {child_name}: its running statistics belong to the old weights; use reset=False"
            )
        for parameter_name, parameter in child.named_parameters(recurse=False):
            full_name = f"{child_name}.{parameter_name}"
            if isinstance(child, _NORMS):
                parameter.fill_(1.0 if parameter_name == "weight" else 0.0)
            elif parameter_name in ("gamma", "gamma_1", "gamma_2"):
                parameter.fill_(float(getattr(child, "init_values", 1.0)))
            elif parameter_name.endswith(("bias", "bias_table")):
                parameter.zero_()
            else:
                fan_in = max(1, parameter[0].numel()) if parameter.ndim else 1
                parameter.copy_(seeded_normal(parameter.shape, std=fan_in**-0.5, seed=seed, name=full_name))


def linearize(
    model: nn.Module | str,
    last_blocks: int | str = 1,
    trainable: str = "full",
    reset: bool = False,
    cls_token: bool = False,
    num_classes: int | None = None,
    seed: int = 0,
    pretrained: bool = False,
    tangent_only: bool = False,
) -> TangentModel:
    """Linearise a timm model around its weights; the model that is passed in is left as it is.

    ``model``: a timm module, or its name (built as ``timm.create_model(name, pretrained=pretrained)``).
    ``last_blocks``: how many units are trained, from the end, with the final norm and the head. A unit is a block of a vision
        transformer, or a stage of ResNet and ConvNeXt (docs/reference/models.md). "all" is every one, not the embedding.
    ``trainable``: "full", "bitfit" (biases), "norm" (norms' scales and shifts), "head"; the head is always trained.
    ``reset``: re-initialise the trained units, final norm and head before linearising (the paper's PT=F).
    ``cls_token``: replace the class token at the suffix entrance by a new one, and train it too (the paper's CLS=T).
    ``num_classes``: None keeps the model's own head; a number makes a new one from ``seed``.
    ``tangent_only``: f_lin(x) = J·Δw alone, without f_w(x), as in private training (TAFT section 3.4).

    Raises UnsupportedModel for what cannot be linearised, UsageError for impossible options.

    Examples:
        >>> tm = tr.linearize("test_vit", last_blocks=2, num_classes=10)
        >>> tm.num_classes, tm.zero_delta()
        (10, Delta(28 tensors, 84,234 values, norm 0))
    """
    if trainable not in TRAINABLE:
        raise UsageError(f"trainable={trainable!r}: expected one of {', '.join(TRAINABLE)}")
    if isinstance(model, str):
        if not timm.is_model(model):
            raise UnsupportedModel(f"timm {timm.__version__} knows no model {model!r}; see timm.list_models()")
        try:
            model = timm.create_model(model, pretrained=pretrained)
        except RuntimeError as error:
            if "pretrained tag" not in str(error):  # the network may be down: not the name's fault
                raise
            raise UnsupportedModel(f"timm {timm.__version__}: {error} See timm.list_pretrained()") from error
    network = copy.deepcopy(model).train().eval().requires_grad_(False)  # timm empties caches of parameters in train()
    if num_classes is not None:
        if num_classes < 1:
            raise UsageError(f"num_classes={num_classes}: expected at least 1")
        cut(network, 0)  # refuse an unsupported family before touching it
        network.reset_classifier(num_classes)  # type: ignore[operator]  # every supported timm model has it
        network.requires_grad_(False)
    network_cut = cut(network, last_blocks)
    if any(_is_missing(network, name) for name in network_cut.heads):
        raise UnsupportedModel(f"{type(network).__name__} has no classification head; set num_classes")
    new_heads = network_cut.heads if num_classes is not None else ()
    for name in dict.fromkeys((*(network_cut.units if reset else ()), *new_heads)):
        _initialise(network.get_submodule(name), name, seed, is_new=name in new_heads)
    class_token = None
    if cls_token:
        if network_cut.class_token_rows is None:
            raise UsageError(
                f"cls_token=True: {type(network).__name__} has no class token in front of its last {last_blocks} blocks"
            )
        shape = network.get_parameter(CLASS_TOKEN).shape
        values = seeded_normal(shape, std=0.02, seed=seed, name=CLASS_TOKEN)
        like = next(network.parameters())
        class_token = nn.Parameter(values.to(like.device, like.dtype), requires_grad=False)
    for name in network_cut.units:
        _make_differentiable(network.get_submodule(name))
    trained = _trained_names(network, network_cut, trainable) + ((CLASS_TOKEN,) if cls_token else ())
    return TangentModel(network, network_cut, trained, class_token, tangent_only)


class _NeverKnown(dict[str, Tensor]):
    """A cache whose every entry is made anew before it is read."""

    def __contains__(self, key: object) -> bool:
        return False


def _make_differentiable(unit: nn.Module) -> None:
    """Prepare a unit for torch.func.jvp and its gradient. The values stay those of the unit, up to rounding.

    Fused attention has no forward-mode rule. An activation in place would write over a layer's output that is kept.
    A cache of what was made from parameters (LeViT's biases) would hide that they move.
    """
    for module in unit.modules():
        for name, value in list(vars(module).items()):
            if name.endswith("_cache") and isinstance(value, dict):
                setattr(module, name, _NeverKnown())
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
        for name, child in module.named_children():
            if type(child) is nn.Hardsigmoid:
                setattr(module, name, Hardsigmoid())


def _is_missing(network: nn.Module, name: str) -> bool:
    return not any(True for _ in network.get_submodule(name).parameters())

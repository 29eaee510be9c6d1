"""A weights file's tensors to a network's: which set of keys is meant, brought to the network's names and shapes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from taft_ray.counting import plural
from taft_ray.errors import WeightsMismatch
from taft_ray.models import keys
from taft_ray.models.keys import KeySet
from taft_ray.models.positions import POSITIONS, depends_on_size, resampled, why_not
from taft_ray.models.weights_size import AtSize, Shapes, shapes_of, way_out

State = dict[str, Tensor]
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PATCHES = "patch_embed.proj.weight"
_ONE_SET = (
    "write the set you mean to a file of its own: save_file({key.removeprefix(P): value for key, value in "
    "load_file(FILE).items() if key.startswith(P)}, OUT), of safetensors.torch, with P its prefix"
)


@dataclass(frozen=True)
class Fitted:
    """The outcome for a file's tensors. ``misfits``: why they do not fit, as phrases; empty where they do."""

    values: State
    name: str
    notes: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()
    wrong: int = 0  # keys
    reasons: tuple[str, ...] = ()  # what else there is to say of a misfit
    shapes: Shapes = field(default_factory=dict)  # of the values that do not fit, where nothing else is wrong


class Network:
    """The expectations of a network on its weights: its keys, which of them a new head replaces, which it can make itself."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        self.expected: State = module.state_dict()
        classifier = module.pretrained_cfg.get("classifier") or _classifiers(module)  # type: ignore[union-attr]  # as any timm model
        self.heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        buffers = {key for key, value in module.named_buffers() if not value.is_floating_point()}
        self.required = {key for key in self.expected if not self.is_head(key) and key not in buffers}
        self.known = set(self.expected)

    def is_head(self, key: str) -> bool:
        return any(key.startswith(f"{head}.") for head in self.heads)

    def load(self, values: State) -> None:
        cast = {key: value.to(self.expected[key].dtype) for key, value in values.items()}
        self.module.load_state_dict({**self.expected, **cast})


def _classifiers(module: Any) -> tuple[str, ...]:
    """The names of a network's heads where its configuration, such as one of the hub's, does not say them."""
    found = module.get_classifier() if hasattr(module, "get_classifier") else ()
    heads = found if isinstance(found, tuple | list) else (found,)
    return tuple(name for name, part in module.named_modules() if name and any(part is head for head in heads))


def fit_weights(
    module: nn.Module, name: str, state: State, where: str, at_size: AtSize | None = None
) -> tuple[str, ...]:
    """Load a file's tensors into the network; notes on what had to be done to them, none where the file fits as it is.

    Prefixes of other trainers are taken off and what only training needs is left out. Another grid of positions is
    resampled. The names of a model's authors are brought to timm's by timm's own converter.

    at_size: the network's shapes at a picture size, so that an error can tell the one that the weights are of.

    Guarantees: nothing is guessed. Two sets of keys that both fit are refused, and so is a key that is not known to be
    of no use. Raises WeightsMismatch with the keys and both shapes; a missing, or another, classifier is fine.
    """
    network = Network(module, name)
    if not state:
        raise WeightsMismatch(f"{where} holds no tensors; download or write it again")
    sets = keys.whole_sets(state.keys(), network.required, network.known)
    tried = [_with_set(network, state, found, [other for other in sets if other is not found]) for found in sets]
    fitting = [one for one in tried if not one.misfits]
    if not fitting:
        fitting = _converted(network, state)
    if not fitting:
        raise WeightsMismatch(_misfit(network, state, tried, where, at_size))
    _refuse_two(network, fitting, where)
    chosen = fitting[0]
    _check_numbers(network, chosen.values, where)
    network.load(chosen.values)
    return tuple(f"weights {where}: {note}" for note in chosen.notes)


def _with_set(network: Network, state: State, found: KeySet, others: Sequence[KeySet]) -> Fitted:
    values = {key: state[file] for key, file in found.files.items()}
    if found.prefix:  # heads may lie beside the prefix
        values |= {key: value for key, value in state.items() if network.is_head(key) and key not in values}
    used = set(found.files.values()) | values.keys()
    left = [key for key in state if key not in used]
    apart = {file for other in others for file in other.files.values()}
    outside = [key for key in left if key in apart or (found.prefix and not key.startswith(found.prefix))]
    apart.update(outside)
    inside = {key: key.removeprefix(found.prefix or "") for key in left if key not in apart}
    notes = []
    if found.prefix:
        notes.append(f"the prefix {found.prefix!r} was taken off {plural(len(found.files), 'key')}")
    elif found.prefix is None:
        notes.append(f"prefixes that differ from key to key were taken off, such as in {_some(_differing(found), 2)}")
    if found.taken_out:
        notes.append(f"the parts {', '.join(found.taken_out)} were taken out of keys")
    unused = [*outside, *(key for key, bare in inside.items() if keys.is_unused(bare))]
    if unused:
        notes.append(
            f"{network.name} has no use for {plural(len(unused), 'key, which is', 'keys, which are')} left out: {_some(unused, 3)}"
        )
    strangers = [bare for key, bare in inside.items() if not keys.is_unused(bare) and not network.is_head(bare)]
    return _shaped(network, values, found.name, notes, strangers)


def _differing(found: KeySet) -> list[str]:
    return [file for key, file in found.files.items() if file != key]


def _shaped(network: Network, values: State, name: str, notes: list[str], strangers: Collection[str]) -> Fitted:
    """The values in the network's shapes, or what is in the way. Heads that do not fit are left out."""
    expected, reasons = network.expected, []
    if POSITIONS in values and POSITIONS in expected and values[POSITIONS].shape != expected[POSITIONS].shape:
        reasons = [reason for reason in [why_not(network.module, values[POSITIONS])] if reason]
        values = {**values, POSITIONS: resampled(network.module, values[POSITIONS])}
    wrong = _reshaped(network, values)
    if wrong and not strangers and not reasons and all(depends_on_size(key) for key in wrong):
        try:
            resized = _convert(
                network, {key: value.float() if key in wrong else value for key, value in values.items()}
            )
            values = {**values, **{key: resized[key] for key in wrong}}
            if not _reshaped(network, values):
                notes = [*notes, f"timm's own converter brought {_some(wrong, 3)} to another picture size"]
                wrong = []
        except Exception as error:  # timm's converters raise nearly anything on other people's tensors
            reasons.append(f"timm's own converter cannot resize them ({_line(error)})")
    shapes = [f"{key} {tuple(values[key].shape)} instead of {tuple(expected[key].shape)}" for key in sorted(wrong)]
    missing = sorted(network.required - values.keys())
    kept = {key: value for key, value in values.items() if key in expected and value.shape == expected[key].shape}
    misfits = ()
    if missing or strangers or shapes:
        misfits = (f"missing {_some(missing)}; unexpected {_some(sorted(strangers))}; shapes {_some(shapes)}",)
    wrong_keys = len(missing) + len(strangers) + len(shapes)
    alone = {} if missing or strangers else shapes_of({key: values[key] for key in wrong})
    return Fitted(kept, name, tuple(notes), misfits, wrong_keys, tuple(reasons), alone)


def _reshaped(network: Network, values: Mapping[str, Tensor]) -> list[str]:
    return [
        key for key, value in values.items() if key in network.required and value.shape != network.expected[key].shape
    ]


def _convert(network: Network, state: State) -> State:
    """timm's converter of published weights of this family, on a copy; raises nearly anything where they are others."""
    for kind in type(network.module).__mro__:
        convert = getattr(sys.modules.get(kind.__module__), "checkpoint_filter_fn", None)
        if convert is not None and kind.__module__.startswith("timm."):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return dict(convert(dict(state), network.module))
    return dict(state)


def _converted(network: Network, state: State) -> list[Fitted]:
    """The sets that fit after timm's own converter of the family, for weights with the names of a model's authors."""
    fitted = []
    for prefix in keys.holder_prefixes(state.keys()):
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        patches = part.get(_PATCHES)
        own = network.expected.get(_PATCHES)
        if patches is not None and own is not None and patches.ndim == 4 and patches.shape != own.shape:
            continue  # the converter would resample the patches of another model
        try:
            values = _convert(network, part)
        except Exception:  # on other people's tensors it raises nearly anything: then they are not of its kind
            continue
        if not all(isinstance(value, Tensor) for value in values.values()):
            continue
        strangers = [
            key for key in values if key not in network.known and not network.is_head(key) and not keys.is_unused(key)
        ]
        note = "timm's own converter brought its keys to timm's names"
        notes = [note if not prefix else f"{note}, behind the prefix {prefix!r}"]
        one = _shaped(network, values, f"prefix {prefix!r}" if prefix else "no prefix", notes, strangers)
        if not one.misfits:
            fitted.append(one)
    return fitted


def _refuse_two(network: Network, fitting: list[Fitted], where: str) -> None:
    """WeightsMismatch when a file holds two sets that fit and are not the same numbers."""
    first = fitting[0]
    others = [one for one in fitting[1:] if not _same(network, first.values, one.values)]
    if others:
        names = ", ".join(one.name for one in (first, *others))
        raise WeightsMismatch(
            f"{where} holds {len(others) + 1} whole sets of weights for {network.name}, under {names}, such as those "
            f"of an average or of a teacher beside the network's; {_ONE_SET}"
        )


def _same(network: Network, one: State, other: State) -> bool:
    return all(torch.equal(one[key], other[key]) for key in network.required if key in one and key in other)


def _check_numbers(network: Network, values: State, where: str) -> None:
    """WeightsMismatch for numbers that are no weights: integers, complex, of 8 bits, NaN and infinite ones."""
    for key in sorted(network.required & values.keys()):
        value = values[key]
        if value.dtype not in _FLOATS:
            kind = str(value.dtype).removeprefix("torch.")
            raise WeightsMismatch(
                f"{where}: {key} holds {kind}; expected float16, bfloat16, float32 or float64: "
                "undo the quantisation, or take the weights from before it"
            )
        finite = torch.isfinite(value.to(network.expected[key].dtype))
        if not bool(finite.all()):
            bad = int((~finite).sum())
            raise WeightsMismatch(
                f"{where}: {key} ({str(value.dtype).removeprefix('torch.')}) has {bad} of {value.numel()} numbers that "
                "are NaN or infinite; take the weights of an earlier, sound checkpoint"
            )


def _misfit(network: Network, state: State, tried: list[Fitted], where: str, at_size: AtSize | None) -> str:
    if tried:
        best = min(tried, key=lambda one: one.wrong)
        behind = "" if best.name == "no prefix" else f" behind {best.name}"
    else:
        prefix, _ = keys.nearest_prefix(state, network.known)
        names = {key: key.removeprefix(prefix) for key in state if key.startswith(prefix)}
        values = {bare: state[key] for key, bare in names.items() if bare in network.known}
        strangers = [bare for bare in names.values() if bare not in network.known and not network.is_head(bare)]
        best = _shaped(network, values, "", [], [bare for bare in strangers if not keys.is_unused(bare)])
        behind = f" behind the prefix {prefix!r}" if prefix else ""
    of_size = way_out(network.name, best.shapes, at_size) if best.shapes and at_size is not None else ""
    hints = [of_size] if of_size else [*best.reasons, *_hints(network, state, where)]
    return f"{where} does not fit {network.name}{behind}: {'; '.join([*best.misfits, *hints])}"


def _hints(network: Network, state: State, where: str) -> list[str]:
    """The kind of file that it may be, and the way out."""
    names = list(state)
    if any(".attention.attention.query" in name or ".layer.0.attention.q_proj" in name for name in names) or any(
        ".layers.0.self_attn.q_proj" in name for name in names
    ):
        return ["its keys are named as transformers names them: take the file that timm publishes of this model"]
    if any(".encoder_layer_0." in name for name in names):
        return ["its keys are named as torchvision names them: take the file that timm publishes of this model"]
    if any("lora_" in name for name in names):
        return ["it is an adapter: merge it into its network, and give the whole weights"]
    if "-of-0" in where.rpartition("/")[2]:
        return ["it is one of several files of a model: merge them into one"]
    odd = next((key for key in sorted(state) if key.endswith("weight") and state[key].dtype not in _FLOATS), None)
    if odd is not None:
        kind = str(state[odd].dtype).removeprefix("torch.")
        return [f"{odd} holds {kind}: take the weights from before they were quantised"]
    same = sum(key in network.required for key in names)
    if not same:
        return [f"no key of it is one of {network.name}'s: choose the --model these weights belong to"]
    return ["choose the --model these weights belong to, or leave --image-size out where one is set"]


def _some(names: Collection[Any], most: int = 6) -> str:
    listed = list(names)
    return (
        "none"
        if not listed
        else ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]

"""A timm network by its name, without weights or with the hub's, for pictures of a size."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from taft_ray.data import access
from taft_ray.embedded import EMBEDDED_NAME
from taft_ray.errors import StorageError, TaftError, UnsupportedModel, UsageError, WeightsMismatch
from taft_ray.models.names import FOLDER, HUB
from taft_ray.models.preprocess import Preprocess

_HUB_ALIAS = "hf_hub:"
MOST_PIXELS = 4096  # a side: beyond it position embeddings alone take gigabytes
_CONFIG = "config.json"


def check_name(name: str) -> None:
    """UnsupportedModel for a name that timm does not know, a tag it does not know, or a source that is none."""
    if is_sourced(name):
        source, _, rest = name.partition(":")
        if not rest.strip():
            raise UnsupportedModel(f"{name!r} names no model after {source}:; expected {HUB}OWNER/NAME or {FOLDER}PATH")
        return
    if "/" in name or ":" in name or "\\" in name:
        raise UnsupportedModel(
            f"timm {timm.__version__} knows no model {name!r}; expected a timm name, {HUB}OWNER/NAME for one of the hub, "
            f"or {FOLDER}PATH for a folder with config.json and model.safetensors"
        )
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:4] if name.strip() else []
        raise UnsupportedModel(
            f"timm {timm.__version__} knows no model {name!r}; expected {EMBEDDED_NAME} or a timm name"
            + (f" such as {', '.join(near)}" if near else "")
        )
    architecture, dot, tag = name.partition(".")
    tags = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", include_tags=True)]
    if dot and tag not in tags:
        known = ", ".join(sorted(filter(None, tags))) or "none"
        raise UnsupportedModel(
            f"timm {timm.__version__} knows no weights {tag!r} of {architecture}; its tags are: {known}. "
            f"Leave the tag out, or take one of them"
        )


def is_sourced(name: str) -> bool:
    return name.startswith((HUB, _HUB_ALIAS, FOLDER))


def check_size(image_size: int | None) -> None:
    """UsageError for a size that no network can have."""
    if image_size is None:
        return
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not 1 <= image_size <= MOST_PIXELS:
        raise UsageError(f"expected an image size of 1 to {MOST_PIXELS} pixels, got {image_size}; set --image-size")


def build(name: str, image_size: int | None, *, weights: str | None = None, strict: bool = True) -> nn.Module:
    """The network with random weights. ``weights``: their file, beside which a config.json may describe the network.

    strict: refuse a size whose pictures do not go through the network, or not as a whole.

    Guarantees: raises nothing but TaftError; the preprocessing follows ``image_size`` where the network itself takes none.
    """
    with _described(name, weights) as source:
        return _sized(source, name, image_size, pretrained=False, strict=strict)


def build_pretrained(name: str, image_size: int | None, *, strict: bool = True) -> nn.Module:
    """The network with the hub's weights; StorageError when they cannot be had."""
    try:
        return _sized(name, name, image_size, pretrained=True, strict=strict)
    except TaftError:
        raise
    except Exception as error:  # the hub's client, the network and timm raise nearly anything
        if image_size is not None and "size mismatch for" in str(error):
            raise WeightsMismatch(
                f"the hub's weights of {name} do not fit pictures of {image_size} pixels, because their size is fixed by the "
                "weights: leave --image-size out"
            ) from error
        build(name, image_size, strict=strict)  # when it is the network that cannot be built, it says so
        raise StorageError(
            f"pre-trained weights of {name} could not be read from the hub ({type(error).__name__}: {_line(error)}); "
            "give them with --weights FILE.safetensors"
        ) from error


def _sized(source: str, name: str, image_size: int | None, *, pretrained: bool, strict: bool) -> nn.Module:
    sized: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    try:
        network = _create(source, pretrained, sized)
    except Exception as error:
        if pretrained:
            raise
        raise _impossible(name, image_size, error) from error
    config: Any = network.pretrained_cfg
    own = config.get("input_size")
    if image_size is not None and strict and (own is None or image_size != own[-1]):
        _check_way_through(network, name, image_size, own and own[-1])
    if image_size is not None and Preprocess.of(network).size != image_size:
        network.pretrained_cfg = {**config, "input_size": (3, image_size, image_size)}  # type: ignore[assignment]
    return network


def _create(source: str, pretrained: bool, sized: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(source, pretrained=pretrained, **sized)
    except TypeError as error:
        if "img_size" not in str(error) or not sized:
            raise
    return timm.create_model(source, pretrained=pretrained)  # a network that takes pictures of any size


def _impossible(name: str, image_size: int | None, error: Exception) -> UsageError:
    if image_size is None:
        return UnsupportedModel(f"timm {timm.__version__} cannot build {name}: {type(error).__name__}: {_line(error)}")
    return UsageError(
        f"{name} cannot be built for pictures of {image_size} pixels ({type(error).__name__}: {_line(error)}); "
        "set another --image-size, or leave it out"
    )


def _check_way_through(network: nn.Module, name: str, image_size: int, own_size: int | None) -> None:
    """UsageError when pictures of this size, which is not the model's own, do not go through it as a whole."""
    entrances = [getattr(network, name, None) for name in ("patch_embed", "stem")]
    patch = next(filter(None, (getattr(entrance, "patch_size", None) for entrance in entrances)), None)
    side = patch[0] if isinstance(patch, tuple | list) else patch
    if isinstance(side, int) and side > 0 and image_size % side:
        below, above = image_size // side * side, (image_size // side + 1) * side
        fitting = f"{below} or {above}" if below else f"{above} or more"
        raise UsageError(
            f"{name} cuts pictures into patches of {side} pixels, and {image_size} is no multiple of it; "
            f"set --image-size {fitting}"
        )
    problem = _no_way_through(network, image_size)
    if problem:
        raise UsageError(
            f"pictures of {image_size} pixels do not go through {name} ({problem}); "
            f"set another --image-size{'' if own_size is None else f', such as {own_size}'}, or leave it out"
        )


@torch.no_grad()
def _no_way_through(network: nn.Module, size: int) -> str:
    """The error of a pass with such pictures, without computing it: all tensors are on torch's "meta" device. "" for none."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    shapes = {key: torch.empty_like(value, device="meta") for key, value in tensors.items()}
    training = network.training
    try:
        torch.func.functional_call(network.eval(), shapes, (torch.empty(1, 3, size, size, device="meta"),))
    except Exception as error:  # whatever a network raises on pictures it was not made for
        text = _line(error)
        # a network that makes tensors of its own on the way cannot be told by this
        return "" if any(word in str(error).lower() for word in ("meta", "device", "fake")) else text
    finally:
        network.train(training)
    return ""


@contextlib.contextmanager
def _described(name: str, weights: str | None) -> Iterator[str]:
    """The name that timm builds from: for one of the hub, the config.json beside its weights when there is one."""
    if not is_sourced(name):
        yield name
        return
    rest = name.partition(":")[2]
    if name.startswith(FOLDER):
        if not (Path(rest) / _CONFIG).is_file():
            raise StorageError(f"no {_CONFIG} in {rest}; expected a folder with {_CONFIG} and model.safetensors")
        yield name
        return
    config = None if weights is None else _config_beside(weights)
    if config is not None:
        with tempfile.TemporaryDirectory(prefix="taft-ray-config-") as folder:
            (Path(folder) / _CONFIG).write_text(json.dumps(config))
            yield f"{FOLDER}{folder}"
        return
    try:
        timm.models.load_model_config_from_hf(rest)
    except Exception as error:  # the hub's client raises nearly anything
        raise StorageError(
            f"the configuration of {name} could not be read from the hub ({type(error).__name__}: {_line(error)}). Put its "
            f"{_CONFIG} beside the file of --weights, or name its architecture by timm's name with --model"
        ) from error
    yield name


def _config_beside(weights: str) -> dict[str, Any] | None:
    head, slash, _ = weights.rpartition("/")
    try:
        with access.open_file(f"{head}{slash}{_CONFIG}") as file:
            config = json.loads(file.read())
    except (OSError, ValueError, RecursionError, TaftError):
        return None
    return config if isinstance(config, dict) and isinstance(config.get("architecture"), str) else None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]

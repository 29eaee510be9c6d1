"""A run's network: the embedded model, or any timm name, with weights from safetensors or from the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
import safetensors.torch
import timm
from safetensors import SafetensorError
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from taft_ray.embedded import EMBEDDED_NAME, WEIGHTS, create
from taft_ray.errors import StorageError, UnsupportedModel, UsageError, WeightsMismatch
from taft_ray.models.preprocess import Preprocess
from taft_ray.storage import digest_bytes, digest_tensors


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    network: nn.Module
    preprocess: Preprocess
    weights_digest: str


def load_model(name: str, weights: str | None = None, image_size: int | None = None) -> LoadedModel:
    """Build the network in evaluation mode with its pre-trained weights.

    name: ``taft_vit_cifar`` (embedded in the package) or any name timm knows.
    weights: a safetensors file, as a path or fsspec URI; None takes the embedded ones, or asks the hub.
    image_size: pixels; None is the model's own. Position embeddings are resampled to it.

    Raises UnsupportedModel for an unknown name, WeightsMismatch naming the keys that do not fit (a missing, or another,
    classifier is fine: the head is always new), StorageError when the weights cannot be read.
    """
    if name == EMBEDDED_NAME:
        if weights is not None or image_size is not None:
            raise UsageError(f"{EMBEDDED_NAME} brings its own weights and size; leave out --weights and --image-size")
        network = create()
        return LoadedModel(
            network=network, preprocess=Preprocess.of(network), weights_digest=digest_bytes(WEIGHTS.read_bytes())
        )
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:4]
        raise UnsupportedModel(
            f"timm {timm.__version__} knows no model {name!r}; expected {EMBEDDED_NAME} or a timm name"
            + (f" such as {', '.join(near)}" if near else "")
        )
    sized: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    try:
        if weights is None:
            network = _from_hub(name, sized)
            digest = digest_tensors({key: value.numpy() for key, value in network.state_dict().items()})
        else:
            network = timm.create_model(name, pretrained=False, **sized)
            content = _read(weights)
            digest = digest_bytes(content)
            _load_state(network, _parse(content, weights), weights, name)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        raise UsageError(f"{name} takes no --image-size; leave it out") from error
    return LoadedModel(network=network.eval(), preprocess=Preprocess.of(network), weights_digest=digest)


def _from_hub(name: str, sized: Mapping[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, **sized)
    except (OSError, RuntimeError, ValueError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(
            f"pre-trained weights of {name} could not be had from the hub ({type(error).__name__}: {first_line[:160]}); "
            "give them with --weights FILE.safetensors"
        ) from error


def _read(uri: str) -> bytes:
    try:
        with fsspec.open(uri, "rb") as file:
            return file.read()  # type: ignore[union-attr]  # fsspec's OpenFile yields one file
    except FileNotFoundError as error:
        raise StorageError(f"no weights at {uri}; expected a safetensors file") from error
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(f"weights {uri} cannot be read: {error}") from error


def _parse(content: bytes, uri: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise WeightsMismatch(
            f"{uri} is not a whole safetensors file ({error}); convert or download it again"
        ) from error


def _load_state(network: nn.Module, state: dict[str, Tensor], uri: str, name: str) -> None:
    expected = network.state_dict()
    classifier = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr]  # every timm model has it
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)

    def is_head(key: str) -> bool:
        return any(key.startswith(f"{head}.") for head in heads)

    if "pos_embed" in state and "pos_embed" in expected and state["pos_embed"].shape != expected["pos_embed"].shape:
        state = {**state, "pos_embed": _resampled(network, state["pos_embed"])}
    missing = sorted(key for key in expected.keys() - state.keys() if not is_head(key))
    unexpected = sorted(key for key in state.keys() - expected.keys() if not is_head(key))
    reshaped = sorted(
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected.keys() & state.keys()
        if state[key].shape != expected[key].shape and not is_head(key)
    )
    if missing or unexpected or reshaped:
        raise WeightsMismatch(
            f"{uri} does not fit {name}: missing {_some(missing)}; unexpected {_some(unexpected)}; shapes {_some(reshaped)}"
        )
    fitting = {
        key: value.to(expected[key].dtype)
        for key, value in state.items()
        if key in expected and value.shape == expected[key].shape
    }
    network.load_state_dict({**expected, **fitting})


def _resampled(network: Any, positions: Tensor) -> Tensor:
    prefix = 0 if getattr(network, "no_embed_class", False) else getattr(network, "num_prefix_tokens", 0)
    grid = network.patch_embed.grid_size
    if positions.ndim != 3 or positions.shape[-1] != network.pos_embed.shape[-1]:
        return positions  # reported as a shape that does not fit
    return resample_abs_pos_embed(positions.float(), new_size=list(grid), num_prefix_tokens=prefix)


def _some(keys: list[str]) -> str:
    return "none" if not keys else ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")

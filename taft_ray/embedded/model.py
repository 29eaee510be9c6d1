"""The model that the package carries with it: a small plain vision transformer, so that everything runs without a download.

Guarantees: the same weights and the same head for the same arguments. No random number is drawn from torch's global generator.
There is no model at all when the file's bytes are not the ones that ``config.json`` records.
"""

import hashlib
import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer

from taft_ray.embedded.names import EMBEDDED_NAME
from taft_ray.errors import IntegrityError, UsageError

WEIGHTS: Traversable = files("taft_ray.embedded") / f"{EMBEDDED_NAME}.safetensors"


def embedded_config() -> dict[str, Any]:
    """The record that ``benchmarks/make_embedded_vit.py`` wrote beside the weights: architecture, preprocessing, measured accuracy, digest."""
    return json.loads((files("taft_ray.embedded") / "config.json").read_text(encoding="utf-8"))


def create(num_classes: int | None = None) -> VisionTransformer:
    """The embedded model in eval mode and fp32.

    ``num_classes=None`` keeps the head for the ten CIFAR-10 classes. A number, 10 too, makes a new, untrained head, the same one
    each time; 0 makes none.
    """
    if num_classes is not None and num_classes < 0:
        raise UsageError(f"expected num_classes >= 0, got {num_classes}; leave it out to keep the model's own head")
    config = embedded_config()
    content = WEIGHTS.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != config["sha256"]:
        raise IntegrityError(
            f"{WEIGHTS}: expected SHA-256 {config['sha256']}, got {digest}; the installed package is damaged, install it again"
        )
    architecture = dict(config["architecture"])
    state = {name: value.float() for name, value in safetensors.torch.load(content).items()}
    if num_classes is not None:
        architecture["num_classes"] = num_classes
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
        if num_classes:
            generator = torch.Generator().manual_seed(0)
            state["head.weight"] = 0.02 * torch.randn(num_classes, architecture["embed_dim"], generator=generator)
            state["head.bias"] = torch.zeros(num_classes)
    # on "meta" nothing is initialised, which is both quick and free of the global random state
    with torch.device("meta"):
        model = VisionTransformer(**architecture)
    model.load_state_dict(state, strict=True, assign=True)
    cfg = _timm_cfg(config, num_classes=architecture["num_classes"])
    model.pretrained_cfg = model.default_cfg = cfg  # pyright: ignore[reportArgumentType]  # as timm's own factory does
    return model.eval()


def _timm_cfg(config: dict[str, Any], *, num_classes: int) -> dict[str, Any]:
    """The preprocessing in the form in which timm's own models carry it (read by ``timm.data.resolve_model_data_config``)."""
    return {
        "architecture": EMBEDDED_NAME,
        "num_classes": num_classes,
        "input_size": tuple(config["input_size"]),
        "fixed_input_size": True,
        "pool_size": None,
        "interpolation": config["interpolation"],
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "label_names": tuple(config["classes"]) if num_classes == len(config["classes"]) else None,
        "license": "apache-2.0",
    }

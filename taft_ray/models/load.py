"""A run's network: the embedded model, or any timm name, with weights from safetensors or from the hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from taft_ray.embedded import EMBEDDED_NAME, WEIGHTS, create
from taft_ray.errors import StorageError, UsageError
from taft_ray.log import logger_of
from taft_ray.models.architecture import build, build_pretrained, check_name, check_size
from taft_ray.models.fit import fit_weights
from taft_ray.models.names import FOLDER
from taft_ray.models.preprocess import Preprocess
from taft_ray.models.weights_file import parse_weights, read_weights
from taft_ray.models.weights_size import shapes_at
from taft_ray.storage import digest_bytes, digest_tensors

_log = logger_of(__name__)
_said: set[str] = set()  # a process builds a network several times, and says each note once


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """notes: what had to be done to the weights so that they fit, or is left out of them; logged as well."""

    network: nn.Module
    preprocess: Preprocess
    weights_digest: str
    notes: tuple[str, ...] = ()


def load_model(
    name: str, weights: str | None = None, image_size: int | None = None, *, strict: bool = True
) -> LoadedModel:
    """Build the network in evaluation mode with its pre-trained weights.

    name: ``taft_vit_cifar`` (embedded in the package), any name timm knows, ``hf-hub:OWNER/NAME``, or
    ``local-dir:FOLDER`` with config.json and a safetensors file.

    weights: a safetensors file, as a path or fsspec URI; None takes the embedded ones, the folder's, or asks the hub.

    image_size: pixels; None is the model's own. Position embeddings are resampled to it.

    strict: refuse a size at which the network does not see whole pictures; False for a run that exists already.

    Raises UnsupportedModel for an unknown name or tag, and UsageError for an impossible size. Raises WeightsMismatch for
    weights that do not fit (`fit_weights`) or are none, and StorageError when the weights cannot be read.
    """
    if name == EMBEDDED_NAME:
        if weights is not None or image_size is not None:
            raise UsageError(f"{EMBEDDED_NAME} brings its own weights and size; leave out --weights and --image-size")
        network = create()
        return LoadedModel(
            network=network, preprocess=Preprocess.of(network), weights_digest=digest_bytes(WEIGHTS.read_bytes())
        )
    check_name(name)
    check_size(image_size)
    if weights is None and name.startswith(FOLDER):
        weights = _weights_in(name.removeprefix(FOLDER))
    notes: tuple[str, ...] = ()
    if weights is None:
        network = build_pretrained(name, image_size, strict=strict)
        digest = digest_tensors({key: value.numpy() for key, value in network.state_dict().items()})
    else:
        network = build(name, image_size, weights=weights, strict=strict)
        content = read_weights(weights)
        digest = digest_bytes(content)
        at_size = partial(shapes_at, name, weights=weights)
        notes = fit_weights(network, name, parse_weights(content, weights), weights, at_size)
    for note in notes:
        if note not in _said:
            _said.add(note)
            _log.warning("%s", note)
    return LoadedModel(network=network.eval(), preprocess=Preprocess.of(network), weights_digest=digest, notes=notes)


def _weights_in(folder: str) -> str:
    """The one file of weights in a folder."""
    found = sorted(Path(folder).glob("*.safetensors"))
    named = [path for path in found if path.name == "model.safetensors"]
    if len(named or found) != 1:
        raise StorageError(
            f"{len(found)} .safetensors files in {folder}, none of them model.safetensors; expected one, "
            "or give it with --weights FILE"
        )
    return str((named or found)[0])

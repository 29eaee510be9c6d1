"""The tangent model that a run's spec describes."""

from __future__ import annotations

from taft_ray.errors import IntegrityError
from taft_ray.models import LoadedModel, load_model
from taft_ray.plans.spec import RunSpec
from taft_ray.storage import digest_json
from taft_ray.tangent import TangentModel, linearize


def load_for(spec: RunSpec) -> LoadedModel:
    """The network of a run that exists, whatever sizes a new one may have."""
    return load_model(spec.model, spec.weights, spec.image_size, strict=False)


def build_tangent(spec: RunSpec, classes: int) -> tuple[TangentModel, str]:
    """The run's tangent model on its device, and the fingerprint of its frozen prefix.

    Of private fits on rows it is a head on them.

    The fingerprint stands for everything that decides a token's bits: weights, cut, picture size and scaling, precision.
    """
    if spec.rows_alone:
        return _head_on_rows(spec, classes)
    loaded = load_for(spec)
    if spec.weights_digest and loaded.weights_digest != spec.weights_digest:
        raise IntegrityError(
            f"the weights of {spec.model} changed since the run began: digest {loaded.weights_digest[:16]}, "
            f"expected {spec.weights_digest[:16]}; give the same weights"
        )
    tm = linearize(loaded.network, num_classes=classes, **spec.linearize_options()).to(spec.device)
    preprocess = loaded.preprocess
    fingerprint = digest_json(
        {
            "weights": loaded.weights_digest,
            "model": spec.model,
            "last_blocks": spec.last_blocks,
            "size": preprocess.size,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "precision": spec.precision,
            "dtype": spec.cache_dtype,
            "threads": spec.threads,
            "device": spec.device,
            **({} if spec.exif_orientation == "ignore" else {"exif_orientation": spec.exif_orientation}),
        }
    )
    return tm, fingerprint


def _head_on_rows(spec: RunSpec, classes: int) -> tuple[TangentModel, str]:
    from taft_ray.additive import RowsModel
    from taft_ray.run.rows import build_rows

    maker, _, fingerprint = build_rows(spec)
    return RowsModel(maker.network, maker.projection, classes), fingerprint

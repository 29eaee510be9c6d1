"""The run of a folder: its spec, and the tangent model that the spec describes."""

from __future__ import annotations

from taft_ray.errors import IntegrityError, StorageError
from taft_ray.models import LoadedModel, load_model
from taft_ray.plans.spec import RunSpec
from taft_ray.storage import MALFORMED, Store, digest_json, read_spec
from taft_ray.storage import rundir as names
from taft_ray.tangent import TangentModel, linearize


def run_spec(store: Store) -> RunSpec:
    """The spec of the run in this folder; StorageError when there is no run."""
    values = read_spec(store)
    if values is None:
        raise StorageError(f"no run at {store.uri}: run.json is missing; make one with taft-ray train")
    try:
        return RunSpec.from_json(values)
    except MALFORMED as error:
        raise IntegrityError(
            f"{names.SPEC_KEY} in {store.uri} has not the fields of a spec ({type(error).__name__}: {error}); "
            "restore it from a copy"
        ) from error


def load_for(spec: RunSpec) -> LoadedModel:
    """The network of a run that exists, whatever sizes a new one may have."""
    return load_model(spec.model, spec.weights, spec.image_size, strict=False)


def build_tangent(spec: RunSpec, classes: int) -> tuple[TangentModel, str]:
    """The run's tangent model on its device, and the fingerprint of its frozen prefix.

    The fingerprint stands for everything that decides a token's bits: weights, cut, picture size and scaling, precision.
    """
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

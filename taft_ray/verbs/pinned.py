"""The spec that `train` holds a run to: places as every process names them, the digest of the weights, the numbers of a row."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from taft_ray.data import open_source
from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.plans.privacy import PINK_NOISE
from taft_ray.plans.spec import RunSpec
from taft_ray.progress import Report, silent
from taft_ray.run.address import data_address, model_address, run_address
from taft_ray.run.spec import is_run, run_spec
from taft_ray.storage import Store, write_spec
from taft_ray.sums.options import DEFAULT_COMPOSITION

if TYPE_CHECKING:
    from taft_ray.models import LoadedModel


def with_addresses(spec: RunSpec) -> RunSpec:
    """The spec with places as every process names them."""
    return replace(
        spec,
        data=data_address(spec.data),
        model=model_address(spec.model),
        weights=spec.weights and run_address(spec.weights),
        privacy=spec.privacy and replace(spec.privacy, public=_public_address(spec.privacy.public)),
    )


def _public_address(public: str | None) -> str | None:
    return public if public in (None, PINK_NOISE) else data_address(public)


def pinned(store: Store, spec: RunSpec, report: Report = silent) -> tuple[RunSpec, tuple[str, ...]]:
    """The spec with the digest of its weights, and what a person should know of them.

    A new run is tried first, so that a wrong path or a model that cannot do it leaves no run behind.
    """
    if is_run(store):
        begun = run_spec(store)
        # another version of this package goes on with a run: its bits are the same
        versions = {**spec.versions, **{name: begun.versions[name] for name in ("taft_ray",) if name in begun.versions}}
        features = begun.features if spec.features is None else spec.features
        privacy = spec.privacy
        if privacy is not None and begun.privacy is not None:
            privacy = replace(privacy.as_begun(begun.privacy), public_digest=begun.privacy.public_digest)
            if privacy.sampling_rate is not None and begun.privacy.sampling_rate is not None:
                privacy = replace(privacy, accountant=begun.privacy.accountant)  # another version of Opacus goes on
        spec = replace(spec, weights_digest=begun.weights_digest, versions=versions, features=features, privacy=privacy)
        write_spec(store, spec.to_json())  # compares
        return spec, ()
    open_source(spec.data)
    import torch

    from taft_ray.models import load_model
    from taft_ray.sums import check_joint
    from taft_ray.tangent import linearize

    loaded = load_model(spec.model, spec.weights, spec.image_size)
    if spec.additive or spec.rows_alone:
        spec = replace(spec, features=_features(spec, loaded))
    if spec.privacy is not None and spec.privacy.public is not None:
        from taft_ray.prefix import whitening

        report("whitening", 0, 1)
        digest = whitening.digest_of(whitening.made(replace(spec, weights_digest=loaded.weights_digest)))
        report("whitening", 1, 1)
        spec = replace(spec, privacy=replace(spec.privacy, public_digest=digest))
    if spec.rows_alone:
        return replace(spec, weights_digest=loaded.weights_digest), loaded.notes
    tm = linearize(loaded.network, num_classes=2, **spec.linearize_options())
    if spec.of_deltas == "joint":
        size = loaded.preprocess.size
        try:
            check_joint(tm, tm.prefix(torch.zeros(1, 3, size, size)))
        except UnsupportedModel as error:
            if not spec.two_tiers:
                raise
            raise UnsupportedModel(
                "beside='joint' is for the last block behind a class token; use --beside gram"
            ) from error
    return replace(spec, weights_digest=loaded.weights_digest), loaded.notes


def _features(spec: RunSpec, loaded: LoadedModel) -> int:
    """How many numbers a picture's row has; errors of `sites_of`."""
    from taft_ray.additive import sites_of
    from taft_ray.run.rows import blocks_of

    try:
        sites = sites_of(
            loaded.network, loaded.preprocess.size, last_blocks=blocks_of(spec), size=spec.features, views=spec.views
        )
    except UnsupportedModel as error:
        if spec.rows_alone:
            raise
        raise UnsupportedModel(f"{error}; --compose {DEFAULT_COMPOSITION} makes a run of deltas alone") from error
    except UsageError as error:
        raise UsageError(f"{error}; set --features or --site-blocks") from error
    return sites.size

"""A serving as an application of Ray Serve: registered in the ledgers of its runs, built, started and ended."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import serve

from taft_ray.composer.composer import Composer
from taft_ray.errors import UsageError
from taft_ray.plans.serving import Served
from taft_ray.run.replicas import remove_notes
from taft_ray.run.spec import run_spec
from taft_ray.serving.deployments import Gateway, ModelReplica
from taft_ray.serving.following import mode_of
from taft_ray.serving.options import ServingOptions, Source, sources_of
from taft_ray.serving.publishing import publish_first
from taft_ray.serving.requests import digests_of, token_digests
from taft_ray.storage import Store

TOKENS = "TAFT_RAY_SERVE_TOKENS"
_AT_ONCE = 4  # batches' worth of questions that a replica may have at once


def application(args: Mapping[str, Any]) -> serve.Application:
    """The application of cluster/serve.yaml. args: "runs", and "compose", "owners", "token_file" and fields of `ServingOptions`.

    "now": true begins with models that a release gate of their run holds back. Otherwise those are refused: PublicationHeld.

    Without "token_file" the tokens are those in the environment's TAFT_RAY_SERVE_TOKENS, one per line.
    """
    sources, options = asked_for(args)
    return built(register(sources, options, now=bool(args.get("now"))), sources, options)


def asked_for(args: Mapping[str, Any]) -> tuple[tuple[Source, ...], ServingOptions]:
    """The models and the options that arguments of an `application` say; UsageError for what cannot be."""
    said = dict(args)
    runs, compose, owners = said.pop("runs", ()), said.pop("compose", None), said.pop("owners", ())
    token_file = said.pop("token_file", None)
    if not isinstance(said.pop("now", False), bool):
        raise UsageError("now: expected true or false")
    if token_file is not None:
        said["tokens"] = token_digests(token_file)
    elif os.environ.get(TOKENS):
        said["tokens"] = digests_of(os.environ[TOKENS], TOKENS)
    sources = sources_of([runs] if isinstance(runs, str) else list(runs), compose=compose, owners=list(owners))
    return sources, ServingOptions.of(said)


def register(sources: Sequence[Source], options: ServingOptions, *, now: bool = False) -> str:
    """Commit to the ledger of each run that it is served, and compose what is to be answered with: the serving's name.

    PublicationHeld where the release gate of a run holds its model back, unless ``now``.
    """
    serving = secrets.token_hex(8)
    by_run: dict[str, list[str]] = {}
    composers: list[tuple[Composer, Source]] = []
    for source in sources:
        composer = Composer(source.run)
        composer.recover()
        if not composer.snapshot().in_model and not composer.snapshot().in_tier(True):
            raise UsageError(f"no shard is in the model of {source.run}; train first, or retrain one that was dropped")
        by_run.setdefault(source.run, []).append(mode_of(composer.record.spec, source))
        composers.append((composer, source))
    overrode = publish_first(composers, now)
    for run, modes in by_run.items():
        fact = Served(
            serving, options.lease, options.drain, tuple(dict.fromkeys(modes)), options.replicas,
            overrode=overrode.get(Store(run).uri),
        )  # fmt: skip
        Composer(run).begin_serving(fact)
    return serving


def built(serving: str, sources: Sequence[Source], options: ServingOptions) -> serve.Application:
    """The application, not started yet."""
    told, sent = options.to_json(), [source.to_json() for source in sources]
    replicas = serve.deployment(
        ModelReplica,
        name="replicas",
        num_replicas=options.replicas,
        ray_actor_options=_resources(sources, options),
        max_ongoing_requests=_AT_ONCE * options.max_batch,
        max_queued_requests=options.max_queued,
        graceful_shutdown_timeout_s=2 * options.drain,
        logging_config={"enable_access_log": False},
    ).bind(serving, sent, told)
    return serve.deployment(
        Gateway,
        name="gateway",
        num_replicas=options.gateways,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=options.max_queued + options.replicas * _AT_ONCE * options.max_batch,
        logging_config={"enable_access_log": False},
    ).bind(replicas, [source.name for source in sources], told)


def _resources(sources: Sequence[Source], options: ServingOptions) -> dict[str, float]:
    """Resources of a replica: the cores that the widest of its runs computes with, and a GPU where a run was made on one."""
    specs = [run_spec(Store(source.run)) for source in sources]
    on_gpu = any(spec.device == "cuda" for spec in specs) and ray.cluster_resources().get("GPU", 0) > 0
    cpus = max(spec.threads for spec in specs) if options.cpus is None else options.cpus
    return {"num_cpus": cpus, "num_gpus": float(on_gpu) if options.gpus is None else options.gpus}


def unregister(serving: str, sources: Sequence[Source]) -> None:
    """Commit that the serving has ended. Its replicas must be gone: their notes are removed."""
    for run in dict.fromkeys(source.run for source in sources):
        composer = Composer(run)
        composer.end_serving(serving)
        remove_notes(composer.record.store, serving)

"""The verbs. Each connects, asks the composer, and returns one JSON-able answer; `train` is the main path."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save

from taft_ray.data import check_rejected, counts, datasets, open_source, place_of, with_split
from taft_ray.data.rejections import examples
from taft_ray.errors import DataError, IntegrityError, ObjectMissing, StorageError, TaftError, UsageError
from taft_ray.models import FOLDER, load_model
from taft_ray.orchestration import session
from taft_ray.orchestration.actors import ask, composer_for, make_room
from taft_ray.orchestration.features import CacheResult, Report, build_cache, remove_markers
from taft_ray.orchestration.identical import identical_counts, say
from taft_ray.orchestration.lanes import start_lanes
from taft_ray.orchestration.linearised import build_tangent, run_spec
from taft_ray.orchestration.measuring import measured, remove_damaged
from taft_ray.orchestration.quarantine import quarantines, way_out
from taft_ray.plans.gather import due, planned_start
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import EMPTY, RunState
from taft_ray.plans.train import lanes_for, pending_shards
from taft_ray.storage import (
    Store,
    digest_bytes,
    digest_json,
    id_key,
    read_manifest,
    write_manifest,
    write_rows,
    write_spec,
)
from taft_ray.storage import rundir as names
from taft_ray.tangent import check_joint, linearize

BASE_KEY = f"{names.BASE_FOLDER}/base.safetensors"


def silent(what: str, done: int, total: int) -> None:
    """A report that says nothing."""


def run_address(run: str) -> str:
    """A run's folder as every process names it: URIs as they are, local paths absolute."""
    return run if "://" in run else str(Path(run).expanduser().resolve())


def data_address(data: str) -> str:
    """The same for data: a published data set keeps its name before the place, a chosen split its name behind it."""
    if datasets.is_named(data):
        return datasets.absolute(data, run_address)
    place = place_of(data)
    return with_split(run_address(place.uri), place.split)


def model_address(model: str) -> str:
    """The same for a model: one that lies in a folder has the folder's address."""
    folder = model.removeprefix(FOLDER)
    return f"{FOLDER}{run_address(folder)}" if folder != model else model


def train(
    run: str, spec: RunSpec, *, monolithic: bool = False, lanes: int | None = None, report: Report = silent
) -> dict[str, Any]:
    """Bring a run to where every shard with samples has a delta, and compose it. Safe to call again at any time.

    Writes the spec, the activation cache and the deltas that are missing; repeats nothing that the ledger has.
    ``monolithic`` also trains one model over everything, on the same kind of worker, for comparison.
    """
    if lanes is not None and lanes < 1:
        raise UsageError(f"expected lanes >= 1, got {lanes}; set --lanes")
    began = time.time()
    run = run_address(run)
    store = Store(run)
    spec = replace(
        spec,
        data=data_address(spec.data),
        model=model_address(spec.model),
        weights=spec.weights and run_address(spec.weights),
    )
    notes: tuple[str, ...] = ()
    if not pinned(store):
        open_source(spec.data)  # before anything is written: a wrong path must leave no run behind
        loaded = load_model(spec.model, spec.weights, spec.image_size)
        tm = linearize(loaded.network, num_classes=2, **spec.linearize_options())  # refuses what this model cannot do
        if spec.compose == "joint":
            size = loaded.preprocess.size
            check_joint(tm, tm.prefix(torch.zeros(1, 3, size, size)))
        spec, notes = replace(spec, weights_digest=loaded.weights_digest), loaded.notes
    else:
        spec = replace(spec, weights_digest=run_spec(store).weights_digest)
    session.connect()
    session.check_device(spec.device)
    write_spec(store, spec.to_json())
    composer = composer_for(run)
    known: RunState = ask(composer.snapshot)
    secret = _secret(store, known, reading=known.cached is None)
    cpus, gpus = session.resources()
    gpus = (gpus or int(os.environ.get("TAFT_RAY_AUTOSCALED_GPUS", "0"))) if spec.device == "cuda" else 0
    count = lanes_for(spec.shards, gpus=gpus, cpus=cpus, threads=spec.threads, asked=lanes)
    ask(composer.begin, environment(count), secret and digest_bytes(secret))
    state: RunState = ask(composer.snapshot)
    work = state.cached is None or bool(pending_shards(state))
    make_room(run, spec, gpus or count)
    # On CPUs the lanes start beside the prefix pass and wait: their start takes as long as a small run's pass
    running = start_lanes(run, spec, composer, count) if work and not gpus else None
    trained_from, ready = time.time(), []
    try:
        if state.cached is None:
            trained_from = _cache(store, run, spec, composer, state, secret, workers=gpus or count, report=report)
    except BaseException:
        if running is not None:
            running.send_home()
        raise
    compare = monolithic and ask(composer.want_monolith)
    if work or compare:
        running = running or start_lanes(run, spec, composer, count if work else 1)
        ready = running.wait(report)
    state = ask(composer.snapshot)
    _check_all_trained(state)
    if work:
        fitted = [fit["facts"]["ended"] for fit in state.fits if fit["facts"]["ended"] >= trained_from]
        ended = max(fitted, default=time.time())  # the comparison model, trained after the shards, is not in it
        body = {
            "wall_seconds": ended - trained_from,
            "lanes": count,
            "started": trained_from,
            "ended": ended,
            "lanes_started": running and running.started,
            "lanes_ready": ready,
        }
        ask(composer.commit, "training-finished", body, f"training-finished/{trained_from}")
    if compare and ask(composer.want_monolith):
        # a composer that was killed meanwhile has forgotten the queue, not the ledger
        start_lanes(run, spec, composer, 1).wait(report)
        if ((ask(composer.snapshot)).monolith or {}).get("delta") is None:
            raise TaftError("the comparison model was not finished; run the same command again")
    composed = ask(composer.compose) if ask(composer.snapshot).in_model else None
    notes = (*notes, *say((ask(composer.snapshot).cached or {}).get("counts")))
    said = {"notes": list(notes)} if notes else {}
    return {**status(run), "compose": composed, "seconds": time.time() - began, **said}


def pinned(store: Store) -> bool:
    """Whether the folder is a run already."""
    return store.exists(names.SPEC_KEY)


def _secret(store: Store, state: RunState, *, reading: bool) -> bytes | None:
    """The key of the id hashes: made with the run, None once it was destroyed; then no data may be read in."""
    try:
        return id_key(store, create=state.created is None)
    except ObjectMissing:
        if reading:
            raise TaftError(
                f"{names.ID_KEY} in {store.uri} is gone, and without it nobody can tell which samples were forgotten: "
                "nothing may be read into this run any more; restore the key or make another run"
            ) from None
        return None


def environment(lanes: int) -> dict[str, Any]:
    """Where a run was made."""
    cpus, gpus = session.resources()
    return {
        "cpus": cpus,
        "gpus": gpus,
        "lanes": lanes,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _cache(
    store: Store,
    run: str,
    spec: RunSpec,
    composer: Any,
    state: RunState,
    secret: bytes | None,
    *,
    workers: int,
    report: Report,
) -> float:
    """Make the activation cache and commit it; returns when the lanes could begin (unix seconds)."""
    result = build_cache(
        store, run, spec, data=spec.data, shards=spec.shards, assignment=spec.assignment, classes=spec.classes,
        folders=f"{names.CACHE_FOLDER}/shard={{shard:05d}}", tombstones=state, secret=secret,
        workers=workers, report=report,
    )  # fmt: skip
    body = cached_facts(store, spec, result)
    committing = time.time()
    ask(composer.admit_cache, body)  # which removes the marks of the pass, too
    return committing


def cached_facts(store: Store, spec: RunSpec, result: CacheResult) -> dict[str, Any]:
    """Write the manifest and the linearisation point of a finished pass; what the ledger says of them."""
    meta = {"parts": result.parts, "classes": list(result.classes), "fingerprint": result.fingerprint}
    described = write_rows(store, result.table, meta, version=0)
    tm, _ = build_tangent(spec, len(result.classes))
    base = save({name: value.cpu().numpy() for name, value in sorted(tm.base.items())})
    store.write(BASE_KEY, base)
    samples = [sum(ref["rows"] for ref in result.parts.get(str(shard), [])) for shard in range(spec.shards)]
    return {
        "manifest": described["digest"],
        "manifest_key": described["key"],
        "base": {"key": BASE_KEY, "digest": digest_bytes(base)},
        "samples": samples,
        "counts": {**counts(result.table), **identical_counts(result.table)},
        "classes": list(result.classes),
        "fingerprint": result.fingerprint,
        "seconds": result.seconds,
        "prefix_seconds": result.prefix_seconds,
        "started": result.started,
        "ended": result.ended,
        "images": result.images,
        "bytes": result.bytes,
        "forgotten": result.forgotten,
    }


def _check_all_trained(state: RunState) -> None:
    left = pending_shards(state)
    if left:
        raise TaftError(f"shards {left[:8]} have no delta, yet the lanes went home; run the same command again")
    if all(shard.state == EMPTY for shard in state.shards.values()):
        raise DataError("every shard is empty: no sample was kept")


def evaluate(run: str, data: str, *, report: Report = silent) -> dict[str, Any]:
    """Accuracy of the composed model (both ways), of the monolith if there is one, and by number of shards."""
    run, data = run_address(run), data_address(data)
    store = Store(run)
    spec = run_spec(store)
    session.connect()
    composer = composer_for(run)
    ask(composer.recover_what_can_be)
    state: RunState = ask(composer.snapshot)
    parts, n_rejected = _eval_parts(store, run, spec, data, state, ask(composer.class_names), report)
    try:
        return measured(run, spec, data, composer, parts, n_rejected)
    except (IntegrityError, ObjectMissing) as error:
        # damage: its shard leaves the model, a damaged cache of evaluation data is made again; anything else stays an error
        found = (
            ask(composer.examine),
            ask(composer.examine_monolith),
            remove_damaged(store, names.eval_prefix(data), parts),
        )
        if not any(found):
            raise error
    parts, n_rejected = _eval_parts(store, run, spec, data, state, ask(composer.class_names), report)
    return measured(run, spec, data, composer, parts, n_rejected)


def _eval_parts(
    store: Store, run: str, spec: RunSpec, data: str, state: RunState, classes: Sequence[str], report: Report
) -> tuple[list[dict[str, Any]], int]:
    """Cached tokens of evaluation data; made once for a data set of this name and content."""
    prefix = names.eval_prefix(data)
    eval_store = Store(f"{run.rstrip('/')}/{prefix}")
    stamp = data_stamp(data)
    try:
        found = read_manifest(eval_store)
    except IntegrityError:
        found = None  # damaged: made again
    if found is None or found[1]["meta"]["stamp"] != stamp:
        cpus, gpus = session.resources()
        workers = (gpus if spec.device == "cuda" else 0) or lanes_for(
            spec.shards, gpus=0, cpus=cpus, threads=spec.threads
        )
        result = build_cache(
            store, run, spec, data=data, shards=1, assignment="hash", classes=classes,
            folders=f"{prefix}/shard={{shard:05d}}", tombstones=state, workers=workers, secret=_secret(store, state, reading=True),
            report=report,
        )  # fmt: skip
        meta = {
            "parts": result.parts,
            "classes": list(result.classes),
            "fingerprint": result.fingerprint,
            "stamp": stamp,
        }
        write_manifest(eval_store, result.table, meta)
        remove_markers(store, f"{prefix}/shard=00000")
        found = read_manifest(eval_store)
        if found is None:
            raise StorageError(f"{eval_store.uri}: the evaluation manifest vanished; run it again")
    total = counts(found[0])
    check_rejected(total, spec.max_rejected, examples(found[0]))
    return [part for refs in found[1]["meta"]["parts"].values() for part in refs], total["rejected"]


def data_stamp(data: str) -> str:
    """Changes when files of the data are added, removed or resized."""
    return digest_json([[file.relative, file.size] for file in open_source(data).files])


def status(run: str) -> dict[str, Any]:
    """Where a run stands, from its composer."""
    run = run_address(run)
    run_spec(Store(run))
    session.connect()
    composer = composer_for(run)
    in_the_way = ask(composer.recover_what_can_be)
    composed = ask(composer.composed_digest)  # which finds damage, should there be some: the state is asked after it
    state: RunState = ask(composer.snapshot)
    ill = quarantines(state)
    return {
        "run": run,
        "ok": not ill and in_the_way is None,
        "composed": composed,
        "shards": [
            {
                "shard": shard.shard,
                "generation": shard.generation,
                "samples": shard.samples,
                "state": shard.state,
                "delta": shard.delta["digest"] if shard.delta else None,
            }
            for _, shard in sorted(state.shards.items())
        ],
        "requests": [
            {
                "request": r.request,
                "mode": r.mode,
                "samples": len(r.hashes),
                "done": r.forgotten is not None,
                "deadline": r.deadline,
                "runs_at": planned_start(state, r),
            }
            for r in state.requests.values()
        ],
        "monolith": None if state.monolith is None else {"purged": state.monolith.get("delta") is None},
        "data": (state.cached or {}).get("counts"),  # as it was read in
        "samples": sum(shard.samples for shard in state.shards.values()),
        "to_do": _to_do(run, state),
        "quarantined": ill,
        "damaged": in_the_way,
    }


def _to_do(run: str, state: RunState) -> list[str]:
    """What somebody has to run: requests whose time has come, or that an interruption or an older copy of the folder left unfinished."""
    open_ones = due(state, time.time())
    requests = [f"requests {open_ones} are to be carried out: taft-ray forget {run} --due"] if open_ones else []
    ill = [shard.shard for shard in state.quarantined]
    lost = [f"the comparison model was damaged: taft-ray repair {run}"] if (state.monolith or {}).get("lost") else []
    return [*requests, *([way_out(run, ill)] if ill else []), *lost]

"""`audit --reconstruct`: how near an attacker comes to a deleted sample who has the models before and after its deletion.

Forgets are simulated in memory on samples that the run holds. Nothing is written, and no fact is committed.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from taft_ray.additive.tuning import column_scales
from taft_ray.attack.reconstruction import Knowledge
from taft_ray.data import Undecodable, decode_image
from taft_ray.data.unlabelled import find_pictures, read_pictures
from taft_ray.errors import UsageError
from taft_ray.models import Preprocess
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.tokens import prefix_tokens
from taft_ray.privacy.accounting import mu_of
from taft_ray.progress import Report, silent
from taft_ray.proof import reconstruct_deltas, reconstruct_sums
from taft_ray.proof.reconstruct_sums import Found, Held
from taft_ray.run.choice import choice_for, rows_of_shard, with_rows
from taft_ray.run.environment import settle, torch_settings_kept
from taft_ray.run.record import Record
from taft_ray.run.rows import build_rows, sums_from
from taft_ray.run.sums import sums_of
from taft_ray.workers.refitting import Refitting

MOST_HELD, MOST_PUBLIC = 65_536, 2000  # pictures whose rows are in memory at once
NOISY_EPSILON, NOISY_DELTA = 8.0, 1e-5
PUBLIC = "public data"


def reconstruct(record: Record, *, never_seen: str | None, picks: int = 20, report: Report = silent) -> dict[str, Any]:
    """The attacks on a run's releases. never_seen: pictures that the run never saw; None: the attacker knows its own alone.

    {"run", "attacks": [each with its way, batch, what is known, and the risk], "epsilon", "delta", "left_out", "seconds"}. The
    budget is that of noisy sums. "left_out" has sentences on what was not attacked.

    UsageError where the run has no release of the kinds that are attacked.
    """
    began, spec = time.perf_counter(), record.spec
    if picks < 1:
        raise UsageError(f"picks={picks}: expected 1 or more; set --picks")
    if record.state.cached is None or (not record.state.in_model and not with_rows(record.state)):
        raise UsageError(f"no shard is in the model of {record.store.uri}; train first")

    def step(what: str) -> None:
        report(f"reconstruct: {what}", 0, 1)

    found: list[Found] = []
    with torch_settings_kept():
        settle(spec)
        pixels = _public_pixels(spec, never_seen) if never_seen is not None else []
        if spec.additive:
            held = held_rows(record)
            knowledge = [held.own(), *_public_rows(spec, pixels)]
            mu = mu_of(NOISY_EPSILON, NOISY_DELTA)
            found += reconstruct_sums.attacks(held, knowledge, picks=picks, mu=mu, seed=spec.seed, step=step)
        reason = _no_deltas(record)
        if reason is None:
            found += _deltas(record, pixels, picks, step)
    if not found:
        raise UsageError(f"nothing of {record.store.uri} can be attacked: {reason}; --privacy audits noise")
    return {
        "run": record.store.uri,
        "attacks": [{"way": one.way, "batch": one.batch, "known": one.known, **asdict(one.risk)} for one in found],
        **({"epsilon": NOISY_EPSILON, "delta": NOISY_DELTA} if spec.additive else {}),
        "left_out": [f"deltas: {reason}"] if reason is not None and not spec.lean else [],
        "seconds": time.perf_counter() - began,
    }


def held_rows(record: Record) -> Held:
    """The rows of an additive model, at most `MOST_HELD`, and its sums and settings."""
    store, spec, state = record.store, record.spec, record.state
    arrays = {name: total.numpy() for name, total in sums_of(store, state, spec.two_tiers).totals.items()}
    tuned = choice_for(store, state, arrays)
    rows: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    shards: list[np.ndarray] = []
    for shard in with_rows(state):
        for _, values, classes in rows_of_shard(store, shard):
            if sum(map(len, rows)) < MOST_HELD:
                rows.append(values)
                labels.append(classes)
                shards.append(np.full(len(classes), shard.shard))
    changes: dict[str, Any] = {"scales": None}
    if tuned is not None and tuned.policy is not None and tuned.settings is not None:
        scales = column_scales(tuned.policy.groups, tuned.settings.size, tuned.settings.weights)
        changes = {"scales": scales, "penalties": tuned.policy.penalties}
    return Held(
        sums=sums_from(arrays),
        rows=np.concatenate(rows),
        labels=np.concatenate(labels),
        shards=np.concatenate(shards),
        **changes,
    )


def _no_deltas(record: Record) -> str | None:
    """Why no delta is attacked; None where they are."""
    spec = record.spec
    if spec.lean:
        return "the run has none"
    if spec.privacy is not None:
        return "fits are private, and each would need its own noise"
    if spec.solver != "ridge":
        return f"the attack needs the optimum of ridge, and the solver is {spec.solver}"
    return None if record.state.in_model else "no shard's delta is in the model"


def _deltas(record: Record, pixels: list[np.ndarray], picks: int, step: Any) -> list[Found]:
    """The attack on the largest shard's delta."""
    state, seed = record.state, record.spec.seed
    worker = Refitting(record.store.uri, len(state.classes))
    shards = sorted(state.in_model, key=lambda shard: (-shard.samples, shard.shard))
    public = worker.pictures(pixels) if len(pixels) > 1 else None
    shard = worker.shard(record.parts([shards[0].shard]))
    found = list(reconstruct_deltas.attacks(worker, shard, public, picks=picks, seed=seed, step=step))
    if len(shards) > 1:
        step("drop of a delta")
        other = worker.shard(record.parts([shards[1].shard]))
        found += reconstruct_deltas.dropped(worker, shard, other, public, seed=seed)
    return found


def _public_pixels(spec: RunSpec, uri: str) -> list[np.ndarray]:
    from taft_ray.run.model import load_for

    size = load_for(spec).preprocess.size
    found: list[np.ndarray] = []
    for some in read_pictures(find_pictures([uri], "--never-seen")):
        for _, picture in some:
            if picture is None or len(found) == MOST_PUBLIC:
                continue
            try:
                found.append(decode_image(picture, size, spec.exif_orientation))
            except Undecodable:
                continue
    if len(found) < 2:
        raise UsageError(f"{uri} has {len(found)} pictures that can be read: a covariance needs two or more")
    return found


def _public_rows(spec: RunSpec, pixels: list[np.ndarray]) -> list[Knowledge]:
    if not pixels:
        return []
    from taft_ray.additive.grid import from_rows

    maker, preprocess, _ = build_rows(spec)
    assert isinstance(preprocess, Preprocess)
    return [Knowledge.of(PUBLIC, from_rows(prefix_tokens(maker, preprocess, pixels, spec)[:, 0]))]

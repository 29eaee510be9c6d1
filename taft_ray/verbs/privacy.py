"""`privacy`: what a private run has spent, by shard, and what of it may be published. Starts nothing."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taft_ray.composer.composer import Composer
from taft_ray.errors import Unregistered, UsageError
from taft_ray.log import operation
from taft_ray.plans.privacy import Privacy
from taft_ray.plans.releases import STATEMENT as STATEMENT_RELEASED
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.spending import epsilon_spent, mu_spent
from taft_ray.plans.state import RunState
from taft_ray.run.address import run_address
from taft_ray.run.record import Record
from taft_ray.run.register import NOBODY, Recipient, commit, made_of, sent_to
from taft_ray.storage import canonical_json, digest_json

STATEMENT = "taft_ray.privacy-statement/1"


@operation("privacy")
def privacy(run: str) -> dict[str, Any]:
    """The odometer of each shard: μ and ε of all its fits together, and of the run, whose shards are disjoint.

    ε of a shard is that of each of its samples (or owners), forgotten ones included. UsageError where the run is not private.
    """
    run = run_address(run)
    composer = Composer(run)
    asked = _asked(composer)
    composer.queue.reserving.restore()
    return privacy_of(run, asked, composer.snapshot(), composer.composed_digest())


def privacy_of(run: str, asked: Privacy, state: RunState, composed: str | None) -> dict[str, Any]:
    """The answer of `privacy` from a state that was read. composed: the digest of the composed model."""
    shards = [_shard(state, number, asked) for number in sorted(state.shards.keys() | state.reservations.keys())]
    worst = max((one["epsilon"] for one in shards), default=0.0)
    return {
        "run": run,
        "epsilon": worst,
        "delta": asked.delta,
        "budget": asked.budget,
        "left": None if asked.budget is None else max(0.0, asked.budget - worst),
        "unit": asked.unit,
        "adjacency": asked.adjacency,
        "epsilon_of_a_fit": asked.epsilon,
        "mu_of_a_fit": asked.mu,
        "noise_multiplier": asked.noise_multiplier,
        **({} if asked.mean_multiplier is None else {"mean_multiplier": asked.mean_multiplier}),
        "steps": asked.steps,
        "clip": asked.clip,
        **({} if asked.sampling_rate is None else {"sampling_rate": asked.sampling_rate}),
        "accountant": asked.accountant,
        "composed": composed,
        "shards": shards,
    }


def _asked(composer: Composer) -> Privacy:
    asked = composer.record.spec.privacy
    if asked is None:
        raise UsageError(
            f"{composer.record.store.uri} is no private run: it has no noise and no budget; train one with --private"
        )
    return asked


def _shard(state: RunState, number: int, asked: Privacy) -> dict[str, Any]:
    several = state.reservations.get(number, [])
    known = state.shards.get(number)
    return {
        "shard": number,
        "state": "unknown" if known is None else known.told,
        "fits": len(several),
        "generations": sorted({one.generation for one in several}),
        "mu": mu_spent(several, asked.delta),
        "epsilon": epsilon_spent(several, asked.delta),
        "restored": sum(one.restored for one in several),
    }


def statement(run: str) -> dict[str, Any]:
    """The statement that may be published beside the model: the guarantee and the mechanism, and nothing that depends on single samples.

    The ledger itself is not private: its digests confirm guesses of whoever has them.
    """
    told = privacy(run)
    spec: RunSpec = Composer(run_address(run)).record.spec
    assert spec.privacy is not None
    body = {
        "schema": STATEMENT,
        "model": told["composed"],
        "network": spec.model,
        "weights": spec.weights_digest,
        "classes": list(spec.classes or ()),
        "epsilon": math.ceil(told["epsilon"] * 1e9) / 1e9,
        "delta": told["delta"],
        "unit": told["unit"],
        "adjacency": told["adjacency"],
        "mechanism": {
            "solver": spec.solver,
            "steps": told["steps"],
            "clip": told["clip"],
            "noise_multiplier": told["noise_multiplier"],
            **{name: told[name] for name in ("mean_multiplier",) if name in told},
            **(
                {}
                if spec.privacy.sampling_rate is None
                else {"sampling": "Poisson", "sampling_rate": told["sampling_rate"]}
            ),
            "shards": spec.shards,
            "divisor": spec.privacy.divisor or f"{spec.privacy.unit}s of each shard",
            "learning_rate": "by the divisor" if spec.privacy.logit_noise is not None else spec.privacy.learning_rate,
            **({"public": spec.privacy.public_digest} if spec.privacy.public is not None else {}),
            "composition": f"disjoint shards by {_assigned(spec)} (parallel); fits of one shard add up {_adds_up(spec.privacy)}",
        },
        "accountant": told["accountant"],
        "holds_towards": "whoever has every model that this run ever gave out, and not its folder, its keys or its ledger",
        "does_not_cover": _DOES_NOT_COVER,
    }
    return {**body, "digest": digest_json(body)}


def _adds_up(asked: Privacy) -> str:
    return (
        "as Gaussian differential privacy"
        if asked.sampling_rate is None
        else "step by step, as sums of privacy losses (PRV)"
    )


def _assigned(spec: RunSpec) -> str:
    return "owner" if spec.assignment == "grouped" else "a hash of the id"


_DOES_NOT_COVER = [
    "other runs on the same samples, and copies of this run at other places: what each spends adds up",
    "whoever can read the run's folder: the cache, the keys of the noise, and the ledger with its digests",
    "evaluations on data that is not public",
    "settings that were chosen on the private data by other means than this run",
    "samples of one person under several ids, where the unit is a sample",
]


def draw(told: Mapping[str, Any], file: str | os.PathLike[str]) -> None:
    """Write the picture of `privacy`'s answer as SVG."""
    from taft_ray.pages.figures.privacy import spent_picture

    with open(file, "wb") as out:
        out.write(spent_picture(told))


def write_statement(
    run: str, file: str | os.PathLike[str], recipient: Recipient = NOBODY, register: bool = True
) -> dict[str, Any]:
    """`statement`, written there as canonical JSON once it is registered; with the name of its release, as "release".

    The same statement to the same recipient is one release. Without ``register``, and where the ledger cannot be written, it has
    {"registered": false} instead.
    """
    path, made = Path(file), statement(run)
    record = Record(run_address(run))
    data = canonical_json(made) + b"\n"
    digest = hashlib.sha256(data).hexdigest()
    told = (digest, recipient.to, recipient.contact, recipient.until)
    name = digest_json(list(told))[:16]
    fact = sent_to(made_of(record, STATEMENT_RELEASED, made["model"], None), recipient)
    aside = path.parent / f".{path.name}.{name}"
    try:
        aside.write_bytes(data)
        try:
            commit(record, replace(fact, release=name, digest=digest, bytes=len(data)))
            answer = {**made, "release": name}
        except Unregistered:
            if register:
                raise
            body = {**{key: value for key, value in made.items() if key != "digest"}, "registered": False}
            answer = {**body, "digest": digest_json(body)}
            aside.write_bytes(canonical_json(answer) + b"\n")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return answer

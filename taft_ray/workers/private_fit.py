"""A private fit: what the reservation of a task says, with the noise of its key. Nothing is fitted without both."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from taft_ray.additive import HeadOnRows, Whitened, released
from taft_ray.errors import IntegrityError, UsageError
from taft_ray.fitting import FitReport, FittedDelta, Noise, PrivateRecipe, Sampling, private_descent
from taft_ray.plans.spending import DpReserved
from taft_ray.prefix import whitening
from taft_ray.privacy import BatchStream, GaussianStream, commitment, stream_seed
from taft_ray.run.reserved import inputs_digest
from taft_ray.storage import digest_json
from taft_ray.storage import rundir as names
from taft_ray.tangent.prepared import Pictures
from taft_ray.workers.run_model import Loaded, RunModel

if TYPE_CHECKING:
    from taft_ray.workers.shard_worker import Progress


def private_fit(model: RunModel, loaded: Loaded, progress: Progress | None) -> tuple[FittedDelta, DpReserved]:
    """The delta of a shard by noisy gradient descent (`fitting.private`), and what was reserved for it.

    It reports nothing of the samples: no loss, no norm and no accuracy. UsageError for a task without a reservation.
    """
    reserved = _reservation(model, loaded)
    secret = names.read_secret(model.store, reserved.key.key)
    if commitment(secret) != reserved.key.digest:
        raise IntegrityError(f"{reserved.key.key} is not the key that was reserved; restore it from a copy")
    spec = model.spec
    seed = stream_seed(secret, spec=digest_json(spec.to_json()), inputs=reserved.inputs, reservation=reserved.digest)
    noise, rate = GaussianStream(seed), reserved.sampling_rate
    sampling = None if rate is None else Sampling(rate=rate, batches=BatchStream(seed))
    recipe = PrivateRecipe(
        steps=reserved.steps, learning_rate=reserved.learning_rate, clip=reserved.clip,
        noise_multiplier=reserved.noise_multiplier, divisor=reserved.divisor,
    )  # fmt: skip
    numbers = loaded.task.get("units")
    units = None if numbers is None else torch.tensor([numbers[key.hex()] for key in loaded.keys], dtype=torch.int64)
    began = time.perf_counter()
    whitened = _whitened(model, loaded.pictures, reserved, noise, units)
    pictures = loaded.pictures if whitened is None else whitened.whole()
    made = private_descent(
        model.tm, pictures, loaded.labels, spec.fit_config().as_loss(), recipe, noise, units=units, progress=progress,
        apart=reserved.adjacency == "add-remove", sampling=sampling, budget=spec.constants_bytes,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    report = FitReport(
        solver=spec.solver, samples=len(loaded.labels), iterations=made.steps, seconds=seconds, nonfinite=made.nonfinite
    )
    delta = made.delta if whitened is None else whitened.back(made.delta)
    return FittedDelta(delta, report), reserved


def _whitened(
    model: RunModel, pictures: Pictures, reserved: DpReserved, noise: Noise, units: torch.Tensor | None
) -> Whitened | None:
    """Rows as they are fitted: about their released mean, whitened; None where they are fitted as they are."""
    privacy = model.spec.privacy
    matrix = centre = None
    if privacy is not None and privacy.public is not None:
        matrix = torch.from_numpy(whitening.read(model.store, model.spec))
    if reserved.mean_multiplier is not None:
        assert isinstance(model.tm, HeadOnRows)  # `check_private` has seen to it
        centre = released(
            model.tm.stored(pictures), noise, step=reserved.steps, noise_multiplier=reserved.mean_multiplier,
            divisor=reserved.divisor, units=None if units is None else units.numpy(),
        )  # fmt: skip
    return Whitened.about(pictures, centre, matrix)


def _reservation(model: RunModel, loaded: Loaded) -> DpReserved:
    task = loaded.task
    if task["shard"] == "monolith":
        raise UsageError("a comparison model over everything would spend privacy that nobody charged; leave it out")
    if "reserved" not in task:
        raise UsageError(f"shard {task['shard']} of {model.store.uri} has no privacy reserved for this fit")
    reserved = DpReserved.from_json(task["reserved"])
    inputs = inputs_digest([part["digest"] for part in task["parts"]], task.get("units"))
    if (reserved.shard, reserved.generation) != (task["shard"], task["generation"]) or reserved.inputs != inputs:
        raise UsageError(f"the privacy reserved for shard {task['shard']} is of other inputs; ask for the task again")
    return reserved

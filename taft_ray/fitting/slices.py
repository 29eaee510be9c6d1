"""Adam in stages over the slices of a shard, so that a fit can start again just before the slice that lost a picture.

Source: slicing in SISA training (Bourtoule et al., "Machine Unlearning", S&P 2021). With R slices, stage r = 1..R is

    Δw_r = Adam(pictures of slices 0..r−1, from Δw_{r−1}),   Δw_0 = 0

and Δw_k, for 0 < k < R, is the checkpoint of stage k. It saw slices 0..k−1 and nothing else, so a picture of slice j is in
none of Δw_1..Δw_j. A fit that goes on from Δw_j is the fit that never had the picture.

Epochs: with n/R pictures a slice and e epochs in each stage there are Σ_r e·r·n/R = e·n·(R+1)/2 visits to pictures. As many as
the recipe's E·n, as in SISA, gives

    e = 2E/(R+1), rounded, at least 1;   milestones scaled by e/E

which depends on E and R alone: were it fitted to the slices' sizes, a picture that leaves would change the stages before it.

The cost: a retrain after losing one random picture makes (2R+1)/(3R) of the visits in the mean: never less than 2/3.
The early slices are seen more often than the late ones, which get only the last e epochs. Every stage begins with an Adam that
has forgotten its moments and with the full learning rate. That is a choice: a checkpoint is a delta and nothing else, and
there is no optimiser state to store, to check and to purge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from taft_ray.fitting.adam import Descent, EpochOrder, Recipe, Trainable, Watch, descend
from taft_ray.fitting.loss import Loss
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.prepared import Pictures

KeepCheckpoint = Callable[[int, Delta], None]  # (stage, Δw after it)


def stage_recipe(recipe: Recipe, slices: int) -> Recipe:
    """The recipe of each stage. One slice: the recipe itself."""
    whole, epochs = recipe.epochs, max(1, _rounded(2 * recipe.epochs, slices + 1))
    # a milestone that is scaled down to epoch 0 would take the first step at a tenth of the rate
    milestones = tuple(max(min(at, 1), _rounded(at * epochs, whole)) for at in recipe.milestones)
    return replace(recipe, epochs=epochs, milestones=milestones)


def descend_by_slices(
    model: Trainable,
    pictures: Pictures,
    labels: Tensor,
    loss: Loss,
    recipe: Recipe,
    *,
    slice_of: Tensor,
    slices: int,
    done: int,
    order: EpochOrder,
    start: Delta,
    checkpoint: KeepCheckpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
    watch: Watch | None = None,
) -> Descent:
    """All stages after the first ``done``, whose Δw is ``start``. At least one picture; slices may be empty.

    Guarantees: with one slice the bits are `descend`'s. If ``order`` sorts pictures by something of their own (as
    `data.epoch_order` does), stage k's bits depend on the pictures of slices 0..k-1 alone.
    """
    staged = stage_recipe(recipe, slices)
    seen = [int((slice_of < stage).sum()) for stage in range(slices + 1)]  # by stage
    steps = {stage: staged.epochs * -(-seen[stage] // staged.batch_size) for stage in range(done + 1, slices + 1)}
    delta, behind, objective, history = start, 0, 0.0, []

    def order_in(stage: int) -> EpochOrder:
        def inside(count: int, seed: int, epoch: int) -> Tensor:
            # counted on through the stages, so that no two of them visit the pictures in the same orders
            permutation = order(count, seed, (stage - 1) * staged.epochs + epoch)
            return permutation[slice_of[permutation] < stage]

        return inside

    def stage_progress(step: int, _: int) -> None:
        if progress is not None:
            progress(behind + step, sum(steps.values()))

    def stage_watch(epoch: int, _: int, after: Delta) -> None:
        if watch is not None:
            watch((stage - 1) * staged.epochs + epoch, slices * staged.epochs, after)

    for stage in steps:
        if seen[stage]:
            descent = descend(
                model, pictures, labels, loss, staged, order=order_in(stage), start=delta, progress=stage_progress,
                watch=stage_watch,
            )  # fmt: skip
            delta, objective = descent.delta, descent.objective
            history += descent.history
            behind += descent.steps
        if checkpoint is not None and stage < slices:
            checkpoint(stage, delta)
    return Descent(delta=delta, steps=behind, objective=objective, history=history)


def _rounded(numerator: int, denominator: int) -> int:
    """The nearest integer, halves up: in integers, so that it is the same everywhere."""
    return (2 * numerator + denominator) // (2 * denominator)

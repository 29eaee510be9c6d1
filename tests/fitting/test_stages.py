"""Slices: going on from a checkpoint equals never having had the picture; one slice is the recipe itself."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from cases import BY_ID, CLASSES, build, images
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taft_ray.data import epoch_order, sample_key
from taft_ray.errors import DeltaMismatch, UsageError
from taft_ray.fitting import FitConfig, FittedDelta, Loss, fit
from taft_ray.fitting.adam import descend, index_order
from taft_ray.fitting.slices import stage_recipe
from taft_ray.tangent import Delta, Prepared, TangentModel, linearize

COUNT = 12
KEYS = sorted(sample_key(f"picture-{number}", 0) for number in range(COUNT))
SLICE_OF = (0, 1, 2, 0, 1, 2, 3, 3, 1, 0, 2, 3)  # of each picture, in four slices


@cache
def problem() -> tuple[TangentModel, Prepared, Tensor]:
    """(tangent model, prepared pictures, labels): a tiny one; not to be changed."""
    case = BY_ID["vit"]
    tm = linearize(build(case), trainable="norm")
    labels = torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(7))
    return tm, tm.prepare(tm.prefix(images(case, count=COUNT, seed=8))), labels


def config_of(slices: int, **changes: object) -> FitConfig:
    options: dict = {"solver": "adam", "epochs": 4, "batch_size": 3, "milestones": (2,), "slices": slices, "seed": 3}
    return FitConfig(**{**options, **changes})


def fitted(
    config: FitConfig, pictures: Sequence[int], slice_of: Sequence[int] = SLICE_OF, **going_on: object
) -> tuple[FittedDelta, dict[int, Delta]]:
    """The fit of these pictures alone, in slices and in the order of their keys; and its checkpoints by stage."""
    tm, prepared, labels = problem()
    index = torch.tensor(list(pictures), dtype=torch.int64)
    keys = [KEYS[picture] for picture in pictures]
    kept: dict[int, Delta] = {}

    def by_key(count: int, seed: int, epoch: int) -> Tensor:
        assert count == len(keys)
        return torch.from_numpy(epoch_order(keys, seed=seed, epoch=epoch))

    delta = fit(
        tm, prepared[index], labels[index], config, order=by_key, checkpoint=kept.__setitem__,
        slice_of=torch.tensor([slice_of[picture] for picture in pictures], dtype=torch.int64), **going_on,  # type: ignore[arg-type]
    )  # fmt: skip
    return delta, kept


def same(one: Delta, other: Delta) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without(*gone: int) -> list[int]:
    return [picture for picture in range(COUNT) if picture not in gone]


@pytest.mark.parametrize("gone", range(COUNT))
def test_going_on_before_the_lost_slice_equals_never_having_had_the_picture(gone: int) -> None:
    """Every picture, hence every slice, the first and the last among them."""
    config, lost = config_of(4), SLICE_OF[gone]
    _, before = fitted(config, range(COUNT))
    never, checkpoints = fitted(config, without(gone))
    going_on = {"start": before[lost], "done": lost} if lost else {}
    again, rest = fitted(config, without(gone), **going_on)
    assert same(again, never)
    assert sorted(before) == sorted(checkpoints) == [1, 2, 3]
    assert sorted(rest) == list(range(lost + 1, 4))
    assert all(same(rest[stage], checkpoints[stage]) for stage in rest)
    assert again.report.history == never.report.history[-len(again.report.history) :]
    assert again.report.objective == never.report.objective
    # a stage that saw the picture is another Δw, one that did not is the same: nothing holds because nothing was learnt
    assert [same(before[stage], checkpoints[stage]) for stage in (1, 2, 3)] == [stage <= lost for stage in (1, 2, 3)]


@settings(max_examples=25, deadline=None)
@given(data=st.data(), slices=st.integers(2, 6))
def test_going_on_equals_never_seen_for_any_slices_and_any_losses(data: st.DataObject, slices: int) -> None:
    """Slices may be empty from the start or run empty, and so may everything before the checkpoint."""
    slice_of = data.draw(st.lists(st.integers(0, slices - 1), min_size=COUNT, max_size=COUNT), label="slice of")
    gone = data.draw(st.sets(st.integers(0, COUNT - 1), min_size=1, max_size=COUNT), label="lost")
    config, lost = config_of(slices, epochs=3, batch_size=5), min(slice_of[picture] for picture in gone)
    _, before = fitted(config, range(COUNT), slice_of)
    never, checkpoints = fitted(config, without(*gone), slice_of)
    for stage in range(lost + 1):  # the latest that may be used, and every earlier one
        going_on = {"start": before[stage], "done": stage} if stage else {}
        again, _ = fitted(config, without(*gone), slice_of, **going_on)
        assert same(again, never)
    if len(gone) < COUNT:
        assert all(same(before[stage], checkpoints[stage]) for stage in range(1, lost + 1))


def test_checkpoint_of_no_pictures_is_zero() -> None:
    delta, kept = fitted(config_of(4), range(COUNT), [2] * COUNT)
    assert not any(value.any() for stage in (1, 2) for value in kept[stage].values())
    assert any(value.any() for value in kept[3].values())
    assert any(value.any() for value in delta.values())


def test_checkpoint_is_not_written_to_afterwards() -> None:
    tm, prepared, labels = problem()
    copies: dict[int, dict[str, Tensor]] = {}
    kept: dict[int, Delta] = {}

    def keep(stage: int, delta: Delta) -> None:
        kept[stage], copies[stage] = delta, {name: value.clone() for name, value in delta.items()}

    fit(tm, prepared, labels, config_of(4), slice_of=torch.tensor(SLICE_OF), checkpoint=keep)
    assert all(torch.equal(kept[stage][name], value) for stage in kept for name, value in copies[stage].items())


def test_one_slice_is_the_recipe_bit_for_bit() -> None:
    tm, prepared, labels = problem()
    config = config_of(1)
    plain = descend(tm, prepared, labels, Loss(), config.as_recipe(), order=index_order, start=tm.zero_delta())
    unsliced = fit(tm, prepared, labels, config)

    def no_stage(stage: int, delta: Delta) -> None:
        pytest.fail(f"one slice has no stage to keep, got {stage}")

    named = fit(tm, prepared, labels, config, slice_of=torch.zeros(COUNT, dtype=torch.int64), checkpoint=no_stage)
    for result in (unsliced, named):
        assert same(result, plain.delta)
        assert result.report.history == plain.history
        assert (result.report.iterations, result.report.objective) == (plain.steps, plain.objective)


def test_stage_is_the_recipe_on_the_pictures_so_far() -> None:
    """The law of the module, by hand: Δw_r = Adam(slices 0..r-1, from Δw_{r-1}), a fresh Adam with scaled milestones."""
    tm, prepared, labels = problem()
    config = config_of(3, epochs=6, milestones=(4,))  # e = 2·6/4 = 3, milestone 4·3/6 = 2
    expected = tm.zero_delta()
    slice_of = torch.tensor([part % 3 for part in SLICE_OF])
    for stage in (1, 2, 3):
        seen = torch.nonzero(slice_of < stage).flatten()
        leaves = {name: value.clone().requires_grad_() for name, value in expected.items()}
        optimizer = torch.optim.Adam(leaves.values(), lr=1e-3)
        for epoch in range(3):
            optimizer.param_groups[0]["lr"] = 1e-3 if epoch < 2 else 1e-4
            visited = epoch_order([KEYS[i] for i in seen], seed=3, epoch=3 * (stage - 1) + epoch)
            for index in seen[torch.from_numpy(visited)].split(3):
                optimizer.zero_grad()
                batch = prepared[index]
                value = Loss().per_sample(batch.primal + tm.tangent(batch, leaves), labels[index]).mean()
                (value + config.penalty * sum(leaf.square().sum() for leaf in leaves.values())).backward()
                optimizer.step()
        expected = Delta({name: leaf.detach() for name, leaf in leaves.items()})
    got, _ = fitted(config, range(COUNT), slice_of.tolist())
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-7, atol=1e-9)


@given(epochs=st.integers(1, 200), slices=st.integers(1, 40), even=st.integers(1, 50))
def test_stages_make_about_as_many_visits_as_the_recipe(epochs: int, slices: int, even: int) -> None:
    """Exactly as many but for rounding an epoch count to the nearest; where that is below one, more."""
    recipe = config_of(slices, epochs=epochs, milestones=(epochs // 2, epochs)).as_recipe()
    staged = stage_recipe(recipe, slices)
    visits = staged.epochs * sum(stage * even for stage in range(1, slices + 1))
    off = abs(visits - epochs * slices * even)
    assert off <= 0.5 * sum(stage * even for stage in range(1, slices + 1)) or staged.epochs == 1
    assert staged.epochs >= 1
    assert staged.milestones[1] == staged.epochs
    assert (staged.milestones[0] == 0) == (epochs // 2 == 0)
    assert 0 <= staged.milestones[0] <= staged.epochs
    assert (staged.batch_size, staged.learning_rate, staged.seed) == (3, 1e-3, 3)
    assert stage_recipe(recipe, 1) == recipe


@pytest.mark.parametrize(("slices", "epochs", "milestones"), [(1, 30, (15, 25)), (2, 20, (10, 17)), (4, 12, (6, 10)),
                                                              (8, 7, (4, 6)), (100, 1, (1, 1))])  # fmt: skip
def test_stages_of_the_papers_recipe(slices: int, epochs: int, milestones: tuple[int, ...]) -> None:
    staged = stage_recipe(FitConfig(solver="adam").as_recipe(), slices)
    assert (staged.epochs, staged.milestones) == (epochs, milestones)


def test_no_two_stages_have_an_epoch_in_common() -> None:
    tm, prepared, labels = problem()
    asked: list[int] = []

    def order(count: int, seed: int, epoch: int) -> Tensor:
        asked.append(epoch)
        return index_order(count, seed, epoch)

    fit(tm, prepared, labels, config_of(3), order=order, slice_of=torch.tensor([part % 3 for part in SLICE_OF]))
    assert asked == list(range(6))  # e = 2·4/4 = 2


@pytest.mark.parametrize("done", [0, 1, 3])
def test_progress_counts_the_steps_that_are_left(done: int) -> None:
    _, kept = fitted(config_of(4), range(COUNT))
    seen: list[tuple[int, int]] = []
    going_on = {"start": kept[done], "done": done} if done else {}
    delta, _ = fitted(config_of(4), range(COUNT), progress=lambda step, of: seen.append((step, of)), **going_on)
    sizes = [sum(part < stage for part in SLICE_OF) for stage in range(done + 1, 5)]
    most = 2 * sum(-(-size // 3) for size in sizes)  # e = 2·4/5, rounded
    assert seen == [(step, most) for step in range(1, most + 1)]
    assert delta.report.iterations == most


def test_no_pictures_give_zero_without_checkpoints() -> None:
    delta, kept = fitted(config_of(4), [])
    assert not any(value.any() for value in delta.values())
    assert kept == {}


def test_wrong_slices_are_refused() -> None:
    tm, prepared, labels = problem()
    given_slices = torch.tensor(SLICE_OF)
    cases: list[tuple[dict, str]] = [
        ({}, "slices=4 needs slice_of"),
        ({"slice_of": given_slices[1:]}, "12 pictures, but the slices of 11"),
        ({"slice_of": given_slices + 1}, r"values 1\.\.4, expected 0\.\.3"),
        ({"slice_of": given_slices - 1}, r"values -1\.\.2, expected 0\.\.3"),
        ({"slice_of": given_slices, "done": 4, "start": tm.zero_delta()}, "0 <= done < 4"),
        ({"slice_of": given_slices, "done": -1, "start": tm.zero_delta()}, "0 <= done < 4"),
        ({"slice_of": given_slices, "done": 2}, "needs start, the checkpoint of stage 2"),
    ]
    for options, message in cases:
        with pytest.raises(UsageError, match=message):
            fit(tm, prepared, labels, config_of(4), **options)
    with pytest.raises(UsageError, match="0 <= done < 1"):
        fit(tm, prepared, labels, config_of(1), done=1, start=tm.zero_delta())
    with pytest.raises(DeltaMismatch):
        fit(tm, prepared, labels, config_of(4), slice_of=given_slices, done=1, start=Delta({"w": torch.zeros(1)}))


def test_only_adam_has_slices() -> None:
    with pytest.raises(UsageError, match=r"slices=2: solver='ridge'.*--slices 1, or --solver adam"):
        FitConfig(slices=2)
    with pytest.raises(UsageError, match="expected slices >= 1, got 0; set --slices"):
        FitConfig(solver="adam", slices=0)


@pytest.mark.parametrize("slices", [1, 3])
def test_watch_sees_every_epoch_and_changes_nothing(slices: int):
    tm, prepared, labels = problem()
    config, parts = config_of(slices), torch.tensor(SLICE_OF) % slices
    seen: list[tuple[int, int]] = []
    last: list[Delta] = []

    def watch(done: int, most: int, delta: Delta) -> None:
        seen.append((done, most))
        last[:] = [delta.map(torch.clone)]

    watched = fit(tm, prepared, labels, config, slice_of=parts, watch=watch)
    epochs = slices * stage_recipe(config.as_recipe(), slices).epochs
    assert seen == [(done, epochs) for done in range(1, epochs + 1)]
    alone = fit(tm, prepared, labels, config, slice_of=parts)
    assert all(torch.equal(watched[name], alone[name]) and torch.equal(last[0][name], alone[name]) for name in alone)

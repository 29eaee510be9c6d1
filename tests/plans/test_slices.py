"""Slice checkpoints: which survive a loss, where the next fit starts, and what it costs."""

from fractions import Fraction

import pytest
from history import Entry, cached, delta_ref
from hypothesis import given
from hypothesis import strategies as st

from taft_ray.data import sample_keys, slice_of
from taft_ray.plans.fold import replay
from taft_ray.plans.orphans import orphans
from taft_ray.plans.slices import after_fit, after_loss, expected_visits, lost_slices, resume_from, visits_left
from taft_ray.plans.state import RunState
from taft_ray.storage import CheckpointRef


def ref(stage: int, of: str = "a") -> CheckpointRef:
    return CheckpointRef(stage, f"checkpoints/shard=00000/{stage:03d}-{of}", f"{of}{stage}", 8)


stages = st.sets(st.integers(1, 12)).map(lambda found: [ref(stage) for stage in found])
losses = st.sets(st.integers(0, 12))


@given(stages, losses)
def test_checkpoint_survives_just_if_it_saw_no_slice_that_lost_a_sample(
    refs: list[CheckpointRef], lost: set[int]
) -> None:
    survival = after_loss(refs, lost)
    for one in refs:
        saw = set(range(one.stage))
        assert (one in survival.purged) == bool(saw & lost)
        assert (one in survival.kept) == (one not in survival.purged)
    assert len(survival.kept) + len(survival.purged) == len(refs)


@given(stages, losses, losses)
def test_two_losses_are_one(refs: list[CheckpointRef], first: set[int], second: set[int]) -> None:
    assert after_loss(after_loss(refs, first).kept, second).kept == after_loss(refs, first | second).kept


@given(stages, losses)
def test_fit_starts_from_the_latest_survivor(refs: list[CheckpointRef], lost: set[int]) -> None:
    kept = after_loss(refs, lost).kept
    chosen = resume_from(kept)
    assert chosen == (max(kept, key=lambda one: one.stage) if kept else None)
    if chosen is not None:
        assert not set(range(chosen.stage)) & lost


@given(st.integers(2, 8), losses)
def test_loss_and_fit_leave_every_checkpoint_of_the_shard(slices: int, lost: set[int]) -> None:
    refs = [ref(stage) for stage in range(1, slices)]
    kept = after_loss(refs, lost).kept
    start = resume_from(kept)
    done = start.stage if start else 0
    written = [ref(stage, "b") for stage in range(done + 1, slices)]
    merged = after_fit(kept, written)
    assert [one.stage for one in merged] == list(range(1, slices))
    assert [one.digest[0] for one in merged] == ["a"] * done + ["b"] * (slices - 1 - done)


def test_what_a_fit_from_zero_writes_replaces_what_was_kept() -> None:
    assert after_fit([ref(2), ref(1)], [ref(1, "b")]) == (ref(1, "b"), ref(2))
    assert after_fit([], []) == ()
    assert resume_from([]) is None


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8))
def test_visits_left_by_counting(sizes: list[int]) -> None:
    """A stage at a time, a slice at a time, a sample at a time."""
    visited = [sum(1 for part in range(stage + 1) for _ in range(sizes[part])) for stage in range(len(sizes))]
    assert visits_left(sizes, 0) == 1
    for stage in range(len(sizes)):
        expected = Fraction(sum(visited[stage:]), sum(visited)) if sum(sizes) else 1
        assert visits_left(sizes, stage) == expected
    shares = [visits_left(sizes, stage) for stage in range(len(sizes))]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("slices", [1, 2, 3, 4, 8, 100])
def test_random_loss_never_saves_more_than_a_third(slices: int) -> None:
    assert expected_visits(slices) == Fraction(2 * slices + 1, 3 * slices)
    assert expected_visits(slices) > Fraction(2, 3)


@given(st.lists(st.text(), unique=True, max_size=20), st.integers(1, 5), st.integers(1, 4))
def test_lost_slices_are_those_of_the_lost_samples(names: list[str], slices: int, shards: int) -> None:
    keys = sample_keys(names, 3)
    lost = {key: number % shards for number, key in enumerate(keys)}
    by_shard = lost_slices(lost, slices=slices, seed=3)
    expected = {
        (str(shard), int(part))
        for shard, part in zip(lost.values(), slice_of(keys, slices=slices, seed=3), strict=True)
    }
    assert {(shard, part) for shard, parts in by_shard.items() for part in parts} == expected


def test_state_keeps_checkpoints_through_training_a_loss_and_a_retrain() -> None:
    def fitted(generation: int, *checkpoints: CheckpointRef) -> Entry:
        body = {"shard": 0, "generation": generation, "samples": 9, "weight": 1, "facts": {}}
        return Entry(
            "trained",
            {**body, "delta": delta_ref(0, generation), "checkpoints": [ref.to_json() for ref in checkpoints]},
        )

    asked = {"request": "r", "mode": "retrain", "hashes": ["h"], "shards": [0]}
    entries = [
        cached([9, 0]),
        fitted(1, ref(1), ref(2), ref(3)),
        Entry("forget-requested", asked),
        Entry("dropped", {"request": "r", "deltas": [], "slices": {"0": [2]}}),
        Entry(
            "rewritten",
            {
                "request": "r",
                "manifest": "m2",
                "manifest_key": "m2",
                "samples": {"0": 8},
                "checkpoints": {"0": [ref(1).to_json(), ref(2).to_json()]},
                "removing": [],
            },
        ),
        fitted(2, ref(3, "b")),
    ]

    def kept(state: RunState) -> list[str]:
        return [one.digest for one in state.shards[0].checkpoints]

    assert [kept(replay(entries[:n])) for n in range(1, 7)] == [
        [], ["a1", "a2", "a3"], ["a1", "a2", "a3"], ["a1", "a2", "a3"], ["a1", "a2"], ["a1", "a2", "b3"],
    ]  # fmt: skip
    state = replay(entries)
    named = [ref(1).key, ref(2).key, ref(3, "b").key]
    assert state.checkpoint_keys() == set(named)
    assert orphans([*named, ref(3).key, "eval/x"], state, {}, (), "m") == [ref(3).key]

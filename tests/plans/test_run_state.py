"""The fold of the ledger: what is true after each kind of entry."""

from collections.abc import Sequence

import pytest
from history import Entry, cached, created, delta_ref, forget_entries, requested, trained
from hypothesis import given
from hypothesis import strategies as st

from taft_ray.errors import IntegrityError
from taft_ray.plans.fold import apply, replay
from taft_ray.plans.state import DROPPED, EMPTY, PENDING, TRAINED
from taft_ray.plans.train import ROWS_A_LANE, lanes_for, lanes_of_rows, pending_shards


def test_nothing_is_known_of_an_empty_ledger() -> None:
    state = replay([])
    assert state.shards == {}
    assert state.cached is None
    assert state.in_model == []
    assert pending_shards(state) == []


def test_fold_in_steps_equals_fold_at_once() -> None:
    entries = [created(), cached([5, 3]), trained(0, 5), trained(1, 3), *forget_entries("r", "retrain", ["h"], {0: 4})]
    state = replay(entries[:3])
    for entry in entries[3:]:
        apply(state, entry)
    assert state == replay(entries)


def test_shard_without_samples_is_empty_and_never_pending() -> None:
    state = replay([cached([4, 0, 2])])
    assert [state.shards[n].state for n in range(3)] == [PENDING, EMPTY, PENDING]
    assert pending_shards(state) == [0, 2]


def test_pending_order_is_largest_first_then_by_number() -> None:
    assert pending_shards(replay([cached([3, 9, 3, 7])])) == [1, 3, 0, 2]


def test_trained_shards_are_in_the_model_and_not_pending() -> None:
    state = replay([cached([3, 9]), trained(1, 9)])
    assert pending_shards(state) == [0]
    assert [shard.shard for shard in state.in_model] == [1]
    assert state.shards[1].in_sums.to_json() == delta_ref(1, 1)


def test_dropped_shard_leaves_the_model_and_stays_away() -> None:
    state = replay([cached([3, 9]), trained(0, 3), trained(1, 9), *forget_entries("r", "drop", ["h"], {1: 8})])
    assert state.shards[1].state == DROPPED
    assert state.shards[1].delta is None
    assert state.shards[1].samples == 8
    assert pending_shards(state) == []
    assert [shard.shard for shard in state.in_model] == [0]


def test_retrained_shard_returns_with_the_next_generation() -> None:
    entries = [cached([3, 9]), trained(1, 9), *forget_entries("r", "retrain", ["h"], {1: 8}), trained(1, 8, 2)]
    state = replay(entries)
    assert state.shards[1].state == TRAINED
    assert (state.shards[1].generation, state.shards[1].samples) == (2, 8)
    assert [fit.generation for fit in state.fits] == [1, 2]


def test_shard_that_loses_its_last_sample_is_empty() -> None:
    state = replay([cached([1]), trained(0, 1), *forget_entries("r", "retrain", ["h"], {0: 0})])
    assert state.shards[0].state == EMPTY
    assert state.in_model == []


def test_any_drop_takes_the_monolith_with_it() -> None:
    monolith = Entry("monolith-trained", {"generation": 1, "samples": 4, "delta": delta_ref(0, 1), "facts": {}})
    state = replay([cached([2, 2]), trained(0, 2), monolith, *forget_entries("r", "drop", ["h"], {0: 1})])
    assert state.monolith is not None
    assert state.monolith.delta is None


def test_tombstone_belongs_to_the_first_request() -> None:
    state = replay([cached([2]), requested("first", "drop", ["h"], [0]), requested("second", "retrain", ["h"], [0])])
    assert state.tombstones == {"h": "first"}


def test_unknown_entry_is_refused() -> None:
    with pytest.raises(IntegrityError, match="newer taft_ray"):
        replay([Entry("invented", {})])


@pytest.mark.parametrize(
    ("shards", "gpus", "cpus", "threads", "asked", "lanes"),
    [(10, 0, 4, 1, None, 4), (10, 0, 4, 2, None, 2), (2, 8, 64, 1, None, 2), (10, 4, 64, 1, None, 4),
     (10, 0, 1, 4, None, 1), (10, 0, 8, 1, 3, 3), (2, 0, 8, 1, 30, 2)],
)  # fmt: skip
def test_lanes_fit_the_machine_and_never_exceed_the_shards(
    shards: int, gpus: int, cpus: int, threads: int, asked: int | None, lanes: int
) -> None:
    assert lanes_for(shards, gpus=gpus, cpus=cpus, threads=threads, asked=asked) == lanes


@pytest.mark.parametrize(
    ("rows", "most", "lanes"), [(0, 4, 1), (1, 4, 1), (ROWS_A_LANE + 1, 4, 2), (99 * ROWS_A_LANE, 4, 4)]
)
def test_a_lane_that_sums_few_rows_is_not_worth_its_start(rows: int, most: int, lanes: int) -> None:
    assert lanes_of_rows(rows, most) == lanes


def _history(choices: Sequence[tuple[int, int]], samples: Sequence[int]) -> list[Entry]:
    """Fits and forgets, one after the other, as a composer would commit them; choices: (what, shard)."""
    entries, left, purges = [cached(samples)], dict(enumerate(samples)), dict.fromkeys(range(len(samples)), 0)
    for number, (what, shard) in enumerate(choices):
        shard %= len(samples)
        state = replay(entries)
        if what == 0 and left[shard] and state.shards[shard].state != TRAINED:
            entries.append(trained(shard, left[shard], purges[shard] + 1))
        elif what > 0 and left[shard]:
            left[shard] = max(0, left[shard] - what)
            purges[shard] += 1
            steps = forget_entries(f"r{number}", "retrain", [f"h{number}"], {shard: left[shard]})
            entries += steps[: 1 + number % len(steps)] if number + 1 == len(choices) else steps
    return entries


@given(
    choices=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=20),
    samples=st.lists(st.integers(0, 5), min_size=1, max_size=5),
)
def test_what_the_state_keeps_is_what_a_search_would_find(choices: list[tuple[int, int]], samples: list[int]) -> None:
    """Decisions after every commit read it, so that they cost the same whatever the number of shards and requests."""
    entries = _history(choices, samples)
    state, members, seen = replay([]), dict[int, object](), 0
    for entry in entries:
        apply(state, entry)
        waiting = [shard for shard in state.shards.values() if shard.state == PENDING]
        expected = [shard.shard for shard in sorted(waiting, key=lambda shard: (-shard.samples, shard.shard))]
        assert pending_shards(state) == expected
        assert list(state.unpurged) == [name for name, r in state.requests.items() if r.purged is None]
        for shard in state.moves[seen:]:  # following the moves alone gives what is in the model
            members.pop(shard, None)
            if state.shards[shard].state == TRAINED:
                members[shard] = state.shards[shard].delta
        seen = len(state.moves)
        assert members == {shard.shard: shard.delta for shard in state.in_model}

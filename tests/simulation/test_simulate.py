"""The simulation of a large run: where its answer can be known without it, it gives that one."""

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulate import (
    Parts,
    Server,
    breaks_first,
    fit_seconds,
    forget,
    from_measured,
    main,
    simulate,
    start_again,
    storage,
    train,
)

CALM = Parts(shards=40, lanes=1, losses_an_hour=0.0)


def test_one_lane_without_losses_takes_the_sum_of_the_parts() -> None:
    handled = CALM.take_s + CALM.admit_s + CALM.lane_s + CALM.delta_bytes / CALM.bytes_s
    expected = CALM.lane_start_s + CALM.take_s + CALM.shards * handled + sum(fit_seconds(CALM, 3))
    expected += CALM.compose_s + CALM.conclude_s
    assert train(CALM, seed=3)["makespan_s"] == pytest.approx(expected, rel=1e-12)


def test_losses_of_one_lane_cost_what_was_lost_and_the_way_back() -> None:
    rough = Parts(shards=40, lanes=1, losses_an_hour=60.0)
    lossy, calm = train(rough, seed=3), train(CALM, seed=3)
    assert lossy["lanes_lost"] > 3
    back = lossy["lanes_lost"] * (rough.replacement_s + rough.lane_start_s + rough.take_s)
    assert lossy["makespan_s"] == pytest.approx(calm["makespan_s"] + lossy["fits_lost_s"] + back, rel=1e-12)


@given(
    shards=st.integers(1, 30), lanes=st.integers(1, 40), fit=st.floats(0, 30), spread=st.floats(0, 1),
    size=st.floats(0, 1e9), seed=st.integers(0, 5),
)  # fmt: skip
def test_another_lane_adds_no_more_than_its_question(
    shards: int, lanes: int, fit: float, spread: float, size: float, seed: int
) -> None:
    """More lanes are never slower, but for the composer's time to answer the one that came in vain."""
    parts = {"shards": shards, "fit_s": fit, "fit_spread": spread, "delta_bytes": size, "losses_an_hour": 0.0}
    fewer, more = (train(Parts(lanes=count, **parts), seed)["makespan_s"] for count in (lanes, lanes + 1))
    assert more <= fewer + Parts().take_s * (1 + 1e-9)


@given(shards=st.integers(1, 60), lanes=st.integers(1, 20), seed=st.integers(0, 5))
def test_no_makespan_is_below_its_floors(shards: int, lanes: int, seed: int) -> None:
    parts = Parts(shards=shards, lanes=lanes, losses_an_hour=0.0)
    found = train(parts, seed)["makespan_s"]
    assert found >= parts.lane_start_s + sum(fit_seconds(parts, seed)) / lanes
    assert found >= parts.lane_start_s + shards * parts.admit_s
    assert found >= parts.lane_start_s + max(fit_seconds(parts, seed)) + parts.admit_s


def test_composer_binds_where_the_arithmetic_says_so() -> None:
    parts = Parts(shards=2000, lanes=500, losses_an_hour=0.0)
    found = train(parts)
    assert found["composer_busy"] > 0.95
    assert found["commits_a_second"] == pytest.approx(found["most_commits_a_second"], rel=0.05)
    assert breaks_first(parts)[0]["of_the_lanes_time"] > 1
    assert train(Parts(shards=2000, lanes=4, losses_an_hour=0.0))["composer_busy"] < 0.5


@pytest.mark.parametrize("retrain", [False, True])
def test_latency_at_a_low_rate_is_the_service_time(retrain: bool) -> None:
    found = forget(Parts(), 0.005, retrain=retrain, hours=500.0)
    assert found["median_s"] == pytest.approx(found["service_s"], rel=1e-9)
    assert found["composer_load"] < 0.01


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_waiting_is_that_of_the_textbook(load: float) -> None:
    """M/D/1: the mean wait is load/(2(1 - load)) services (Pollaczek and Khinchine)."""
    arrivals, server, at, count = random.Random(0), Server(), 0.0, 200_000
    for _ in range(count):
        at += arrivals.expovariate(load)
        server.serve(at, 1.0)
    assert server.waited_s / count == pytest.approx(load / (2 * (1 - load)), rel=0.05)


def test_latency_grows_with_the_rate_and_without_bound_above_the_sustained_one() -> None:
    slow, sustained = forget(Parts(), 1.0, retrain=True), forget(Parts(), 1.0, retrain=True)["sustained_a_minute"]
    over = [forget(Parts(), 2 * sustained, retrain=True, hours=hours)["p95_s"] for hours in (1.0, 2.0)]
    assert over[1] > 1.5 * over[0] > slow["p95_s"]


def test_same_seed_gives_the_same_answer() -> None:
    parts = Parts(shards=200, lanes=20, losses_an_hour=5.0)
    assert simulate(parts, 1) == simulate(parts, 1)
    assert train(parts, 1) != train(parts, 2)


def test_measured_parts_take_the_place_of_the_defaults() -> None:
    rows = [
        {"shards": 10, "overhead_ms": 90.0, "lanes_start_s": 1.0, "delta_bytes": 1e6, "composer_again_s": 1.0},
        {"shards": 1000, "overhead_ms": 12.5, "lanes_start_s": 17.0, "delta_bytes": 1e6, "composer_again_s": 2.0},
        {"ledger_entries": 1000, "commit_ms": 2.0, "replay_cold_s": 0.5, "entry_bytes": 900},
        {"manifest_rows": 100, "find_s": 1.0, "manifest_rewrite_s": 2.0, "manifest_bytes": 5000},
    ]
    parts = from_measured(Parts(), rows)
    assert (parts.lane_start_s, parts.commit_s, parts.entry_s, parts.entry_bytes) == (17.0, 0.002, 0.0005, 900)
    assert parts.lane_s == pytest.approx(0.0125 - parts.call_s - Parts().commit_s)
    assert parts.add_bytes_s == 1000 * 1e6 / 2.0
    assert (parts.find_s_a_row, parts.rewrite_s_a_row, parts.manifest_bytes_a_row) == (0.01, 0.02, 50)
    assert from_measured(Parts(), []) == Parts()


def test_storage_and_restart_grow_with_the_shards() -> None:
    one, ten = Parts(shards=1000), Parts(shards=10_000)
    assert storage(ten)["deltas_gib"] == pytest.approx(10 * storage(one)["deltas_gib"])
    assert math.isclose(start_again(ten)["sums_s"], 10 * start_again(one)["sums_s"])


@pytest.mark.parametrize(
    "wrong", [{"shards": 0}, {"lanes": 0}, {"fit_s": -1.0}, {"bytes_s": 0.0}, {"round_trip_s": math.nan}]
)
def test_impossible_parts_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected shards, lanes"):
        Parts(**wrong)


def test_command_takes_parts_and_names_unknown_ones(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json", "--set", "shards=50", "--set", "lanes=5"])
    assert '"shards": 50' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--set", "shard=50"])
    assert "expected one of shards" in capsys.readouterr().err

"""Law 6: every number in a report comes from a measurement stored beside it."""

import copy
import json
import math
from statistics import median

import numpy as np
import pytest
from run_facts import run_facts

from taft_ray.errors import UsageError
from taft_ray.evaluation.derived import NO_MONOLITH
from taft_ray.evaluation.measured import lookup
from taft_ray.evaluation.report import summarise
from taft_ray.evaluation.speed_numbers import CRITICAL_NOTE, WALL_NOTE


def value(report, name):
    return report["derived"][name]["value"]


def test_every_source_of_every_number_is_in_the_measurements(facts):
    report = summarise(facts)
    for name, number in report["derived"].items():
        for path, recorded in number["from"].items():
            assert lookup(report["measurements"], path) == recorded, (name, path)
        if number["value"]:
            assert number["from"], f"{name} is a number from nowhere"


def test_measurements_are_the_facts(facts):
    assert summarise(facts)["measurements"] == facts


def test_numbers_by_hand(facts):
    report = summarise(facts)
    fits = [shard["seconds"] for shard in facts["shards"] if shard["generation"] == 1]
    monolith, wall = facts["monolith"]["seconds"], facts["training"]["wall_seconds"]
    retrains = [f["seconds"]["retrain"] for f in facts["forgets"] if "retrain" in f["seconds"]]
    totals = [f["seconds"]["total"] for f in facts["forgets"]]
    expected = {
        "sum_of_fits": sum(fits),
        "critical_path": max(fits),
        "speedup_wall": monolith / wall,
        "speedup_critical_path": monolith / max(fits),
        "speedup_one_worker": monolith / sum(fits),
        "lane_use": sum(fits) / (2 * wall),
        "speedup_retrain_median": median(monolith / seconds for seconds in retrains),
        "speedup_end_to_end_median": median(monolith / seconds for seconds in totals),
        "forgets[1].speedup_retrain": monolith / 7.75,
        "accuracy": 0.924,
        "accuracy_monolith": 0.9312,
        "accuracy_mean_gap": 100 * (0.8871 - 0.9312),
        "accuracy_margin": 196 * math.sqrt(0.924 * 0.076 / 10_000),
        "cache_rate": 50_000 / 104.2,
        "data_kept": 50_000 / 50_012,
    }
    assert {name: value(report, name) for name in expected} == pytest.approx(expected)
    assert (value(report, "shards_trained"), value(report, "shards_dropped")) == (99, 1)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (
            ("monolith", "seconds"),
            ["speedup_wall", "speedup_critical_path", "speedup_one_worker", "speedup_retrain_median"],
        ),
        (("training", "wall_seconds"), ["speedup_wall", "lane_use"]),
        (("forgets", 2, "seconds", "retrain"), ["forgets[2].speedup_retrain", "speedup_retrain_median"]),
        (("monolith", "accuracy"), ["accuracy_monolith", "accuracy_gap", "accuracy_gram_gap"]),
        (("shards", 5, "seconds"), ["sum_of_fits", "speedup_one_worker"]),
        (("evaluation", "n"), ["accuracy_margin"]),
    ],
)
def test_a_changed_measurement_changes_what_comes_from_it_and_nothing_else(facts, path, names):
    changed = copy.deepcopy(facts)
    here = changed
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] *= 1.07
    before, after = summarise(facts)["derived"], summarise(changed)["derived"]
    moved = {name for name in before if before[name]["value"] != after[name]["value"]}
    dotted = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    assert set(names) <= moved
    assert all(dotted in before[name]["from"] for name in moved)


def test_critical_path_is_labelled_as_no_wall_clock(facts):
    derived = summarise(facts)["derived"]
    assert derived["speedup_critical_path"]["note"] == CRITICAL_NOTE
    assert derived["speedup_wall"]["note"] == WALL_NOTE
    assert "not wall clock" in CRITICAL_NOTE
    assert "starting the lanes" in WALL_NOTE


def test_without_a_monolith_nothing_is_compared(facts):
    del facts["monolith"]
    report = summarise(facts)
    compared = [name for name in report["derived"] if "speedup" in name or "gap" in name]
    assert compared
    assert all(value(report, name) is None for name in compared)
    for name in ("speedup_wall", "speedup_critical_path", "speedup_retrain_median", "accuracy_monolith"):
        assert report["not_measured"][name] == NO_MONOLITH


@pytest.mark.parametrize("absent", [None, {}, []])
def test_any_part_may_be_missing(facts, absent):
    for part in set(facts) - {"run", "shards"}:
        rest = {key: item for key, item in facts.items() if key != part}
        for one in (rest, rest | {part: absent}):
            report = summarise(one)
            assert all(number["value"] is not None or number["reason"] for number in report["derived"].values())


@pytest.mark.parametrize("part", ["run", "shards"])
def test_run_and_shards_are_required(facts, part):
    del facts[part]
    with pytest.raises(UsageError, match=part):
        summarise(facts)


@pytest.mark.parametrize("bad", [0, 0.0, float("nan"), float("inf"), -1.0, None])
def test_no_division_by_what_is_no_time(facts, bad):
    facts["monolith"]["seconds"] = 3.0
    facts["training"]["wall_seconds"] = bad
    facts["cache"]["seconds"] = bad
    for shard in facts["shards"]:
        shard["seconds"] = bad
    for forget in facts["forgets"]:
        forget["seconds"] = {"retrain": bad, "total": bad}
    report = summarise(facts)
    for name in report["derived"]:
        if "speedup" in name or name in ("cache_rate", "lane_use"):
            assert value(report, name) is None, name
            assert report["derived"][name]["reason"], name
    json.dumps(report, allow_nan=False)
    if bad is not None and (not math.isfinite(bad) or bad < 0):
        assert any(note.startswith("training.wall_seconds was recorded as") for note in report["notes"])


def test_a_resumed_training_states_no_wall_clock_speed(facts):
    facts["training"]["started"] = facts["shards"][3]["ended"] + 0.01
    report = summarise(facts)
    assert value(report, "speedup_wall") is None
    assert "overstate" in report["derived"]["speedup_wall"]["reason"]
    assert value(report, "speedup_critical_path") is not None


def test_a_retrain_is_not_counted_as_training(facts):
    before = summarise(facts)["derived"]["sum_of_fits"]["value"]
    facts["shards"].append(facts["shards"][8] | {"generation": 3, "seconds": 1e6})
    assert summarise(facts)["derived"]["sum_of_fits"]["value"] == before


def test_what_makes_a_comparison_unfair_is_noted(facts):
    facts["monolith"] |= {"samples": 7, "started": facts["training"]["started"]}
    facts["evaluation"]["composed"] = "b2:other"
    notes = " ".join(summarise(facts)["notes"])
    for said in ("not on the same data", "both shared the machine", "evaluate again", "took turns on 2 lanes"):
        assert said in notes


def test_report_is_plain_json(facts):
    facts["monolith"]["seconds"] = np.float32(512.25)
    facts["evaluation"]["n"] = np.int64(10_000)
    facts["data"]["classes"] = {"b", "a"}
    report = summarise(facts)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["measurements"]["data"]["classes"] == ["a", "b"]


def test_facts_are_left_alone(facts):
    summarise(facts)
    assert facts == run_facts()


def test_accuracies_of_different_pictures_are_not_subtracted(facts):
    same = {"n": 450, "data": "test"}
    facts["forgets"][0] |= {"evaluated_before": same, "evaluated_after": dict(same)}
    facts["forgets"][1] |= {"evaluated_before": same, "evaluated_after": {"n": 449, "data": "test"}}
    report = summarise(facts)
    assert value(report, "forgets[0].accuracy_change") == pytest.approx(-0.01)
    assert value(report, "forgets[1].accuracy_change") is None
    told = report["not_measured"]["forgets[1].accuracy_change"]
    assert told == "not compared: measured on 450 pictures of test before, on 449 pictures of test after"


def test_work_counts_every_generation_and_the_prefix_pass(facts):
    report = summarise(facts)
    assert value(report, "work_seconds") == pytest.approx(104.2 + math.fsum(s["seconds"] for s in facts["shards"]))
    assert value(report, "forgotten_samples") == sum(forget["samples"] for forget in facts["forgets"])
    assert value(report, "forget_seconds_median") == median(forget["seconds"]["total"] for forget in facts["forgets"])


def test_additive_run_is_not_told_to_train_a_monolith(facts):
    del facts["monolith"]
    assert NO_MONOLITH in summarise(facts)["not_measured"].values()
    facts["run"]["spec"]["solver"] = "additive"
    told = summarise(facts)["not_measured"]
    assert NO_MONOLITH not in told.values()
    assert "one model over everything already" in told["speedup_wall"]

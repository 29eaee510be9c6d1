"""The samples and shards that a forget touches, and what it is estimated to take."""

import pytest
from history import Entry, cached, delta_ref, forget_entries, forgotten, requested, trained

from taft_ray.errors import UnknownSample, UsageError
from taft_ray.plans.facts import Forgotten, ObjectRef
from taft_ray.plans.fold import apply, replay
from taft_ray.plans.forget import ForgetPlan, Known, estimate, plan_forget, request_id
from taft_ray.plans.state import RequestState, RunState

HASHES = {"a": "ha", "b": "hb", "c": "hc"}
FOUND = {"a": Known(key=b"a" * 16, shard=0), "b": Known(key=b"b" * 16, shard=1), "c": Known(key=b"c" * 16, shard=1)}


def plan(state: RunState, ids: str, mode: str, gone: str = "") -> ForgetPlan | str:
    """gone: the ids that the manifest no longer has."""
    found = {name: FOUND[name] for name in ids if name in FOUND and name not in gone}
    return plan_forget(state, mode=mode, hashes={n: HASHES.get(n, f"h{n}") for n in ids}, found=found)


def plan_of(state: RunState, ids: str, mode: str, gone: str = "") -> ForgetPlan:
    answer = plan(state, ids, mode, gone)
    assert isinstance(answer, ForgetPlan)
    return answer


@pytest.fixture
def two_shards() -> RunState:
    return replay([cached([5, 5]), trained(0, 5), trained(1, 5)])


@pytest.fixture
def a_dropped() -> RunState:
    request = request_id("drop", ["ha"])
    entries = [cached([5, 5]), trained(0, 5), trained(1, 5), *forget_entries(request, "drop", ["ha"], {0: 4})]
    return replay([*entries, forgotten(request)])


def test_plan_names_the_shards_that_saw_the_samples(two_shards: RunState) -> None:
    answer = plan_of(two_shards, "bca", "retrain")
    assert answer.shards == answer.retrain == (0, 1)
    assert answer.hashes == ("ha", "hb", "hc")
    assert answer.keys == (b"a" * 16, b"b" * 16, b"c" * 16)


def test_drop_retrains_nothing(two_shards: RunState) -> None:
    assert plan_of(two_shards, "b", "drop").retrain == ()


def test_request_does_not_depend_on_the_order_of_ids(two_shards: RunState) -> None:
    assert plan_of(two_shards, "abc", "drop").request == plan_of(two_shards, "cab", "drop").request


def test_request_depends_on_mode_and_ids(two_shards: RunState) -> None:
    requests = {plan_of(two_shards, ids, mode).request for ids in ("a", "b", "ab") for mode in ("drop", "retrain")}
    assert len(requests) == 6


def test_one_unknown_id_refuses_the_whole_request(two_shards: RunState) -> None:
    with pytest.raises(UnknownSample, match=r"1 id is not in this run: 'x'$"):
        plan(two_shards, "ax", "drop")


def test_many_unknown_ids_are_counted_and_few_are_shown(two_shards: RunState) -> None:
    with pytest.raises(UnknownSample, match=r"7 ids .* and 2 more"):
        plan(two_shards, "tuvwxyz", "drop")


@pytest.mark.parametrize("mode", ["", "erase"])
def test_unknown_mode_is_refused(two_shards: RunState, mode: str) -> None:
    with pytest.raises(UsageError, match="expected one of drop, retrain, resolve"):
        plan(two_shards, "a", mode)


def test_no_ids_are_refused(two_shards: RunState) -> None:
    with pytest.raises(UsageError, match="no ids"):
        plan(two_shards, "", "drop")


def test_same_request_again_is_answered_by_the_first(a_dropped: RunState) -> None:
    assert plan(a_dropped, "a", "drop", gone="a") == request_id("drop", ["ha"])


def test_retrain_after_drop_brings_the_shard_back_without_the_sample(a_dropped: RunState) -> None:
    answer = plan_of(a_dropped, "a", "retrain", gone="a")
    assert answer.retrain == (0,)
    assert answer.hashes == ()
    assert answer.keys == ()


def test_retrain_of_another_sample_of_a_dropped_shard_brings_it_back(a_dropped: RunState) -> None:
    state = a_dropped
    found = {"d": Known(key=b"d" * 16, shard=0)}
    answer = plan_forget(state, mode="retrain", hashes={"d": "hd"}, found=found)
    assert isinstance(answer, ForgetPlan)
    assert answer.retrain == (0,)


def test_mixed_request_touches_only_what_is_new(a_dropped: RunState) -> None:
    answer = plan_of(a_dropped, "ab", "drop", gone="a")
    assert answer.shards == (1,)
    assert answer.hashes == ("hb",)


def test_mixed_retrain_brings_back_the_dropped_shard_too(a_dropped: RunState) -> None:
    assert plan_of(a_dropped, "ab", "retrain", gone="a").retrain == (0, 1)


def test_deadline_said_again_asks_for_nothing_new(a_dropped: RunState) -> None:
    """A relative one is a little later each time."""

    def asked(deadline: float) -> ForgetPlan | str:
        return plan_forget(a_dropped, mode="retrain", hashes={"b": "hb"}, found={"b": other}, deadline=deadline)

    other = Known(key=b"b" * 16, shard=0)  # of a shard that a drop took out
    for deadline, later in ((1000.0, 1001.0), (500.0, 501.0)):
        plan = asked(deadline)
        assert isinstance(plan, ForgetPlan), deadline
        assert plan.hashes == ("hb",)
        entry = requested(plan.request, "retrain", plan.hashes, plan.shards)
        apply(a_dropped, Entry(entry.kind, {**entry.body, "deadline": deadline, "runs_at": deadline}))
        assert asked(later) == plan.request


def test_subset_of_a_finished_request_is_answered_by_it(two_shards: RunState) -> None:
    request = request_id("retrain", ["hb", "hc"])
    for entry in [*forget_entries(request, "retrain", ["hb", "hc"], {1: 3}), trained(1, 3, 2), forgotten(request)]:
        apply(two_shards, entry)
    assert plan(two_shards, "b", "retrain", gone="bc") == request
    assert plan(two_shards, "b", "drop", gone="bc") == request


def test_estimate_is_the_measured_rate_times_what_is_left(two_shards: RunState) -> None:
    answer = estimate(two_shards, plan_of(two_shards, "bc", "retrain"), bytes_to_purge=77)
    assert answer == {
        "mode": "retrain",
        "samples_to_forget": 2,
        "shards": [1],
        "samples_to_retrain": 3,
        "seconds": pytest.approx(3 * (4.0 / 10)),
        "bytes_to_purge": 77,
        "gpu_hour_price": None,
        "cost": None,
    }


def test_estimate_counts_what_a_fit_from_a_checkpoint_left_out() -> None:
    """Two slices of 4 and 2 samples: stage 2 makes 6 of the 10 visits, so 3 s for it are 5 s for all."""
    facts = {"seconds": 3.0, "samples": 6, "slice_samples": [4, 2], "resumed_stage": 1}
    state = replay([cached([6, 5])])
    body = {"shard": 0, "generation": 1, "samples": 6, "weight": 1, "facts": facts, "delta": delta_ref(0, 1)}
    apply(state, Entry("trained", body))
    answer = estimate(state, plan_of(state, "b", "retrain"), bytes_to_purge=0)
    assert answer["seconds"] == pytest.approx(4 * 5.0 / 6)


def test_estimate_tells_what_earlier_forgets_took_besides(two_shards: RunState) -> None:
    plan = plan_of(two_shards, "bc", "retrain")
    for number, took in enumerate(
        (
            {"drop": 0.5, "purge": 0.5, "retrain": 2.0, "total": 13.0},
            {"drop": None, "purge": 1.0, "retrain": 1.0, "total": 4.0},
            {"drop": 1.0, "purge": 1.0, "retrain": 1.0, "total": 15.0},
            {"drop": 1.0, "purge": 1.0, "retrain": None, "total": 90.0},  # a drop starts no Ray
        )
    ):
        done = RequestState(f"r{number}", "retrain", (), (), "", None)
        done.forgotten = Forgotten(f"r{number}", ObjectRef("k", "d"), None, took)
        two_shards.requests[f"r{number}"] = done
    assert estimate(two_shards, plan, bytes_to_purge=0)["seconds_besides"] == 10.0
    assert "seconds_besides" not in estimate(two_shards, plan_of(two_shards, "b", "drop"), bytes_to_purge=0)


def test_estimate_of_a_drop_retrains_nothing(two_shards: RunState) -> None:
    answer = estimate(two_shards, plan_of(two_shards, "b", "drop"), bytes_to_purge=0)
    assert (answer["samples_to_retrain"], answer["seconds"]) == (0, 0.0)


def test_estimate_without_a_measurement_says_so() -> None:
    state = replay([cached([5, 5])])
    assert estimate(state, plan_of(state, "b", "retrain"), bytes_to_purge=0)["seconds"] is None

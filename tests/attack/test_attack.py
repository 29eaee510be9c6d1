"""The verdict, on losses made up so that the truth is known: honest and faked forgets, another distribution, too few samples."""

from typing import Any

import numpy as np
import pytest

from taft_ray.attack import NO_SHARD, POWER_NEEDED, Samples, judge
from taft_ray.attack.judgement import by_shard_scores, composed_scores, control_scores
from taft_ray.errors import UsageError

SHARDS = 6


def samples(
    generator: np.random.Generator,
    count: int,
    *,
    homes: tuple[int, ...] = (NO_SHARD,),
    gain: float = 0.0,
    composed_gain: float = 0.0,
    likes: np.ndarray | None = None,
    shards: int = SHARDS,
) -> Samples:
    """φ = how easy the sample is + how good the shard is + noise; a member's home fits it better by ``gain``.

    likes (S,): how much better each shard fits this set than another, whoever is a member.
    """
    home = np.array([homes[i % len(homes)] for i in range(count)])
    easy = 2 * generator.normal(size=(count, 1))
    phi = easy + 0.1 * np.arange(shards) + generator.normal(size=(count, shards))
    if likes is not None:
        phi += likes
    inside = np.flatnonzero(home != NO_SHARD)
    phi[inside, home[inside]] += gain
    composed = easy[:, 0] + 0.5 + 0.4 * generator.normal(size=count) + composed_gain
    return Samples(by_shard=phi, composed=composed, labels=generator.integers(0, 3, count), home=home)


def audit(seed: int = 0, level: float = 0.01, **changes: Any) -> dict[str, Any]:
    """An audit of 30 forgotten samples of two retrained shards: honest, and with power, unless changed."""
    generator = np.random.default_rng(seed)
    sets = {
        "forgotten": {"count": 30, "homes": (0, 3)},
        "never_seen": {"count": 90},
        "members": {"count": 80, "homes": (0, 3), "gain": 2.5, "composed_gain": 1.5},
    }
    for name, change in changes.items():
        sets[name] = {**sets[name], **change}
    return judge(level=level, permutations=1999, **{name: samples(generator, **made) for name, made in sets.items()})


def test_honest_forget_is_at_chance() -> None:
    answer = audit()
    assert (answer["ok"], answer["verdict"]) == (True, "at chance")
    assert answer["auc_ci"][0] < 0.5 < answer["auc_ci"][1]
    assert answer["power"]["auc"] > 0.9
    assert answer["power"]["detects"] > POWER_NEEDED
    assert (answer["forgotten"], answer["never_seen"]) == (30, 90)
    assert answer["auc"] == answer["targets"]["shards"]["auc"]


def test_honest_forgets_are_accused_no_more_often_than_promised() -> None:
    accused = sum(not audit(seed, level=0.1)["ok"] for seed in range(60))
    assert accused <= 14  # the 99.9% quantile of a binomial of 60 and 0.1


def test_faked_forget_is_found() -> None:
    answer = audit(forgotten={"gain": 2.5})
    assert (answer["ok"], answer["verdict"]) == (False, "remembers")
    assert answer["p_value"] < 0.001
    assert answer["auc_ci"][0] > 0.7
    assert answer["auc"] > answer["control"]["auc_limit"]


def test_composed_model_that_still_has_the_samples_is_found() -> None:
    answer = audit(forgotten={"composed_gain": 1.5})
    assert answer["verdict"] == "remembers"
    assert answer["targets"]["shards"]["p_value"] > 0.01
    assert answer["why"].startswith("composed:")


def test_half_a_fake_is_found() -> None:
    generator = np.random.default_rng(5)
    kept, gone = (samples(generator, 20, homes=(0, 3), gain=gain) for gain in (2.5, 0.0))
    both = Samples(**{n: np.concatenate([getattr(kept, n), getattr(gone, n)]) for n in kept.__dataclass_fields__})
    answer = judge(
        forgotten=both,
        never_seen=samples(generator, 90),
        members=samples(generator, 80, homes=(0, 3), gain=2.5),
        level=0.01,
    )
    assert answer["verdict"] == "remembers"


def test_a_drop_is_judged_by_the_composed_model_alone() -> None:
    forgotten = {"homes": (NO_SHARD,)}
    answer = audit(forgotten=forgotten)
    assert answer["verdict"] == "at chance"
    assert list(answer["targets"]) == ["composed"]
    assert audit(forgotten={**forgotten, "composed_gain": 1.5})["verdict"] == "remembers"
    assert audit(forgotten=forgotten, members={"composed_gain": 0.0})["verdict"] == "no power"


def test_models_that_do_not_tell_members_give_no_power_and_no_accusation() -> None:
    answer = audit(members={"gain": 0.0})
    assert (answer["ok"], answer["verdict"]) == (True, "no power")
    assert answer["power"]["detects"] < 0.2
    assert "faked forget" in answer["why"]


def test_too_few_samples_to_see_a_fake_is_no_power() -> None:
    weak = {"gain": 0.8}
    assert audit(forgotten={"count": 4}, members=weak)["verdict"] == "no power"
    assert audit(forgotten={"count": 200}, members=weak)["verdict"] == "at chance"


def test_another_distribution_is_hardly_ever_called_membership() -> None:
    """Shards differ in how well they fit the forgotten samples' kind; also those that never saw them."""
    accused, apart = 0, 0
    for seed in range(60):
        likes = np.random.default_rng(1000 + seed).normal(0, 1.0, SHARDS)
        answer = audit(seed, forgotten={"count": 60, "likes": likes})
        accused += answer["verdict"] == "remembers"
        apart += answer["p_value"] <= 0.005
        if answer["p_value"] <= 0.005 and answer["ok"]:
            assert (answer["verdict"], answer["auc"] <= answer["control"]["auc_limit"]) == ("no power", True)
    assert apart >= 15  # a test without the control would accuse as often as this
    assert accused <= 60 / SHARDS + 1


def test_a_fake_is_found_in_another_distribution_too_when_it_stands_out() -> None:
    likes = np.array([0.0, 0.7, -0.7, 0.0, 0.7, -0.7])
    answer = audit(forgotten={"count": 60, "likes": likes, "gain": 4.0})
    assert answer["control"]["auc_limit"] > 0.6
    assert answer["verdict"] == "remembers"


def test_scores_are_calibrated_by_shards_that_never_saw_the_sample() -> None:
    made = samples(np.random.default_rng(0), 7, homes=(0, 1, 2, 3, 4, 5, NO_SHARD))
    phi, composed = made.by_shard, made.composed
    shards, whole, control = by_shard_scores(made), composed_scores(made), control_scores(made, 2)
    for row, home in enumerate(made.home):
        rest = [o for o in range(SHARDS) if o != home]
        column = whole.target[row]
        assert whole.scores[row, column] == pytest.approx(composed[row] - phi[row, rest].mean())
        if home == NO_SHARD:
            assert control.scores[row, column] == pytest.approx(phi[row, 2] - phi[row, [0, 1, 3, 4, 5]].mean())
            continue
        assert shards.scores[row, home] == pytest.approx(phi[row, home] - phi[row, rest].mean())
        stand_in = (home + 2) % SHARDS
        others = [o for o in rest if o != stand_in]
        assert control.scores[row, column] == pytest.approx(phi[row, stand_in] - phi[row, others].mean())


def test_two_shards_are_enough_and_have_no_control() -> None:
    two: dict[str, Any] = {name: {"shards": 2, "homes": (0, 1)} for name in ("forgotten", "members")}
    answer = audit(never_seen={"shards": 2}, **two)
    assert answer["verdict"] == "at chance"
    assert answer["control"]["aucs"] == []
    assert audit(never_seen={"shards": 2}, **{**two, "forgotten": {**two["forgotten"], "gain": 2.5}})["ok"] is False


def test_bad_input_says_what_is_needed() -> None:
    with pytest.raises(
        UsageError, match=r"cannot reach level 0\.005 per target\. Give 199 never-seen samples per class"
    ):
        audit(forgotten={"count": 1}, never_seen={"count": 20})
    one: dict[str, Any] = {name: {"shards": 1, "homes": (0,)} for name in ("forgotten", "members")}
    with pytest.raises(UsageError, match="1 in the model, expected 2 or more"):
        audit(never_seen={"shards": 1}, **one)
    with pytest.raises(UsageError, match=r"0\.0002 <= level < 0\.5, got 0"):
        audit(level=0.0)
    generator = np.random.default_rng(0)
    made = samples(generator, 30, homes=(0,))
    strangers = Samples(by_shard=made.by_shard, composed=made.composed, labels=made.labels + 9, home=made.home)
    with pytest.raises(UsageError, match="shares its class"):
        judge(forgotten=made, never_seen=strangers, members=made, level=0.01)

"""Settings chosen from sums and from pictures left out, against least squares and every candidate by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from additive_rows import some_rows, summed

from taft_ray.additive import (
    AdditiveModel,
    Group,
    Policy,
    Projection,
    SiteGroup,
    Sites,
    Sums,
    Tuner,
    column_scales,
    solve,
)
from taft_ray.additive.grid import from_rows
from taft_ray.additive.settings import groups_in_turn, turns
from taft_ray.additive.threads import one_blas_thread
from taft_ray.errors import DataError, UsageError

N, K = 90, 3
KEPT = (9, 4, 11)
S = sum(KEPT)
NAMED = tuple(SiteGroup(f"blocks.{at}", kept) for at, kept in enumerate(KEPT))
POLICY = Policy(NAMED, (8, 16, S), (1.0, 4.0, 16.0), searched_at=16)


def sites_with(kept: tuple[int, ...], width: int = 30) -> Sites:
    return Sites(
        groups=tuple(
            Group(name=f"blocks.{at}", members=("output.class",), width=width + at, kept=count, weight=1 / len(kept))
            for at, count in enumerate(kept)
        )
    )


@pytest.mark.parametrize("kept", [KEPT, (7, 7, 7, 7), (1, 20), (5,)])
def test_first_numbers_are_a_projection_of_every_group(kept: tuple[int, ...]):
    """The first S' numbers are orthonormal rows of each group, and of each its share of them."""
    sites = sites_with(kept)
    projection = Projection(sites, seed=3)
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(6, group.width, generator=generator, dtype=torch.float64) for group in sites.groups]
    a = projection(vectors)
    order = turns(kept)
    for size in range(1, sum(kept) + 1):
        first = order[:size]
        for group, count in enumerate(kept):
            rows = [row for at, row in first if at == group]
            assert rows == list(range(len(rows))), "the first rows of its matrix, in order"
            assert abs(len(rows) - size * count / sum(kept)) <= len(kept) / 2 + 0.5
            matrix = projection.matrix(group)[: len(rows)]
            assert torch.allclose(matrix @ matrix.T, torch.eye(len(rows), dtype=torch.float64), atol=1e-6)
            scale = 0.9 * (sites.groups[group].weight * sites.groups[group].width / count) ** 0.5
            mine = a[:, [place for place, (at, _) in enumerate(first) if at == group]]
            assert torch.allclose(mine, scale * vectors[group] @ matrix.T, atol=1e-6)


def test_the_smallest_size_has_a_number_of_every_group():
    policy = replace(POLICY, groups=(SiteGroup("a", 1), SiteGroup("b", 23)))
    turn = groups_in_turn([1, 23])
    assert set(turn[: policy.smallest]) == {0, 1}
    assert set(turn[: policy.smallest - 1]) == {1}
    assert POLICY.smallest == 3


@pytest.mark.parametrize("size", [5, S])
def test_scaled_solution_is_that_of_least_squares_on_scaled_rows(size: int):
    rows, labels = some_rows(N, S)
    scales = np.linspace(0.0, 2.0, size)
    found = solve(summed(rows, labels), [1e-3], scales)
    values = np.concatenate([from_rows(rows)[:, :size] * scales, np.ones((N, 1))], 1)
    ridge = np.diag([*np.full(size, np.sqrt(1e-3 * N)), 0.0])
    left, right = np.concatenate([values, ridge]), np.concatenate([np.eye(K)[labels], np.zeros((size + 1, K))])
    expected = np.linalg.lstsq(left, right, rcond=None)[0]
    assert np.allclose(found.coefficients[:, :size], (expected[:-1] * scales[:, None]).T, atol=1e-9)
    assert not found.coefficients[:, size:].any()
    assert np.allclose(found.intercept, expected[-1], atol=1e-9)
    assert np.allclose(from_rows(rows) @ found.coefficients.T + found.intercept, values @ expected, atol=1e-9)


def test_all_numbers_alike_change_no_bit():
    sums = summed(*some_rows(N, S))
    for size in (7, S):
        small, whole = solve(sums.first(size)), solve(sums, scales=np.ones(size))
        assert np.array_equal(whole.coefficients[:, :size], small.coefficients)
        assert np.array_equal(whole.intercept, small.intercept)
        assert whole.curve == small.curve


def test_scaled_pictures_left_out_by_hand():
    rows, labels = some_rows(24, S)
    scales = column_scales(NAMED, 16, (0.25, 4.0, 1.0))
    tuner = Tuner(summed(rows, labels), POLICY)
    candidate = tuner.candidate(16, (0.25, 4.0, 1.0))
    penalty = candidate.score.penalty
    logits, told = candidate.reduced.leave_one_out(penalty, rows, labels)
    assert told.all()
    for left in range(24):
        kept = np.arange(24) != left
        # the same λ n: one picture fewer has its own n
        alone = solve(summed(rows[kept], labels[kept]), [penalty * 24 / 23], scales)
        expected = from_rows(rows[left]) @ alone.coefficients.T + alone.intercept
        assert np.allclose(logits[left], expected, atol=1e-8)


def test_the_candidate_with_the_least_gcv_is_chosen():
    rows, labels = some_rows(N, S)
    sums = summed(rows, labels)
    tuner = Tuner(sums, replace(POLICY, weights=()))
    by_hand = {size: solve(sums.first(size)).score.gcv for size in POLICY.sizes}
    assert {one.size: one.score.gcv for one in tuner.candidates} == by_hand
    assert by_hand[tuner.chosen.size] == min(by_hand.values())
    assert tuner.settings().penalty == solve(sums.first(tuner.chosen.size)).penalty


def with_noise(n: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which one group's numbers say nothing."""
    rows, labels = some_rows(n, S)
    there = np.array(groups_in_turn(KEPT)) == group
    rows[:, there] = np.random.default_rng(1).integers(-4000, 4000, (n, int(there.sum())))
    return rows, labels


@pytest.mark.parametrize("group", range(3))
def test_a_group_that_says_nothing_loses_its_weight(group: int):
    sums = summed(*with_noise(N, group))
    tuner = Tuner(sums, POLICY)
    settings = tuner.settings()
    assert settings.weights[group] in (0.0, 0.25)
    alike = [one for one in tuner.candidates if one.weights == (1.0,) * 3]
    assert tuner.chosen.score.gcv < min(one.score.gcv for one in alike)
    assert tuner.candidate(settings.size, settings.weights).score == tuner.chosen.score


def test_kappa_has_the_least_loss_of_pictures_left_out():
    rows, labels = some_rows(30, S)
    tuner = Tuner(summed(rows, labels), replace(POLICY, weights=(), sizes=(S,)))
    left = tuner.left_out(tuner.chosen, rows, labels)
    logits = np.empty((30, K))
    for out in range(30):
        kept = np.arange(30) != out
        alone = solve(summed(rows[kept], labels[kept]), [tuner.chosen.score.penalty * 30 / 29])
        logits[out] = from_rows(rows[out]) @ alone.coefficients.T + alone.intercept
    losses = []
    for kappa in POLICY.kappas:
        each = np.exp(kappa * logits)
        losses.append(float(-np.log(each[np.arange(30), labels] / each.sum(1)).mean()))
    assert left.losses == pytest.approx(losses, rel=1e-7)
    assert left.accuracy == (logits.argmax(1) == labels).mean()
    assert tuner.settings(left).kappa == POLICY.kappas[int(np.argmin(losses))]
    assert tuner.settings().kappa == POLICY.kappas[0], "without rows there is nothing to choose by"


def model_bits(sums: Sums, rows: np.ndarray, labels: np.ndarray, policy: Policy = POLICY) -> tuple[Any, bytes]:
    tuner = Tuner(sums, policy)
    settings = tuner.settings(tuner.left_out(tuner.chosen, rows, labels))
    model = AdditiveModel.chosen(sums, policy.groups, settings)
    return settings, model.coefficients.tobytes() + model.intercept.tobytes()


def test_forget_equals_never_seen():
    rows, labels = with_noise(N, 1)
    sums = summed(rows, labels)
    before = model_bits(sums, rows, labels)
    sums.subtract(rows[:20], labels[:20])
    after = model_bits(sums, rows[20:], labels[20:])
    assert after == model_bits(summed(rows[20:], labels[20:]), rows[20:], labels[20:])
    assert after != before


def test_threads_change_no_bit():
    rows, labels = some_rows(600, 210)
    groups = tuple(SiteGroup(str(at), 70) for at in range(3))
    policy = Policy(groups, (100, 210), (1.0, 4.0), searched_at=100)
    sums = summed(rows, labels)
    with one_blas_thread():
        expected = model_bits(sums, rows, labels, policy)
    assert model_bits(sums, rows, labels, policy) == expected


def test_candidates_take_turns_where_they_are_as_good():
    """No picture has anything to tell of its class: every candidate has the same GCV, and the first is taken."""
    rows, labels = some_rows(N, S)
    tuner = Tuner(summed(rows, np.zeros_like(labels), 1), replace(POLICY, sizes=(16, 8)))
    assert tuner.chosen.size == 16
    assert tuner.settings().weights == (1.0,) * 3


def test_pictures_that_decide_alone_choose_no_kappa():
    rows, labels = some_rows(1, S)
    tuner = Tuner(summed(rows, labels), POLICY)
    left = tuner.left_out(tuner.chosen, rows, labels)
    assert left.told == 0
    assert tuner.settings(left).kappa == POLICY.kappas[0]


def test_policies_come_back_from_json():
    assert Policy.from_json(POLICY.to_json()) == POLICY


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sizes": ()}, "sizes"),
        ({"sizes": (2,)}, "expected 3..24"),
        ({"sizes": (S + 1,)}, "expected 3..24"),
        ({"kappas": ()}, "kappas"),
        ({"kappas": (0.0,)}, "kappas"),
        ({"kappas": (float("nan"),)}, "kappas"),
        ({"weights": (-1.0,)}, "weights"),
        ({"penalties": ()}, "penalties"),
        ({"penalties": (float("inf"),)}, "penalties"),
        ({"searched_at": 2}, "searched_at"),
        ({"left_out": 0}, "left_out"),
        ({"groups": ()}, "without groups"),
    ],
)
def test_impossible_policies_are_refused(changes: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        Tuner(summed(*some_rows(N, S)), replace(POLICY, **changes))


def test_a_policy_for_other_rows_is_refused():
    with pytest.raises(DataError, match="expected 30"):
        Tuner(summed(*some_rows(N, 30)), POLICY)

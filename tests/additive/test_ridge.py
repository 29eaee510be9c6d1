"""The solve from sums against plain least squares, fractions, and leaving out by hand."""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
from additive_rows import some_rows, summed
from threadpoolctl import threadpool_info

from taft_ray.additive import GRID, AdditiveModel, Solution, Sums, leave_one_out, solve
from taft_ray.additive.grid import UNIT, from_rows
from taft_ray.additive.ridge import _centred
from taft_ray.additive.threads import one_blas_thread
from taft_ray.additive.tridiagonal import reduced
from taft_ray.errors import DataError, UsageError

N, S, K = 80, 24, 3


def least_squares(
    rows: np.ndarray, labels: np.ndarray, weight: float, classes: int = K
) -> tuple[np.ndarray, np.ndarray]:
    """(C, intercept) of ridge with an unpenalised intercept, by numpy.linalg.lstsq on stacked rows."""
    values = from_rows(rows)
    size = values.shape[1]
    left = np.block([[values, np.ones((len(values), 1))], [np.sqrt(weight) * np.eye(size), np.zeros((size, 1))]])
    right = np.concatenate([np.eye(classes)[labels], np.zeros((size, classes))])
    found = np.linalg.lstsq(left, right, rcond=None)[0]
    return found[:-1].T, found[-1]


@pytest.mark.parametrize("penalty", [1e-6, 1e-3, 10.0])
def test_solution_is_that_of_least_squares(penalty: float):
    rows, labels = some_rows(N, S)
    found = solve(summed(rows, labels), [penalty])
    coefficients, intercept = least_squares(rows, labels, penalty * N)
    assert np.allclose(found.coefficients, coefficients, rtol=1e-8, atol=1e-9)
    assert np.allclose(found.intercept, intercept, rtol=1e-8, atol=1e-9)


def test_solution_is_that_of_fractions():
    rows, labels = some_rows(6, 3, classes=2, seed=4)
    penalty = 2.0**-6
    n, size = rows.shape
    # the normal equations of [a, 1] and [y], solved by elimination
    augmented = [[Fraction(int(v), 2**15) for v in row] + [Fraction(1)] for row in rows]
    matrix = [[sum((a[i] * a[j] for a in augmented), Fraction(0)) for j in range(size + 1)] for i in range(size + 1)]
    for i in range(size):
        matrix[i][i] += Fraction(penalty) * n
    right = [
        sum((a[i] for a, label in zip(augmented, labels, strict=True) if label == 1), Fraction(0))
        for i in range(size + 1)
    ]
    for i in range(size + 1):
        for j in range(size + 1):
            if i != j:
                factor = matrix[j][i] / matrix[i][i]
                matrix[j] = [x - factor * y for x, y in zip(matrix[j], matrix[i], strict=True)]
                right[j] -= factor * right[i]
    exact = [float(right[i] / matrix[i][i]) for i in range(size + 1)]
    found = solve(summed(rows, labels, 2), [penalty])
    assert np.allclose(found.coefficients[1], exact[:-1], rtol=1e-12)
    assert np.allclose(found.intercept[1], exact[-1], rtol=1e-12)


def test_centring_loses_no_digit():
    generator = np.random.default_rng(0)
    rows = (20_000 + generator.integers(-3, 4, (50, 6))).astype(np.int16)  # nearly nothing but their mean
    sums = summed(rows, np.zeros(50, int), 1)
    exact = [[Fraction(0)] * 6 for _ in range(6)]
    mean = [Fraction(int(column.sum()), 50) for column in rows.astype(int).T]
    for row in rows.tolist():
        for i in range(6):
            for j in range(6):
                exact[i][j] += (row[i] - mean[i]) * (row[j] - mean[j])
    expected = np.array([[float(value) for value in line] for line in exact]) * UNIT**2
    assert np.allclose(_centred(sums.upper(), sums.total, 50), expected, rtol=1e-13, atol=1e-22)


def test_scores_are_those_of_the_hat_matrix():
    rows, labels = some_rows(N, S)
    values = from_rows(rows)
    centred, wanted = values - values.mean(0), np.eye(K)[labels]
    for score in solve(summed(rows, labels)).curve:
        hat = centred @ np.linalg.inv(centred.T @ centred + score.penalty * N * np.eye(S)) @ centred.T + 1 / N
        residual = float(np.square(wanted - hat @ wanted).sum())
        assert score.degrees_of_freedom == pytest.approx(np.trace(hat), rel=1e-6)
        assert score.residual == pytest.approx(residual / N, rel=1e-6)
        assert score.gcv == pytest.approx(N * residual / (N - np.trace(hat)) ** 2, rel=1e-5)


def test_the_chosen_penalty_has_the_least_score():
    found = solve(summed(*some_rows(N, S)))
    assert [score.penalty for score in found.curve] == list(GRID)
    assert found.score.gcv == min(score.gcv for score in found.curve)
    assert not found.at_end


@pytest.mark.parametrize(("grid", "chosen"), [((1e2, 1e3), 1e2), ((1e-9, 1e-8), 1e-8)])
def test_an_end_of_the_grid_is_told(grid: tuple[float, ...], chosen: float):
    found = solve(summed(*some_rows(N, S)), grid)
    assert (found.penalty, found.at_end) == (chosen, True)
    assert not solve(summed(*some_rows(N, S)), [1.0]).at_end


def test_fewer_pictures_than_numbers():
    rows, labels = some_rows(10, S)
    found = solve(summed(rows, labels))
    coefficients, intercept = least_squares(rows, labels, found.penalty * 10)
    assert np.allclose(found.coefficients, coefficients, atol=1e-6)
    assert np.allclose(found.intercept, intercept, atol=1e-6)


def test_leaving_one_out_by_hand():
    rows, labels = some_rows(20, 5)
    penalty = 0.01
    found = leave_one_out(summed(rows, labels), penalty, rows, labels)
    for left in range(20):
        kept = np.arange(20) != left
        coefficients, intercept = least_squares(rows[kept], labels[kept], penalty * 20)
        assert np.allclose(found[left], from_rows(rows[left]) @ coefficients.T + intercept, atol=1e-9)


def test_leave_one_out_refuses_what_it_cannot_say():
    rows, labels = some_rows(2, 5)
    with pytest.raises(DataError, match="expected a class below"):
        leave_one_out(summed(rows, labels), 0.1, rows, labels + 5)
    with pytest.raises(DataError, match="alone"):
        leave_one_out(summed(rows[:1], labels[:1]), 0.1, rows[:1], labels[:1])


def bits(solution: Solution) -> bytes:
    return solution.coefficients.tobytes() + solution.intercept.tobytes()


def test_threads_change_no_bit():
    rows, labels = some_rows(600, 200)
    sums = summed(rows, labels)
    with one_blas_thread():
        expected = bits(solve(sums))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert bits(solve(sums)) == expected
    finally:
        torch.set_num_threads(threads)


def test_threads_of_the_process_take_turns():
    problems = [summed(*some_rows(400, 150, seed=seed)) for seed in range(4)]
    expected = [bits(solve(sums)) for sums in problems]
    before = threadpool_info()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda sums: bits(solve(sums)), problems)) == expected
    assert [found["num_threads"] for found in threadpool_info()] == [found["num_threads"] for found in before]


def test_forget_equals_never_seen():
    rows, labels = some_rows(N, S)
    sums = summed(rows, labels)
    sums.subtract(rows[:7], labels[:7])
    assert bits(solve(sums)) == bits(solve(summed(rows[7:], labels[7:])))


def test_one_class_is_predicted_for_all():
    rows, _ = some_rows(12, 4)
    model = AdditiveModel.of(summed(rows, np.zeros(12, int), 1))
    assert np.allclose(model.logits(rows), 1)


def test_a_class_without_pictures_is_predicted_for_none():
    rows, labels = some_rows(N, S)
    sums = summed(rows, labels)
    sums.add_classes(1)
    logits = AdditiveModel.of(sums).logits(rows)
    assert np.allclose(logits[:, 3], 0)
    assert np.allclose(logits[:, :3], AdditiveModel.of(summed(rows, labels)).logits(rows), atol=1e-6)


def test_one_number_and_one_picture():
    rows, labels = some_rows(5, 1)
    found = solve(summed(rows, labels), [0.5])
    coefficients, intercept = least_squares(rows, labels, 2.5)
    assert np.allclose(found.coefficients, coefficients)
    assert np.allclose(found.intercept, intercept)
    alone = AdditiveModel.of(summed(rows[:1], labels[:1]))
    assert np.allclose(alone.logits(rows), np.eye(3)[labels[0]])


def test_bad_sums_and_penalties_are_refused():
    with pytest.raises(DataError, match="no pictures"):
        solve(Sums(4, 2))
    sums = summed(*some_rows(N, S))
    for penalties in ([], [0.0], [-1.0], [float("nan")], [float("inf")]):
        with pytest.raises(UsageError, match="expected finite numbers > 0"):
            solve(sums, penalties)
    sums._upper[0, 1] += 2**50
    with pytest.raises(DataError, match="not positive"):
        solve(sums)


def test_the_reduction_solves_every_shift():
    generator = np.random.default_rng(0)
    for size in (1, 2, 3, 30):
        values = generator.standard_normal((size + 5, size))
        gram = values.T @ values
        right = generator.standard_normal((size, 4))
        with one_blas_thread():
            tri = reduced(gram.copy())
            turned = tri.turn(right)
            for shift in (1e-3, 1.0, 50.0):
                expected = np.linalg.inv(gram + shift * np.eye(size))
                assert np.allclose(tri.turn_back(tri.solve(turned, shift)), expected @ right)
                assert tri.trace_of_inverse(shift) == pytest.approx(np.trace(expected))


def test_models_are_stored_as_arrays():
    rows, labels = some_rows(N, S)
    model = AdditiveModel.of(summed(rows, labels), 0.1)
    again = AdditiveModel.from_arrays(model.to_arrays())
    assert np.array_equal(again.logits(rows), model.logits(rows))
    assert (again.penalty, again.recipe) == (0.1, "")
    with pytest.raises(DataError, match="missing"):
        AdditiveModel.from_arrays({})
    with pytest.raises(DataError, match="another network or projection"):
        model.logits(rows[:, :5])

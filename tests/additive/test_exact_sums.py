"""Sums against whole numbers of Python, and the laws that a picture's leaving rests on."""

import numpy as np
import pytest
import torch
from additive_rows import some_rows, summed
from hypothesis import given, settings
from hypothesis import strategies as st

from taft_ray.additive import Sums, exact_sums
from taft_ray.additive.exact_sums import EXACT, MOST, ROWS
from taft_ray.additive.grid import LARGEST
from taft_ray.errors import DataError, DeltaMismatch, FixedPointOverflow, UsageError


def by_hand(rows: np.ndarray, labels: np.ndarray, classes: int) -> tuple[list[list[int]], list[list[int]]]:
    """G's upper triangle and B in Python's own whole numbers."""
    size = rows.shape[1]
    gram = [[0] * size for _ in range(size)]
    cross = [[0] * size for _ in range(classes)]
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        for i in range(size):
            cross[label][i] += row[i]
            for j in range(i, size):
                gram[i][j] += row[i] * row[j]
    return gram, cross


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_sums_are_those_of_whole_numbers(n: int):
    rows, labels = some_rows(n, 9)
    sums = summed(rows, labels)
    gram, cross = by_hand(rows, labels, 3)
    assert sums.upper().tolist() == gram
    assert sums.by_class.tolist() == cross
    assert sums.counts.tolist() == np.bincount(labels, minlength=3).tolist()
    assert sums.total.tolist() == rows.astype(int).sum(0).tolist()
    assert sums.n == n


def test_largest_numbers_are_summed_without_an_error():
    rows = np.full((ROWS + 1, 2), LARGEST, np.int16)
    rows[:, 1] = -LARGEST
    sums = summed(rows, np.zeros(len(rows), int), 1)
    assert sums.upper().tolist() == [[len(rows) * LARGEST**2, -len(rows) * LARGEST**2], [0, len(rows) * LARGEST**2]]


def test_blocks_stay_in_what_float64_adds_exactly():
    assert ROWS <= EXACT
    assert EXACT * LARGEST**2 < 2**53
    assert MOST * LARGEST**2 < 2**63


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 150), st.data())
def test_order_and_blocking_independence(seed: int, n: int, size: int, data):
    rows, labels = some_rows(n, size, seed=seed)
    order = data.draw(st.permutations(range(n)))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    parts = Sums(size, 3)
    for start, stop in zip([0, *cuts], [*cuts, n], strict=True):
        parts.add(rows[order[start:stop]], labels[order[start:stop]])
    assert parts == summed(rows, labels)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 300), st.data())
def test_forget_equals_never_seen(seed: int, n: int, data):
    rows, labels = some_rows(n, 20, seed=seed)
    gone = np.zeros(n, bool)
    gone[data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))] = True
    sums = summed(rows, labels)
    sums.subtract(rows[gone], labels[gone])
    never = summed(rows[~gone], labels[~gone])
    assert sums == never
    for name, value in sums.to_arrays().items():
        assert value.tobytes() == never.to_arrays()[name].tobytes()
    sums.add(rows[gone], labels[gone])
    assert sums == summed(rows, labels)


@pytest.mark.parametrize(("block", "strip", "few", "narrow"), [(1, 1, 0, 0), (3, 7, 2, 1000), (1000, 1000, 1000, 0)])
def test_block_sizes_change_no_bit(block: int, strip: int, few: int, narrow: int, monkeypatch: pytest.MonkeyPatch):
    rows, labels = some_rows(301, 40)
    expected = summed(rows, labels)
    for name, value in {"ROWS": block, "_STRIP": strip, "_FEW": few, "_NARROW": narrow}.items():
        monkeypatch.setattr(exact_sums, name, value)
    assert summed(rows, labels) == expected


def test_threads_change_no_bit():
    rows, labels = some_rows(1000, 300)
    found = []
    for threads in (1, 2):
        with exact_sums.one_blas_thread() if threads == 1 else torch.inference_mode():
            found.append(summed(rows, labels))
    assert found[0] == found[1]


def test_shards_merge_and_leave():
    rows, labels = some_rows(60, 12)
    parts = [summed(rows[at::3], labels[at::3]) for at in range(3)]
    whole = Sums(12, 3)
    for part in parts:
        whole.merge(part)
    assert whole == summed(rows, labels)
    whole.remove(parts[1])
    rest = np.arange(60) % 3 != 1
    assert whole == summed(rows[rest], labels[rest])


def test_new_classes_come_behind():
    rows, labels = some_rows(50, 8, classes=4)
    old = labels < 2
    sums = summed(rows[old], labels[old], 2)
    with pytest.raises(DataError, match="add the new classes first"):
        sums.add(rows, labels)
    sums.add_classes(2)
    sums.add(rows[~old], labels[~old])
    assert sums == summed(rows, labels, 4)
    with pytest.raises(UsageError, match="never shrinks"):
        sums.add_classes(-1)
    with pytest.raises(DeltaMismatch, match="add the new classes first"):
        summed(rows[old], labels[old], 2).merge(sums)
    sums.merge(summed(rows[old], labels[old], 2))
    assert sums.n == 50 + old.sum()


def test_a_smaller_projection_is_a_part_of_the_sums():
    rows, labels = some_rows(30, 10)
    sums = summed(rows, labels).first(4)
    expected = summed(rows[:, :4].copy(), labels)
    assert np.array_equal(sums.upper(), expected.upper())
    assert np.array_equal(sums.by_class, expected.by_class)
    assert sums != expected  # of another recipe
    with pytest.raises(UsageError, match=r"expected 1\.\.10"):
        summed(rows, labels).first(11)


def test_arrays_give_the_sums_back():
    rows, labels = some_rows(30, 10)
    sums = Sums(10, 3, recipe="a recipe")
    sums.add(rows, labels)
    assert Sums.from_arrays(sums.to_arrays()) == sums


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"additive/counts": None}, "missing"),
        ({"additive/format": np.array([2])}, "newer taft_ray"),
        ({"additive/gram": np.zeros(3, np.int64)}, "do not belong together"),
        ({"additive/counts": np.array([-1, 1, 1])}, "no class below 0"),
        ({"additive/counts": np.array([1, 0, 0])}, "damaged"),
    ],
)
def test_damaged_arrays_are_refused(change: dict, said: str):
    arrays = summed(*some_rows(30, 10)).to_arrays()
    for name, value in change.items():
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value
    with pytest.raises(DataError, match=said):
        Sums.from_arrays(arrays)


@pytest.mark.parametrize(
    ("rows", "labels", "said"),
    [
        (np.zeros((2, 5), np.int16), np.zeros(2, int), "another network or projection"),
        (np.zeros((2, 4), np.int64), np.zeros(2, int), "another network or projection"),
        (np.zeros((2, 4), np.int16), np.zeros(3, int), "a class per row"),
        (np.zeros((2, 4), np.int16), np.zeros(2), "a class per row"),
        (np.zeros((2, 4), np.int16), np.array([0, 3]), "expected 0..2"),
        (np.zeros((2, 4), np.int16), np.array([0, -1]), "expected 0..2"),
        (np.full((2, 4), -(2**15), np.int16), np.zeros(2, int), "a number of a row"),
    ],
)
def test_bad_rows_are_refused_and_change_nothing(rows: np.ndarray, labels: np.ndarray, said: str):
    sums = summed(*some_rows(5, 4))
    before = sums.copy()
    with pytest.raises(DataError, match=said):
        sums.add(rows, labels)
    assert sums == before


def test_pictures_that_are_not_in_cannot_leave():
    rows, labels = some_rows(5, 4)
    sums = summed(rows, labels)
    before = sums.copy()
    with pytest.raises(DataError, match="not in the sums"):
        sums.subtract(np.concatenate([rows, rows[:1]]), np.concatenate([labels, labels[:1]]))
    with pytest.raises(DataError, match="not in the sums"):
        sums.subtract(np.full((1, 4), LARGEST, np.int16), labels[:1])
    assert sums == before


def test_sums_that_would_leave_int64_are_refused():
    sums = summed(*some_rows(5, 4))
    sums._counts[0] = MOST - 4
    with pytest.raises(FixedPointOverflow, match="would leave int64"):
        sums.add(*some_rows(5, 4))


def test_sums_of_other_recipes_do_not_merge():
    one, other = Sums(4, 2, "one"), Sums(4, 2, "other")
    with pytest.raises(DeltaMismatch, match="another network or projection"):
        one.merge(other)
    with pytest.raises(DeltaMismatch):
        one.merge(Sums(5, 2, "one"))


def test_nothing_is_summed_of_no_rows():
    sums = Sums(4, 2)
    sums.add(np.zeros((0, 4), np.int16), np.zeros(0, int))
    assert sums == Sums(4, 2)
    with pytest.raises(UsageError):
        Sums(0, 2)

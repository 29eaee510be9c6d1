"""Systems that train no network: what they answer, that they know no shards, and that pictures leave them to the last bit."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from toy import CLASSES

from taft_ray.additive.grid import from_rows
from taft_ray.errors import DataError
from taft_ray.systems import Cell, TokenSet, measure_frozen
from taft_ray.systems.frozen import Neighbours, RidgeOfSums, Rows, System, head_rows, joined
from taft_ray.systems.head2toe import Head2Toe, scores
from taft_ray.tangent import TangentModel

SYSTEMS: dict[str, Callable[[], System]] = {
    "sums": RidgeOfSums,
    "knn": Neighbours,
    "head2toe": lambda: Head2Toe(kept=8),
}


def some_rows(n: int, size: int = 24, seed: int = 0) -> Rows:
    """Rows of which the first numbers alone say the class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, n)
    values = 0.05 * generator.standard_normal((n, size))
    values[np.arange(n), labels] += 0.2
    keys = [f"{seed:08d}{number:08d}".encode() for number in generator.permutation(n)]
    return Rows(keys, labels, np.round(values * 2**15).astype(np.int16))


def parted(every: Rows, shards: int) -> list[Rows]:
    shard = np.random.default_rng(1).integers(0, shards, len(every.keys))
    return [every.at(np.flatnonzero(shard == number)) for number in range(shards)]


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_shards_do_not_matter(system: Callable[[], System]):
    every, asked = some_rows(90), some_rows(40, seed=1)
    found = [system().fitted(shards, CLASSES) for shards in ([every], parted(every, 7), parted(every, 7)[::-1])]
    assert len({system().digest(state) for state in found}) == 1
    one, *others = (system().logits(state, asked.rows) for state in found)
    assert all(np.array_equal(one, other) for other in others)
    assert (one.argmax(1) == asked.labels).mean() > 0.8


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_a_picture_leaves_to_the_last_bit(system: Callable[[], System]):
    every, asked = some_rows(90), some_rows(40, seed=1)
    gone = np.array([3, 50])
    state = system().fitted(parted(every, 4), CLASSES)
    after = system().without(state, every.at(gone))
    anew = system().fitted([every.at(np.setdiff1d(np.arange(90), gone))], CLASSES)
    assert system().digest(after) == system().digest(anew) != system().digest(state)
    assert np.array_equal(system().logits(after, asked.rows), system().logits(anew, asked.rows))
    assert not np.array_equal(system().logits(state, asked.rows), system().logits(anew, asked.rows))


def test_neighbours_are_the_nearest_twenty_by_hand():
    every, asked = some_rows(60), some_rows(10, seed=1)
    system = Neighbours()
    shares = np.exp(system.logits(system.fitted([every], CLASSES), asked.rows))
    for row, answer in zip(from_rows(asked.rows), shares, strict=True):
        away = np.linalg.norm(from_rows(every.rows) - row, axis=1)
        nearest = np.argsort(away)[:20]
        expected = np.bincount(every.labels[nearest], weights=1 / away[nearest], minlength=CLASSES)
        assert answer == pytest.approx(expected / expected.sum(), rel=1e-6)


def test_a_class_without_a_picture_has_no_share():
    every = some_rows(60)
    two = every.at(np.flatnonzero(every.labels < 2))
    system = Neighbours()
    logits = system.logits(system.fitted([two], CLASSES), every.rows[:4])
    assert logits.shape == (4, CLASSES)
    assert np.isneginf(logits[:, 2]).all()


def test_selected_numbers_are_those_that_say_the_class():
    every = some_rows(200)
    assert set(np.argsort(-scores(every.rows, every.labels, CLASSES))[:3].tolist()) == {0, 1, 2}
    state = Head2Toe(kept=3).fitted([every], CLASSES)
    assert state.index.tolist() == [0, 1, 2]


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_no_picture_at_all_is_an_error(system: Callable[[], System]):
    with pytest.raises(DataError, match="empty"):
        system().fitted([some_rows(4).at(np.arange(0))], CLASSES)


def test_joined_shards_are_sorted_by_key():
    every = some_rows(30)
    keys = joined(parted(every, 3)).keys
    assert list(keys) == sorted(every.keys)


def test_head_rows_are_the_heads_inputs(tm: TangentModel, test: TokenSet):
    """Against timm's own way behind the last block."""
    network = tm.network
    with torch.no_grad():
        x = network.norm(network.blocks[-1](test.tokens.float()))  # type: ignore[operator,index]
        expected = torch.nn.functional.normalize(network.forward_head(x, pre_logits=True), dim=1)  # type: ignore[operator]
    assert from_rows(head_rows(tm, test.tokens)) == pytest.approx(expected.numpy(), abs=1e-4)


def test_a_frozen_cell_has_both_systems(
    tm: TangentModel, train: TokenSet, test: TokenSet, cell_of: Callable[..., Cell]
):
    one, four = (measure_frozen(cell_of(network="frozen", shards=n), tm, train, test) for n in (1, 4))
    assert set(one["accuracy"]) == {"head", "knn"}
    assert one["digests"] == four["digests"]
    assert one["accuracy"] == four["accuracy"]
    assert one["accuracy"]["head"] > 0.5  # a third is chance
    assert len(four["samples"]) == 4
    assert sum(four["samples"]) == len(train)

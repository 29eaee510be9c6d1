"""The released mean of rows: its sensitivity whatever the rows are, its noise, and what a mean that is mostly noise becomes."""

import math

import numpy as np
import pytest
import torch

from taft_ray.additive import HeadOnRows, Whitened, pink_pictures, released, to_rows
from taft_ray.additive.centring import LONGEST
from taft_ray.additive.grid import BITS, UNIT, from_rows
from taft_ray.additive.linear import BIAS, WEIGHT
from taft_ray.errors import DataError, UsageError
from taft_ray.privacy import GaussianStream
from taft_ray.tangent import Delta

S = 24


def made(n: int, seed: int = 0, away: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, S)) + away
    return to_rows(torch.from_numpy(values / np.linalg.norm(values, axis=1, keepdims=True)))


class Silent:
    """No noise; what was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, float]] = []

    def __call__(self, step: int, count: int, scale: float) -> np.ndarray:
        self.calls.append((step, count, scale))
        return np.zeros(count, np.int64)


def sums(rows: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
    """The whole numbers of a release without noise: nothing is shrunk where the multiplier is next to nothing."""
    centre = released(rows, Silent(), step=0, noise_multiplier=1e-9, divisor=1, units=units)
    return np.rint(centre.mean * 2.0**BITS)


EXTREMES = {
    "longest": np.r_[2**15 - 1, np.zeros(S - 1)],
    "beyond": np.full(S, 2**15 - 1),
    "least": np.full(S, -(2**15)),
    "zero": np.zeros(S),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("owners", [False, True])
def test_a_unit_that_is_zeroed_out_changes_the_sum_by_the_sensitivity_at_most(name: str, owners: bool):
    rows = made(40)
    units = np.arange(40) // 4 if owners else None
    theirs = slice(8, 12) if owners else slice(8, 9)
    rows[theirs] = EXTREMES[name].astype(np.int16)
    gone = rows.copy()
    gone[theirs] = 0
    changed = np.linalg.norm(sums(rows, units) - sums(gone, units))
    most = 2.0**BITS + math.sqrt(S) / 2
    assert changed <= most
    if name != "zero":
        assert changed > 0.99 * 2.0**BITS, "a bound that nothing comes near would hide an error"


def test_an_owner_counts_as_the_mean_of_what_is_theirs():
    rows = made(12)
    units = np.array([0] * 9 + [1] * 3)
    of_owners = sums(rows, units)
    expected = from_rows(rows)[:9].mean(0) + from_rows(rows)[9:].mean(0)
    assert of_owners == pytest.approx(2.0**BITS * expected, abs=1.0)
    turned = np.random.default_rng(0).permutation(12)
    assert (sums(rows[turned], units[turned]) == of_owners).all()


def test_without_noise_it_is_the_mean():
    rows = made(50)
    centre = released(rows, Silent(), step=0, noise_multiplier=1e-9, divisor=50)
    assert centre.mean == pytest.approx(from_rows(rows).mean(0), abs=1e-12)
    assert centre.scale == pytest.approx(1 / math.sqrt(1 - np.square(centre.mean).sum()))


def test_noise_is_drawn_once_at_its_step_and_scaled_to_the_sensitivity():
    for rows in (made(9), np.zeros((0, S), np.int16)):
        noise = Silent()
        released(rows, noise, step=50, noise_multiplier=3.0, divisor=9)
        assert noise.calls == [(50, S, 3.0 * (2.0**BITS + math.sqrt(S) / 2))]


def test_the_mean_has_the_noise_that_was_asked_for():
    rows, sigma, n = made(400), 5.0, 400
    true = from_rows(rows).mean(0)
    off = [
        released(rows, GaussianStream(bytes([seed] * 32)), step=0, noise_multiplier=sigma, divisor=n)
        for seed in range(60)
    ]
    spread = np.concatenate([one.mean / max(1e-9, _factor(one.mean, sigma, n)) - true for one in off])
    assert spread.std() == pytest.approx(sigma / n, rel=0.1)


def _factor(mean: np.ndarray, sigma: float, n: int) -> float:
    """f, found again from f·m̂: f(1 − f)… solved for the |m̂|² that gives this |m|²."""
    spread, after = S * (sigma / n) ** 2, float(mean @ mean)
    # |m|² = (q − v)²/q with q = |m̂|²
    q = ((2 * spread + after) + math.sqrt((2 * spread + after) ** 2 - 4 * spread**2)) / 2
    return 1 - spread / q


def test_a_mean_that_is_mostly_noise_is_shrunk_to_nothing_and_no_row_grows_beyond_bounds():
    rows = made(4, away=0.0)
    drowned = [
        released(rows, GaussianStream(bytes([s] * 32)), step=0, noise_multiplier=1e3, divisor=4) for s in range(20)
    ]
    raw = math.sqrt(S) * 1e3 / 4
    assert np.median([np.linalg.norm(one.mean) for one in drowned]) < raw / 3
    assert all(1 <= one.scale <= LONGEST for one in drowned)


def test_numbers_and_rows_that_mean_nothing_are_refused():
    for sigma, n in ((0.0, 5), (math.inf, 5), (math.nan, 5), (1.0, 0)):
        with pytest.raises(UsageError, match="expected"):
            released(made(5), Silent(), step=0, noise_multiplier=sigma, divisor=n)
    with pytest.raises(DataError, match="int16"):
        released(made(5).astype(np.int32), Silent(), step=0, noise_multiplier=1.0, divisor=5)


@pytest.mark.parametrize("whitened", [False, True])
def test_a_head_about_the_mean_is_one_on_rows(whitened: bool, monkeypatch: pytest.MonkeyPatch):
    """W·s·M·(a − m) + b = (s·W·M)·a + (b − s·W·M·m), a part of the rows at a time."""
    monkeypatch.setattr("taft_ray.additive.linear._PART", 7)
    rows, classes = made(30), 3
    random = torch.Generator().manual_seed(0)
    half = torch.randn(S, S, generator=random, dtype=torch.float64)
    matrix = half @ half.T / S if whitened else None
    head = HeadOnRows(S, classes)
    pictures = head.prepare(torch.from_numpy(rows)[:, None])
    centre = released(rows, GaussianStream(bytes(32)), step=0, noise_multiplier=0.5, divisor=30)
    about = Whitened.about(pictures, centre, matrix)
    assert about is not None
    values = (from_rows(rows) - centre.mean) * centre.scale
    read = about[slice(0, 30)].saved["rows"].double().numpy()
    assert read == pytest.approx(values if matrix is None else values @ matrix.numpy(), abs=1e-5)
    delta = Delta({BIAS: torch.randn(classes, generator=random), WEIGHT: torch.randn(classes, S, generator=random)})
    assert torch.allclose(
        head.logits(pictures, about.back(delta)), head.logits(about[slice(0, 30)], delta), rtol=1e-4, atol=1e-4
    )
    assert Whitened.about(pictures, None) is None
    assert (head.stored(pictures) == rows).all()


def test_rows_about_their_mean_are_as_long_as_before_on_average():
    rows = made(200)
    centre = released(rows, Silent(), step=0, noise_multiplier=1e-9, divisor=200)
    lengths = np.linalg.norm((from_rows(rows) - centre.mean) * centre.scale, axis=1)
    assert np.sqrt(np.square(lengths).mean()) == pytest.approx(1, abs=0.01)
    assert np.linalg.norm(from_rows(rows) - centre.mean, axis=1).mean() < 0.6
    assert 2 * UNIT < centre.scale < LONGEST


def test_pink_pictures_are_the_same_each_time_and_fall_as_one_over_the_frequency():
    first, again = (np.concatenate(list(pink_pictures(70, 32))) for _ in range(2))
    assert first.shape == (70, 3, 32, 32)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first[:32] == next(pink_pictures(40, 32))).all()
    amplitude = np.abs(np.fft.rfft(first.mean(1) - first.mean((1, 2, 3))[:, None, None], axis=2)).mean((0, 1))
    slope = np.polyfit(np.log(np.arange(2, 12)), np.log(amplitude[2:12]), 1)[0]
    assert slope == pytest.approx(-0.75, abs=0.25)  # along one axis, other frequencies of the other one are in it
    shared = np.corrcoef(first[:, 0].ravel().astype(float), first[:, 1].ravel().astype(float))[0, 1]
    assert 0.5 < shared < 0.95

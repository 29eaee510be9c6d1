"""Noise: Gaussian both ways, bound to what it is for, and useless to whoever compares two releases."""

import itertools

import mpmath
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy.stats import chisquare, kstest, norm

from taft_ray.errors import UsageError
from taft_ray.privacy import GaussianStream, commitment, new_key, stream_seed
from taft_ray.privacy.noise import _FINE, LARGEST_SCALE, _normal

KEY = bytes(range(32))
BINDING = {"spec": "a" * 64, "inputs": "b" * 64, "reservation": "c" * 64}
SCALE = 2.0**20
RECORDED = [-2346, -1292, -738, 110, -697, 1447]
RECORDED_TWO_PARTS = [-515709507, 2448111117, -770401031]
RECORDED_COMMITMENT = "d9ea347bb8ec82d1c77282114a7912f7c480e176ddabfa0da261ead30d1277a3"


def stream(key: bytes = KEY, **changed: str) -> GaussianStream:
    return GaussianStream(stream_seed(key, **{**BINDING, **changed}))


def numbers(count: int, step: int = 0, **changed: str) -> np.ndarray:
    return stream(KEY, **changed)(step, count, SCALE)


def test_kolmogorov_smirnov_accepts_the_right_sigma_and_no_other():
    found = numbers(200_000) / SCALE
    assert kstest(found, norm.cdf).pvalue > 0.01
    for wrong in (2 / 3, 3 / 2):
        assert kstest(found * wrong, norm.cdf).pvalue < 1e-12
    assert kstest(numbers(400_000, 1) / (1.02 * SCALE), norm.cdf).pvalue < 0.01, "and not one that is off by a fiftieth"


def test_moments_and_tails():
    found = numbers(4_000_000) / SCALE
    n = len(found)
    assert abs(found.mean()) < 4 / np.sqrt(n)
    assert abs(found.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((found**3).mean()) < 4 * np.sqrt(15 / n)
    assert abs((found**4).mean() - 3) < 4 * np.sqrt(96 / n)
    for edge in (1.0, 2.0, 3.0, 3.3, 3.5, 4.0, 4.5):  # words get more bits beyond 3.3
        for side in (found, -found):
            expected = n * norm.sf(edge)
            assert abs((side > edge).sum() - expected) < 4.5 * np.sqrt(expected)


def test_small_scales_round_as_the_exact_gaussian_does():
    n = 400_000
    found = stream()(0, n, 0.7)
    whole = np.arange(-3, 4)
    expected = n * (norm.cdf((whole + 0.5) / 0.7) - norm.cdf((whole - 0.5) / 0.7))
    counted = np.array([(found == value).sum() for value in whole])
    assert (np.abs(counted - expected) < 4.5 * np.sqrt(expected)).all()


def test_the_inverse_is_exact_far_out():
    """Words of chosen magnitudes, against 60 digits; the most extreme word there is lies beyond 12 σ."""
    magnitudes = [0, 1, 2, 1000, 2**20, 2**40, _FINE - 1, _FINE, _FINE + 1, 2**60, 2**62, 2**63 - 1]
    signed = np.array([*magnitudes, *(-1 - m for m in magnitudes)], np.int64)
    more = 0x123456789ABCDEF0
    found = _normal(signed.view(np.uint64), lambda count: np.full(count, more, np.uint64))  # type: ignore[arg-type]
    with mpmath.workdps(60):
        for value, got in zip(signed.tolist(), found.tolist(), strict=True):
            magnitude = mpmath.mpf(value if value >= 0 else -1 - value)
            fraction = (mpmath.mpf(more >> 11) + 0.5) / 2**53 if magnitude < _FINE else mpmath.mpf(0.5)
            p = (magnitude + fraction) / mpmath.mpf(2) ** 64
            if p > 0.499:
                assert abs(got) < 3e-3
                continue
            exact = mpmath.findroot(lambda z, p=p: mpmath.log(mpmath.ncdf(z)) - mpmath.log(p), -abs(got))
            assert abs(abs(got) / -exact - 1) < 2**-50, value
            assert (got < 0) == (value < 0)
    assert 9 < np.abs(found).max() < 12.6


def test_the_inverse_is_exact_in_the_middle():
    signed = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 300)
    found = _normal(signed.view(np.uint64), lambda count: np.zeros(count, np.uint64))  # type: ignore[arg-type]
    with mpmath.workdps(40):
        for value, got in zip(signed.tolist(), found.tolist(), strict=True):
            p = (abs(value + mpmath.mpf(0.5))) / mpmath.mpf(2) ** 64
            assert abs(mpmath.ncdf(-abs(got)) - p) < 2**-50


def test_equal_arguments_give_equal_bits_in_any_order_of_calls():
    first = stream()
    there = [first(step, 1000, SCALE) for step in range(5)]
    again = stream()
    back = [again(step, 1000, SCALE) for step in reversed(range(5))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(there, back, strict=True))
    assert there[0].dtype == np.int64
    assert first(0, 0, SCALE).shape == (0,)


def test_bits_are_those_of_this_version():
    """Recorded once: noise of runs that exist must come out the same."""
    assert stream()(3, 6, 1000.0).tolist() == RECORDED
    assert stream()(3, 3, 2.0**30).tolist() == RECORDED_TWO_PARTS
    assert commitment(KEY) == RECORDED_COMMITMENT


def test_words_are_chacha20_s():
    """RFC 8439, appendix A.1, test vector 1: the keystream of a zero key, counter 0 and nonce 0."""
    start = Cipher(ChaCha20(bytes(32), bytes(16)), mode=None).encryptor().update(bytes(16))
    assert start.hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_noise_is_unique_across_key_binding_step_count_and_scale():
    n = 2000
    ways: dict[str, np.ndarray] = {
        "as it is": numbers(n),
        "key": stream(bytes(31) + b"\1")(0, n, SCALE),
        "spec": numbers(n, spec="d" * 64),
        "generation": numbers(n, reservation="shard 3, generation 2"),
        "shard": numbers(n, reservation="shard 4, generation 1"),
        "inputs": numbers(n, inputs="d" * 64),
        "step": numbers(n, 1),
        "far step": numbers(n, 2**62),
        "count": numbers(n + 1)[:n],
        "scale": stream()(0, n, np.nextafter(SCALE, 0)),
        "fields swapped": numbers(n, spec="b" * 64, inputs="a" * 64),
        "fields shifted": numbers(n, spec="a" * 65, inputs="b" * 63),
    }
    for (name, one), (other, two) in itertools.combinations(ways.items(), 2):
        assert (one == two).mean() < 0.01, (name, other)
        assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(n), (name, other)


def test_texts_of_a_binding_cannot_run_into_each_other():
    def seed(*texts: str) -> bytes:
        spec, inputs, reservation = texts
        return stream_seed(KEY, spec=spec, inputs=inputs, reservation=reservation)

    assert len({seed("ab", "c", "d"), seed("a", "bc", "d"), seed("a", "b", "cd"), seed("abc", "d", "d")}) == 4


def test_steps_do_not_overlap():
    """No run of words of one step is in another: numbers of 200 steps are all different."""
    scale = 2.0**40
    found = np.concatenate([stream()(step, 500, scale) for step in range(200)])
    assert len(np.unique(found)) == len(found)


def test_keys_are_new_and_commitments_fix_them():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {32}
    assert len({commitment(key) for key in keys}) == 100
    assert set(commitment(KEY)) <= set("0123456789abcdef")
    assert len(commitment(KEY)) == 64


def test_nothing_secret_is_shown():
    assert KEY.hex() not in repr(stream())
    with pytest.raises(UsageError) as error:
        commitment(KEY + b"secret")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), "a" * 32, None, bytearray(32)])
def test_a_key_that_is_none_is_refused(key):
    for call in (lambda: commitment(key), lambda: stream_seed(key, **BINDING), lambda: GaussianStream(key)):
        with pytest.raises(UsageError, match="32 bytes"):
            call()


@pytest.mark.parametrize("missing", ["spec", "inputs", "reservation"])
@pytest.mark.parametrize("value", ["", None, b"a"])
def test_noise_bound_to_nothing_is_refused(missing: str, value):
    with pytest.raises(UsageError, match=missing):
        stream_seed(KEY, **{**BINDING, missing: value})


@pytest.mark.parametrize("scale", [0, 0.0, -1.0, np.nan, np.inf, 2 * LARGEST_SCALE, None, "1", True])
def test_a_scale_that_protects_nothing_or_overflows_is_refused(scale):
    with pytest.raises(UsageError, match="scale"):
        stream()(0, 1, scale)


@pytest.mark.parametrize(("step", "count"), [(-1, 1), (0, -1), (0.5, 1), (0, 1.5), (True, 1), (0, 2**33), (2**64, 1)])
def test_steps_and_counts_that_mean_nothing_are_refused(step, count):
    with pytest.raises(UsageError, match="whole number"):
        stream()(step, count, 1.0)


@pytest.mark.parametrize("scale", [2.0**20, 1.0001 * 2**20, 3e9, 2.0**40, LARGEST_SCALE])
def test_scales_of_one_part_and_of_two_are_gaussian(scale: float):
    found = stream()(0, 200_000, scale)
    assert kstest(found / scale, norm.cdf).pvalue > 1e-3
    assert kstest(found / (1.03 * scale), norm.cdf).pvalue < 1e-3


def test_the_coarse_grid_of_a_large_scale_cannot_be_seen():
    """Every residue of its step is as frequent as the others."""
    scale, step = 2.0**24, 32
    residues = np.bincount(stream()(0, 320_000, scale) % step, minlength=step)
    assert chisquare(residues).pvalue > 1e-3
    assert chisquare(np.bincount((stream()(0, 320_000, scale) // 2 * 2) % step, minlength=step)).pvalue < 1e-12


def release(gradients: np.ndarray, noise: GaussianStream, sigma: float) -> np.ndarray:
    """One step of dp-gd: the sum of rows of norm 1 on a grid of 2^-20, and noise."""
    total = np.rint(gradients.sum(0) * SCALE).astype(np.int64)
    return (total + noise(0, gradients.shape[1], sigma * SCALE)) / SCALE


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_two_releases_with_the_same_noise_give_the_sample_away_and_with_fresh_noise_nothing():
    """The replay attack: a retrain without one sample, released again."""
    rng = np.random.default_rng(7)
    gradients = rng.standard_normal((300, 2000))
    gradients /= np.linalg.norm(gradients, axis=1, keepdims=True)
    gone, sigma = gradients[17], 9.83
    before = release(gradients, stream(inputs="with the sample"), sigma)
    rest = np.delete(gradients, 17, axis=0)
    replayed = release(rest, stream(inputs="with the sample"), sigma)
    fresh = release(rest, stream(inputs="without it"), sigma)
    assert cosine(before - replayed, gone) > 0.999
    # difference of two noises: σ√2 in each direction, against a gradient of norm 1
    others = [cosine(before - fresh, row) for row in rest]
    assert abs(cosine(before - fresh, gone)) < np.quantile(np.abs(others), 0.999)

"""Poisson batches: each unit by itself with the rate and never more, bound to the key, and apart from the noise."""

import hmac
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy.stats import binom, chisquare

from taft_ray.errors import UsageError
from taft_ray.privacy import BatchStream, GaussianStream
from taft_ray.privacy.batches import threshold_of

SEED = bytes(range(32))
RECORDED = [3, 15, 17, 20, 25]  # of 40 units at step 3 and rate 0.2


def stream(seed: bytes = SEED) -> BatchStream:
    return BatchStream(seed)


def batches(steps: int, units: int, rate: float) -> np.ndarray:
    return np.stack([stream()(step, units, rate) for step in range(steps)])


@pytest.mark.parametrize("rate", [0.03, 0.3, 0.9])
def test_sizes_of_batches_are_binomial_at_the_rate_and_at_no_other(rate: float):
    steps, units = 4000, 60
    sizes = batches(steps, units, rate).sum(1)

    def p_value(at: float) -> float:
        expected = steps * binom.pmf(np.arange(units + 1), units, at)
        kept = expected >= 8
        counted = np.bincount(sizes, minlength=units + 1)
        return float(
            chisquare([*counted[kept], counted[~kept].sum()], [*expected[kept], steps - expected[kept].sum()]).pvalue
        )

    assert p_value(rate) > 0.005
    assert p_value(rate * 1.05 if rate < 0.9 else 0.89) < 1e-3


def test_units_and_steps_do_not_depend_on_each_other():
    steps, units, rate = 20_000, 8, 0.25
    found = batches(steps, units, rate)
    assert (np.abs(found.mean(0) - rate) < 4.5 * math.sqrt(rate * (1 - rate) / steps)).all()
    counted = np.unique(found @ (1 << np.arange(units)), return_counts=True)
    whole = np.zeros(1 << units)
    whole[counted[0]] = counted[1]
    members = np.array([bin(number).count("1") for number in range(1 << units)])
    chances = rate**members * (1 - rate) ** (units - members)
    common = steps * chances >= 8
    pooled = ([*whole[common], whole[~common].sum()], [*steps * chances[common], steps * chances[~common].sum()])
    assert chisquare(*pooled).pvalue > 0.005
    following = (found[1:] & found[:-1]).mean()
    assert abs(following - rate**2) < 4.5 * math.sqrt(rate**2 / found[1:].size)


def test_the_true_rate_is_never_above_the_asked_one():
    rng = np.random.default_rng(0)
    for rate in [0.1, 0.5, 1 - 2.0**-53, 1e-300, 5e-324, *rng.random(1000), *10 ** -rng.uniform(3, 20, 1000)]:
        threshold = threshold_of(float(rate))
        assert 0 <= threshold < 2**64
        assert Fraction(threshold, 2**64) <= Fraction(float(rate)) < Fraction(threshold + 1, 2**64)


def test_the_word_at_the_threshold_is_out(monkeypatch: pytest.MonkeyPatch):
    edge = threshold_of(0.3)
    monkeypatch.setattr(
        "taft_ray.privacy.batches.Words",
        lambda key, nonce: lambda count: np.array([edge - 1, edge, edge + 1], np.uint64),
    )
    assert stream()(0, 3, 0.3).tolist() == [True, False, False]


def test_a_batch_is_chacha20_s_words_below_the_threshold():
    """Written out: the words of RFC 8439's cipher, compared as whole numbers."""
    step, units, rate = 7, 50, 0.3
    call = step.to_bytes(8, "big") + units.to_bytes(8, "big") + np.array(rate, ">f8").tobytes()
    key = hmac.digest(SEED, b"taft_ray batch call 1" + call, "sha256")
    data = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * units))
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    expected = [Fraction(word, 2**64) < Fraction(rate) - Fraction(rate) % Fraction(1, 2**64) for word in words]
    assert stream()(step, units, rate).tolist() == expected


def test_bits_are_those_of_this_version():
    """Recorded once: runs that exist must be verified by the same batches."""
    assert np.flatnonzero(stream()(3, 40, 0.2)).tolist() == RECORDED


def test_equal_arguments_give_equal_batches_and_any_other_gives_others():
    n, rate = 2000, 0.5
    ways = {
        "as it is": stream()(0, n, rate),
        "key": stream(bytes(31) + b"\1")(0, n, rate),
        "step": stream()(1, n, rate),
        "far step": stream()(2**62, n, rate),
        "units": stream()(0, n + 1, rate)[:n],
        "rate": stream()(0, n, float(np.nextafter(rate, 0))),
    }
    assert np.array_equal(ways["as it is"], stream()(0, n, rate))
    for (name, one), (other, two) in itertools.combinations(ways.items(), 2):
        assert abs((one == two).mean() - 0.5) < 4.5 * 0.5 / math.sqrt(n), (name, other)


def test_batches_tell_nothing_of_the_noise_of_the_same_step():
    n, scale = 4000, 2.0**19
    inside = stream()(0, n, 0.5)
    noise = GaussianStream(SEED)(0, n, scale)
    assert abs(np.corrcoef(inside, noise > 0)[0, 1]) < 4.5 / math.sqrt(n)
    assert abs(np.corrcoef(inside, noise)[0, 1]) < 4.5 / math.sqrt(n)


def test_no_units_and_ends():
    assert stream()(0, 0, 0.5).shape == (0,)
    assert not stream()(0, 100, 1e-300).any()
    assert stream()(0, 100, 1 - 2.0**-53).all()
    assert repr(stream()) == "BatchStream(secret)"


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.5, 2.0, math.nan, math.inf, None, "0.5", True])
def test_rates_that_mean_nothing_are_refused(rate):
    with pytest.raises(UsageError, match="sampling rate between 0 and 1"):
        stream()(0, 10, rate)


def test_other_arguments_that_mean_nothing_are_refused():
    for call, said in (
        (lambda: BatchStream(b"short"), "32 bytes"),
        (lambda: stream()(-1, 10, 0.5), "step"),
        (lambda: stream()(0, -1, 0.5), "units"),
        (lambda: stream()(0, 2.5, 0.5), "units"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match=said):
            call()

"""compose: exact sums, and the two models that are functions of them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import BY_ID, build, images, random_delta
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taft_ray.errors import DeltaMismatch, FixedPointOverflow, UsageError
from taft_ray.sums import Sums, compose, shard_terms, terms_to_delta
from taft_ray.sums.fixed_point import DELTA_BITS, GRAM_BITS, from_grid, to_grid
from taft_ray.tangent import Delta, linearize
from taft_ray.tangent.gram import GramLayer

KEY = "fc.weight|fc.bias|0:4"
OUTPUTS, INPUTS = 4, 6
seeds = st.integers(0, 2**32 - 1)
weights = st.integers(1, 10_000)
scales = st.sampled_from([1e-9, 1e-3, 1.0, 10.0])  # six of the largest with the largest weights fit into the sums
laws = settings(max_examples=60, deadline=None)


def a_delta(seed: int, scale: float = 1.0) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"fc.weight": (OUTPUTS, INPUTS), "fc.bias": (OUTPUTS,), "norm.weight": (INPUTS,)}
    return Delta(
        {n: scale * torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}
    )


def a_gram(seed: int, samples: int = 20) -> dict[str, Tensor]:
    """Σ a·aᵀ over ``samples`` inputs with a constant 1."""
    x = torch.randn(samples, INPUTS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = torch.cat([x, torch.ones(samples, 1, dtype=torch.float64)], dim=1)
    return {KEY: x.T @ x}


def same(a: dict[str, Tensor] | Delta, b: dict[str, Tensor] | Delta) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


shards = st.lists(st.tuples(seeds, scales, weights), min_size=1, max_size=6)


def summed(parts: list[tuple[int, float, int]]) -> Sums:
    sums = Sums()
    for seed, scale, weight in parts:
        sums.add(shard_terms(a_delta(seed, scale), a_gram(seed)), weight)
    return sums


# --- the exact sums


@laws
@given(shards, st.randoms(use_true_random=False))
def test_order_independence(parts, random):
    shuffled = random.sample(parts, len(parts))
    first, second = summed(parts), summed(shuffled)
    assert same(first.totals, second.totals)
    for mode in ("mean", "gram"):
        assert same(first.compose(mode), second.compose(mode))


@laws
@given(shards, st.randoms(use_true_random=False), st.booleans())
def test_compose_does_not_depend_on_order(parts, random, with_statistics):
    shuffled = random.sample(parts, len(parts))

    def composed(chosen: list[tuple[int, float, int]]) -> Delta:
        statistics = [a_gram(seed) for seed, _, _ in chosen] if with_statistics else None
        return compose([a_delta(seed, scale) for seed, scale, _ in chosen], [w for _, _, w in chosen], statistics)

    assert same(composed(parts), composed(shuffled))


@laws
@given(shards, seeds, scales, weights)
def test_add_then_subtract_restores_every_bit(parts, seed, scale, weight):
    sums = summed(parts)
    before, counted = {name: total.clone() for name, total in sums.totals.items()}, (sums.weight, sums.count)
    terms = shard_terms(a_delta(seed, scale), a_gram(seed))
    sums.add(terms, weight)
    assert (sums.weight, sums.count) == (counted[0] + weight, counted[1] + 1)
    sums.subtract(terms, weight)
    assert same(sums.totals, before)
    assert (sums.weight, sums.count) == counted


@laws
@given(st.lists(st.tuples(seeds, scales, weights), min_size=2, max_size=6), st.data())
def test_forget_equals_never_seen(parts, data):
    """Subtract any shard, in whatever order the others came: the bits of a model composed without it."""
    forgotten = data.draw(st.integers(0, len(parts) - 1))
    sums = summed(parts)
    seed, scale, weight = parts[forgotten]
    sums.subtract(shard_terms(a_delta(seed, scale), a_gram(seed)), weight)
    never = summed(parts[:forgotten] + parts[forgotten + 1 :])
    assert same(sums.totals, never.totals)
    for mode in ("mean", "gram"):
        assert same(sums.compose(mode), never.compose(mode))


def test_subtracting_the_last_shard_leaves_nothing():
    sums, terms = Sums(), shard_terms(a_delta(0), a_gram(0))
    sums.add(terms, 5)
    sums.subtract(terms, 5)
    assert (sums.weight, sums.count) == (0, 0)
    assert not any(total.any() for total in sums.totals.values())
    with pytest.raises(DeltaMismatch, match="nothing to compose"):
        sums.mean()


def test_terms_are_not_written_to():
    terms = shard_terms(a_delta(0), a_gram(0))
    before = {name: term.clone() for name, term in terms.items()}
    sums = Sums()
    for weight in (1, 2, 3):
        sums.add(terms, weight)
    sums.gram()
    assert same(terms, before)


# --- the grid


@laws
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_rounding_to_the_grid(values):
    exact = torch.tensor(values, dtype=torch.float64)
    rounded = from_grid(to_grid(exact, DELTA_BITS), DELTA_BITS)
    limit = 2.0 ** -(DELTA_BITS + 1) + exact.abs() * 2.0**-52
    assert bool(((rounded - exact).abs() <= limit).all())


@laws
@given(seeds, scales)
def test_a_rounded_delta_is_its_own_rounding(seed, scale):
    """From the first rounding on, the rounded delta is the shard's delta: committing it again changes no bit."""
    terms = shard_terms(a_delta(seed, scale), a_gram(seed))
    delta = terms_to_delta(terms)
    assert list(delta) == list(a_delta(seed))
    assert same(shard_terms(delta, a_gram(seed)), terms)
    assert float((delta - a_delta(seed, scale)).norm()) <= delta.numel() ** 0.5 * 2.0**-DELTA_BITS


def test_statistics_belong_to_the_rounded_delta():
    """ΔW·A of the delta as rounded, so that the composed model is a function of what was committed."""
    terms = shard_terms(a_delta(1), a_gram(1))
    rounded = terms_to_delta(terms)
    grid = from_grid(to_grid(a_gram(1)[KEY], GRAM_BITS), GRAM_BITS)
    rows = torch.cat([rounded["fc.weight"], rounded["fc.bias"][:, None]], dim=1)
    assert torch.equal(terms["cross/" + KEY], to_grid(rows @ grid, GRAM_BITS))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value: float):
    broken = dict(a_delta(0))
    broken["fc.bias"] = torch.tensor([0.0, value, 0.0, 0.0])
    with pytest.raises(FixedPointOverflow, match=r"fc\.bias: values that are not finite"):
        compose([Delta(broken), a_delta(1)])
    gram = {KEY: a_gram(0)[KEY].clone()}
    gram[KEY][0, 0] = value
    with pytest.raises(FixedPointOverflow, match=r"Gram matrix of .*not finite"):
        shard_terms(a_delta(0), gram)


@pytest.mark.parametrize("value", [2.0**23, -(2.0**23), 1e30])
def test_values_beyond_the_grid_are_refused(value: float):
    with pytest.raises(FixedPointOverflow, match=r"x: \|value\| .* does not fit a 2\^-40 grid"):
        to_grid(torch.tensor([value]), DELTA_BITS, what="x")


def test_largest_values_that_fit():
    edge = torch.tensor([2.0**22 - 1, -(2.0**22) + 1], dtype=torch.float64)
    assert torch.equal(from_grid(to_grid(edge, DELTA_BITS), DELTA_BITS), edge)


def test_overflow_changes_nothing():
    sums = Sums()
    small, large = shard_terms(a_delta(0), a_gram(0)), shard_terms(a_delta(1, 1e5), a_gram(1))
    sums.add(small, 3)
    before = {name: total.clone() for name, total in sums.totals.items()}
    for attempt in (
        lambda: sums.add(large, 10_000),
        lambda: sums.subtract(large, 10_000),
        lambda: sums.add(large, 2**80),
    ):
        with pytest.raises(FixedPointOverflow, match=r"delta/fc\..*the sum would leave int64"):
            attempt()
        assert same(sums.totals, before)
        assert (sums.weight, sums.count) == (3, 1)
    sums.add(large, 1)


@laws
@given(st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(-4, 4)), min_size=1, max_size=5))
def test_sums_never_wrap_and_refuse_only_what_could(shards):
    sums, exact = Sums(), 0
    for value, weight in shards:
        terms = {"delta/x": torch.tensor([value])}
        change = sums.add if weight >= 0 else sums.subtract
        try:
            change(terms, abs(weight))
        except FixedPointOverflow:
            assert abs(exact + weight * value) >= 2**63 * (1 - 2**-39) or abs(weight * value) >= 2**63
        else:
            exact += weight * value
        if sums.totals:
            assert int(sums.totals["delta/x"]) == exact


def test_what_is_in_a_sum_can_always_be_taken_out():
    """Also where the sum is near the end of its range: what is subtracted brings it nearer to zero."""
    sums = Sums()
    for value in (2**61, 2**61 + 2**60, 2**60):
        sums.add({"delta/x": torch.tensor([value, -value])})
    sums.subtract({"delta/x": torch.tensor([2**61 + 2**60, -(2**61) - 2**60])})
    assert sums.totals["delta/x"].tolist() == [2**61 + 2**60, -(2**61) - 2**60]


def test_gram_bits_depend_on_neither_workers_nor_threads():
    sums = Sums()
    for shard in range(3):
        sums.add(shard_terms(a_delta(shard), a_gram(shard)))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = sums.gram(workers=1)
        torch.set_num_threads(2)
        assert same(sums.gram(workers=4), alone)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


# --- mismatches


def without(delta: Delta, name: str) -> Delta:
    return Delta({key: value for key, value in delta.items() if key != name})


@pytest.mark.parametrize(
    "other",
    [
        without(a_delta(1), "fc.bias"),
        Delta({**a_delta(1), "more": torch.zeros(1)}),
        Delta({**a_delta(1), "fc.bias": torch.zeros(5)}),
    ],
    ids=["missing", "extra", "shape"],
)
def test_deltas_of_other_linearisations_are_refused(other: Delta):
    with pytest.raises(DeltaMismatch, match="shards of different linearisations"):
        compose([a_delta(0), other])
    sums = Sums()
    sums.add(shard_terms(a_delta(0)), 2)
    before = {name: total.clone() for name, total in sums.totals.items()}
    with pytest.raises(DeltaMismatch):
        sums.subtract(shard_terms(other), 2)
    assert same(sums.totals, before)
    assert (sums.weight, sums.count) == (2, 1)


def test_statistics_that_do_not_fit_are_refused():
    sums = Sums()
    sums.add(shard_terms(a_delta(0), a_gram(0)))
    with pytest.raises(DeltaMismatch, match="differ"):
        sums.add(shard_terms(a_delta(1)))  # a shard without statistics among shards with
    with pytest.raises(DeltaMismatch, match=r"Gram statistics of \['fc\.bias'\], which the delta lacks"):
        shard_terms(without(a_delta(0), "fc.bias"), a_gram(0))
    with pytest.raises(DeltaMismatch, match=r"Gram matrix of .* has 6 rows, expected 7"):
        shard_terms(a_delta(0), {KEY: a_gram(0)[KEY][:6, :6]})
    with pytest.raises(DeltaMismatch, match="carry no Gram statistics"):
        compose([a_delta(0)], statistics=[{}])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compose([]), "at least one delta"),
        (lambda: compose([a_delta(0)], [1, 2]), "1 deltas, but 2 weights"),
        (lambda: compose([a_delta(0)], statistics=[]), "1 deltas, but 1 weights and 0 statistics"),
        (lambda: compose([a_delta(0)], [-1]), "expected finite numbers >= 0"),
        (lambda: compose([a_delta(0)], [math.nan]), "expected finite numbers >= 0"),
        (lambda: compose([a_delta(0)], [math.inf]), "expected finite numbers >= 0"),
        (lambda: compose([a_delta(0)], statistics=[a_gram(0)], epsilon=0.0), "epsilon=0.0: expected > 0"),
        (lambda: summed([(0, 1.0, 1)]).compose("median"), "compose='median': expected one of gram, mean, joint"),
        (lambda: Sums().add(shard_terms(a_delta(0)), -1), "weight=-1: expected a whole number >= 0"),
        (lambda: Sums().add(shard_terms(a_delta(0)), 0.5), "weight=0.5: expected a whole number >= 0"),  # type: ignore[arg-type]
    ],
)
def test_bad_calls_are_refused(call: Callable[[], object], message: str):
    with pytest.raises(UsageError, match=message):
        call()


def test_nothing_to_compose():
    for attempt in (Sums().mean, Sums().gram, lambda: compose([a_delta(0), a_delta(1)], [0, 0])):
        with pytest.raises(DeltaMismatch, match="nothing to compose"):
            attempt()


# --- the mean


@pytest.mark.parametrize(
    ("given_weights", "shares"),
    [
        (None, (1 / 3, 1 / 3, 1 / 3)),
        ([1, 2, 5], (1 / 8, 2 / 8, 5 / 8)),
        ([100_003, 7, 1], (100_003 / 100_011, 7 / 100_011, 1 / 100_011)),
        ([0.5, 0.25, 0.25], (0.5, 0.25, 0.25)),
        ([0.1, 0.2, 0.7], (0.1, 0.2, 0.7)),
        ([1e-9, 2e-9, 1e-9], (0.25, 0.5, 0.25)),  # only proportions count
        ([1e6, 3e6, 0.0], (0.25, 0.75, 0.0)),
        ([0, 1, 3], (0.0, 0.25, 0.75)),
        ([math.pi, math.e, 1.1], tuple(w / (math.pi + math.e + 1.1) for w in (math.pi, math.e, 1.1))),
        (list(np.array([1, 2, 5])), (1 / 8, 2 / 8, 5 / 8)),
    ],
)
def test_weights(given_weights: list[float] | None, shares: tuple[float, ...]):
    deltas = [a_delta(seed, 1e-3) for seed in range(3)]
    composed = compose(deltas, given_weights)
    expected = sum((share * delta for share, delta in zip(shares[1:], deltas[1:], strict=True)), shares[0] * deltas[0])
    for name, value in composed.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-7)


def test_weights_in_the_same_proportions_give_the_same_bits():
    deltas = [a_delta(seed) for seed in range(3)]
    first = compose(deltas, [0.25, 0.5, 0.25])
    assert same(first, compose(deltas, [1.0, 2.0, 1.0]))
    assert same(first, compose(deltas, [1, 2, 1]))


def test_types_are_kept():
    composed = compose([a_delta(0).to(torch.float32), a_delta(1).to(torch.float32)])
    assert {value.dtype for value in composed.values()} == {torch.float32}


@pytest.mark.parametrize("id", ["vit", "vit-avg", "resnet-basic"])
def test_mean_equals_output_ensembling(id: str):
    """Σ λ_i f_lin^(i) = f_w + J Σ λ_i Δw_i  (TAFT eq. 13), λ_i = n_i / Σ n."""
    case, counts = BY_ID[id], (10, 25, 65)
    tm = linearize(build(case))
    pictures = images(case)
    deltas = [random_delta(tm, seed=seed, scale=0.1) for seed in range(3)]
    outputs = sum(n / 100 * tm(pictures, delta) for n, delta in zip(counts, deltas, strict=True))
    torch.testing.assert_close(tm(pictures, compose(deltas, counts)), outputs, rtol=0, atol=1e-7)


# --- Gram


def dense_gram(deltas: list[Delta], grams: list[dict[str, Tensor]], counts: list[int], epsilon: float) -> np.ndarray:
    """(Σ ΔWᵢAᵢ + e Σ wᵢΔWᵢ)(Σ Aᵢ + e Σ wᵢ I)⁻¹ with e = ε · mean diag(Σ Aᵢ) / Σ wᵢ, by an explicit inverse."""
    rows = [np.column_stack([delta["fc.weight"].numpy(), delta["fc.bias"].numpy()]) for delta in deltas]
    matrices = [gram[KEY].numpy() for gram in grams]
    total, whole = np.sum(matrices, axis=0), sum(counts)
    e = epsilon * np.trace(total) / len(total) / whole
    left = sum(row @ matrix + e * n * row for row, matrix, n in zip(rows, matrices, counts, strict=True))
    return left @ np.linalg.inv(total + e * whole * np.eye(len(total)))


@pytest.mark.parametrize("epsilon", [1e-3, 0.02, 1.0])
@pytest.mark.parametrize("samples", [2, 20, 200])
def test_gram_against_the_formula(epsilon: float, samples: int):
    deltas, counts = [a_delta(seed) for seed in range(4)], [samples, samples, 2 * samples, 3]
    grams = [a_gram(10 + seed, samples) for seed in range(4)]
    composed = compose(deltas, counts, grams, epsilon)
    expected = dense_gram(deltas, grams, counts, epsilon)
    np.testing.assert_allclose(composed["fc.weight"].numpy(), expected[:, :-1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(composed["fc.bias"].numpy(), expected[:, -1], rtol=0, atol=1e-5)
    # without statistics of its own: the mean
    assert torch.equal(composed["norm.weight"], compose(deltas, counts)["norm.weight"])


@laws
@given(st.lists(st.tuples(seeds, st.integers(1, 50)), min_size=1, max_size=5), seeds)
def test_gram_is_the_mean_when_every_shard_saw_the_same(parts, seed):
    """Aᵢ = nᵢ·A, weights nᵢ: Σ nᵢΔWᵢ(A + eI) (Σ nᵢ(A + eI))⁻¹ = Σ nᵢΔWᵢ / Σ nᵢ."""
    deltas, counts = [a_delta(s) for s, _ in parts], [n for _, n in parts]
    matrix = a_gram(seed)[KEY]
    composed = compose(deltas, counts, [{KEY: n * matrix} for n in counts])
    mean = compose(deltas, counts)
    for name in mean:
        torch.testing.assert_close(composed[name], mean[name], rtol=0, atol=1e-4)


def test_gram_of_one_shard_is_that_shard():
    delta = a_delta(3)
    composed = compose([delta], [7], [a_gram(3)])
    for name in delta:
        torch.testing.assert_close(composed[name], delta[name], rtol=0, atol=1e-6)


def test_gram_agrees_with_each_shard_on_that_shards_inputs():
    """Two shards that see orthogonal directions: the composed layer acts on each direction as its shard does."""
    first, second = torch.zeros(7, 7, dtype=torch.float64), torch.zeros(7, 7, dtype=torch.float64)
    first[:3, :3], second[3:, 3:] = torch.eye(3), torch.eye(4)
    deltas = [a_delta(0), a_delta(1)]
    composed = compose(deltas, statistics=[{KEY: 1000 * first}, {KEY: 1000 * second}], epsilon=1e-6)
    torch.testing.assert_close(composed["fc.weight"][:, :3], deltas[0]["fc.weight"][:, :3], rtol=0, atol=1e-4)
    torch.testing.assert_close(composed["fc.weight"][:, 3:], deltas[1]["fc.weight"][:, 3:], rtol=0, atol=1e-4)
    torch.testing.assert_close(composed["fc.bias"], deltas[1]["fc.bias"], rtol=0, atol=1e-4)


def test_gram_of_inputs_that_are_all_zero():
    composed = compose([a_delta(0), a_delta(1)], statistics=[{KEY: torch.zeros(7, 7)}] * 2)
    mean = compose([a_delta(0), a_delta(1)])
    for name in mean:
        torch.testing.assert_close(composed[name], mean[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("id", ["vit", "vit-no-qkv-bias", "deit-distilled", "vit-avg", "resnet-basic", "convnext"])
@pytest.mark.parametrize("trainable", ["full", "bitfit"])
def test_gram_composition_of_a_real_model(id: str, trainable: str):
    """tm.gram's keys fit tm's deltas. Identical shards compose to themselves, and key rows are the mean."""
    case = BY_ID[id]
    tm = linearize(build(case), trainable=trainable)
    prepared = tm.prepare(tm.prefix(images(case, count=6)))
    statistics = [tm.gram(prepared[:2]), tm.gram(prepared[2:])]
    deltas = [random_delta(tm, seed=seed, scale=0.1) for seed in range(2)]
    composed, mean = compose(deltas, [2, 4], statistics), compose(deltas, [2, 4])
    mean.check_like(composed)
    assert all(value.isfinite().all() for value in composed.values())
    alone = compose([deltas[0], deltas[0]], [2, 4], statistics)
    assert float((alone - deltas[0]).norm() / deltas[0].norm()) < 1e-5
    layers = [GramLayer.parse(key) for key in statistics[0]]
    assert [str(layer) for layer in layers] == list(statistics[0])
    touched = {name for layer in layers for name in (layer.weight, layer.bias) if name}
    for name in mean:
        assert torch.equal(composed[name], mean[name]) == (name not in touched), name
    if id == "vit" and trainable == "full":
        keys = slice(24, 48)
        assert torch.equal(composed["blocks.2.attn.qkv.weight"][keys], mean["blocks.2.attn.qkv.weight"][keys])


def test_gram_composition_on_the_device_of_the_deltas():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    deltas = [a_delta(seed).to(device) for seed in range(2)]
    composed = compose(deltas, statistics=[{KEY: a_gram(seed)[KEY].to(device)} for seed in range(2)])
    expected = compose([a_delta(seed) for seed in range(2)], statistics=[a_gram(seed) for seed in range(2)])
    for name in expected:
        torch.testing.assert_close(composed[name].cpu(), expected[name])

"""RegMean and RegMean++ against closed forms, and the inputs that they are made of."""

import copy

import pytest
import torch
from torch import Tensor

from taft_ray.fitting import FitConfig, fit
from taft_ray.systems import NonLinear, TokenSet
from taft_ray.systems.regmean import regmean
from taft_ray.tangent import Delta, TangentModel, linearize
from taft_ray.tangent.gram import gram_matrices

CONFIG = FitConfig(solver="adam", loss="ce", epochs=3, batch_size=8, penalty=0.0, learning_rate=1e-2)


@pytest.fixture(scope="module")
def shards(tm: TangentModel, train: TokenSet) -> list[TokenSet]:
    return [train[torch.arange(start, start + 20)] for start in (0, 20, 40)]


@pytest.fixture(scope="module")
def deltas(tm: TangentModel, shards: list[TokenSet]) -> list[Delta]:
    model = NonLinear(tm)
    return [Delta(dict(fit(model, model.prepare(one.tokens), one.labels, CONFIG))) for one in shards]


def merged(tm: TangentModel, deltas: list[Delta], shards: list[TokenSet], **options) -> Delta:
    return regmean(NonLinear(tm), deltas, [shard.tokens for shard in shards], **options)


def test_inputs_of_a_moved_network_are_those_of_a_network_with_these_weights(tm, deltas, test):
    moved = copy.deepcopy(tm.network)
    with torch.no_grad():
        for name, value in deltas[0].items():
            moved.get_parameter(name).add_(value)
    there = linearize(moved)
    expected = there.gram(there.prepare(test.tokens))
    found = gram_matrices(tm.layer_inputs(test.tokens, deltas[0]))
    assert found.keys() == expected.keys()
    for layer, matrix in expected.items():
        assert torch.allclose(found[layer], matrix, rtol=1e-4, atol=1e-3), layer
    at_zero = gram_matrices(tm.layer_inputs(test.tokens, tm.zero_delta()))
    assert any(not torch.allclose(found[layer], at_zero[layer], rtol=1e-3) for layer in found)


@pytest.mark.parametrize("refreshed", [False, True])
def test_equal_shards_are_merged_to_themselves(tm, deltas, shards, refreshed):
    found = merged(tm, [deltas[0]] * 3, shards, refreshed=refreshed)
    for name, value in deltas[0].items():
        assert torch.allclose(found[name], value, atol=1e-4), name


def head_inputs(tm: TangentModel, tokens: Tensor, delta: Delta) -> Tensor:
    """By timm's own modules, with a 1 for the bias."""
    network = copy.deepcopy(tm.network)
    with torch.no_grad():
        for name, value in delta.items():
            network.get_parameter(name).add_(value)
        x = network.norm(network.blocks[-1](tokens.float()))  # type: ignore[operator,index]
        features = network.forward_head(x, pre_logits=True)  # type: ignore[operator]
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1).double()


def closed_form(inputs: list[Tensor], deltas: list[Delta], alpha: float) -> Tensor:
    """(Σ Ĝᵢ)⁻¹ Σ Ĝᵢ Wᵢ of the head."""
    left = torch.zeros(inputs[0].shape[1], inputs[0].shape[1], dtype=torch.float64)
    right = torch.zeros(inputs[0].shape[1], len(deltas[0]["head.bias"]), dtype=torch.float64)
    for x, delta in zip(inputs, deltas, strict=True):
        gram = alpha * x.T @ x + (1 - alpha) * torch.diag((x * x).sum(0))
        left += gram
        right += gram @ torch.cat([delta["head.weight"], delta["head.bias"][:, None]], dim=1).double().T
    return torch.linalg.solve(left, right).T


@pytest.mark.parametrize("refreshed", [False, True])
def test_the_head_is_the_closed_form(tm, deltas, shards, refreshed):
    """RegMean: on each shard's own inputs. RegMean++: on those of the merged network, whose layers before are merged already."""
    found = merged(tm, deltas, shards, refreshed=refreshed)
    inputs = [
        head_inputs(tm, shard.tokens, found if refreshed else delta)
        for shard, delta in zip(shards, deltas, strict=True)
    ]
    expected = closed_form(inputs, deltas, alpha=0.95)
    rows = torch.cat([found["head.weight"], found["head.bias"][:, None]], dim=1).double()
    assert torch.allclose(rows, expected, atol=2e-4)
    others = [head_inputs(tm, shard.tokens, tm.zero_delta()) for shard in shards]
    assert not torch.allclose(rows, closed_form(others, deltas, alpha=0.95), atol=2e-4)


def test_the_two_differ_and_what_has_no_inputs_is_the_mean(tm, deltas, shards):
    once, again = (merged(tm, deltas, shards, refreshed=refreshed) for refreshed in (False, True))
    assert not torch.allclose(once["head.weight"], again["head.weight"], atol=1e-5)
    mean = torch.stack([delta["norm.weight"] for delta in deltas]).mean(0)
    assert torch.equal(once["norm.weight"], mean)
    assert torch.equal(again["norm.weight"], mean)


def test_without_off_diagonals_it_weighs_each_input_by_itself(tm, deltas, shards):
    found = merged(tm, deltas, shards, refreshed=False, alpha=0.0)
    inputs = [head_inputs(tm, shard.tokens, delta) for shard, delta in zip(shards, deltas, strict=True)]
    energy = torch.stack([(x * x).sum(0) for x in inputs])[:, None, :-1]
    weights = torch.stack([delta["head.weight"] for delta in deltas]).double()
    assert torch.allclose(found["head.weight"].double(), (energy * weights).sum(0) / energy.sum(0), atol=1e-4)

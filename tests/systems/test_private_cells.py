"""Private cells: what they answer, that noise is the cell's own, and Opacus's clipped sums against autograd's."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from toy import CLASSES

from taft_ray.additive import Projection, rows_of, sites_of
from taft_ray.errors import UnsupportedModel, UsageError
from taft_ray.fitting import PrivateRecipe
from taft_ray.plans.privacy import Privacy
from taft_ray.systems import Cell, TokenSet, Wanted, measure_private, measure_private_sites, table
from taft_ray.systems.ghost import Suffix, ghost_descent
from taft_ray.systems.measure_private import recipe, stream
from taft_ray.systems.private import Private
from taft_ray.tangent import TangentModel, linearize

QUICK = Private(epsilon=math.inf, steps=20, learning_rate=0.3)
CHANCE = 1 / CLASSES


def result(cell: Cell, tm: TangentModel, train: TokenSet, test: TokenSet) -> float:
    found = measure_private(cell, tm, train, test)
    assert sum(found["samples"]) == len(train)
    return found["accuracy"]["private"]


@pytest.mark.parametrize("trainable", ["full", "bitfit", "norm", "head"])
def test_every_regime_learns_without_noise(cell_of, tm, train, trainable: str):
    regime = linearize(tm.network, trainable=trainable)
    assert result(cell_of(shards=1, private=QUICK, trainable=trainable), regime, train, train) > 0.55


@pytest.mark.parametrize("trainable", ["norm", "head"])
def test_the_network_itself_learns_by_parts_of_its_block(cell_of, tm, train, trainable: str):
    """Biases alone do not move this toy's own logits far enough; their sums are compared with autograd's below."""
    regime = linearize(tm.network, trainable=trainable)
    cell = cell_of(shards=1, network="nonlinear", solver="adam", private=QUICK, trainable=trainable)
    assert result(cell, regime, train, train) > 0.55


def test_nothing_is_learnt_of_too_much_noise(cell_of, tm, train, test):
    head = linearize(tm.network, trainable="head")
    drowned = cell_of(shards=1, private=replace(QUICK, epsilon=1e-2), trainable="head")
    found = [result(drowned.with_spec(seed=seed), head, train, test) for seed in range(4)]
    assert abs(np.mean(found) - CHANCE) < 0.2


@pytest.mark.parametrize("network", ["frozen", "nonlinear"])
def test_heads_on_rows_and_the_network_itself_learn_too(cell_of, tm, train, test, network: str):
    fit = {"solver": "adam"} if network == "nonlinear" else {}
    cell = cell_of(
        shards=1,
        network=network,
        private=replace(QUICK, learning_rate=10.0 if network == "frozen" else 0.3),
        **fit,
    )
    assert result(cell, tm, train, test) > 0.5


def test_the_tangent_model_that_was_given_stays_as_it_is(cell_of, tm, train, test):
    result(cell_of(shards=1, private=QUICK), tm, train, test)
    assert not tm.tangent_only


def test_shards_are_fitted_apart_and_averaged(cell_of, tm, train, test):
    for network in ("tangent", "frozen"):
        cell = cell_of(shards=3, network=network, private=QUICK)
        assert len(measure_private(cell, tm, train, test)["samples"]) == 3
        assert result(cell, tm, train, test) > 0.5
    with pytest.raises(UsageError, match="nothing composes"):
        measure_private(cell_of(shards=3, network="nonlinear", solver="adam", private=QUICK), tm, train, test)


def test_equal_cells_give_equal_numbers_and_noise_belongs_to_a_cell_and_a_shard(cell_of, tm, train, test):
    cell = cell_of(shards=1, private=replace(QUICK, epsilon=2.0))
    assert result(cell, tm, train, test) == result(cell, tm, train, test)
    others = [
        (cell, 0),
        (cell, 1),
        (cell.with_spec(seed=1), 0),
        (replace(cell, private=replace(QUICK, epsilon=3.0)), 0),
        (replace(cell, inputs={"data": "another"}), 0),
    ]
    drawn = [tuple(stream(one, shard)(0, 50, 1e6)) for one, shard in others]
    assert len(set(drawn)) == len(drawn)
    assert not stream(replace(cell, private=QUICK), 0)(0, 50, 1e6).any()


@pytest.mark.parametrize("epsilon", [1.0, math.inf])
def test_a_private_cell_goes_through_json_and_others_keep_their_digests(cell_of, epsilon: float):
    cell = cell_of(private=Private(epsilon=epsilon, way="sums"), network="additive", solver="additive")
    assert Cell.from_json(cell.to_json()) == cell
    assert "private" not in cell_of().to_json()
    assert cell.digest != replace(cell, private=Private(epsilon=2.0)).digest


def test_made_up_owners_are_the_unit(network, sets, on_sites):
    train, test, _ = sets
    private = replace(QUICK, steps=20, learning_rate=20.0, features=32, mean_share=0.1)
    cell = on_sites(replace(private, per_owner=5), shards=1)
    owners, alone = (
        measure_private_sites(one, network, 32, CLASSES, train, test, None)
        for one in (cell, on_sites(private, shards=1))
    )
    assert owners["accuracy"]["private"] > 0.6
    assert cell.digest != on_sites(private, shards=1).digest
    assert "per_owner" not in private.to_json()
    assert Private.from_json(cell.to_json()["private"]) == cell.private
    assert owners["samples"] == alone["samples"]
    with pytest.raises(UsageError, match="per_owner"):
        replace(private, per_owner=0)


def test_a_private_cell_descends_as_a_run_with_the_same_options():
    """The noise of its steps and mean, and the rate, are those of the run's own promise; at ε = ∞ there is none."""
    private = Private(epsilon=3.0, learning_rate=10.0, mean_share=0.1, logit_noise=0.15)
    promise = Privacy(epsilon=3.0, delta=private.delta, learning_rate=10.0, mean_share=0.1, logit_noise=0.15)
    made = recipe(private, 400, 1)
    assert made.noise_multiplier == promise.noise_multiplier
    assert made.learning_rate == promise.rate(400, 1) < 10.0
    assert recipe(replace(private, epsilon=math.inf), 400, 1).learning_rate == 10.0


@pytest.mark.parametrize(
    "wrong", [{"epsilon": 0.0}, {"epsilon": math.nan}, {"delta": 0.0}, {"delta": 1.0}, {"way": "x"}, {"whitening": "x"}]
)
def test_numbers_that_mean_nothing_are_refused(wrong: dict):
    with pytest.raises(UsageError, match="expected"):
        Private(**{"epsilon": 1.0, **wrong})


def test_a_cell_that_is_not_private_is_refused(cell_of, tm, train, test):
    with pytest.raises(UsageError, match="without a private fit"):
        measure_private(cell_of(), tm, train, test)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=3, num_heads=3)
    return network.eval()


@pytest.fixture(scope="module")
def sets(network: torch.nn.Module) -> list[TokenSet]:
    """Training, evaluation and public pictures as rows of all site numbers."""
    width = sites_of(network, 32, size=2).width
    projection = Projection(sites_of(network, 32, size=width))
    found = []
    for count, seed in ((60, 1), (30, 2), (40, 3)):
        labels = torch.arange(count) % CLASSES
        images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        images[torch.arange(count), labels] += 1.0
        rows = torch.from_numpy(rows_of(network, projection, images))[:, None]
        keys = [f"{seed:08d}{number:08d}".encode() for number in range(count)]
        found.append(TokenSet(keys=keys, labels=labels, tokens=rows))
    return found


@pytest.fixture
def on_sites(cell_of: Callable[..., Cell], sets: list[TokenSet]) -> Callable[..., Cell]:
    def make(private: Private, **changes) -> Cell:
        width = sets[0].tokens.shape[2]
        return cell_of(solver="additive", features=width, network="additive", private=private, **changes)

    return make


@pytest.mark.parametrize("way", ["descent", "sums"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("mean_share", [None, 0.1])
def test_sites_learn_whitened_or_not(
    network, sets, on_sites, way: str, shards: int, whitened: bool, mean_share: float | None
):
    train, test, public = sets
    private = replace(QUICK, way=way, steps=20, learning_rate=20.0, features=32, mean_share=mean_share)
    cell = on_sites(private, shards=shards)
    found = measure_private_sites(cell, network, 32, CLASSES, train, test, public if whitened else None)
    assert found["accuracy"]["private"] > 0.6
    drowned = replace(cell, private=replace(QUICK, way=way, epsilon=1e-2, features=32))
    noisy = [
        measure_private_sites(drowned.with_spec(seed=seed), network, 32, CLASSES, train, test, None)["accuracy"]
        for seed in range(4)
    ]
    assert abs(np.mean([one["private"] for one in noisy]) - CHANCE) < 0.3


@pytest.mark.parametrize("trainable", ["full", "bitfit", "norm", "head"])
def test_ghost_clipping_sums_autograds_clipped_gradients(tm, train, trainable: str):
    """One step of rate -1 gives the sum itself."""
    tm = linearize(tm.network, trainable=trainable)
    tokens, labels = train.tokens[:12].float(), train.labels[:12]
    suffix = Suffix(copy.deepcopy(tm.network).requires_grad_(), 1)
    names = [name for name, _ in suffix.named_parameters() if name.removeprefix("network.") in tm.zero_delta()]
    parameters = {name: suffix.get_parameter(name) for name in names}
    every = []
    for token, label in zip(tokens, labels, strict=True):
        loss = torch.nn.functional.cross_entropy(suffix(token[None]), label[None])
        every.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters.values()))]))
    gradients = torch.stack(every)
    norms = gradients.norm(dim=1)
    clip = float(norms.median())
    expected = (gradients * (clip / norms).clamp(max=1)[:, None]).sum(0)

    scales = []

    def silent(step: int, count: int, scale: float) -> np.ndarray:
        scales.append(scale)
        return np.zeros(count, np.int64)

    recipe = PrivateRecipe(steps=1, learning_rate=1.0, clip=clip, noise_multiplier=2.0, divisor=12)
    moved = ghost_descent(tm, 1, tokens, labels, recipe, silent)
    after = {name: value.detach() - expected_part / 12 for (name, value), expected_part in zip(
        parameters.items(), _parts(expected, parameters), strict=True
    )}  # fmt: skip
    oracle = torch.func.functional_call(suffix, after, (tokens,))
    assert torch.allclose(moved(tokens), oracle, atol=1e-4)
    assert not torch.allclose(moved(tokens), suffix(tokens), atol=1e-3)
    assert scales == [pytest.approx(2.0 * 2**20)]


def _parts(flat: torch.Tensor, like: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    parts = flat.split([value.numel() for value in like.values()])
    return [part.view(value.shape) for part, value in zip(parts, like.values(), strict=True)]


def test_ghost_clipping_of_other_networks_is_refused():
    with pytest.raises(UnsupportedModel, match="vision transformers"):
        Suffix(torch.nn.Linear(2, 2), 1)


def test_table3_has_every_way_at_every_epsilon(cell_of):
    wanted = Wanted(base=cell_of(), seeds=(0, 1), site_width=96, public=True)
    made = table("table3", wanted)
    rows = {point.row for point in made.points}
    assert {point.column for point in made.points} == {"1", "3", "8", "∞"}
    assert len(made.points) == len(rows) * 4 * 2
    assert all(point.cell.private is not None for point in made.points)
    assert len(made.cells) == len(made.points)
    by = {point.cell.private.whitening for point in made.points if point.cell.private is not None}
    assert by == {"none", "pink-noise", "public"}
    alone = {point.row for point in table("table3", replace(wanted, public=False)).points}
    assert rows - alone == {"dp-additive, whitened by public pictures"}
    without = {point.row for point in table("table3", replace(wanted, site_width=None)).points}
    assert without == {row for row in rows if "additive" not in row}

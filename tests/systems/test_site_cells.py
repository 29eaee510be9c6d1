"""Cells of systems on sites, whose cache holds all numbers of them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from toy import CLASSES

from taft_ray.additive import Projection, rows_of, site_vectors, sites_of
from taft_ray.additive.grid import from_rows
from taft_ray.systems import Cell, TokenSet, measure_rows, measure_sites


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=3, num_heads=3)
    return network.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    labels = torch.arange(72) % CLASSES
    pictures = torch.randn(72, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    pictures[torch.arange(72), labels] += 1.0
    return pictures


@pytest.fixture(scope="module")
def sets(network: torch.nn.Module, images: torch.Tensor) -> list[TokenSet]:
    width = sites_of(network, 32, size=2).width
    rows = torch.from_numpy(rows_of(network, Projection(sites_of(network, 32, size=width)), images))[:, None]
    every = TokenSet(
        keys=[f"{number:016d}".encode() for number in range(72)], labels=torch.arange(72) % CLASSES, tokens=rows
    )
    return [every[torch.arange(48)], every[torch.arange(48, 72)]]


@pytest.fixture
def cell(cell_of: Callable[..., Cell], sets: list[TokenSet]) -> Callable[..., Cell]:
    def make(network: str, shards: int = 4, leaving: int = 0) -> Cell:
        width = sets[0].tokens.shape[2]
        spec = replace(cell_of().spec, solver="additive", compose="additive", features=width, shards=shards)
        return Cell(spec=spec, network=network, leaving=leaving, inputs={})

    return make


def test_projected_rows_are_those_of_a_run(network, images, sets):
    """To the rounding of the rows that are kept: a few steps of 2^-15."""
    width = sets[0].tokens.shape[2]
    wanted = sites_of(network, 32, size=30)
    found = measure_rows._projected(sites_of(network, 32, size=width), wanted, 5, sets[0].tokens[:, 0])
    expected = rows_of(network, Projection(wanted, 5), images[:48])
    assert np.abs(found.astype(int) - expected).max() <= 8
    assert np.abs(expected).max() > 1000


def test_turned_back_rows_are_the_site_vectors(network, images, sets):
    sites = sites_of(network, 32, size=sets[0].tokens.shape[2])
    expected = torch.cat(site_vectors(network, sites, images[:48]), dim=1).numpy()
    found = from_rows(measure_rows._turned_back(sites, sets[0].tokens[:, 0]))
    assert found / np.linalg.norm(found, axis=1, keepdims=True) == pytest.approx(
        expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=2e-4
    )


@pytest.mark.parametrize("system", ["additive", "head2toe"])
def test_cells_learn_and_know_no_shards(network, sets, cell, system):
    results = [measure_sites(cell(system, shards=n), network, 32, CLASSES, *sets) for n in (1, 4)]
    assert results[0]["digests"] == results[1]["digests"]
    assert results[0]["accuracy"] == results[1]["accuracy"]
    assert results[0]["accuracy"][system] > 0.5


@pytest.mark.parametrize(("system", "way"), [("additive", "subtract"), ("head2toe", "select anew")])
def test_forgetting_leaves_no_distance(network, sets, cell, system, way):
    result = measure_sites(cell(system, leaving=2), network, 32, CLASSES, *sets)
    found = result["forgetting"][f"{system}: {way}"]
    assert found["after"] == {"mean": 0.0, "max": 0.0, "same": 1.0}
    assert found["equal_bits"]
    assert found["equal_digests"]
    assert found["before"]["max"] > 0
    assert found["seconds"] > 0

"""A tiny network, pictures of three colours as tokens of its prefix, and the cell that goes with them."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from toy import CLASSES, token_set

from taft_ray.plans.spec import RunSpec
from taft_ray.systems import Cell, TokenSet
from taft_ray.tangent import TangentModel, linearize

TRAIN, TEST = 60, 30


@pytest.fixture(scope="session")
def tm() -> TangentModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=3, num_heads=3)
    return linearize(network, num_classes=CLASSES)


@pytest.fixture(scope="session")
def train(tm: TangentModel) -> TokenSet:
    return token_set(tm, TRAIN, 1)


@pytest.fixture(scope="session")
def test(tm: TangentModel) -> TokenSet:
    return token_set(tm, TEST, 2)


@pytest.fixture(scope="session")
def cell_of() -> Callable[..., Cell]:
    """A cell: names of its own fields go to the cell, all others to its spec."""

    def make(**changes: Any) -> Cell:
        own = {name: changes.pop(name) for name in Cell.__dataclass_fields__.keys() & changes.keys()}
        composed = "additive" if changes.get("solver") == "additive" else "gram"
        spec = RunSpec(
            data="toy", model="toy", **{"compose": composed, "shards": 4, "epochs": 2, "batch_size": 8, **changes}
        )
        return Cell(**{"spec": spec, "inputs": {"data": "toy"}, **own})

    return make

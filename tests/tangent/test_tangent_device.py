"""On a GPU nothing mixes devices, and no pass makes the host wait.

The tests show it without a GPU. Torch's fake tensors carry a device and a shape but no values, and refuse an operation on two
devices. They cannot answer a question that the host could only answer after waiting (``float(x)``, ``bool(x)``, ``x.tolist()``).
"""

from collections.abc import Iterator

import pytest
import timm
import torch
from tiny import MODEL, SIZE
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from taft_ray.fitting import Loss
from taft_ray.fitting.adam import _project
from taft_ray.models import Preprocess
from taft_ray.tangent import ComposedModel, TangentModel, linearize

CASES = {
    "short cut": {},
    "two blocks": {"last_blocks": 2},
    "all blocks": {"last_blocks": "all"},
    "class token": {"cls_token": True},
    "head": {"trainable": "head"},
}


@pytest.fixture
def fake(network: nn.Module) -> Iterator[None]:
    """Tensors made or moved inside are fake; "cuda" is a device among others."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def on_gpu(tm: TangentModel) -> TangentModel:
    """As ``tm.to("cuda")``, which cannot exchange a fake parameter for another."""
    for module in tm.modules():
        for name, value in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(value.detach().to("cuda"), requires_grad=False))
    return tm


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return timm.create_model(MODEL, img_size=SIZE, num_classes=3)


@pytest.mark.parametrize("options", CASES.values(), ids=list(CASES))
def test_passes_stay_on_the_device_and_never_wait(network: nn.Module, options: dict, fake: None) -> None:
    tm = on_gpu(linearize(network, **options))
    labels = torch.zeros(4, dtype=torch.int64, device="cuda")
    images = Preprocess.of(tm.network)(torch.zeros(4, 3, SIZE, SIZE, dtype=torch.uint8, device="cuda"))
    tokens = tm.prefix(images)
    prepared = tm.prepare(tokens.half().cpu())  # from the cache
    delta = tm.zero_delta()
    batch = prepared[torch.tensor([2, 0], device="cuda")]
    loss = Loss().per_sample(batch.primal + tm.tangent(batch, delta), labels[:2]).mean()
    grams = tm.gram(prepared)
    served = ComposedModel(tm, delta)(images)
    assert grams
    assert {t.device.type for t in (tokens, loss, served, *prepared.saved.values(), *grams.values())} == {"cuda"}


def test_the_check_finds_a_mixture_and_a_wait(fake: None) -> None:
    there = torch.zeros(2, device="cuda")
    # torch 2.11 has no class of its own for it, and other words
    with pytest.raises(RuntimeError, match=r"two (different )?devices,? cuda:0(,| and) cpu"):
        torch.add(there, torch.zeros(2))
    with pytest.raises(DataDependentOutputException):
        float(there.sum())


def test_the_projection_onto_the_ball_never_waits(fake: None) -> None:
    leaves = {"w": torch.zeros(4, device="cuda"), "b": torch.zeros(2, device="cuda")}
    _project(leaves, 1.0)
    assert {value.device.type for value in leaves.values()} == {"cuda"}

"""Weights of another picture size: resampled where they can be, else refused with the size that they are of."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch

from taft_ray.errors import WeightsMismatch
from taft_ray.models import load_model

State = dict[str, torch.Tensor]


@pytest.mark.parametrize("model", ["mixer_s32_224", "levit_128s", "visformer_tiny", "pit_ti_224"])
@pytest.mark.parametrize(
    ("of", "given", "words"),
    [
        (None, 256, "of 224 pixels: leave --image-size out, or give --image-size 224"),
        (256, None, "of 256 pixels: give --image-size 256"),
        (288, 256, "of 288 pixels: give --image-size 288"),
    ],
)
def test_a_size_that_the_weights_fix_is_named(
    model: str,
    of: int | None,
    given: int | None,
    words: str,
    state_of: Callable[..., State],
    written: Callable[..., str],
) -> None:
    path = written({f"module.{key}": value for key, value in state_of(model, of).items()})
    with pytest.raises(WeightsMismatch) as refusal:
        load_model(model, path, given)
    assert f"the picture size of {model} is fixed by its weights, and these are {words}" in str(refusal.value)
    assert "choose the --model" not in str(refusal.value)
    load_model(model, path, of)  # the way out


def test_shapes_of_no_size_name_none(state_of: Callable[..., State], written: Callable[..., str]) -> None:
    state = state_of("visformer_tiny")
    for key, shape in (("pos_embed1", (1, 96, 27, 31)), ("stage1.0.mlp.conv1.weight", (7, 7, 1, 1))):
        with pytest.raises(WeightsMismatch, match=r"instead of .*choose the --model"):
            load_model("visformer_tiny", written({**state, key: torch.zeros(shape)}))


def test_positions_without_the_class_token_are_resampled(
    state_of: Callable[..., State], written: Callable[..., str]
) -> None:
    """A class token that joins later has no position of its own."""
    from timm.layers import resample_abs_pos_embed

    state = state_of("convit_tiny", 256)
    network = load_model("convit_tiny", written(state)).network
    expected = resample_abs_pos_embed(state["pos_embed"], new_size=[14, 14], num_prefix_tokens=0)
    assert torch.equal(network.get_parameter("pos_embed"), expected)


def test_the_hubs_weights_of_another_size(monkeypatch: pytest.MonkeyPatch, state_of: Callable[..., State]) -> None:
    create = timm.create_model

    def from_hub(name: str, pretrained: bool = False, **options: Any) -> torch.nn.Module:
        network = create(name, **options)
        if pretrained:
            network.load_state_dict(state_of(name))
        return network

    monkeypatch.setattr(timm, "create_model", from_hub)
    with pytest.raises(
        WeightsMismatch, match=r"visformer_tiny do not fit pictures of 256 pixels.* leave --image-size out"
    ):
        load_model("visformer_tiny", None, 256)
    load_model("visformer_tiny")

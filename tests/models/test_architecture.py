"""Names, tags, sources and picture sizes: each works, or is refused with what can be done."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from taft_ray.errors import StorageError, UnsupportedModel, UsageError
from taft_ray.models import Preprocess, load_model

State = dict[str, torch.Tensor]
FAMILIES = (
    "test_vit", "test_resnet", "test_convnext", "test_efficientnet", "test_maxvit", "mixer_s32_224",
    "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "beit_base_patch16_224",
)  # fmt: skip


@pytest.mark.parametrize("tag", ["nope", "", "fb_in1k.x", "fb_in22k"])
def test_unknown_tag_names_the_known_ones(tag: str, written: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="its tags are: fb_in1k"):
        load_model(f"deit_tiny_patch16_224.{tag}", written({}))


def test_known_tag_is_fine(state_of: Callable[..., State], written: Callable[..., str]) -> None:
    load_model("test_vit.r160_in1k", written(state_of("test_vit")))


@pytest.mark.parametrize("name", ["", " ", "timm/test_vit", "https://x/y", "C:\\models\\vit", "hf-hub:", "local-dir: "])
def test_what_is_no_name_says_what_one_is(name: str, written: Callable[..., str]) -> None:
    with pytest.raises(UnsupportedModel, match="expected"):
        load_model(name, written({}))


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("size", [0, -1, 5_000, 10**9])
def test_impossible_size(model: str, size: int, written: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match=f"got {size}; set --image-size"):
        load_model(model, written({}), size)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("test_vit", 8), ("test_vit", 33), ("deit_tiny_patch16_224", 8), ("deit_tiny_patch16_224", 225),
        ("eva02_tiny_patch14_224", 13), ("mixer_s32_224", 230), ("mixer_s32_224", 31),
        ("swin_tiny_patch4_window7_224", 3), ("test_maxvit", 7), ("test_convnext", 3), ("vit_small_patch14_dinov2", 224 + 1),
    ],
)  # fmt: skip
def test_size_that_does_not_go_through_is_refused(model: str, size: int, written: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="--image-size"):
        load_model(model, written({}), size)


def test_a_run_that_exists_keeps_its_size(state_of: Callable[..., State], written: Callable[..., str]) -> None:
    assert load_model("test_vit", written(state_of("test_vit")), 33, strict=False).preprocess.size == 33


@pytest.mark.parametrize(
    ("model", "size"),
    [("test_resnet", 48), ("test_efficientnet", 57), ("test_convnext", 64), ("test_vit", 48), ("test_maxvit", 96)],
)
def test_preprocessing_follows_the_size(
    model: str, size: int, state_of: Callable[..., State], written: Callable[..., str]
) -> None:
    """Also where the network itself takes no size; a worker reads it from the network alone."""
    loaded = load_model(model, written(state_of(model)), size)
    assert loaded.preprocess.size == size
    assert Preprocess.of(loaded.network).size == size
    pixels = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    assert loaded.network(loaded.preprocess(pixels)).shape == (1, 1000)


def test_hub_name_without_a_network(written: Callable[..., str], state_of: Callable[..., State]) -> None:
    for weights in (None, written(state_of("test_vit"))):
        with pytest.raises(StorageError, match="hub") as refusal:
            load_model("hf-hub:somebody/no-such-model", weights)
        assert ("config.json" if weights else "--weights") in str(refusal.value)


@pytest.fixture
def folder(tmp_path: Path, state_of: Callable[..., State], written: Callable[..., str]) -> Path:
    """A model as the hub has it: config.json and model.safetensors."""
    config = {"architecture": "test_vit", "num_classes": 10, "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = {key: value for key, value in state_of("test_vit").items() if not key.startswith("head.")}
    written(state, "model.safetensors")
    return tmp_path


def test_hub_name_with_its_files_at_hand(folder: Path) -> None:
    loaded = load_model("hf-hub:somebody/no-such-model", str(folder / "model.safetensors"), 32)
    assert loaded.preprocess.size == 32
    assert loaded.preprocess.mean == (0.1,) * 3


def test_folder_as_a_model(folder: Path, state_of: Callable[..., State]) -> None:
    loaded = load_model(f"local-dir:{folder}")
    assert torch.equal(loaded.network.get_parameter("cls_token"), state_of("test_vit")["cls_token"])
    assert loaded.preprocess.mean == (0.1,) * 3
    (folder / "config.json").unlink()
    with pytest.raises(StorageError, match=r"no config\.json"):
        load_model(f"local-dir:{folder}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(StorageError, match=r"0 \.safetensors files"):
        load_model(f"local-dir:{folder}")


def test_damaged_config_is_no_traceback(folder: Path) -> None:
    for text in ("{", "[]", '{"architecture": "no_such_model"}', '{"architecture": "test_vit", "num_classes": "many"}'):
        (folder / "config.json").write_text(text)
        with pytest.raises((StorageError, UsageError)):
            load_model(f"local-dir:{folder}")


def test_whatever_timm_raises_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, written: Callable[..., str], state_of: Callable[..., State]
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("no heads")

    path = written(state_of("test_vit"))
    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(UnsupportedModel, match="test_vit: ZeroDivisionError: no heads"):
        load_model("test_vit", path)
    with pytest.raises(UsageError, match=r"48 pixels.*ZeroDivisionError"):
        load_model("test_vit", path, 48)

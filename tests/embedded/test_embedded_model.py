"""The embedded model is the one its config and its card describe, and timm finds its preprocessing."""

import io
import json
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer

from taft_ray.embedded import EMBEDDED_NAME, WEIGHTS, create, embedded_config
from taft_ray.embedded import model as embedded_model
from taft_ray.errors import IntegrityError, UsageError

ASSETS = Path(__file__).parents[3] / "shared/assets"
CIFAR_TEST = ASSETS / "cifar10_jpeg_test.parquet"


def test_weights_load_strictly():
    stored = safetensors.torch.load(WEIGHTS.read_bytes())
    assert {value.dtype for value in stored.values()} == {torch.float16}
    model = create()
    assert type(model) is VisionTransformer
    assert not model.training
    state = model.state_dict()
    assert state.keys() == stored.keys()
    for name, value in state.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[name].float()), name
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_size():
    assert len(WEIGHTS.read_bytes()) <= 8e6


def test_architecture_is_plain():
    model = create()
    assert model.global_pool == "token"
    assert model.num_prefix_tokens == 1
    blocks: list[Any] = list(model.blocks)
    for block in blocks:
        assert block.attn.qkv.bias is not None
        assert isinstance(block.norm1, torch.nn.LayerNorm)
        assert isinstance(block.mlp.act, torch.nn.GELU)
        for absent in (block.ls1, block.ls2, block.attn.q_norm, block.attn.k_norm):
            assert isinstance(absent, torch.nn.Identity)


def test_timm_finds_the_preprocessing():
    config = embedded_config()
    for model in (create(), create(3)):
        found = resolve_model_data_config(model)
        assert found["input_size"] == (3, 32, 32)
        assert found["mean"] == tuple(config["mean"])
        assert found["std"] == tuple(config["std"])
        assert found["interpolation"] == "bicubic"
        assert model.default_cfg is model.pretrained_cfg
    own, new = (cast(dict[str, Any], model.pretrained_cfg) for model in (create(), create(3)))
    assert own["label_names"][3] == "cat"
    assert new["label_names"] is None


@pytest.mark.parametrize("num_classes", [1, 7, 10])
def test_new_head(num_classes):
    own, model, again = create(), create(num_classes), create(num_classes)
    images = torch.zeros(2, 3, 32, 32)
    assert model(images).shape == (2, num_classes)
    head, same_head, own_head = (made.get_parameter("head.weight") for made in (model, again, own))
    assert torch.equal(head, same_head)
    assert torch.equal(model.forward_features(images), own.forward_features(images))
    assert not torch.equal(head, own_head[:num_classes])


def test_no_head():
    assert create(0)(torch.zeros(1, 3, 32, 32)).shape == (1, embedded_config()["architecture"]["embed_dim"])


def test_negative_classes_are_refused():
    with pytest.raises(UsageError, match="got -1"):
        create(-1)


def test_global_random_state_untouched():
    before = torch.random.get_rng_state()
    create(5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_damaged_weights_are_refused(monkeypatch, tmp_path):
    content = bytearray(WEIGHTS.read_bytes())
    content[-1] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(content)
    monkeypatch.setattr(embedded_model, "WEIGHTS", damaged)
    with pytest.raises(IntegrityError, match="install it again"):
        create()


def test_card_states_the_config():
    card = (files("taft_ray.embedded") / "MODEL_CARD.md").read_text(encoding="utf-8")
    config = embedded_config()
    assert config["name"] == EMBEDDED_NAME
    assert f"{100 * config['accuracy']['top1']:.2f}%" in card
    assert config["sha256"] in card
    assert config["training"]["command"] in re.sub(r" \\\n *", " ", card)  # the card has it over several lines
    assert f"{config['training']['epochs_run']} epochs" in card
    assert f"{config['parameters']:,} parameters" in card


def test_no_machine_path():
    for name in ("config.json", "MODEL_CARD.md"):
        text = (files("taft_ray.embedded") / name).read_text(encoding="utf-8")
        assert re.search(r"""(?:^|[\s"'`(=])/\w+/""", text) is None, "an absolute path is one of some machine"
        assert "/tmp" not in text
        assert "/home" not in text
    assert "TRAIN.parquet" in json.dumps(embedded_config())


@pytest.mark.skipif(not CIFAR_TEST.exists(), reason=f"the CIFAR-10 pictures are not at {CIFAR_TEST}")
def test_accuracy_is_the_recorded_one():
    config, count = embedded_config(), 1000
    table = pq.read_table(CIFAR_TEST)
    # the file is sorted by class, or may be: take pictures from all over it
    table = table.take(np.random.default_rng(0).permutation(table.num_rows)[:count])
    assert table.schema.metadata[b"classes"].decode().split("\n") == config["classes"]
    pictures = [np.asarray(Image.open(io.BytesIO(picture.as_py())).convert("RGB")) for picture in table["image"]]
    found = resolve_model_data_config(create())
    images = (torch.tensor(np.stack(pictures)) / 255 - torch.tensor(found["mean"])) / torch.tensor(found["std"])
    with torch.inference_mode():
        predicted = create()(images.permute(0, 3, 1, 2)).argmax(1)
    measured = (predicted == torch.tensor(table["label"].to_pylist())).float().mean().item()
    recorded = config["accuracy"]["top1"]
    # four standard errors of a mean over that many pictures: wrong preprocessing loses far more than that
    assert abs(measured - recorded) < 4 * math.sqrt(recorded * (1 - recorded) / count)

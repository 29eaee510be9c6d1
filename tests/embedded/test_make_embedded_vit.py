"""The training script: the same arguments give the same weights, and the record beside them is true."""

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

SCRIPT = Path(__file__).parents[2] / "benchmarks/make_embedded_vit.py"
TINY = ["--epochs", "2", "--full-epochs", "1", "--batch", "32", "--width", "16", "--depth", "1", "--heads", "2"]


def write_noise(path: Path, count: int) -> None:
    generator = np.random.default_rng(count)
    images = []
    for _ in range(count):
        encoded = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(encoded, format="PNG")
        images.append(encoded.getvalue())
    labels = generator.integers(0, 2, count)
    pq.write_table(pa.table({"image": images, "label": labels}, metadata={"classes": "one\nother"}), path)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("made")
    write_noise(folder / "train.parquet", 100)
    write_noise(folder / "test.parquet", 30)
    outs = [folder / "a", folder / "b"]
    for out in outs:
        done = run(
            "--data", str(folder / "train.parquet"), "--test", str(folder / "test.parquet"), "--out", str(out), *TINY
        )
        assert done.returncode == 0, done.stderr
        assert "test accuracy" in done.stdout
    return outs


def test_deterministic(made):
    first, second = ((out / "taft_vit_cifar.safetensors").read_bytes() for out in made)
    assert first == second


def test_record_is_true(made):
    content = (made[0] / "taft_vit_cifar.safetensors").read_bytes()
    config = json.loads((made[0] / "config.json").read_text())
    assert config["sha256"] == hashlib.sha256(content).hexdigest()
    assert config["classes"] == ["one", "other"]
    assert config["training"]["epochs_run"] == 2
    assert config["accuracy"]["pictures"] == 30
    assert str(made[0].parent) not in json.dumps(config)
    for word in TINY:
        assert word in config["training"]["command"].split()
    state = {name: value.float() for name, value in safetensors.torch.load(content).items()}
    VisionTransformer(**config["architecture"]).load_state_dict(state, strict=True)


def test_impossible_epochs_are_refused(tmp_path):
    done = run("--data", "absent", "--test", "absent", "--out", str(tmp_path), "--epochs", "2", "--full-epochs", "3")
    assert done.returncode == 1
    assert "--full-epochs" in done.stderr

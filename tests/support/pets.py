"""The folder in which examples of docstrings run: pictures of pets, keys, and three trained runs; made without Ray.

    pets/train, pets/test    a folder per class: cats, dogs, rabbits
    pets/new                 pictures without labels
    runs/pets                an additive run without deltas, on pets/train
    runs/ridge               a run of deltas on the same pictures
    runs/clinic              a private one
    pets.pt2                 an export of runs/pets, which its register knows
    key.pem, public.pem      an Ed25519 key

A torn file lay in pets/train when runs/pets was trained.
"""

import io
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from plain import plain_train
from proved import private_pem, public_pem
from safetensors.torch import save_file
from tiny import MODEL, SIZE

from taft_ray.plans.privacy import Privacy
from taft_ray.plans.spec import RunSpec
from taft_ray.verbs.run import Run

CLASSES = ("cats", "dogs", "rabbits")
PER_CLASS, SHARDS = 20, 5


def picture(number: int) -> bytes:
    """A JPEG of 32 pixels a side: a colour per class, under noise."""
    random = np.random.default_rng(number)
    pixels = random.normal(90, 60, (SIZE, SIZE, 3))
    pixels[..., number % len(CLASSES)] += 90
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_pictures(root: Path) -> None:
    for folder, first, per_class in (("train", 0, PER_CLASS), ("test", 50, 8)):
        for number in range(first * len(CLASSES), (first + per_class) * len(CLASSES)):
            file = root / "pets" / folder / CLASSES[number % len(CLASSES)] / f"{number // len(CLASSES):02d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(number))
    new = root / "pets" / "new"
    new.mkdir()
    for number in range(4):
        (new / f"{number}.jpg").write_bytes(picture(2000 + number))


def write_weights(file: Path, model: str = MODEL, size: int = SIZE) -> None:
    """Random weights, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model(model, img_size=size).state_dict(), file)


def make_pets(root: Path) -> None:
    """Write it all."""
    write_pictures(root)
    (root / "key.pem").write_bytes(private_pem())
    (root / "public.pem").write_bytes(public_pem())
    write_weights(root / "test_vit.safetensors")
    network = {"model": MODEL, "weights": str(root / "test_vit.safetensors"), "image_size": SIZE}
    data = str(root / "pets" / "train")
    torn = root / "pets" / "train" / "dogs" / "torn.jpg"
    torn.write_bytes(picture(1)[:100])
    rows = RunSpec(data=data, shards=SHARDS, solver="additive", features=48, max_rejected=0.02, **network)
    plain_train(root / "runs" / "pets", rows)
    torn.unlink()
    plain_train(root / "runs" / "ridge", RunSpec(data=data, shards=4, trainable="head", compose="gram", **network))
    privacy = Privacy(epsilon=3.0, delta=1e-4, steps=2, budget=5.0)
    plain_train(
        root / "runs" / "clinic",
        RunSpec(data=data, shards=2, solver="dp-gd", compose="mean", loss="ce", classes=CLASSES, privacy=privacy, **network),
    )  # fmt: skip
    Run(root / "runs" / "pets").export(root / "pets.pt2", to="the shelter")

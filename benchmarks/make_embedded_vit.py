"""Train the embedded default model of the package (``taft_ray/embedded``) from scratch on CIFAR-10, on a CPU.

    OMP_WAIT_POLICY=passive python benchmarks/make_embedded_vit.py --data TRAIN.parquet --test TEST.parquet --out FOLDER

("passive": on a machine busy with other things too, threads that spin at a barrier made a step twelve times slower.)

The Parquet files have the columns ``image`` (encoded bytes of 32 px pictures) and ``label``, and the class names in the schema metadata.
Every ``--checkpoint-every`` epochs the folder receives the averaged weights, rounded to fp16, and ``config.json``. That file has
the accuracy of those rounded weights on all test pictures. So a stopped training leaves a true record of what it did. Test accuracy is only reported: the
schedule is fixed beforehand and the last checkpoint is the model, whatever its accuracy.

Guarantees: on one machine, with the same versions, thread count and arguments, the same weights bit for bit.
"""

# B batch, T tokens, D width, H heads, K classes

import argparse
import hashlib
import io
import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import safetensors
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.layers import build_sincos2d_pos_embed, set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch.nn.functional import cross_entropy

NAME = "taft_vit_cifar"
SIDE = 32  # pixels
PAD = 4  # pixels a random crop may move a picture
MEAN = (0.4914, 0.4822, 0.4465)  # of the CIFAR-10 training pictures
STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The last ``full_epochs`` epochs see every patch, those before drop ``patch_drop`` of them: half the time an epoch."""

    epochs: int = 30
    full_epochs: int = 6
    patch_drop: float = 0.5
    batch: int = 128
    lr: float = 1e-3
    warmup_epochs: float = 2.0
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    average: float = 0.998  # decay of the running average of the weights, which is what is kept
    width: int = 192
    depth: int = 6
    heads: int = 3
    patch: int = 4
    seed: int = 0
    threads: int = 2
    fp32: bool = False
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or not 0 <= self.full_epochs <= self.epochs:
            raise SystemExit(f"expected 0 <= --full-epochs <= --epochs >= 1, got {self.full_epochs} and {self.epochs}")

    def command(self) -> str:
        """The command line with this recipe in full and no path of this machine."""
        words = ["OMP_WAIT_POLICY=passive python benchmarks/make_embedded_vit.py"]
        words += ["--data TRAIN.parquet --test TEST.parquet --out FOLDER"]
        for name, value in asdict(self).items():
            option = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                words += [option] if value else []
            else:
                words += [option, str(value)]
        return " ".join(words)

    def architecture(self, classes: int) -> dict[str, Any]:
        return {
            "img_size": SIDE,
            "patch_size": self.patch,
            "embed_dim": self.width,
            "depth": self.depth,
            "num_heads": self.heads,
            "num_classes": classes,
        }


def read_pictures(parquet: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Pictures as uint8 (B, 32, 32, 3), labels, class names."""
    table = pq.read_table(parquet, columns=["image", "label"])
    classes = (table.schema.metadata or {})[b"classes"].decode().split("\n")
    pictures = np.empty((table.num_rows, SIDE, SIDE, 3), np.uint8)
    for row, encoded in enumerate(table["image"]):
        with Image.open(io.BytesIO(encoded.as_py())) as picture:
            pictures[row] = np.asarray(picture.convert("RGB"))
    return torch.from_numpy(pictures), torch.tensor(table["label"].to_pylist()), classes


def normalised(pictures: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return ((pictures / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def augmented(padded: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random crop and a coin-flip mirror image of each padded picture, all in one gather on bytes."""
    count = len(padded)
    top, left = torch.randint(0, 2 * PAD + 1, (2, count, 1), generator=generator)
    rows, columns = top + torch.arange(SIDE), left + torch.arange(SIDE)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


@torch.no_grad()
def initialise(model: VisionTransformer, generator: torch.Generator) -> None:
    """Start attention where pre-trained transformers are found to end (Trockman & Kolter 2023, "Mimetic Initialization").

    Per head W_q' W_k = 0.7 Z + 0.7 I (its leading singular part), and W_proj W_v = 0.4 Z - 0.4 I.
    Z has the variance 1/D, and positions start as sines. The paper reports gains of several points on CIFAR-10; here it was not compared.
    """
    D = model.embed_dim
    grid = model.patch_embed.grid_size
    positions_TD = build_sincos2d_pos_embed(list(grid), dim=D, temperature=100.0)
    assert model.pos_embed is not None
    model.pos_embed[0, model.num_prefix_tokens :] = positions_TD
    eye = torch.eye(D)

    def factors(scale: float, identity: float) -> tuple[torch.Tensor, torch.Tensor]:
        u, s, vt = torch.linalg.svd(scale * torch.randn(D, D, generator=generator) / math.sqrt(D) + identity * eye)
        return u * s.sqrt(), s.sqrt()[:, None] * vt

    blocks: list[Any] = list(model.blocks)
    for block in blocks:
        head = D // block.attn.num_heads
        query, key, value = block.attn.qkv.weight.view(3, D, D)
        for h in range(block.attn.num_heads):
            left, right = factors(0.7, 0.7)
            query[h * head : (h + 1) * head] = left[:, :head].T
            key[h * head : (h + 1) * head] = right[:head]
        left, right = factors(0.4, -0.4)
        block.attn.proj.weight.copy_(left)
        value.copy_(right)


def learning_rate(step: int, *, recipe: Recipe, steps_an_epoch: int) -> float:
    warmup, total = recipe.warmup_epochs * steps_an_epoch, recipe.epochs * steps_an_epoch
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@torch.no_grad()
def accuracy(model: VisionTransformer, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    """In fp32, however the training was done."""
    right = 0
    for part, truth in zip(pictures.split(250), labels.split(250), strict=True):
        right += int((model(normalised(part)).argmax(1) == truth).sum())
    return right / len(labels)


def write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def record(
    recipe: Recipe,
    weights: bytes,
    classes: list[str],
    *,
    accuracy: float,
    tested: int,
    trained: int,
    epochs: int,
    seconds: float,
) -> dict[str, Any]:
    return {
        "name": NAME,
        "architecture": recipe.architecture(len(classes)),
        "mean": MEAN,
        "std": STD,
        "input_size": (3, SIDE, SIDE),
        "interpolation": "bicubic",
        "classes": classes,
        "parameters": sum(value.numel() for value in safetensors.torch.load(weights).values()),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "accuracy": {"top1": accuracy, "pictures": tested, "data": "CIFAR-10 test, fp16 weights in fp32 arithmetic"},
        "training": {
            "command": recipe.command(),
            "epochs_planned": recipe.epochs,
            "epochs_run": epochs,
            "pictures": trained,
            "seconds": round(seconds, 1),
            "device": f"CPU, {recipe.threads} threads",
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "safetensors": safetensors.__version__,
        },
        "licence": "Apache-2.0",
    }


def train(recipe: Recipe, data: Path, test: Path, out: Path) -> None:
    torch.set_num_threads(recipe.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(recipe.seed)  # the layers' own initial values, and the choice of dropped patches
    generator = torch.Generator().manual_seed(recipe.seed)
    # the fused attention of CPUs: 40% of a bf16 step's time, and without it the step takes half as long
    set_fused_attn(False)

    pictures, labels, classes = read_pictures(data)
    test_pictures, test_labels, _ = read_pictures(test)
    padded = torch.nn.functional.pad(pictures, (0, 0, PAD, PAD, PAD, PAD))

    model = VisionTransformer(**recipe.architecture(len(classes)), patch_drop_rate=recipe.patch_drop)
    initialise(model, generator)
    shipped = VisionTransformer(**recipe.architecture(len(classes))).eval()
    weights = list(model.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.ndim == 2], "weight_decay": recipe.weight_decay},
            {"params": [w for w in weights if w.ndim != 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
        fused=True,
    )
    steps_an_epoch, step, trained_s = len(pictures) // recipe.batch, 0, 0.0

    for epoch in range(1, recipe.epochs + 1):
        started, losses, hits = time.monotonic(), 0.0, 0
        if epoch > recipe.epochs - recipe.full_epochs:
            cast(Any, model.patch_drop).prob = 0.0
        order = torch.randperm(len(pictures), generator=generator)
        model.train()
        for batch in order[: steps_an_epoch * recipe.batch].split(recipe.batch):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, recipe=recipe, steps_an_epoch=steps_an_epoch)
            images = normalised(augmented(padded[batch], generator))
            with torch.autocast("cpu", torch.bfloat16, enabled=not recipe.fp32):
                logits_BK = model(images).float()
            loss = cross_entropy(logits_BK, labels[batch], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            step += 1
            with torch.no_grad():
                torch._foreach_lerp_(averages, list[torch.Tensor](weights), 1 - min(recipe.average, step / (step + 9)))
            losses += loss.item()
            hits += int((logits_BK.argmax(1) == labels[batch]).sum())
        seconds = time.monotonic() - started
        trained_s += seconds
        print(
            f"epoch {epoch}/{recipe.epochs}  loss {losses / steps_an_epoch:.4f}  "
            f"train {hits / (steps_an_epoch * recipe.batch):.4f}  {seconds:.0f} s",
            flush=True,
        )
        if epoch % recipe.checkpoint_every and epoch != recipe.epochs:
            continue
        names = [name for name, _ in model.named_parameters()]
        halves = {name: value.half() for name, value in zip(names, averages, strict=True)}
        shipped.load_state_dict({name: value.float() for name, value in halves.items()}, strict=True)
        measured = accuracy(shipped, test_pictures, test_labels)
        content = safetensors.torch.save(halves)
        config = record(
            recipe,
            content,
            classes,
            accuracy=measured,
            tested=len(test_labels),
            trained=len(labels),
            epochs=epoch,
            seconds=trained_s,
        )
        write_atomically(out / f"{NAME}.safetensors", content)
        write_atomically(out / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        print(f"  test accuracy {measured:.4f} on {len(test_labels)} pictures, {len(content) / 1e6:.2f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="training pictures")
    parser.add_argument("--test", type=Path, required=True, help="test pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the weights and config.json")
    for name, value in asdict(Recipe()).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, type=type(value), default=value, help=f"default {value}")
    chosen = vars(parser.parse_args())
    data, test, out = chosen.pop("data"), chosen.pop("test"), chosen.pop("out")
    out.mkdir(parents=True, exist_ok=True)
    train(Recipe(**chosen), data, test, out)


if __name__ == "__main__":
    sys.exit(main())

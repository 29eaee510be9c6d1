"""A run that applies EXIF orientation is, bit for bit, one of pictures that lay upright; a run that ignores it is another."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from folder import state_of
from PIL import Image
from plain import plain_train

from taft_ray.storage import Store, read_delta

LIES_ON_ITS_SIDE = 6


def _folders(root: Path) -> tuple[Path, Path]:
    """The same pictures, of the same names: upright, and lying on their side with a tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = LIES_ON_ITS_SIDE
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 32, 3), np.uint8)
        upright = Image.fromarray(pixels)
        for name, image, tags in (
            ("up", upright, {}),
            ("side", upright.transpose(Image.Transpose.ROTATE_90), {"exif": exif}),
        ):
            path = root / name / ("ant", "bee")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            encoded = io.BytesIO()
            image.save(encoded, "PNG", **tags)
            path.write_bytes(encoded.getvalue())
    return root / "up", root / "side"


def _deltas(run: Path) -> dict[tuple[int, str], bytes]:
    """The bits of what each shard trained; a delta's own digest also has what tokens were made with."""
    found = {}
    for shard in state_of(run).in_model:
        tensors, _ = read_delta(Store(str(run)), shard.in_sums)
        found |= {(shard.shard, name): np.asarray(value).tobytes() for name, value in tensors.items()}
    return found


def test_applied_orientation_is_that_of_upright_pictures(tmp_path: Path, spec_of: Callable[..., Any]) -> None:
    up, side = _folders(tmp_path)
    trained = {}
    for name, data, orientation in (("up", up, "ignore"), ("applied", side, "apply"), ("ignored", side, "ignore")):
        plain_train(tmp_path / f"run {name}", spec_of(data, shards=2, compose="mean", exif_orientation=orientation))
        trained[name] = _deltas(tmp_path / f"run {name}")
    assert trained["applied"].keys() == trained["up"].keys()
    assert trained["ignored"] != trained["up"]
    assert trained["applied"] == trained["up"]

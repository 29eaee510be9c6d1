"""Colour of fewer than 16 bits in files of 16. Pillow keeps the high bytes alone; the low ones are in the same tiles.

A tile is what Pillow decodes a picture from, with the order of its bytes. In the other order the low bytes take the
place of the high ones.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_BANDS = {"RGB": "RGB", "RGBA": "RGB", "RGBX": "RGB", "LA": "L"}  # of a tile's kind, without alpha


def kind_of(tiles: Sequence[Any]) -> str | None:
    """Which channels a picture has that is decoded from these tiles; None where it is no colour, or alpha, of 16 bits."""
    modes = {_mode(tile) for tile in tiles}
    kind, _, order = modes.pop().partition(";16") if len(modes) == 1 else ("", "", "")
    return kind if kind in _BANDS and order in _OTHER_ORDER else None


def high_of(kind: str, image: Image.Image) -> list[np.ndarray]:
    """The high bytes of each channel, as Pillow decoded them; a grey picture with alpha may be RGB to it."""
    return [np.asarray(image.getchannel(0 if kind == "LA" else band)) for band in _BANDS[kind]]


def low_of(kind: str, image: Image.Image) -> list[np.ndarray]:
    """The low bytes of each channel, from a picture that was opened and not decoded yet."""
    if kind == "LA":  # Pillow has no other order of it: its four bytes, taken for four channels
        if image.mode != "RGBA":
            raise ValueError(f"grey and alpha of 16 bits is {image.mode} to this Pillow")
        image.tile = [_with_mode(tile, "RGBA") for tile in image.tile]  # type: ignore[attr-defined]  # of an ImageFile
        return [np.asarray(image.getchannel("G"))]
    image.tile = [_with_mode(tile, _mode(tile)[:-1] + _OTHER_ORDER[_mode(tile)[-1]]) for tile in image.tile]  # type: ignore[attr-defined]
    return [np.asarray(image.getchannel(band)) for band in _BANDS[kind]]


def _mode(tile: Any) -> str:
    """The first of a tile's arguments, or its only one."""
    arguments = tile[3]
    found = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return found if isinstance(found, str) else ""


def _with_mode(tile: Any, mode: str) -> Any:
    arguments = tile[3]
    changed = (mode, *arguments[1:]) if isinstance(arguments, tuple) else mode
    return type(tile)(*tile[:3], changed) if hasattr(tile, "_fields") else (*tile[:3], changed)

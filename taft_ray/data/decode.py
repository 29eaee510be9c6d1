"""Encoded bytes to the pixels a network takes.

Choices: EXIF orientation is ignored and alpha is dropped, as torchvision's loader does; an animation is its first
frame; 16-bit grey keeps its high byte, as PIL does for 16-bit colour; 32-bit pixels have no set range and are refused.
"""

import threading
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from taft_ray.errors import DataError

# Only formats that hold pixels: PIL would start Ghostscript for an EPS.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 89_478_485  # PIL's own limit, 256 MiB of RGB
Image.init()  # with formats named, Image.open looks only among those loaded already
_PIL_WARNINGS = threading.Lock()  # the filters of `warnings` are global to the process


class Undecodable(DataError):
    """A picture that cannot be decoded; ``reason`` is one of a few phrases, fit to be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_image(data: bytes, size: int) -> np.ndarray:
    """uint8 (3, size, size), read-only: RGB, shorter side to ``size`` (bicubic, antialiased), centre crop.

    Guarantees: the pixels of torchvision's ``Resize(size, BICUBIC)`` and ``CenterCrop(size)`` on PIL's RGB; raises
    nothing but ``Undecodable``; warns of nothing; a small file cannot take more than ``MAX_PIXELS`` pixels.
    """
    if not data:
        raise Undecodable("empty file")
    try:
        with _open(data) as image:
            width, height = image.size
            scale = size / min(width, height)
            if max(width * height, max(width, height) * scale * size) > MAX_PIXELS:
                raise Undecodable("too many pixels")
            rgb = _to_rgb(image)
    except Undecodable:
        raise
    except UnidentifiedImageError:
        raise Undecodable("not a picture") from None
    except Exception as error:
        # PIL's decoders raise nearly anything (OSError, SyntaxError, struct.error…) on hostile bytes
        cut = any(word in str(error).lower() for word in ("truncated", "eof", "end of"))
        raise Undecodable("truncated picture" if cut else "damaged picture") from error
    cropped = _crop(rgb, size)
    # plane by plane: half the time of transposing an array
    planes = b"".join(cropped.tobytes("raw", band) for band in cropped.getbands())
    return np.frombuffer(planes, np.uint8).reshape(3, size, size)


def _open(data: bytes) -> Image.Image:
    with _PIL_WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Image.open(BytesIO(data), formats=_FORMATS)
        except Image.DecompressionBombError:
            raise Undecodable("too many pixels") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise Undecodable("32-bit pixels")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    image.load()
    image.info.pop("transparency", None)  # dropped anyway, and PIL warns where a palette has several
    return image.convert("RGB")


def _crop(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    if width <= height:
        width, height = size, int(size * height / width)
    else:
        width, height = int(size * width / height), size
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))

"""Encoded bytes to the pixels a network takes.

Choices (docs/reference/pictures.md): EXIF orientation is ignored by default and alpha is dropped, as torchvision's loader does. An
animation is its first frame. Grey and colour of more than 8 bits keep the high byte of the range that their file tells.
Pixels of 32 bits have no set range and are refused.
"""

import contextlib
import threading
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from taft_ray.data import deep_colour, formats, png
from taft_ray.errors import DataError

MAX_PIXELS = 89_478_485  # PIL's own limit, 256 MiB of RGB
ORIENTATIONS = ("ignore", "apply")
_ORIENTATION = 0x0112  # the tag, in EXIF and in TIFF
# the turn that makes a picture upright, by the value of the tag; 1 is upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _MAX_SAMPLE = 258, 281  # tags of TIFF
_DAMAGED, _TRUNCATED = "damaged picture", "truncated picture"
Image.init()  # with formats named, Image.open looks only among those loaded already
_FORMATS = formats.readable()
with contextlib.suppress(ImportError):
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a decoder has one core, as for every other format
_PIL_WARNINGS = threading.Lock()  # the filters of `warnings` are global to the process


class Undecodable(DataError):
    """A picture that cannot be decoded; ``reason`` is one of a few phrases, fit to be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_image(data: bytes, size: int, exif_orientation: str = "ignore", most: int = MAX_PIXELS) -> np.ndarray:
    """uint8 (3, size, size), read-only: RGB, shorter side to ``size`` (bicubic, antialiased), centre crop.

    exif_orientation: "apply" turns the picture as its EXIF says, before it is resized; "ignore" leaves it.

    most: pixels that a picture may have, up to ``MAX_PIXELS``.

    Guarantees: the pixels of torchvision's ``Resize(size, BICUBIC)`` and ``CenterCrop(size)`` on PIL's RGB. It raises
    nothing but ``Undecodable`` and warns of nothing. A small file cannot take more than ``most`` pixels.
    """
    if not data:
        raise Undecodable("empty file")
    try:
        rgb = _pixels(data, size, exif_orientation, most)
    except Undecodable as error:
        # PIL refuses a PNG for large or damaged texts and profiles, which no pixel needs
        slim = png.without_comments(data) if error.reason in (_DAMAGED, _TRUNCATED, formats.NO_PICTURE) else None
        if slim is None:
            raise
        try:
            rgb = _pixels(slim, size, exif_orientation, most)
        except Undecodable:
            raise error from None
    cropped = _crop(rgb, size)
    # plane by plane: half the time of transposing an array
    planes = b"".join(cropped.tobytes("raw", band) for band in cropped.getbands())
    return np.frombuffer(planes, np.uint8).reshape(3, size, size)


def _pixels(data: bytes, size: int, exif_orientation: str, most: int) -> Image.Image:
    try:
        with _open(data) as image:
            width, height = image.size
            scale = size / min(width, height)
            if max(width * height, max(width, height) * scale * size) > most:
                raise Undecodable("too many pixels")
            rgb = _to_rgb(image, data)
            return _upright(image, rgb) if exif_orientation == "apply" else rgb
    except Undecodable:
        raise
    except UnidentifiedImageError:
        raise Undecodable(formats.why_not_opened(data)) from None
    except Exception as error:
        # PIL's decoders raise nearly anything (OSError, SyntaxError, struct.error…) on hostile bytes
        cut = any(word in str(error).lower() for word in ("truncated", "eof", "end of"))
        raise Undecodable(_TRUNCATED if cut else _DAMAGED) from error


def _open(data: bytes) -> Image.Image:
    with _PIL_WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Image.open(BytesIO(data), formats=_FORMATS)
        except Image.DecompressionBombError:
            raise Undecodable("too many pixels") from None


def _to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    if image.mode == "I" and image.format == "PPM":  # PIL has scaled its 16 bits to their whole range
        return _high_byte(np.asarray(image), 0xFFFF)
    if image.mode in ("I", "F"):
        raise Undecodable("32-bit pixels")
    if image.mode.startswith("I;16"):
        grey = np.asarray(image)
        return _high_byte(grey, _white(image, data, grey))
    kind = deep_colour.kind_of(getattr(image, "tile", ()))
    image.load()
    image.info.pop("transparency", None)  # dropped anyway, and PIL warns where a palette has several
    deep = None if kind is None else _deep_colour(image, data, kind)
    return image.convert("RGB") if deep is None else deep


def _deep_colour(image: Image.Image, data: bytes, kind: str) -> Image.Image | None:
    """Colour of 16 bits of which the file says that fewer are used, from below; None for any other, which stays as it is."""
    bits = _told_bits(image, data)
    if not 8 < bits < 16:
        return None
    high = deep_colour.high_of(kind, image)
    if max(int(band.max(initial=0)) for band in high) >= 1 << (bits - 8):
        return None
    try:
        with _open(data) as again:
            low = deep_colour.low_of(kind, again)
    except Exception:  # a tile that PIL has in one order of bytes alone
        return None
    bands = [(one.astype(np.uint16) << 8) | other for one, other in zip(high, low, strict=True)]
    if image.format == "PNG" and not any(_from_below(band, bits) for band in bands):
        return None
    shown = [Image.fromarray((band >> (bits - 8)).astype(np.uint8)) for band in bands]
    return Image.merge("RGB", shown if len(shown) == 3 else shown * 3)


def _high_byte(grey: np.ndarray, white: int) -> Image.Image:
    """Grey of the range 0..white as RGB of 8 bits."""
    high = (grey.astype(np.uint32) * 256 // (white + 1)).clip(max=255).astype(np.uint8)
    return Image.fromarray(high).convert("RGB")


def _white(image: Image.Image, data: bytes, grey: np.ndarray) -> int:
    """The value of white in 16-bit grey: less than 2^16 - 1 where the file says that fewer bits are used, from below."""
    bits = _told_bits(image, data)
    if image.format == "PNG" and 8 < bits < 16 and not _from_below(grey, bits):
        bits = 16  # scaled to 16 bits, as PNG asks for
    white = (1 << bits) - 1
    return white if 8 < bits < 16 and int(grey.max(initial=0)) <= white else 0xFFFF


def _told_bits(image: Image.Image, data: bytes) -> int:
    """How many of 16 bits the file says are used."""
    if image.format == "PNG":
        return png.significant_bits(data) or 16
    if image.format != "TIFF":
        return 16
    tags = image.tag_v2  # type: ignore[attr-defined]  # PIL's TIFF has it
    bits = int(_first(tags.get(_BITS_PER_SAMPLE, 16)))
    most = int(_first(tags.get(_MAX_SAMPLE, 0)))
    # the tag may also tell the brightest value that occurs; 4,095 and the like are ranges
    return most.bit_length() if bits == 16 and most > 0xFF and most & (most + 1) == 0 else bits


def _from_below(grey: np.ndarray, bits: int) -> bool:
    """Whether values of ``bits`` were written as they are, and not brought to 16 bits: then the low bits repeat, or are 0."""
    if int(grey.max(initial=0)) >= 1 << bits:
        return False
    wide = grey.astype(np.uint32)
    top = wide >> (16 - bits)
    repeated = (top << (16 - bits)) | (top >> (2 * bits - 16))
    zeros = top << (16 - bits)
    return not (np.array_equal(wide, repeated) or np.array_equal(wide, zeros))


def _first(value: object) -> int:
    return int(value[0] if isinstance(value, tuple) else value)  # type: ignore[call-overload]  # a number or numbers


def _upright(image: Image.Image, rgb: Image.Image) -> Image.Image:
    """Turned as the picture's EXIF says. A TIFF is turned by PIL already, which takes the tag out."""
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF is no damaged picture, and says nothing of how it lies
        turn = None
    return rgb if turn is None else rgb.transpose(turn)


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

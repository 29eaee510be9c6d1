"""Decoding: torchvision's pixels, a defined answer for every odd picture, and nothing but Undecodable for the rest."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from taft_ray.data import Undecodable, decode_image, open_source, read_images

RED = np.array([200, 30, 40], np.uint8)


def _save(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _red(mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (8, 6), tuple(RED.tolist())).convert(mode)


@pytest.mark.parametrize("shape", [(32, 32), (224, 224), (100, 61), (61, 100), (301, 227), (1, 9)])
def test_parity_with_torchvision(encode: Callable[..., bytes], shape: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    size = 64
    picture = encode(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    chain = [transforms.Resize(size, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(size)]
    expected = np.asarray(transforms.Compose(chain)(Image.open(io.BytesIO(picture)).convert("RGB")))
    decoded = decode_image(picture, size)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert np.array_equal(decoded, expected.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("png", _save(_red(), "PNG")),
        ("webp", _save(_red(), "WEBP", lossless=True)),
        ("palette", _save(_red("P"), "PNG")),
        ("palette with transparency", _save(_red("P"), "PNG", transparency=bytes([128] * 200))),
        ("alpha is dropped", _save(Image.new("RGBA", (8, 6), (*RED.tolist(), 7)), "PNG")),
        ("cmyk", _save(_red("CMYK"), "JPEG", quality=100)),
        ("first frame", _save(_red(), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 6))])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_odd_pictures_are_red(name: str, picture: bytes) -> None:
    pixels = decode_image(picture, 4).reshape(3, -1)
    exact = name not in ("palette", "palette with transparency", "cmyk", "first frame")
    assert np.abs(pixels.astype(int) - RED[:, None]).max() <= (0 if exact else 26)


def test_grey_of_8_and_16_bits_and_bilevel_agree() -> None:
    grey = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)
    expected = decode_image(_save(Image.fromarray(grey), "PNG"), 6)
    assert np.array_equal(expected[0], expected[2])
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    for format in ("PNG", "TIFF"):
        assert np.array_equal(decode_image(_save(deep, format), 6), expected)
    assert set(np.unique(decode_image(_save(Image.new("1", (6, 6), 1), "PNG"), 6))) == {255}


def test_orientation_is_ignored() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = _save(image, "JPEG"), _save(image, "JPEG", exif=exif)
    assert turned != plain
    assert np.array_equal(decode_image(turned, 8), decode_image(plain, 8))


def _bomb() -> bytes:
    return _save(Image.new("1", (20_000, 20_000)), "PNG")


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (lambda jpeg: b"", "empty file"),
        (lambda jpeg: b"hello, this is text", "not a picture"),
        (lambda jpeg: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (lambda jpeg: jpeg[: len(jpeg) // 2], "truncated picture"),
        (lambda jpeg: _save(Image.fromarray(np.zeros((99, 99, 3), np.uint8)), "PNG")[:80], "truncated picture"),
        (lambda jpeg: _bomb(), "too many pixels"),
        (lambda jpeg: _save(Image.new("1", (10_000, 10_000)), "PNG"), "too many pixels"),
        (lambda jpeg: _save(Image.new("L", (1, 60_000)), "PNG"), "too many pixels"),
        (lambda jpeg: _save(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"), "32-bit pixels"),
    ],
)
def test_undecodable_pictures_have_a_countable_reason(
    pictures: list[bytes], picture: Callable[[bytes], bytes], reason: str
) -> None:
    with pytest.raises(Undecodable) as error:
        decode_image(picture(pictures[0]), 48)
    assert error.value.reason == reason


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damage_raises_nothing_but_undecodable(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]))
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    damaged = bytearray(_save(Image.fromarray(pixels), format))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(1, len(damaged)))]
    try:
        decoded = decode_image(bytes(damaged), 8)
    except Undecodable:
        return
    assert decoded.shape == (3, 8, 8)


def test_real_pictures_decode_fast(assets: Path) -> None:
    file = open_source(str(assets / "cifar10_jpeg_test.parquet")).files[0]
    pictures = [picture for picture in read_images(file, range(100)) if picture is not None]
    start = time.perf_counter()
    for picture in pictures:
        decode_image(picture, 224)
    assert (time.perf_counter() - start) / len(pictures) < 0.01  # 1 ms alone; the machine may be busy

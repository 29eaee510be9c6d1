"""Formats, depths and orientations beyond the plain ones; what is not read is named."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from taft_ray.data import Undecodable, decode_image

RED = np.array([200, 30, 40], np.uint8)


def _save(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _red() -> Image.Image:
    return Image.new("RGB", (8, 6), tuple(RED.tolist()))


def _chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


def _png(pixels: np.ndarray, kind: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits a sample, rows unfiltered; kind: its colour type."""
    rows = pixels.reshape(pixels.shape[0], -1).astype(">u2")
    header = pixels.shape[1].to_bytes(4) + pixels.shape[0].to_bytes(4) + bytes([16, kind, 0, 0, 0])
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", content), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _tiff_of_12_bits(pixels: np.ndarray) -> bytes:
    """An uncompressed grey TIFF of 12 bits a sample, two samples in three bytes."""
    first, second = pixels.reshape(-1, 2).T.astype(np.uint32)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    height, width = pixels.shape
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(packed)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    ifd = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + ifd


def _tiff_of_colour(pixels: np.ndarray, most: int, order: str, deflated: bool = False) -> bytes:
    """A TIFF of three 16-bit channels; most: its MaxSampleValue."""
    height, width, _ = pixels.shape
    content = pixels.astype(order + "u2").tobytes()
    content = (zlib.compress(content) if deflated else content) + struct.pack(order + "HHH", 16, 16, 16)
    at = 8 + len(content)
    tags = [
        (256, 1, width),
        (257, 1, height),
        (258, 3, at - 6),
        (259, 1, 8 if deflated else 1),
        (262, 1, 2),
        (273, 1, 8),
        (277, 1, 3),
    ]
    tags += [(278, 1, height), (279, 1, len(content) - 6), (281, 1, most)]
    # shorts lie at the beginning of their four bytes, longs fill them
    kinds = [(tag, 3, count, value) if count == 3 else (tag, 4, 1, value) for tag, count, value in tags]
    entries = b"".join(struct.pack(order + "HHII", *entry) for entry in kinds)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", at) + content + struct.pack(order + "H", len(tags)) + entries + bytes(4)


TWELVE = (np.arange(48, dtype=np.uint16) * 87).reshape(6, 8)  # 0 to 4089
HIGH = (TWELVE >> 4).astype(np.uint8)


def _pgm(pixels: np.ndarray, most: int) -> bytes:
    return f"P5 8 6 {most}\n".encode() + pixels.astype(">u2").tobytes()


@pytest.mark.parametrize(
    "picture",
    [
        _pgm(TWELVE, 4095),
        f"P2 8 6 4095\n{' '.join(map(str, TWELVE.flat))}\n".encode(),
        b"P6 8 6 4095\n" + np.repeat(TWELVE, 3).astype(">u2").tobytes(),
        _tiff_of_12_bits(TWELVE),
        _save(Image.fromarray(TWELVE), "TIFF", tiffinfo={281: 4095}),
        _png(TWELVE, 0, (b"sBIT", b"\x0c")),
        _png(TWELVE << 4, 0, (b"sBIT", b"\x0c")),
        _png(TWELVE << 4 | TWELVE >> 8, 0, (b"sBIT", b"\x0c")),
        _png(TWELVE << 4, 0),
        _pgm(TWELVE << 4, 65535),
        _png(np.stack([TWELVE << 4, TWELVE * 0 + 9], -1), 4),
        _png(np.stack([TWELVE << 4] * 3, -1), 2),
    ],
    ids=["pgm", "plain pgm", "ppm", "tiff of 12", "tiff with its maximum", "png from below", "png from above",
         "png repeated", "png of 16", "pgm of 16", "grey and alpha", "colour"],
)  # fmt: skip
def test_twelve_bits_are_as_bright_as_eight(picture: bytes) -> None:
    decoded = decode_image(picture, 6)[:, :, :].astype(int)
    expected = decode_image(_save(Image.fromarray(HIGH), "PNG"), 6).astype(int)
    assert np.abs(decoded - expected).max() <= 1  # PIL rounds where it scales a range itself


COLOUR = np.stack([TWELVE, TWELVE[::-1], TWELVE // 3], -1)
SHOWN = np.moveaxis((COLOUR >> 4).astype(np.uint8), -1, 0)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_colour_of_fewer_bits_is_as_bright_as_of_eight(bits: int) -> None:
    values = COLOUR << (bits - 12) | 1 if bits > 12 else COLOUR >> (12 - bits)
    alpha = np.full((6, 8, 1), 0xFFFF)
    told = (b"sBIT", bytes([bits] * 3))
    pictures = [
        _png(values, 2, told),
        _png(np.concatenate([values, alpha], -1), 6, (b"sBIT", bytes([bits] * 3 + [16]))),
        _png(values, 2, (b"sBIT", bytes([bits - 1, bits, bits - 1]))),
        _tiff_of_colour(values, (1 << bits) - 1, "<"),
        _tiff_of_colour(values, (1 << bits) - 1, ">"),
        _tiff_of_colour(values, (1 << bits) - 1, "<", deflated=True),
        _tiff_of_colour(values, (1 << bits) - 1, ">", deflated=True),
    ]
    expected = decode_image(_save(Image.fromarray(np.moveaxis(SHOWN, 0, -1)), "PNG"), 6)
    for picture in pictures:
        assert np.array_equal(decode_image(picture, 6), expected)
    grey = _png(np.concatenate([values[..., :1], alpha], -1), 4, (b"sBIT", bytes([bits, 16])))
    assert np.array_equal(decode_image(grey, 6), np.repeat(expected[:1], 3, 0))


@pytest.mark.parametrize("kind", [2, 4, 6])
def test_other_colour_of_sixteen_bits_keeps_its_high_byte(kind: int) -> None:
    channels = {2: 3, 4: 2, 6: 4}[kind]
    told = (b"sBIT", bytes([12] * channels))
    values = np.repeat(COLOUR, 2, -1)[..., :channels]
    for pixels, chunks in (
        (values, []),  # nothing says it
        (values << 4, [told]),  # scaled to 16 bits, as PNG asks for
        (values << 4 | values >> 8, [told]),
        (values >> 8 << 4, [told]),  # dark and scaled
        (values * 16, [(b"sBIT", bytes([16] * channels))]),
        (values + 9, [(b"sBIT", bytes([8] * channels))]),
    ):
        high = Image.fromarray(
            (pixels[..., : 1 if kind == 4 else 3] >> 8).astype(np.uint8).repeat(3 if kind == 4 else 1, -1)
        )
        assert np.array_equal(decode_image(_png(pixels, kind, *chunks), 6), decode_image(_save(high, "PNG"), 6))


def test_dark_sixteen_bits_stay_dark() -> None:
    """Nothing says that these have fewer bits: a tag of TIFF tells the brightest value, and sBIT what was scaled up."""
    dark = (np.arange(48, dtype=np.uint16) * 3).reshape(6, 8)
    plain = decode_image(_png(dark, 0), 6)
    assert plain.max() == 0
    for picture in (
        _save(Image.fromarray(dark), "TIFF", tiffinfo={281: int(dark.max())}),
        _save(Image.fromarray(dark), "TIFF", tiffinfo={281: 65535}),
        _png((dark >> 4) << 4, 0, (b"sBIT", b"\x0c")),
        _pgm(dark, 65535),
    ):
        assert np.array_equal(decode_image(picture, 6), plain)


@pytest.mark.parametrize(
    "chunk",
    [
        (b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20))),
        (b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"x" * (2 << 20))),
        (b"tEXt", b"a\0" + b"x" * (65 << 20)),
        (b"iCCP", b"a\0\0" + zlib.compress(bytes(2 << 20))),
        (b"zTXt", b"no zero byte"),
    ],
    ids=lambda chunk: chunk[0].decode(),
)
def test_large_texts_and_profiles_of_a_png_are_no_damage(chunk: tuple[bytes, bytes]) -> None:
    expected = decode_image(_png(TWELVE << 4, 0), 6)
    assert np.array_equal(decode_image(_png(TWELVE << 4, 0, chunk), 6), expected)
    cut = _png(TWELVE << 4, 0, chunk)[:-30]
    with pytest.raises(Undecodable, match=r"damaged|truncated"):
        decode_image(cut, 6)


def test_damaged_text_of_a_png_is_no_damage() -> None:
    picture = bytearray(_png(TWELVE << 4, 0, (b"tEXt", b"a\0bcd")))
    picture[picture.index(b"bcd")] ^= 1  # its checksum is wrong now
    assert np.array_equal(decode_image(bytes(picture), 6), decode_image(_png(TWELVE << 4, 0), 6))


def test_pictures_with_more_behind_them() -> None:
    for format in ("PNG", "JPEG", "GIF", "WEBP"):
        picture = _save(_red(), format)
        assert np.array_equal(decode_image(picture + bytes(999), 6), decode_image(picture, 6))
    two = _save(_red(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 6))])
    assert np.array_equal(decode_image(two, 6), decode_image(_save(_red(), "JPEG"), 6))


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000"])
def test_formats_that_pil_may_lack(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from taft_ray.data import decode

    if format not in Image.OPEN:
        pytest.skip(f"this PIL was built without {format}")
    options = {"quality": 100} if format == "AVIF" else {}
    encoded = [_save(_red(), format, **options)]
    encoded += [_save(_red(), format, no_jp2=True)] if format == "JPEG2000" else []
    for picture in encoded:
        assert np.abs(decode_image(picture, 4).reshape(3, -1).astype(int) - RED[:, None]).max() <= 4
        with monkeypatch.context() as patch:
            patch.setattr(decode, "_FORMATS", ("JPEG", "PNG"))
            with pytest.raises(Undecodable, match=f"{format.replace('G2', 'G 2')} is not read here"):
                decode_image(picture, 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC is not read here"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix" + bytes(99), "HEIC is not read here"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41mp42" + bytes(99), "a film, not a picture"),
        (b"\xff\x0a" + bytes(99), "JPEG XL is not read here"),
        (b"8BPS\0\1" + bytes(99), "Photoshop is not read here"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "SVG is not read here"),
        (bytes(128) + b"DICM" + bytes(99), "DICOM is not read here"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not a picture"),
        (b"<!DOCTYPE html><html>", "a web page, not a picture"),
        (b"\0\0\0\x18ftyp", "a film, not a picture"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(Undecodable) as error:
        decode_image(data, 8)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("format", "orientation"),
    [
        *((format, orientation) for format in ("JPEG", "PNG", "WEBP", "TIFF") for orientation in range(10)),
        *(("AVIF", orientation) for orientation in range(1, 9)),  # it has no others
    ],
)
def test_orientation_is_applied_when_asked_for(format: str, orientation: int) -> None:
    if format not in Image.OPEN:
        pytest.skip(f"this PIL was built without {format}")
    pixels = np.kron(np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6), np.ones((8, 8), np.uint8))
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(format, {})
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = _save(Image.fromarray(pixels).convert("RGB"), format, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(picture))).convert("RGB")
    expected = decode_image(_save(upright, "PNG"), 32)
    assert np.array_equal(decode_image(picture, 32, "apply"), expected)


def test_damaged_exif_is_no_damaged_picture() -> None:
    picture = _save(_red(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(decode_image(picture, 6, "apply"), decode_image(picture, 6))

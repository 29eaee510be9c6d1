"""Which kinds of pictures there are: by a name's end, and by the first bytes; also those that are not read here."""

import posixpath

from PIL import Image

# Only formats that hold pixels: PIL would start Ghostscript for an EPS. The last two are in PIL as it was built.
OPENED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_FIRST_READ = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
# read since a later version: beside a picture of the first ones in a sample of a tar they give way, as they did before
READ_LATER = frozenset(
    {".jfif", ".jpe", ".jfi", ".pjpeg", ".pjp", ".apng", ".dib", ".pnm", ".pbm", ".avif", ".jp2", ".j2k", ".j2c",
     ".jpc", ".jpf", ".jpx"}
)  # fmt: skip
IMAGE_SUFFIXES = _FIRST_READ | READ_LATER
_NOT_READ = {
    ".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC", ".heics": "HEIC", ".jxl": "JPEG XL", ".jxr": "JPEG XR",
    ".wdp": "JPEG XR", ".jls": "JPEG-LS", ".svg": "SVG", ".svgz": "SVG", ".psd": "Photoshop", ".psb": "Photoshop",
    ".tga": "TGA", ".ico": "ICO", ".pcx": "PCX", ".exr": "OpenEXR", ".hdr": "Radiance HDR", ".dds": "DDS",
    ".qoi": "QOI", ".bpg": "BPG", ".pam": "PAM", ".pfm": "PFM", ".dcm": "DICOM", ".fits": "FITS", ".eps": "EPS",
    ".xcf": "GIMP", ".dng": "a camera's raw format", ".cr2": "a camera's raw format", ".cr3": "a camera's raw format",
    ".nef": "a camera's raw format", ".arw": "a camera's raw format", ".orf": "a camera's raw format",
    ".rw2": "a camera's raw format", ".raf": "a camera's raw format", ".pef": "a camera's raw format",
}  # fmt: skip
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_STILL_BRANDS = frozenset({b"mif1", b"msf1", b"mif2", b"miaf"})
_MAGIC = (
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"BPG\xfb", "BPG"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"P7\n", "PAM"),
    (b"SIMPLE  =", "FITS"),
    (b"gimp xcf", "GIMP"),
    (b"FUJIFILMCCD-RAW", "a camera's raw format"),
)
NO_PICTURE = "not a picture"
_DICOM = slice(128, 132)


def readable() -> tuple[str, ...]:
    """The formats that the installed PIL opens, of those that are read here."""
    return tuple(name for name in OPENED if name in Image.OPEN)


def suffix_of(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def unread_format(name: str) -> str | None:
    """The format that a file's name ends in, where it is that of pictures which are not read here."""
    return unread_suffix(suffix_of(name))


def unread_suffix(suffix: str) -> str | None:
    return _NOT_READ.get(suffix)


def not_read(format: str) -> str:
    """The reason against a picture of a format that is not read here."""
    return f"{format} is not read here"


def why_not_opened(data: bytes) -> str:
    """The reason against bytes that PIL does not open: their format where they tell it, "not a picture" otherwise."""
    if data[4:8] == b"ftyp":
        return _of_a_container(data)
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return not_read(name)
    if data[_DICOM] == b"DICM":
        return not_read("DICOM")
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (start.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in start):
        return not_read("SVG")
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, not a picture"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not a picture"
    return NO_PICTURE


def _of_a_container(data: bytes) -> str:
    """ISO's container has pictures and films: its brands, the first of them first, say which."""
    length = min(int.from_bytes(data[:4]), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, length - 3, 4))]
    for brand in brands:
        if brand in _HEIC_BRANDS:
            return not_read("HEIC")
        if brand in _AVIF_BRANDS:
            return not_read("AVIF")
    return not_read("HEIC") if brands[0] in _STILL_BRANDS else "a film, not a picture"

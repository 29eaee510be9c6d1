"""Pictures by the ends of their names: newer formats are taken, those not read are rejected by their format's name."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from taft_ray import data
from taft_ray.errors import DataError


def _picture(format: str, colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(buffer, format)
    return buffer.getvalue()


def _tar(path: Path, members: Mapping[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def _reasons(uri: str) -> dict[str, str | None]:
    table = data.index_files(data.open_source(uri).files)
    return dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))


def test_class_folder(tmp_path: Path) -> None:
    names = ["a.jfif", "b.jpe", "c.avif", "d.JP2", "e.j2k", "f.heic", "g.svg", "h.tga", "i.cr2", "j.txt", "k.pbm"]
    for name in names:
        (tmp_path / "ant").mkdir(exist_ok=True)
        (tmp_path / "ant" / name).write_bytes(b"x")
    assert _reasons(str(tmp_path)) == {
        **{f"ant/{name}": None for name in ("a.jfif", "b.jpe", "c.avif", "d.JP2", "e.j2k", "k.pbm")},
        "ant/f.heic": "HEIC is not read here",
        "ant/g.svg": "SVG is not read here",
        "ant/h.tga": "TGA is not read here",
        "ant/i.cr2": "a camera's raw format is not read here",
        "ant/j.txt": "not an image",
    }


def test_folder_of_nothing_that_is_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    for name in ("1.heic", "2.HEIC", "3.jxl"):
        (tmp_path / "ant" / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"not read here \(HEIC: 2, JPEG XL: 1; such as ant/.*convert them"):
        data.open_source(str(tmp_path))


def test_tar(tmp_path: Path) -> None:
    uri = _tar(
        tmp_path / "t.tar",
        {
            "a.avif": b"x", "a.cls": b"ant", "b.heic": b"x", "b.cls": b"ant", "c.jp2": b"y", "c.cls": b"ant",
            "d.cls": b"ant", "e.heic": b"x", "e.jpg": b"z", "e.cls": b"ant",
        },
    )  # fmt: skip
    assert list(_reasons(uri).values()) == [None, "HEIC is not read here", None, "no image", None]
    (file,) = data.open_source(uri).files
    assert data.read_images(file, [4, 0, 2]) == [b"z", b"x", b"y"]


def test_a_newer_format_in_a_sample_of_a_tar_gives_way(tmp_path: Path) -> None:
    """Such a sample was its JPEG before AVIF was read, and still is: in whichever order they lie."""
    members = {
        "a.avif": b"new", "a.jpg": b"old", "a.cls": b"ant", "b.jpg": b"old", "b.avif": b"new", "b.cls": b"ant",
        "c.avif": b"first", "c.jp2": b"second", "c.cls": b"ant",
    }  # fmt: skip
    (file,) = data.open_source(_tar(tmp_path / "t.tar", members)).files
    assert data.read_images(file, [0, 1, 2]) == [b"old", b"old", b"first"]
    assert data.index_files([file])["bytes"].to_pylist() == [3, 3, 5, 3, 3, 6]  # behind the samples what gave way

"""The same pictures in the three formats, and the real pictures beside the repository."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

ASSETS = Path(__file__).parents[3] / "shared/assets"


def _encode(pixels: np.ndarray, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    return _encode


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    random = np.random.default_rng(0)
    return [_encode(random.integers(0, 256, (20 + i % 7, 24, 3), np.uint8)) for i in range(30)]


@pytest.fixture
def write_tar() -> Callable[..., Path]:
    def write(path: Path, members: list[tuple[str, bytes]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    def write(path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None, group: int = 7) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table(columns)
        pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=group)
        return path

    return write


@pytest.fixture
def three_formats(tmp_path: Path, pictures: list[bytes], write_tar: Any, write_parquet: Any) -> dict[str, Path]:
    """30 pictures of 3 classes, the same in every format and in the order of their class, then number."""
    names = ["ant", "bee", "cat"]
    labels = [names[i // 10] for i in range(30)]
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        folder = tmp_path / "folder" / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02}.jpg").write_bytes(picture)
    for part in range(2):
        rows = range(part * 15, part * 15 + 15)
        write_parquet(
            tmp_path / f"parquet/part-{part}.parquet",
            {"image": [pictures[i] for i in rows], "label": [labels[i] for i in rows]},
        )
        members: list[tuple[str, bytes]] = []
        for i in rows:
            members.append((f"{i:04}.jpg", pictures[i]))
            label = (f"{i:04}.cls", labels[i].encode())
            members.append(label if i % 2 else (f"{i:04}.json", json.dumps({"label": labels[i]}).encode()))
        write_tar(tmp_path / f"tar/part-{part}.tar", members)
    return {name: tmp_path / name for name in ("folder", "parquet", "tar")}


@pytest.fixture(scope="session")
def assets() -> Path:
    if not ASSETS.is_dir():
        pytest.skip(f"the real pictures are not there: {ASSETS.name} beside the repository is missing")
    return ASSETS

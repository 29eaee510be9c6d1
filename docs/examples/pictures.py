"""Pictures for the examples: scikit-learn's digits as a folder of class folders, or as Parquet files with owners.

Nothing is downloaded. With pictures of your own you need none of this.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from taft_ray.embedded import write_digits

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def image_folder(folder: Path) -> tuple[Path, Path]:
    """``train/three/digit-0042.png`` and so on, and ``test/``."""
    tables = write_digits(folder / "tables")
    for name, table in zip(("train", "test"), tables, strict=True):
        for row in pq.read_table(table).to_pylist():
            place = folder / name / CLASSES[row["label"]]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{row['id']}.png").write_bytes(row["image"])
    return folder / "train", folder / "test"


def patients(folder: Path) -> tuple[Path, Path]:
    """Two Parquet files with the columns id, image, label and owner: forty people, about 45 pictures each."""
    train, test = write_digits(folder)
    return Path(train), Path(test)


def sites(folder: Path, names: tuple[str, ...]) -> tuple[list[Path], Path]:
    """One Parquet file per site, and one of test pictures."""
    train, test = write_digits(folder / "tables")
    table = pq.read_table(train)
    folder.mkdir(parents=True, exist_ok=True)
    of_site = pa.array([row % len(names) for row in range(table.num_rows)])
    files = []
    for number, name in enumerate(names):
        files.append(folder / f"{name}.parquet")
        pq.write_table(table.filter(pc.equal(of_site, number)), files[-1])
    return files, Path(test)

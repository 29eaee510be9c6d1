"""scikit-learn's handwritten digits as the two Parquet files of the demo."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

from taft_ray.errors import UsageError

SIDE = 32  # pixels
WRITERS = 40
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_METADATA = {
    "classes": "\n".join(CLASSES),
    "source": "scikit-learn load_digits: UCI Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998), its test part",
    "licence": "CC BY 4.0",
}


def write_digits(folder: Path, *, test_fraction: float = 0.25, seed: int = 0) -> tuple[str, str]:
    """Write ``train.parquet`` and ``test.parquet`` into ``folder``; return their paths in that order.

    The 1,797 grey pictures of 8 x 8 pixels are enlarged (bicubic) to 32 x 32 RGB and stored as PNG. Columns: ``id`` ("digit-0042", the
    index in scikit-learn's order, whatever the split), ``image``, ``label``, ``owner``; class names in the schema metadata.

    The owner is synthetic: the data set does not say who wrote a digit. The pictures are dealt in order to 40 invented writers
    ("writer-00" to "writer-39", about 45 pictures each), for requests that forget everything of one person.

    Guarantees: each picture is in exactly one file. Every label has about ``test_fraction`` of its pictures in the test file,
    and at least one in each. The same arguments give the same files.
    """
    if not 0 < test_fraction < 1:
        raise UsageError(f"expected 0 < test_fraction < 1, got {test_fraction}")
    flat, target = load_digits(return_X_y=True)
    pictures, labels = np.asarray(flat).reshape(-1, 8, 8), np.asarray(target)
    in_test = np.zeros(len(labels), bool)
    generator = np.random.default_rng(seed)
    for label in range(len(CLASSES)):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(test_fraction * len(members)), 1), len(members) - 1)
        in_test[members[:count]] = True

    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.parquet", folder / "test.parquet"
    for path, chosen in zip(paths, (~in_test, in_test), strict=True):
        rows = np.flatnonzero(chosen)
        table = pa.table(
            {
                "id": [f"digit-{row:04d}" for row in rows],
                "image": [_png(pictures[row]) for row in rows],
                "label": pa.array(labels[rows], pa.int16()),
                "owner": [f"writer-{row * WRITERS // len(labels):02d}" for row in rows],
            },
            metadata=_METADATA,
        )
        pq.write_table(table, path)
    return str(paths[0]), str(paths[1])


def _png(grey: np.ndarray) -> bytes:
    """Ink from 0 to 16 on 8 x 8 pixels, as a PNG."""
    picture = Image.fromarray((grey * 255 / 16).round().astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    picture.convert("RGB").save(encoded, format="PNG")
    return encoded.getvalue()

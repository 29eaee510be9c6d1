"""Rows are read from storage as docs/how-to/additive-runs.md shows it, also after a forget."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folder import plain_forget
from plain import plain_train
from tiny import SAMPLES, sample_id

from taft_ray.composer.composer import Composer
from taft_ray.run.snapshots import load_arrays
from taft_ray.storage import Store

PAGE = Path(__file__).parents[2] / "docs/how-to/additive-runs.md"


@pytest.mark.parametrize("options", [{"solver": "additive"}, {"compose": "additive", "trainable": "head"}])
def test_the_pages_code_reads_the_rows_of_the_model(
    options: dict[str, Any], parquet: Path, spec_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    plain_train(tmp_path / "runs/pets", spec_of(parquet, features=48, **options))
    plain_forget(tmp_path / "runs/pets", [sample_id(3)], "subtract")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)
    run = Composer("runs/pets")
    classes = run.record.state.classes
    assert found["a"].shape == (SAMPLES - 1, 48)
    assert np.square(found["a"]).sum(1).max() <= 1
    arrays = load_arrays(Store(str(tmp_path / "runs/pets")), run.compose()["key"])
    by_class = np.stack([found["a"][found["y"] == index].sum(0) for index in range(len(classes))])
    (sums,) = (value for value in arrays.values() if value.shape == by_class.shape)
    np.testing.assert_array_equal(sums, np.rint(by_class * 2**15).astype(np.int64))

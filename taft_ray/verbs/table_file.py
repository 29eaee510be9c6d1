"""Tables that a verb writes into a file: CSV or Parquet, through pandas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from taft_ray.errors import StorageError, UsageError

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".parquet", ".csv")


def check_suffix(option: str, output: str | None) -> None:
    """UsageError for a file of another kind, before any work is done."""
    if output is not None and Path(output).suffix not in SUFFIXES:
        raise UsageError(f"--{option} {output}: expected a file ending in {' or '.join(SUFFIXES)}")


def write_table(table: pd.DataFrame, output: str) -> None:
    """Write the table. StorageError where the file cannot be written."""
    path = Path(output).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path, index=False)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from error

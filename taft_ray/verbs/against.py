"""`evaluate --against`: predictions of two models on the same pictures, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from taft_ray.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

_PLACE = ["file", "row"]
_NEEDED = [*_PLACE, "label", "predicted"]


def read_predictions(file: str) -> pd.DataFrame:
    """A table as `evaluate --predictions` writes it; only file, row, label and predicted are needed."""
    import pandas as pd

    path = Path(file).expanduser()
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype={"file": str, "label": str, "predicted": str}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"--against {file} cannot be read as a table: {error}") from error
    missing = [name for name in _NEEDED if name not in table.columns]
    if missing:
        raise DataError(
            f"--against {file} has no column {missing[0]!r}; expected {', '.join(_NEEDED)}, as evaluate --predictions writes them"
        )
    return table


def compare(mine: pd.DataFrame, other: pd.DataFrame, name: str) -> dict[str, Any]:
    """Both models on the pictures that both tables have: {"name", "n", "accuracy", "difference", "both_right", "only_this",
    "only_other", "neither", "p_value"}.

    difference: this model's accuracy less the other's. p_value: of McNemar's exact test, that such a difference arises by chance
    where both models are equally good. UsageError where the tables have no picture in common, or differ in its label.
    """
    from scipy.stats import binomtest

    for table, whose in ((mine, "this evaluation"), (other, name)):
        if table.duplicated(_PLACE).any():
            raise DataError(f"the predictions of {whose} have a picture twice")
    both = mine.merge(other, on=_PLACE, suffixes=("", "_other"))
    if both.empty:
        raise UsageError(f"{name} has no picture in common with this evaluation; evaluate both on the same data")
    columns = (
        both[column].astype(str).to_numpy() for column in ("label", "label_other", "predicted", "predicted_other")
    )
    label, label_other, predicted, predicted_other = columns
    differ = int((label != label_other).sum())
    if differ:
        raise UsageError(f"{name} has another class for {differ} of the pictures; evaluate both on the same data")
    this, that = predicted == label, predicted_other == label
    only_this, only_other = int((this & ~that).sum()), int((that & ~this).sum())
    split = only_this + only_other
    return {
        "name": name,
        "n": len(both),
        "accuracy": float(that.mean()),
        "difference": float(this.mean() - that.mean()),
        "both_right": int((this & that).sum()),
        "only_this": only_this,
        "only_other": only_other,
        "neither": int((~this & ~that).sum()),
        "p_value": float(binomtest(only_this, split).pvalue) if split else 1.0,
    }

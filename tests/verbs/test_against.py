"""Two models picture by picture: counts, and a test of their difference."""

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from taft_ray.errors import DataError, UsageError
from taft_ray.verbs.against import compare, read_predictions


def table(predicted: list[str], labels: list[str]) -> pd.DataFrame:
    rows = list(range(len(labels)))
    return pd.DataFrame({"file": "a.parquet", "row": rows, "label": labels, "predicted": predicted})


def drawn(seed: int, n: int, skill: float) -> tuple[list[str], list[str]]:
    random = np.random.default_rng(seed)
    labels = random.choice(list("abc"), n)
    return [str(c) if random.random() < skill else "wrong" for c in labels], [str(c) for c in labels]


def test_counts_and_difference() -> None:
    mine, other = table(list("aabbx"), list("aabbb")), table(list("abbxx"), list("aabbb"))
    told = compare(mine, other.sample(frac=1, random_state=0), "other")
    assert told == {
        "name": "other", "n": 5, "accuracy": 0.4, "difference": pytest.approx(0.4), "both_right": 2, "only_this": 2,
        "only_other": 0, "neither": 1, "p_value": 0.5,
    }  # fmt: skip


def test_p_value_is_large_for_equal_models_and_small_for_others() -> None:
    labels = drawn(0, 600, 1.0)[1]
    equal = [compare(table(drawn(s, 600, 0.8)[0], labels), table(drawn(0, 600, 0.8)[0], labels), "x") for s in (0,)]
    assert equal[0]["p_value"] == 1.0
    better = compare(table(labels, labels), table(drawn(0, 600, 0.8)[0], labels), "x")
    assert better["p_value"] < 1e-20
    told = compare(table(drawn(0, 600, 0.85)[0], labels), table(drawn(0, 600, 0.8)[0], labels), "x")
    split, gap = told["only_this"] + told["only_other"], told["only_this"] - told["only_other"]
    approximate = 2 * (1 - NormalDist().cdf(max(0, abs(gap) - 1) / split**0.5))  # McNemar's, corrected
    assert told["p_value"] == pytest.approx(approximate, rel=0.5, abs=1e-4)


def test_tables_of_other_data_are_refused(tmp_path: Path) -> None:
    mine = table(list("ab"), list("ab"))
    with pytest.raises(UsageError, match="no picture in common"):
        compare(mine, mine.assign(file="b.parquet"), "other")
    with pytest.raises(UsageError, match="another class for 1 of the pictures"):
        compare(mine, table(list("ab"), list("aa")), "other")
    with pytest.raises(DataError, match="a picture twice"):
        compare(mine, pd.concat([mine, mine]), "other")
    (tmp_path / "x.csv").write_text("file,row\na,1\n")
    with pytest.raises(DataError, match="no column 'label'"):
        read_predictions(str(tmp_path / "x.csv"))
    (tmp_path / "y.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"y\.parquet cannot be read as a table"):
        read_predictions(str(tmp_path / "y.parquet"))
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(str(tmp_path / "nowhere.csv"))


def test_labels_of_a_csv_stay_texts(tmp_path: Path) -> None:
    mine = table(["01", "NA"], ["01", "NA"])
    mine.to_csv(tmp_path / "x.csv", index=False)
    assert compare(mine, read_predictions(str(tmp_path / "x.csv")), "x")["both_right"] == 2

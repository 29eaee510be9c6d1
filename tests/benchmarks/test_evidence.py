"""The first section of RESULTS.md is made of what was measured, and refuses systems that know their shards after all."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import DATA, PAGE, RESULTS, SOUP, SYSTEMS, DataSet, Measured, picture, put, section

ONE = DataSet(title="toy", label="toy")


def entry(row: str, column: str, value: float, cell: str) -> dict[str, Any]:
    return {"row": row, "column": column, "unit": "accuracy", "mean": value, "spread": 0.01, "values": [value],
            "seeds": [0], "cells": [cell]}  # fmt: skip


def written(folder: Path, digests: tuple[str, str] = ("a", "a")) -> Path:
    """Results of one data set: the additive row at 1 and 50 shards, and SISA at 50 in both tables."""
    tables = {
        "table2": {
            "command": "old",
            "cells": {},
            "values": [entry("SISA (NLFT, mean of outputs)", "50", 0.5, "s"), entry(SOUP, "1", 0.8, "m")],
        },
        "baselines": {
            "command": "taft-ray reproduce baselines",
            "cells": {"c1": {"digests": {"additive": digests[0]}}, "c2": {"digests": {"additive": digests[1]}}},
            "values": [
                entry("additive", "1", 0.9, "c1"),
                entry("additive", "50", 0.9, "c2"),
                entry("SISA (NLFT, mean of outputs)", "50", 0.6, "s2"),
            ],
        },
        "forgetting": {
            "command": "taft-ray reproduce forgetting",
            "cells": {},
            "values": [entry("additive: subtract", "CPU seconds", 0.0123, "f")],
        },
    }
    for name, content in tables.items():
        (folder / f"{name}-toy.json").write_text(json.dumps(content))
    return folder


def test_page_says_what_was_measured():
    measured = [Measured(data) for data in DATA]
    assert section(measured) in PAGE.read_text()
    assert (RESULTS / "evidence.svg").is_file()
    known = [set(one.check_digests()) for one in measured if "baselines" in one.tables]
    assert known
    assert all({"additive", "kNN, k = 20", "head alone, ridge from exact sums"} <= rows for rows in known)


def test_a_system_without_shards_has_its_number_everywhere(tmp_path: Path):
    one = Measured(ONE, written(tmp_path))
    additive, sisa = SYSTEMS[0], next(system for system in SYSTEMS if system.row.startswith("SISA"))
    assert [one.at(additive, shards)["mean"] for shards in ("1", "10", "50", "500")] == [0.9] * 4  # type: ignore[index]
    assert one.at(sisa, "10") is None
    assert one.at(sisa, "1")["mean"] == 0.8  # type: ignore[index]  # one fine-tuned model
    assert one.at(sisa, "50")["mean"] == 0.6  # type: ignore[index]  # what was measured later
    text = section([one])
    assert "| **additive** | 90.0 · 90.0 · 90.0 · 90.0 | 12 ms |" in text
    assert "    taft-ray reproduce baselines\n    taft-ray reproduce forgetting" in text


def test_other_digests_at_other_numbers_of_shards_stop_it(tmp_path: Path):
    assert list(Measured(ONE, written(tmp_path)).check_digests()) == ["additive"]
    with pytest.raises(ValueError, match="additive has another digest"):
        list(Measured(ONE, written(tmp_path, ("a", "b"))).check_digests())


def test_picture_is_the_same_bytes_again(tmp_path: Path):
    measured = [Measured(ONE, written(tmp_path))]
    drawn = picture(measured)
    assert drawn == picture(measured)
    assert b"additive" in drawn


def test_only_the_part_between_the_marks_is_replaced():
    page = "a\n<!-- evidence -->\nold\n<!-- /evidence -->\nb\n"
    assert put(page, r"new \1") == "a\n<!-- evidence -->\nnew \\1\n<!-- /evidence -->\nb\n"
    with pytest.raises(KeyError, match="evidence"):
        put("nothing", "")

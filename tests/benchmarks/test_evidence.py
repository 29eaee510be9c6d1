"""RESULTS.md and benchmarks/findings.md are made of what was measured, and stop where a claim of theirs no longer holds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import sharding
from benchmarks.evidence.__main__ import PAGES, QUESTIONS, ROOT, page, picture_file
from benchmarks.evidence.results import DATA, FOLDER, DataSet, Results
from benchmarks.evidence.systems import SOUP, OverShards, system

ONE = DataSet(title="toy", label="toy")
MOST_PROSE = 120  # lines of RESULTS.md


def entry(row: str, column: str, value: float, cell: str, unit: str = "accuracy") -> dict[str, Any]:
    return {"row": row, "column": column, "unit": unit, "mean": value, "spread": 0.01, "values": [value],
            "seeds": [0], "cells": [cell]}  # fmt: skip


def written(folder: Path, digests: tuple[str, str] = ("a", "a")) -> Results:
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
            "values": [entry("additive: subtract", "CPU seconds", 0.0123, "f", "s"),
                       entry("kNN", "CPU seconds", 0.00123, "k", "s")],
        },
    }  # fmt: skip
    for name, content in tables.items():
        (folder / f"{name}-toy.json").write_text(json.dumps(content))
    return Results(folder)


@pytest.fixture(scope="module")
def results() -> Results:
    return Results()


@pytest.mark.parametrize("name", PAGES)
def test_page_says_what_was_measured(name: str, results: Results) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == page(name, results), (
        f"{name} is made by `python -m benchmarks.evidence`; its text lies in {PAGES[name].name}"
    )


def test_results_have_few_lines_of_prose() -> None:
    assert len(list(prose(ROOT / "RESULTS.md"))) <= MOST_PROSE


def prose(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("|", "#", "<", "!", "    ")):
            yield line


def test_results_list_every_table(results: Results) -> None:
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    names = list(results.names())
    assert names
    for name in names:
        assert results.table(name)["command"] in text
        for end in ("md", "csv", "json", "svg"):
            assert f"benchmarks/results/{name}.{end}" in text
            assert (FOLDER / f"{name}.{end}").is_file()


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.NAME)
def test_picture_is_the_same_bytes_again(question: Any, results: Results) -> None:
    drawn = question.picture(results)
    assert drawn == question.picture(results)
    assert (FOLDER / picture_file(question.NAME)).is_file()


def test_a_system_without_shards_has_the_same_digests_everywhere(results: Results) -> None:
    for one in sharding.measured(results):
        rows = set(one.check_digests())
        assert {"additive", "kNN, k = 20", "head alone, ridge from exact sums"} <= rows
    assert len(DATA) == 4


def test_a_system_without_shards_has_its_number_everywhere(tmp_path: Path) -> None:
    one = OverShards(written(tmp_path), ONE)
    assert one.cell(system("additive")) == "90.0 · 90.0 · 90.0 · 90.0"
    # at one shard SISA is one fine-tuned model, and at 50 what was measured later
    assert one.cell(system("SISA")) == "80.0 · – · 60.0 · –"


def test_a_file_of_one_number_of_shards_has_that_number_alone(tmp_path: Path) -> None:
    written(tmp_path)
    row = "SISA (NLFT, mean of outputs)"
    later = [entry(row, "50", 0.1, "l"), entry(row, "10", 0.7, "t")]
    (tmp_path / "table2-toy-10.json").write_text(json.dumps({"command": "c", "cells": {}, "values": later}))
    measured = OverShards(Results(tmp_path), ONE)
    assert [(measured.at(system("SISA"), shards) or {}).get("mean") for shards in ("10", "50")] == [0.7, 0.6]


def test_other_digests_at_other_numbers_of_shards_stop_it(tmp_path: Path) -> None:
    assert list(OverShards(written(tmp_path), ONE).check_digests()) == ["additive"]
    with pytest.raises(ValueError, match="additive has another digest"):
        list(OverShards(written(tmp_path, ("a", "b")), ONE).check_digests())


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("baselines-toy | additive | 1", "90.0"),
        ("baselines-toy | additive | 1 | ±", "90.0 ± 1.0"),
        ("baselines-toy | additive | 50 > | SISA (NLFT, mean of outputs)", "30.0"),
        ("baselines-toy | additive | 50 > table2-toy | SISA (NLFT, mean of outputs)", "40.0"),
        ("baselines-toy | additive | 50 > table2-toy | Model Soup (NLFT, mean of weights) | 1", "10.0"),
        ("forgetting-toy | additive: subtract | CPU seconds", "12.3 ms"),
        ("forgetting-toy | additive: subtract | CPU seconds / | kNN", "10.0"),
    ],
)
def test_a_reference_says_a_figure(reference: str, text: str, tmp_path: Path) -> None:
    assert written(tmp_path).said(reference) == text


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("baselines-toy | SISA (NLFT, mean of outputs) | 50 > | additive", ValueError),
        ("baselines-toy | additive | 1 > || 50", ValueError),  # as much is not more
        ("baselines-toy | additive | 10", KeyError),
        ("baselines-other | additive | 1", KeyError),
        ("baselines-toy | additive", KeyError),
    ],
)
def test_a_claim_that_does_not_hold_stops_it(reference: str, problem: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(problem, match=r"toy|other"):
        written(tmp_path).said(reference)

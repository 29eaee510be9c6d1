"""`reproduce` through Ray on the tiny data: every file is written, nothing is measured twice, and a cell gives its numbers again."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from taft_ray.errors import DataError, UsageError
from taft_ray.verbs.reproduce import reproduce

SEEDS, SHARDS, ROWS = (0,), (2,), 100


@pytest.fixture(scope="module")
def make(
    ray_session: None, parquet: Path, test_parquet: Path, spec_of: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    out = tmp_path_factory.mktemp("reproduce")

    def call(name: str = "table2", **changes: Any) -> dict[str, Any]:
        spec = spec_of(parquet, epochs=1)
        options = {
            "seeds": SEEDS,
            "shards": SHARDS,
            "many_blocks": 0,
            "label": "tiny",
            "workers": 1,
            "command": "typed",
            "rows": ROWS,
        }
        return reproduce(name, str(out), spec, str(test_parquet), **{**options, **changes})

    call.out = out  # type: ignore[attr-defined]
    return call


@pytest.fixture(scope="module")
def first(make: Any) -> dict[str, Any]:
    return make()


def test_table_is_written_in_every_form(make: Any, first: dict[str, Any]) -> None:
    # Four fits (NLFT, Adam at PT=T and PT=F, ridge), frozen systems and the additive one are on one shard and on two.
    # Two more cells: one selection, and NLFT to be merged
    assert first["made"] == first["cells"] == 6 * 2 + 2
    for kind in ("json", "csv", "md", "svg"):
        assert (make.out / f"tables/table2-tiny.{kind}").is_file()
    summary = json.loads((make.out / "tables/table2-tiny.json").read_text())
    assert summary["ensemble_difference"] < 1e-5
    assert summary["data"] == f"tiny ({ROWS} / 48)"
    assert "    typed" in (make.out / "tables/table2-tiny.md").read_text()
    rows = list(csv.DictReader((make.out / "tables/table2-tiny.csv").read_text().splitlines()))
    cells = {path.stem[:12] for path in (make.out / "cells").iterdir()}
    assert {row["cell"] for row in rows} == cells
    ridge = [float(row["value"]) for row in rows if row["row"] == "ridge, mean" and row["column"] == "1"]
    assert sum(ridge) / len(ridge) > 0.6  # of three classes


def test_systems_without_shards_say_so_by_their_digests(make: Any, first: dict[str, Any]) -> None:
    summary = json.loads((make.out / "tables/table2-tiny.json").read_text())
    digests = {digest[:12]: cell.get("digests") for digest, cell in summary["cells"].items()}
    for row in ("additive", "head alone, ridge from exact sums", "kNN, k = 20"):
        one, two = (entry for entry in summary["values"] if entry["row"] == row)
        assert (one["column"], two["column"]) == ("1", "2")
        assert digests[one["cells"][0]] == digests[two["cells"][0]] is not None
        assert one["values"] == two["values"]


def test_nothing_is_measured_twice_and_what_is_missing_is(make: Any, first: dict[str, Any]) -> None:
    assert make()["made"] == 0
    assert make("fig1a")["made"] == 0  # its cells are table2's
    assert make("baselines")["made"] == 0
    before = {path: path.read_bytes() for path in (make.out / "cells").iterdir()}
    victim = sorted(before)[0]
    victim.unlink()  # as after a kill: its cell was not written
    assert make()["made"] == 1
    again, was = json.loads(victim.read_text()), json.loads(before.pop(victim))
    assert (again["accuracy"], again.get("kept")) == (was["accuracy"], was.get("kept"))
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_cell_is_measured_again_by_its_digest(make: Any, first: dict[str, Any]) -> None:
    """It gives its numbers again; that those in the file are others is found."""
    path = sorted((make.out / "cells").iterdir())[1]
    document = json.loads(path.read_text())
    changed = {**document, "accuracy": {name: value + 0.1 for name, value in document["accuracy"].items()}}
    path.write_text(json.dumps(changed))
    try:
        answer = make(cell=path.stem[:12])
    finally:
        path.write_text(json.dumps(document))
    (cell,) = answer["cells"]
    assert cell["accuracy"] == document["accuracy"]
    assert (answer["ok"], cell["same"], cell["before"]) == (False, False, changed["accuracy"])


def test_a_cell_of_no_table(make: Any, first: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no cell 'xyz'"):
        make(cell="xyz")


def test_missing_data_is_said_before_anything_is_written(make: Any, spec_of: Any, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "nowhere")
    with pytest.raises(DataError):
        reproduce("table1", str(tmp_path / "out"), spec, str(tmp_path), seeds=(0,), shards=(2,), many_blocks=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # 13 ways of four kinds of cells; tests/systems has each
def test_ways_to_forget_are_measured(make: Any, first: dict[str, Any]) -> None:
    answer = make("forgetting")
    exact = [row for row in answer["rows"] if "against" not in row and "resolve" not in row]
    assert len(exact) == 11
    for row in exact:
        assert answer["rows"][row]["largest Δ margin"] == 0.0, row
    assert answer["rows"]["ridge, Gram: drop, against retrain"]["largest Δ margin"] > 0
    drawn = (make.out / "tables/forgetting-tiny.svg").read_text()
    assert all(row.replace("&", "&amp;") in drawn for row in answer["rows"])


@pytest.mark.slow  # ten ways of four kinds of cells at four ε each; tests/systems has each
def test_private_ways_are_measured_with_public_pictures(make: Any, test_parquet: Path) -> None:
    answer = make("table3", public=str(test_parquet), public_rows=40)
    assert answer["made"] == answer["cells"] == 4 * len(answer["rows"])
    sites = [row for row in answer["rows"] if "dp-additive" in row]
    assert len(sites) == 7
    found = {row: answer["rows"][row]["∞"] for row in sites}
    assert max(found.values()) > 0.5, found  # of three classes
    plain = make("table3")
    assert plain["made"] == plain["cells"], "what is public is part of a cell"


def test_public_pictures_mean_nothing_to_other_tables(make: Any, test_parquet: Path) -> None:
    with pytest.raises(UsageError, match="only table3"):
        make("table2", public=str(test_parquet))

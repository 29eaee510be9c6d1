"""A sweep's table, page and pictures: every trial is there, the same summary gives the same bytes, and no text becomes markup."""

import csv
from typing import Any

import pytest

from taft_ray.evaluation import sweep_csv, sweep_page


def trial(number: int, status: str = "finished", **settings: Any) -> dict[str, Any]:
    curve = [[50.0, 0.4], [100.0, 0.5 + number / 100]] if status == "finished" else [[50.0, 0.3]]
    effort, accuracy = curve[-1]
    measured = {"status": status, "accuracy": accuracy, "effort": effort, "seconds": 1.5, "curve": curve}
    return {"number": number, "settings": settings, **measured}


@pytest.fixture
def summary() -> dict[str, Any]:
    trials = [
        trial(0, solver="ridge", penalty=0.01, reset=True),
        trial(1, "stopped", solver="adam", penalty=0.1, reset=False, learning_rate=1e-3),
        {
            "number": 2,
            "settings": {"solver": "ridge", "penalty": 1.0},
            "status": "failed",
            "error": "<b>&",
            "curve": [],
        },
    ]
    return {
        "sweep": "a1b2", "run": "runs/<script>", "objective": "composed", "scheduler": "asha", "space": ["solver=ridge,adam"],
        "seed": 0, "held_out": 40, "fitted_on": 160, "best": trials[0], "standard_error": 0.05, "as_good_as_best": 1,
        "trials": trials, "refused": [{"settings": {"loss": "ce"}, "reason": "is not <least> squares"}], "forgotten_since": 0,
    }  # fmt: skip


def test_the_table_has_a_row_a_trial_and_a_column_a_setting(summary: dict[str, Any]):
    rows = list(csv.DictReader(sweep_csv(summary).splitlines()))
    assert [row["number"] for row in rows] == ["0", "1", "2"]
    assert [row["learning_rate"] for row in rows] == ["", "0.001", ""]
    assert [row["accuracy"] for row in rows] == ["0.5", "0.3", ""]
    assert rows[2]["error"] == "<b>&"


def test_the_page_is_the_same_bytes_and_has_no_markup_from_outside(summary: dict[str, Any]):
    page = sweep_page(summary)
    assert page == sweep_page(summary)
    assert "<script" not in page
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "is not &lt;least&gt; squares" in page
    assert page.count("<svg") == 4


def test_a_stale_sweep_says_so(summary: dict[str, Any]):
    assert "to be forgotten since" not in sweep_page(summary)
    assert "3 samples were asked to be forgotten since" in sweep_page({**summary, "forgotten_since": 3})


def test_trials_without_a_curve_have_no_picture(summary: dict[str, Any]):
    assert "<svg" not in sweep_page({**summary, "trials": summary["trials"][2:]})


def test_one_trial_with_nothing_varied(summary: dict[str, Any]):
    assert sweep_page({**summary, "trials": summary["trials"][:1]}).count("<svg") == 4

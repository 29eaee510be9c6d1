"""A sweep's table, page and pictures: every trial is there, the same summary gives the same bytes, and no text becomes markup."""

import csv
from typing import Any

import pytest
from html_page import Page
from sweep_summary import sweep_summary

from taft_ray.evaluation import sweep_csv
from taft_ray.pages import sweep_page


@pytest.fixture
def summary() -> dict[str, Any]:
    return sweep_summary()


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
    assert "3 samples were asked to be forgotten since" in Page(sweep_page({**summary, "forgotten_since": 3})).text


def test_trials_without_a_curve_have_no_picture(summary: dict[str, Any]):
    assert "<svg" not in sweep_page({**summary, "trials": summary["trials"][2:]})


def test_one_trial_with_nothing_varied(summary: dict[str, Any]):
    assert sweep_page({**summary, "trials": summary["trials"][:1]}).count("<svg") == 4

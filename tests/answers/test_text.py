"""Answers as text: dates and not seconds, tables, and what there is to do."""

import re

import pytest

from taft_ray import answers
from taft_ray.answers.requests import RESERVED
from taft_ray.answers.text import columns, duration, facts, moment, size, some, written_moment
from taft_ray.counting import are, plural, which

SHARD = {"shard": 0, "generation": 1, "samples": 30, "state": "trained", "delta": "ab" * 32}
STATUS = {
    "run": "runs/pets", "ok": True, "composed": "cd" * 32, "shards": [SHARD], "monolith": None,
    "requests": [
        {"request": "r1", "mode": "retrain", "samples": 1, "done": False, "deadline": 1_800_000_000.5, "runs_at": 1.79e9},
        {"request": "r2", "mode": "drop", "samples": 2, "done": True, "deadline": None, "runs_at": None},
    ],
    "data": {"rows": 31, "kept": 30, "rejected": 1}, "samples": 30, "to_do": ["request r1 is to be carried out"],
    "quarantined": [], "damaged": None, "model": "vit", "classes": ["ant", "bee"], "accuracy": 0.8125, "measured_on": "test",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_status_has_dates_and_no_seconds_of_1970() -> None:
    text = str(answers.Status.from_json(STATUS))
    assert "2027-01-15 08:00 UTC" in text
    assert "waits until 2026-09-21 14:13 UTC" in text
    assert not re.search(r"1[678]\d{8}", text)
    for word in (
        "model     vit",
        "2: ant, bee",
        "81.2% on test",
        "1 row of the data",
        "to do: request r1",
        "cdcd",
    ):
        assert word in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith(("r1", "r2"))] == ["r1", "r2"]


def test_status_says_why_a_request_begins_before_its_deadline() -> None:
    assert RESERVED in str(answers.Status.from_json(STATUS))
    done = {**STATUS, "requests": STATUS["requests"][1:]}
    assert RESERVED not in str(answers.Status.from_json(done))


def test_status_counts_the_samples_of_the_model_apart() -> None:
    dropped = {**SHARD, "shard": 1, "samples": 12, "state": "dropped", "delta": None}
    text = str(answers.Status.from_json({**STATUS, "shards": [SHARD, dropped], "samples": 42}))
    assert "samples   42 samples, 30 of them in the model" in text


def test_status_of_many_shards_shows_those_that_are_not_simply_trained() -> None:
    shards = [{**SHARD, "shard": n} for n in range(500)]
    shards[77] |= {"state": "dropped", "delta": None}
    shards[300] |= {"generation": 2}
    text = str(answers.Status.from_json({**STATUS, "shards": shards}))
    assert "500 (499 trained, 1 dropped)" in text
    assert re.search(r"^ +77  dropped", text, re.MULTILINE)
    assert re.search(r"^ +300  trained +2", text, re.MULTILINE)
    assert "and 498 shards more" in text
    assert len(text.splitlines()) < 30


def test_status_of_an_older_version_and_of_nothing_can_be_told() -> None:
    older = {
        name: value for name, value in STATUS.items() if name not in ("model", "classes", "accuracy", "measured_on")
    }
    assert "accuracy" not in str(answers.Status.from_json(older))
    empty = {**older, "shards": [], "requests": [], "composed": None, "data": None, "samples": 0, "to_do": []}
    assert str(answers.Status.from_json(empty)) == "run       runs/pets\ncomposed  no shard is in the model"


def test_runs_are_a_table_and_their_problems_are_told_whole() -> None:
    run = {
        "run": "a",
        "model": "vit",
        "shards": 2,
        "samples": 9,
        "open_requests": 1,
        "composed": "ef" * 32,
        "problem": None,
    }
    other = {**dict.fromkeys(run), "run": "b", "problem": "made by another version"}
    told = answers.Runs.from_json({"place": "here", "runs": [run, other]})
    assert "efefefefefef" in str(told)
    assert str(told).endswith("b: made by another version")
    assert str(answers.Runs.from_json({"place": "here", "runs": []})) == "there are no runs at here"
    assert told.to_pandas()["samples"].tolist()[0] == 9
    assert [one.run for one in told] == ["a", "b"]
    assert len(told) == 2
    assert told[1].run == "b"


def test_tables_of_pandas_are_of_the_rows_that_are_asked_for() -> None:
    status = answers.Status.from_json(STATUS)
    assert status.to_pandas().to_dict("records") == [SHARD]
    assert status.to_pandas("requests")["request"].tolist() == ["r1", "r2"]
    assert status.to_pandas("quarantined").empty
    with pytest.raises(Exception, match="expected one of shards, requests, quarantined"):
        status.to_pandas("trials")


def test_narrow_terminal_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert "81.2% on test" in str(answers.Status.from_json(STATUS))
    written = columns(["a", "b"], [["x" * 60, "y" * 60]])
    assert (written.count("x"), written.count("y")) == (60, 60)
    assert max(len(line) for line in written.splitlines()) <= 40


def test_one_thing_is_counted_in_the_singular() -> None:
    assert (plural(1, "row"), plural(2000, "row"), plural(0, "row")) == ("1 row", "2,000 rows", "0 rows")
    assert (plural(1, "id is", "ids are"), plural(2, "id is", "ids are")) == ("1 id is", "2 ids are")
    assert (are(1), are(0), are(2)) == ("is", "are", "are")
    assert which("shard", [3]) == "shard 3"
    assert which("shard", [3, 5, 7]) == "shards 3, 5 and 7"
    assert which("shard", range(20), 3) == "shards 0, 1, 2 and 17 more"
    assert which("shard", []) == "no shard"


def test_small_words() -> None:
    assert moment(None) is None
    assert [duration(one) for one in (0.15, 75, 200, 9000, 259200)] == ["0.15 s", "75 s", "3.33 min", "2.5 h", "3 days"]
    assert [size(one) for one in (1, 999, 1500, 23_100_000)] == ["1 byte", "999 bytes", "1.5 kB", "23.1 MB"]
    assert written_moment("2026-12-26T12:00:00+00:00") == "2026-12-26 12:00 UTC"
    assert written_moment("someday") == "someday"
    assert facts([("a", 1), ("none", None), ("long", "x")]) == "a     1\nlong  x"
    assert some(list("abcdefgh"), 3) == "a, b, c and 5 more"
    assert columns(["a", "b"], [[None, "[red]x[/red]"]]).splitlines()[-1] == "–  [red]x[/red]"

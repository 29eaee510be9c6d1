"""Answers of the other verbs as a person reads them: sentences and tables, and no raw fields."""

import re
from typing import Any

import pytest

from taft_ray import answers

RAW = re.compile(r"[\[\]{}]|None|True|False|'")
VERIFIED: dict[str, Any] = {
    "ok": True, "checks": {"ledger entries": 34, "deltas": 9}, "problems": [], "notes": ["it was moved"],
    "forgotten_samples": 1, "head": "ba" * 32,
}  # fmt: skip
DESTROYED: dict[str, Any] = {
    "run": "/runs/pets", "removed": 12, "older_versions": 1, "left": ["thesis.txt"], "tombstones": "/runs/pets.tombstones",
    "beyond_reach": None,
}  # fmt: skip
AUDIT: dict[str, Any] = {
    "ok": True, "verdict": "at chance", "why": "forgotten samples look like never-seen ones", "auc": 0.51,
    "auc_ci": [0.4, 0.6], "p_value": 0.41, "power": {"detects": 0.97}, "level": 0.01, "control": {}, "forgotten": 20,
    "never_seen": 60, "shards": [0, 3], "left_out": {"pictures that cannot be decoded": 1, "others": 0},
    "targets": {"composed": {"auc": 0.512, "p_value": 0.41, "power": {"detects": 0.97}, "remembers": False}},
}  # fmt: skip
TRIALS = [
    {"number": n, "settings": {"penalty": 0.01 * n}, "status": "finished", "accuracy": 0.5 + 0.01 * n}
    for n in range(12)
]
SWEPT: dict[str, Any] = {
    "sweep": "s", "objective": "composed", "held_out": 100, "fitted_on": 400, "best": TRIALS[11], "standard_error": 0.04,
    "as_good_as_best": 2, "trials": TRIALS, "refused": [{"settings": {"last_blocks": 9}, "reason": "too many"}],
    "resumed": 0, "measured_again": 0, "forgotten_since": 1, "stale_sweeps": ["old"], "spec": "best.json",
    "page": "sweep.html", "table": "trials.csv", "seconds": 75.0,
}  # fmt: skip
REPRODUCED: dict[str, Any] = {
    "table": "table2", "cells": 4, "made": 1, "files": ["table2.csv"],
    "rows": {"10 shards": {"mean": 0.81234, "gram": 0.9}, "one model": {"gram": 0.95}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def test_verify_says_its_verdict_first() -> None:
    text = str(answers.Verification.from_json(VERIFIED))
    assert text.startswith("The run is as its ledger says: no problem was found.\n")
    assert re.search(r"^ledger entries +34$", text, re.MULTILINE)
    assert "forgotten  1 sample\n" in text
    assert text.endswith("Notes:\n  it was moved")
    ill = str(answers.Verification.from_json({**VERIFIED, "ok": False, "problems": ["a is damaged"], "head": None}))
    assert ill.startswith("1 problem was found.\n\nProblems:\n  a is damaged\n")
    assert ill.endswith("taft-ray repair makes again what can be made again.")
    assert not RAW.search(text + ill)


def test_verify_of_a_certificate_says_who_signed_it() -> None:
    values = {
        "ok": True, "checks": {"seal": 1}, "problems": [], "notes": [], "request": "7c88", "digest": "d", "signed_by": None,
        "run": None,
    }  # fmt: skip
    text = str(answers.CertificateVerification.from_json(values))
    assert text.startswith("The certificate holds: no problem was found.")
    assert re.search(r"^signed by +nobody$", text, re.MULTILINE)
    ill = str(answers.CertificateVerification.from_json({**values, "problems": ["seal: broken"], "run": "r"}))
    assert ill.startswith("The certificate does not hold: 1 problem was found.")
    assert not RAW.search(text + ill)


def test_what_was_written_or_removed_is_counted() -> None:
    exported = answers.Exported(
        output="pets.pt2", bytes=13_100_000, composed="cd" * 32, classes=("ant", "bee"), size=32, mean=(0.5,), std=(0.25,),
        shards=(0, 1), version="1",
    )  # fmt: skip
    assert "pets.pt2, 13.1 MB" in str(exported)
    assert "cdcdcdcdcdcd of shards 0 and 1" in str(exported)
    nothing = answers.Collected(removed=(), bytes=0)
    many = answers.Collected(removed=tuple(f"deltas/{n}" for n in range(9)), bytes=1_234_567)
    assert str(nothing).startswith("Nothing was removed")
    assert str(many).startswith("Removed 9 objects with 1.23 MB:\n  deltas/0\n")
    assert str(many).endswith("deltas/7\n  and 1 more; --json has all")
    key = answers.KeyDestroyed(destroyed="keys/id.key", older_versions=1, beyond_reach="versions")
    assert str(key).startswith("Destroyed keys/id.key, with 1 older version.")
    assert str(key).endswith("Beyond reach: versions")
    gone = answers.Destroyed.from_json(DESTROYED)
    assert str(gone).startswith("Destroyed /runs/pets: 12 objects and 1 older version removed.")
    for text in map(str, (exported, nothing, many, key, gone)):
        assert not RAW.search(text.replace("run's", ""))


def test_destroyed_run_says_where_tombstones_stay_and_why() -> None:
    text = str(answers.Destroyed.from_json(DESTROYED))
    assert "stay beside it in /runs/pets.tombstones. By them a copy of the run that is put back forgets again." in text
    assert "tombstones" not in str(answers.Destroyed.from_json({**DESTROYED, "tombstones": None}))


def test_evaluation_says_each_accuracy_once() -> None:
    by = {"mean": {"accuracy": 0.5, "composed": "ab" * 32, "seconds": 0.0}}
    values: dict[str, Any] = {
        "data": "test", "rejected": 0, "accuracy": 0.625, "n": 8, "composed": "cd" * 32, "monolith": None, "by_shards": [],
        "ok": True, "quarantined": [], "by_composition": {"additive": {**by["mean"], "accuracy": 0.625, "composed": "cd" * 32}},
    }  # fmt: skip
    assert str(answers.Evaluation.from_json(values)) == "accuracy 62.5% on 8 pictures of test (model cdcdcdcdcdcdcdcd)"
    both = {**by, "gram": {"accuracy": 0.625, "composed": "cd" * 32, "seconds": 0.0}}
    assert str(answers.Evaluation.from_json({**values, "by_composition": both, "monolith": 0.75})).splitlines() == [
        "accuracy 62.5% on 8 pictures of test (model cdcdcdcdcdcdcdcd, composed by gram)",
        "composed by mean 50.0%; one model over everything 75.0%",
    ]


def test_rejected_rows_are_a_table() -> None:
    rows = [{"file": "a.parquet", "row": 7, "reason": "not a picture"}]
    values = {
        "run": "r", "rejected": 1, "reasons": {"not a picture": 1}, "rejected_rows": rows, "listed_in": "rejected.json",
    }  # fmt: skip
    text = str(answers.RejectedRows.from_json(values))
    assert text.startswith("1 row was rejected: not a picture (1).")
    assert re.search(r"^a\.parquet +7  not a picture$", text, re.MULTILINE)
    none = {**values, "rejected": 0, "reasons": {}, "rejected_rows": [], "listed_in": None}
    assert str(answers.RejectedRows.from_json(none)) == "No row of the data was rejected."


def test_audit_says_its_verdict_and_what_it_rests_on() -> None:
    text = str(answers.Audit.from_json(AUDIT))
    assert text.startswith("The run does not remember. Forgotten samples look like never-seen ones.")
    assert re.search(r"^composed +0\.512 +0\.41 +97% +no$", text, re.MULTILINE)
    assert "20 forgotten samples with 60 never-seen ones" in text
    assert text.endswith("Left out:\n  pictures that cannot be decoded: 1")
    assert not RAW.search(text)


def test_sweep_shows_its_best_trials_first() -> None:
    text = str(answers.Swept.from_json(SWEPT))
    assert "trial 11, 61.0% ± 4.0%" in text
    assert "1 other trial, within one standard error of the best" in text
    shown = re.findall(r"^ +(\d+) +\d+\.\d%  finished", text, re.MULTILINE)
    assert shown == [str(n) for n in range(11, 1, -1)]
    assert "and 2 trials more; the table has all" in text
    assert "last_blocks=9: too many" in text
    assert "1 sample was forgotten since the trials saw them. Out of date" in text
    assert not RAW.search(text)


def test_reproduced_table_is_a_table_and_has_rows_of_pandas() -> None:
    answer = answers.Reproduced.from_json(REPRODUCED)
    text = str(answer)
    assert text.startswith("table2: 4 cells, 1 of them measured now.")
    assert re.search(r"^10 shards +0\.8123 +0\.9$", text, re.MULTILINE)
    assert re.search(r"^one model +– +0\.95$", text, re.MULTILINE)
    table = answer.to_pandas()
    assert table["row"].tolist() == ["10 shards", "one model"]
    assert table["gram"].tolist() == [0.9, 0.95]
    again = answers.Reproduced.from_json(
        {"table": "table2", "cells": [{"cell": "ab" * 32, "accuracy": 0.5, "same": True, "before": 0.5}], "ok": True}
    )
    assert re.search(r"^abababababab +0\.5 +0\.5 +yes$", str(again), re.MULTILINE)
    assert again.to_pandas()["accuracy"].tolist() == [0.5]
    assert "Every cell is what it was." in str(again)
    first = answers.Reproduced.from_json(
        {"table": "baselines", "cells": [{"cell": "ab" * 32, "accuracy": {"additive": 0.99777}}], "ok": True}
    )
    assert "what it was" not in str(first)
    assert "OUT had no earlier number of 1 cell" in str(first)
    assert re.search(r"^abababababab +additive 0\.9978 +– +–$", str(first), re.MULTILINE)
    with pytest.raises(Exception, match="expected one of rows, cells"):
        answer.to_pandas("trials")


def test_one_picture_is_counted_in_the_singular() -> None:
    one = answers.Prediction(picture="a.png", label="ant", probability=0.75, probabilities=(0.75, 0.25))
    bad = answers.Unreadable(picture="b.png", reason="empty file")
    told = answers.Predictions(
        run="r", composed="cd" * 32, classes=("ant", "bee"), n=1, predictions=(one,), unreadable=(bad,)
    )
    assert "1 picture by the model" in str(told)
    table = told.to_pandas()
    assert list(table.columns) == ["picture", "predicted", "probability", "p(ant)", "p(bee)", "composed", "problem"]
    assert table["picture"].tolist() == ["a.png", "b.png"]
    assert table["problem"].tolist() == ["", "empty file"]
    assert table["predicted"].tolist()[0] == "ant"
    assert table["predicted"].isna().tolist() == [False, True]
    assert told.to_pandas("unreadable")["problem"].tolist() == ["empty file"]
    assert len(told.to_pandas("predictions")) == 1

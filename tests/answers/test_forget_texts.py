"""Answers to requests to forget as a person reads them: dates, counts, distances, and what to do next."""

import json
import re
from typing import Any

import pytest

from taft_ray import answers
from taft_ray.answers.requests import RESERVED
from taft_ray.plans import gather

ESTIMATE: dict[str, Any] = {
    "mode": "retrain", "samples_to_forget": 3, "shards": [0, 4], "samples_to_retrain": 276, "seconds": 2.34,
    "bytes_to_purge": 23_100_000, "gpu_hour_price": None, "cost": None,
}  # fmt: skip
WAITING = {
    "request": "3f39", "samples": 1, "runs_at": "2026-12-26T12:00:00+00:00", "deadline": "2026-12-29T12:00:00+00:00",
}  # fmt: skip
CERTIFICATE: dict[str, Any] = {
    "schema": "taft_ray.certificate/1", "request": "7c88", "mode": "resolve",
    "requested": "2026-11-29T10:53:47.696107+00:00", "deadline": None, "issued": "2026-11-29T10:53:49.192312+00:00",
    "samples": 3, "id_hashes": ["a", "b", "c"], "owners": [], "whole_shards": [], "shards": [1, 2],
    "run": {"address": "/runs/pets", "spec_digest": "e1"}, "rests_on": {"number": 30, "digest": "f2"},
    "steps": [], "composed_before": "ab" * 32, "composed_after": "cd" * 32, "composition": "gram",
    "manifest_before": None, "manifest_after": None, "deltas_removed": [{"key": "d"}],
    "objects_removed": [{"key": "d", "digest": None}, {"key": "c", "digest": None}], "older_versions_removed": 0,
    "still_listed_after_purge": [], "beyond_reach": [], "local_copies_removed": None,
    "retrained": [
        {
            "shard": 1, "generation": 2, "samples": 125, "delta": {},
            "facts": {"resolved": True, "distance_bound": 0.0647, "norm": 14.82},
        }
    ],
    "shards_after": [
        {"shard": 1, "state": "trained", "samples": 125}, {"shard": 2, "state": "dropped", "samples": 1},
    ],
    "seconds": {"drop": 0.15, "purge": 0.05, "retrain": 1.08, "total": 9.5},
    "cost": {"worker_seconds": 1.0, "price_per_hour": None, "money": None}, "environment": {},
    "does_not_cover": ["the source data"], "digest": "0c",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def line(text: str, name: str) -> str:
    """The value that a text has under a name."""
    return next(one.removeprefix(name).strip() for one in text.splitlines() if one.startswith(name))


def test_estimate_says_what_its_seconds_are_of_and_what_else_a_forget_takes() -> None:
    text = str(answers.Estimate.from_json(ESTIMATE))
    assert line(text, "forgets") == "3 samples of shards 0 and 4"
    assert line(text, "fits again") == "2 shards, 276 samples in all"
    assert line(text, "removes").startswith("up to 23.1 MB")
    first = "about 2.34 s for the fits; no forget of this run has measured how long removing takes"
    assert line(text, "takes") == first
    later = str(answers.Estimate.from_json({**ESTIMATE, "earlier_forgets": 2}))
    assert line(later, "takes") == "about 2.34 s for the fits, and for removing, as 2 earlier forgets of this run did"
    assert line(text, "besides") == "starting Ray and a worker where none runs; not measured in this run yet"
    measured = str(answers.Estimate.from_json({**ESTIMATE, "seconds_besides": 18.2}))
    assert "earlier forgets took 18 s for all the rest" in line(measured, "besides")
    unknown = str(answers.Estimate.from_json({**ESTIMATE, "seconds": None}))
    assert line(unknown, "takes") == "unknown: no fit of this run was measured yet"
    priced = str(answers.Estimate.from_json({**ESTIMATE, "gpu_hour_price": 2.5, "cost": 0.0016}))
    assert line(priced, "cost") == "0.0016 for the fits, at 2.5 per worker hour"


def test_estimate_says_its_mode_and_what_it_takes() -> None:
    retrain = str(answers.Estimate.from_json(ESTIMATE))
    assert line(retrain, "mode") == "retrain"
    assert retrain.endswith("taft-ray forget with the same options and --mode retrain does it.")
    drop = str(answers.Estimate.from_json({**ESTIMATE, "mode": "drop", "samples_to_retrain": 0, "earlier_forgets": 1}))
    assert line(drop, "mode") == "drop"
    assert "shards 0 and 4 are out of the model" in line(drop, "fits again")
    assert line(drop, "takes").startswith("about 2.34 s for removing")
    assert "Ray" not in drop, "a drop starts none"
    first = str(answers.Estimate.from_json({**ESTIMATE, "mode": "drop", "samples_to_retrain": 0, "seconds": 0.0}))
    assert line(first, "takes") == "unknown: no forget of this run has measured how long removing takes"


def test_estimate_shows_the_date_of_a_request_that_waits() -> None:
    for values in (
        {**ESTIMATE, "waiting": [WAITING]},
        {"mode": "retrain", "already_forgotten": False, "request": "3f39", "waiting": [WAITING]},
    ):
        answer = answers.Estimate.from_json(values)
        assert (
            "1 sample in request 3f39, which begins 2026-12-26 12:00 UTC for the deadline 2026-12-29 12:00 UTC"
        ) in str(answer)
        assert answer.to_json() == values
    gone = answers.Estimate.from_json({"mode": "retrain", "already_forgotten": True, "request": "3f39"})
    assert "request 3f39 answers for them" in str(gone)


def test_promise_says_why_it_begins_before_its_deadline() -> None:
    promise = {
        "request": "3f39", "mode": "retrain", "waiting": True, "runs_with": ["77aa"],
        "runs_at": WAITING["runs_at"], "deadline": WAITING["deadline"],
    }  # fmt: skip
    text = str(answers.Promise.from_json(promise))
    assert line(text, "begins") == "2026-12-26 12:00 UTC"
    assert line(text, "deadline") == "2026-12-29 12:00 UTC"
    assert line(text, "together") == "with request 77aa"
    assert RESERVED in text
    assert "taft-ray forget RUN --due" in text
    assert (gather.RESERVE, gather.ESTIMATES) == (0.1, 3.0), "RESERVED says them in words"


def test_certificate_says_how_near_its_optimum_a_shard_was_solved_again() -> None:
    text = str(answers.Certificate.from_json(CERTIFICATE))
    assert line(text, "shard 1") == (
        "solved again on 125 samples, certified within 0.0647 of its optimum (0.44% of its size)"
    )
    assert line(text, "shard 2") == "out of the model with its 1 sample, until the same is asked with --mode retrain"


def test_certificate_has_dates_counts_and_its_place() -> None:
    text = str(answers.Certificate.from_json(CERTIFICATE))
    assert text.startswith("Forgot 3 samples of shards 1 and 2 by resolve.\n")
    assert line(text, "request") == "7c88, made 2026-11-29 10:53 UTC"
    assert line(text, "removed") == "2 objects that saw the samples, 1 delta among them"
    assert line(text, "model") == "cdcdcdcdcdcd, before the request abababababab"
    assert line(text, "took") == "9.50 s: drop 0.15 s, purge 0.05 s, retrain 1.08 s, the rest 8.22 s"
    assert line(text, "certificate").startswith("/runs/pets/certificates/7c88-")
    assert text.endswith("It does not cover:\n  the source data")
    assert not re.search(r"[\[\]{}]", text), "no raw fields"
    unreached = {**CERTIFICATE, "beyond_reach": ["versions"], "still_listed_after_purge": ["k"], "composed_after": None}
    text = str(answers.Certificate.from_json(unreached))
    assert "beyond reach: versions" in text
    assert "still listed after its removal: k" in text
    assert line(text, "model") == "no shard is in it any more"


BACK: dict[str, Any] = {
    **CERTIFICATE, "mode": "retrain", "samples": 0, "id_hashes": [], "shards": [1],
    "shards_after": CERTIFICATE["shards_after"][:1], "deltas_removed": [],
    "objects_removed": [{"key": "manifest/rows-000002-ab.parquet", "digest": None}],
    "brought_back": [{"request": "11aa", "samples": 2, "id_hashes": ["d", "e"], "shards": [1]}],
}  # fmt: skip


def test_certificate_of_a_shard_that_came_back_says_whose_samples_it_came_back_without() -> None:
    answer = answers.Certificate.from_json(BACK)
    text = str(answer)
    assert text.startswith(
        "Every sample that was named had been forgotten before. Shard 1 came back by retrain, without them."
    )
    assert line(text, "came back") == "shard 1, without what request 11aa forgot (2 samples)"
    assert line(text, "removed") == "1 object out of date"
    assert "0 samples" not in text
    assert "saw the samples" not in text
    assert answer.to_json() == BACK
    mixed = str(answers.Certificate.from_json({**CERTIFICATE, "brought_back": BACK["brought_back"]}))
    assert mixed.startswith("Forgot 3 samples of shards 1 and 2 by resolve.\n")
    assert line(mixed, "came back") == "shard 1, without what request 11aa forgot (2 samples)"
    older = str(answers.Certificate.from_json({name: value for name, value in BACK.items() if name != "brought_back"}))
    assert older.startswith("Every sample that was named had been forgotten before.")


def test_estimate_and_status_of_a_request_that_only_brings_a_shard_back_say_so() -> None:
    text = str(answers.Estimate.from_json({**ESTIMATE, "samples_to_forget": 0, "shards": [4]}))
    assert line(text, "forgets") == "no sample that was not forgotten before; shard 4 comes back without those"
    assert "saw the samples" not in text
    waits = answers.RequestStatus("3f39", "retrain", 0, False, None, None)
    assert waits.told() == "request 3f39 that brings dropped shards back is under way"


def test_list_of_samples_is_no_object_that_saw_them() -> None:
    objects = [*CERTIFICATE["objects_removed"], {"key": "manifest/rows-000002-ab.parquet", "digest": None}]
    text = str(answers.Certificate.from_json({**CERTIFICATE, "objects_removed": objects, "older_versions_removed": 2}))
    assert line(text, "removed") == (
        "2 objects that saw the samples, 1 delta among them; the list of samples that named them; 2 older versions"
    )


def test_certificate_says_how_its_page_is_made() -> None:
    text = str(answers.Certificate.from_json(CERTIFICATE))
    assert line(text, "as a page") == "taft-ray report /runs/pets writes it: reports/certificate-7c88.html"


def test_seconds_of_a_subtraction_name_what_it_does() -> None:
    seconds = {"drop": 0.15, "purge": 0.05, "retrain": None, "total": 0.2}
    text = str(answers.Certificate.from_json({**CERTIFICATE, "mode": "subtract", "retrained": [], "seconds": seconds}))
    assert line(text, "took") == "0.20 s: begin 0.15 s, subtract and remove 0.05 s"


def test_certificate_names_other_requests() -> None:
    before = [{"request": "11", "mode": "drop", "samples": 1, "done": True}]
    values = {
        **CERTIFICATE, "repeated": True, "forgotten_before": before, "carried_out_with": ["22", "33"], "signed_too": ["22"],
    }  # fmt: skip
    text = str(answers.Certificate.from_json(values))
    assert text.startswith("Nothing was left to forget. This was certified on 2026-11-29 10:53 UTC: ")
    assert "1 sample forgotten before, by request 11 (mode drop)" in text
    assert "Carried out with requests 22 and 33" in text
    assert "Signed too: request 22." in text
    assert "Not signed by this key: request 33." in text
    assert json.dumps(answers.Certificate.from_json(values).to_json()) == json.dumps(values)


def test_nothing_that_is_due_is_said_in_a_sentence() -> None:
    assert str(answers.Due.from_json({"certificates": []})) == "No request's time has come; nothing was to be done."


def test_nothing_that_is_due_says_what_comes_next() -> None:
    later = {**WAITING, "request": "4a40", "runs_at": "2027-01-26T12:00:00+00:00"}
    one = str(answers.Due.from_json({"certificates": [], "waiting": [WAITING]}))
    assert one.startswith("No request's time has come")
    assert "\n\n1 request waits: 1 sample in request 3f39, which begins 2026-12-26 12:00 UTC for the deadline" in one
    two = str(answers.Due.from_json({"certificates": [], "waiting": [WAITING, later]}))
    assert "\n\n2 requests wait. The next one: 1 sample in request 3f39, which begins 2026-12-26 12:00 UTC" in two

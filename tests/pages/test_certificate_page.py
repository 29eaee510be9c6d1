"""A certificate as a page: every field is there, as text, whatever the fields are."""

import re
from pathlib import Path
from typing import Any

import pytest
from html_page import Page
from run_facts import run_facts
from toy_run import SHARDS, fit, make_run

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.pages import certificate_page

CERTIFICATE = {
    "schema": "taft_ray.certificate/1",
    "request": "request-0001",
    "mode": "retrain",
    "samples": ["b2:" + "ab" * 16, "b2:" + "cd" * 16],
    "composed": {"before": "b2:" + "a1" * 16, "after": "b2:" + "d4" * 16},
    "deleted": [{"uri": "cache/part-000.arrow", "bytes": 12345, "gone": True}, {"uri": "deltas/1.safetensors"}],
    "steps": {"purge": {"seconds": {"list": 0.25, "delete": 0.5}, "tries": [[1, 2], [3]]}},
    "does_not_cover": ["Object versions and backups kept by the storage.", "A delete on S3 is logical."],
    "note": None,
    "complete": False,
}


def leaves(value):
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


def test_every_field_is_shown():
    text = Page(certificate_page(CERTIFICATE)).text
    for leaf in leaves(CERTIFICATE):
        shown = {None: "none", True: "yes", False: "no"}.get(leaf, str(leaf)) if not isinstance(leaf, str) else leaf
        assert shown in text
    for heading in ("Does not cover", "Composed", "Deleted", "Purge"):
        assert heading in text


def test_text_is_escaped():
    html = certificate_page(
        {"<script>": "<script>", "request": "<script>", "list": ["<script>"], "rows": [{"<b>": "<i>"}]}
    )
    assert not {"script", "b", "i"} & set(Page(html).tags)


def test_same_certificate_same_bytes():
    assert certificate_page(CERTIFICATE) == certificate_page(dict(CERTIFICATE))


def test_any_shape_is_a_page():
    for odd in (
        {},
        {"a": {}},
        {"a": []},
        {"a": [{}]},
        {"a": [1, {"b": [[]]}]},
        {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}},
    ):
        Page(certificate_page(odd))
    Page(certificate_page(run_facts(30)))


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, Any]:
    """A drop of everything in shard 1."""
    make_run(tmp_path / "run")
    composer = Composer(str(tmp_path / "run"))
    for _ in range(SHARDS):
        task = composer.take("lane")
        assert task is not None
        composer.finished(fit(composer.record.store, task))
    request = composer.request_forget(Selection(shards=(1,)), "drop")["request"]
    composer.resume_forget(request)
    return composer.conclude_forget(request, {"retrain_seconds": None, "carried_out_with": [request, "ffff0000"]})


def test_one_line_on_top_says_when_it_was_done_and_whether_it_was_verified(certificate: dict[str, Any]) -> None:
    count = certificate["samples"]
    text = Page(certificate_page(certificate, checked=("2026-11-29T10:00:00+00:00", []))).text
    assert re.search(
        rf"Done on \d+ \w+ \d{{4}}, [\d:]+ UTC: {count} samples are in no model, delta, cache or checkpoint", text
    )
    assert "Verified on 29 November 2026, 10:00:00 UTC against the ledger of its run." in text
    assert text.index("Verified on") < text.index("What was asked")
    assert "Not verified when this page was made" in Page(certificate_page(certificate)).text
    wrong = Page(certificate_page(certificate, checked=("2026-11-29T10:00:00+00:00", ["2 samples are back"]))).text
    assert "it does not hold: 2 samples are back" in wrong
    assert "Done on" not in wrong


def test_verdict_does_not_hide_what_could_not_be_reached(certificate: dict[str, Any]) -> None:
    assert "could not be reached" not in Page(certificate_page(certificate)).text
    text = Page(certificate_page({**certificate, "beyond_reach": ["no permission to list versions"]})).text
    verdict = text.partition("What was asked")[0]
    assert "Older versions of removed objects could not be reached, see below." in verdict


def test_requests_that_were_carried_out_with_it_are_named(certificate: dict[str, Any]) -> None:
    assert certificate["carried_out_with"] == ["ffff0000"]
    assert "Carried out together with the requests ffff0000" in Page(certificate_page(certificate)).text


def test_words_agree_with_their_numbers_and_no_markup_of_other_kinds_is_shown(certificate: dict[str, Any]) -> None:
    one = {**certificate, "samples": 1, "id_hashes": certificate["id_hashes"][:1]}
    text = Page(certificate_page(one)).text
    assert "1 sample is in no model" in text
    assert "The keyed hash " in text
    assert "`" not in text
    assert not re.search(r"\d{2}:\d{2}:\d{2}\.\d{3,}", text.partition("Every field of the certificate")[0])


def fitted(shard: int, **facts: Any) -> dict[str, Any]:
    known = {"seconds": 1.0, "distance_bound": 1e-6, **facts}
    return {"shard": shard, "generation": 2, "samples": 3, "facts": known, "delta": {"key": "k", "digest": "d" * 64}}


@pytest.mark.parametrize(
    ("retrained", "said", "unsaid"),
    [
        ([fitted(1, resolved=True, warm=True)], ["within a certified distance"], ["from the start", "from nothing"]),
        (
            [fitted(1)],
            ["Shard 1 was trained again from the start, as by retrain, because ffff0000"],
            ["certified distance"],
        ),
        (
            [fitted(1, resolved=True, warm=False)],
            ["certified distance", "Shard 1 was solved from nothing"],
            ["as by retrain"],
        ),
        (
            [fitted(1), fitted(2, resolved=True, warm=True)],
            ["certified distance", "Shard 1 was trained again"],
            ["nothing,"],
        ),
    ],
)
def test_resolve_that_could_not_start_where_it_was_says_so_once(
    certificate: dict[str, Any], retrained: list[dict[str, Any]], said: list[str], unsaid: list[str]
) -> None:
    page = certificate_page({**certificate, "mode": "resolve", "retrained": retrained})
    how = Page(page).text.partition("How resolve")[2].partition("In the run")[0]
    assert all(words in how for words in said), how
    assert not any(words in how for words in unsaid), how

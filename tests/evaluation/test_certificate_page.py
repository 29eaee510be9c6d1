"""A certificate as a page: every field is there, as text, whatever the fields are."""

from run_facts import run_facts
from test_report_page import Page

from taft_ray.evaluation.certificate_page import certificate_page

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

"""`status` says the kind of a run, and `report` where the certificates' pages are."""

from pathlib import Path

import pytest
from command import here
from released import copied, toy_forget, trained_toy
from toy_run import EVERYONE, TWO_TIERS

from taft_ray.answers import Reported


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_toy(tmp_path_factory.mktemp("told") / "run")


def test_status_has_a_line_on_the_kind_of_run(trained: Path, tmp_path: Path) -> None:
    assert "\nkind      mean: deltas by ridge are the model" in here("status", trained).out
    both = trained_toy(tmp_path / "both", TWO_TIERS)
    assert (
        here("status", both, "--json")
        .json["kind"]
        .startswith("additive: sums over rows are the model; deltas by ridge")
    )


def test_report_names_the_page_of_each_certificate(trained: Path, tmp_path: Path) -> None:
    run = copied(trained, tmp_path / "run")
    assert "certificates" not in here("report", run, "--json").json
    requests = [toy_forget(run, [EVERYONE[n]], "retrain")["request"] for n in (0, 4)]
    pages = here("report", run, "--json").json["certificates"]
    assert pages == [str(run / "reports" / f"certificate-{one}.html") for one in requests]
    assert all(one in Path(page).read_text() for one, page in zip(requests, pages, strict=True))
    shown = here("report", run).out.splitlines()
    assert [line for line in shown if line.startswith("certificate: ")] == [f"certificate: {page}" for page in pages]


def test_of_many_certificates_the_newest_are_named_and_where_the_others_are() -> None:
    told = str(Reported.from_json({
        "page": "s3://b/run/reports/report.html", "json": "report.json", "derived": {}, "not_measured": {}, "ok": True,
        "quarantined": [], "damaged": [], "notes": [], "certificates": [f"page-{n}" for n in range(11)],
    }))  # fmt: skip
    assert "certificate: page-10" in told
    assert "page-2\n" not in told
    assert "and 3 older certificates: s3://b/run/reports/certificate-*.html" in told

"""Law 6, on pages: every number shown is in the document beside the page, and is shown as it is there."""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from html_page import Page, Value
from released import toy_export, toy_forget, trained_toy
from run_facts import classes, run_facts
from sweep_summary import sweep_summary
from toy_run import EVERYONE

import taft_ray as tr
from taft_ray.evaluation import compared, summarise
from taft_ray.pages import certificate_page, comparison_page, report_page, sweep_page
from taft_ray.pages.dossier_page import dossier_page
from taft_ray.run.register import Recipient
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store
from taft_ray.storage import rundir as names
from taft_ray.verbs.dossier_facts import gather
from taft_ray.verbs.release import release as set_gate

# Words that have digits and are no numbers of a run.
_WORDS = re.compile(r"95 %|SHA-256|shards\[\d\]|\d+ rows|\d+ entries|^\d+$")


def resolved(document: Any, where: str) -> Any:
    """The value at a JSON pointer (RFC 6901)."""
    here = document
    for part in where.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        here = here[int(key)] if isinstance(here, list) else here[key]
    return here


def shown_rightly(value: Value, recorded: float) -> bool:
    """Whether the text is the number, scaled to percent if it says so, to as many digits as the text has."""
    first = re.match(r"[+−-]?[\d,]*\.?\d+(?:e[+-]?\d+)?", value.text.strip())
    if first is None:
        return False
    text = first.group(0).replace("−", "-").replace(",", "")
    mantissa, _, exponent = text.partition("e")
    step = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    scales = (1, 100) if isinstance(recorded, float) else (1,)
    return any(abs(float(text) - scale * recorded) <= 0.5 * step * 1.001 for scale in scales)


def assert_traced(html: str, document: Any, least: int) -> None:
    page = Page(html)
    numbers = 0
    for value in page.values:
        if value.of is not None:
            where, _, chosen = value.of.partition("#")
            entries = chosen.split(",") if chosen else resolved(document, where)
            assert int(value.value or "") == len(entries), value
            assert value.text == f"{len(entries):,}", value
            assert all(int(one) < len(resolved(document, where)) for one in (entries if chosen else ())), value
            numbers += 1
        elif value.at is not None and value.at != "checked":
            recorded = resolved(document, value.at)
            if value.tag == "data":
                assert json.loads(value.value or "") == recorded, value
                if "e" not in (value.value or "") or value.text != value.value:
                    assert shown_rightly(value, recorded), (value, recorded)
                numbers += 1
            elif value.tag != "time" and isinstance(recorded, str):
                assert value.text.rstrip("…").casefold() in recorded.casefold(), (value, recorded)
        else:
            assert value.tag in ("code", "time"), f"a value from nowhere: {value}"
    assert numbers >= least
    untraced = [text.strip() for text in page.loose if re.search(r"\d", _WORDS.sub("", text.strip()))]
    assert not untraced


def with_waiting(facts: dict[str, Any]) -> dict[str, Any]:
    facts["waiting"] = [
        {
            "request": "00ff00ff",
            "mode": "drop",
            "samples": 7,
            "asked": "2025-10-09T10:00:00Z",
            "deadline": 1_762_000_000.0,
        }
    ]
    return facts


@pytest.mark.parametrize("shards", [1, 6, 100])
def test_every_number_of_a_report_is_in_its_json(shards: int) -> None:
    report = json.loads(json.dumps(summarise(with_waiting(classes(run_facts(shards))))))
    assert_traced(report_page(report), report, least=120)


def test_every_number_of_a_bare_report_is_in_its_json() -> None:
    report = summarise({"run": {"uri": "/tmp/run"}, "shards": []})
    assert_traced(report_page(report), report, least=1)


def test_every_number_of_a_sweep_is_in_its_summary() -> None:
    summary = {**sweep_summary(), "forgotten_since": 3}
    assert_traced(sweep_page(summary), summary, least=15)


def test_every_number_of_a_comparison_is_in_its_json() -> None:
    other = run_facts(10)
    other["run"]["uri"] = "s3://bucket/runs/ten"
    del other["monolith"]
    comparison = json.loads(json.dumps(compared([summarise(run_facts()), summarise(other)])))
    assert_traced(comparison_page(comparison), comparison, least=20)


def certificates(run: Path) -> Iterable[dict[str, Any]]:
    return [
        json.loads(file.read_bytes()) for file in (run / "certificates").glob("*.json") if "signature" not in file.name
    ]


def test_every_number_of_a_real_runs_pages_is_in_the_documents(proved: tuple[Path, Any], tmp_path: Path) -> None:
    run = Path(shutil.copytree(proved[0], tmp_path / "run"))
    answer = tr.Run(run).report()
    report = json.loads(Path(answer.json).read_bytes())
    assert_traced(Path(answer.page).read_text(), report, least=60)
    assert [one["certificate"]["problems"] for one in report["measurements"]["forgets"]] == [[], [], []]
    assert sum(one["certificate"]["signed"] for one in report["measurements"]["forgets"]) == 2
    assert (
        "3 samples were forgotten, by 3 requests. Every certificate agrees with the ledger"
        in Page(Path(answer.page).read_text()).text
    )
    found = 0
    for certificate in certificates(run):
        assert_traced(certificate_page(certificate), certificate, least=15)
        found += 1
    assert found == 3
    assert (run / names.report_key("report.html")).is_file()


@pytest.mark.parametrize("samples", [0, 1])
def test_every_number_of_a_certificate_that_brings_shards_back_is_in_it(samples: int, proved: tuple[Path, Any]) -> None:
    certificate = proved[1]["retrain"]
    drops = [
        {"request": f"aa0{n}", "samples": 2, "id_hashes": [f"{n}1" * 16, f"{n}2" * 16], "shards": [0, n]}
        for n in (1, 2)
    ]
    hashes = certificate["id_hashes"][:samples]
    back = {**certificate, "samples": samples, "id_hashes": hashes, "brought_back": drops}
    assert_traced(certificate_page(back), back, least=15)


def test_every_number_of_a_certificate_with_releases_is_in_it(tmp_path: Path) -> None:
    run = trained_toy(tmp_path / "run")
    set_gate(str(run), "3")
    toy_export(run, tmp_path / "1.pt2", recipient=Recipient(to="clinic 7", until=4e9))
    toy_export(run, tmp_path / "2.pt2")
    certificate = toy_forget(run, [EVERYONE[0]], "retrain")
    assert len(certificate["outside"]) == 2
    assert_traced(certificate_page(certificate), certificate, 12)


def test_the_check_finds_a_number_that_is_not_recorded() -> None:
    document = {"a": 0.1234, "list": [1, 2]}
    assert_traced('<main><data value="0.1234" data-from="/a">12.3 %</data></main>', document, least=1)
    for wrong in (
        '<main><data value="0.1234" data-from="/a">12.4 %</data></main>',
        '<main><data value="0.5" data-from="/a">50 %</data></main>',
        '<main><data value="3" data-count-of="/list">3</data></main>',
        "<main><p>17 shards</p></main>",
        '<main><data value="17">17</data></main>',
    ):
        with pytest.raises((AssertionError, KeyError)):
            assert_traced(wrong, document, least=0)


def test_every_number_of_a_dossier_is_in_its_json(tmp_path: Path) -> None:
    run = trained_toy(tmp_path / "run")
    toy_export(run, tmp_path / "1.pt2", recipient=Recipient(to="clinic.example", until=4e9))
    toy_forget(run, [EVERYONE[0]], "retrain")
    tr.Run(run).retention("2999-06-30")
    told = json.loads(json.dumps(gather(str(run), run_spec(Store(str(run)))).facts))
    assert_traced(dossier_page(told), told, least=25)

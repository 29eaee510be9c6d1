"""Every page in a real browser, on a phone and on two screens: nothing is cut off, nothing lies on anything, no link is broken."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from chromium import looked_at, needs_chromium, screenshot
from html_page import Page
from run_facts import classes, run_facts
from sweep_summary import sweep_summary

import taft_ray as tr
from taft_ray.evaluation import compared, summarise
from taft_ray.pages import comparison_page, report_page, sweep_page
from taft_ray.storage import rundir as names

pytestmark = needs_chromium
WIDTHS = (400, 1200, 1600)


@pytest.fixture(scope="module")
def reported(proved: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of a run that has forgotten in each mode, one request signed twice and one not."""
    run = Path(shutil.copytree(proved[0], tmp_path_factory.mktemp("reported") / "run"))
    tr.Run(run).report()
    return run / names.report_key("report.html").rpartition("/")[0]


def pages_of_facts() -> dict[str, str]:
    other = run_facts(10)
    other["run"]["uri"] = "s3://bucket/runs/ten-shards-of-the-same-pictures"
    del other["monolith"]
    return {
        "report of 100 shards": report_page(summarise(classes(run_facts()))),
        "bare report": report_page(summarise({"run": {"uri": "/tmp/run"}, "shards": []})),
        "sweep": sweep_page(sweep_summary()),
        "comparison": comparison_page(compared([summarise(run_facts()), summarise(other)])),
    }


def assert_sound(page: str, folder: Path, name: str) -> None:
    if kept := os.environ.get("TAFT_RAY_SCREENSHOTS"):
        for found in looked_at(page, folder):
            picture = Path(kept) / f"{re.sub(r'[^a-z0-9]+', '-', name)}-{found['width']}.png"
            screenshot(page, picture, found["width"], min(found["height"], 6000))
    for found in looked_at(page, folder, WIDTHS):
        assert found["page"] <= found["width"], (name, found["width"], found["outside"][:5])
        for kind in ("outside", "cut", "over"):
            assert not found[kind], (name, found["width"], kind, found[kind][:8])


@pytest.mark.parametrize("name", ["report of 100 shards", "bare report", "sweep", "comparison"])
def test_nothing_is_cut_off_or_lies_on_anything(name: str, tmp_path: Path) -> None:
    assert_sound(pages_of_facts()[name], tmp_path, name)


def test_a_real_runs_report_and_certificates_are_sound(reported: Path, tmp_path: Path) -> None:
    files = sorted(reported.glob("*.html"))
    assert len(files) == 4
    for file in files:
        assert_sound(file.read_text(), tmp_path, file.stem.split("-")[0])


def test_no_link_is_broken(reported: Path) -> None:
    followed = 0
    for file in reported.glob("*.html"):
        page = Page(file.read_text())
        for tag, name, value in page.attributes:
            if (tag, name) == ("a", "href"):
                assert value is not None
                assert (reported / value).is_file(), value
                followed += 1
    assert followed >= 3


def test_the_look_finds_what_is_wrong(tmp_path: Path) -> None:
    """The check itself: a table that is too wide, a text under another, a text that is cut off."""
    wrong = """<!doctype html><main><table><tr><td style="white-space:nowrap">{}</td></tr></table>
    <p style="position:absolute;top:300px;left:10px">under</p><p style="position:absolute;top:302px;left:12px">over</p>
    <div style="width:40px;overflow:hidden;white-space:nowrap">cut off at the end</div></main>""".format("wide " * 100)
    narrow = looked_at(wrong, tmp_path, (400,))[0]
    assert narrow["page"] > narrow["width"]
    assert any("wide" in one for one in narrow["outside"])
    assert any("under | over" in one for one in narrow["over"])
    assert any("cut off" in one for one in narrow["cut"])


def test_screenshots_are_taken_at_a_phones_width(tmp_path: Path) -> None:
    from PIL import Image

    screenshot("<!doctype html><body style='background:#00f'>", tmp_path / "phone.png", 400, 300)
    with Image.open(tmp_path / "phone.png") as image:
        assert image.convert("RGB").getpixel((399, 150)) == (0, 0, 255)
        assert image.convert("RGB").getpixel((450, 150)) == (255, 255, 255)

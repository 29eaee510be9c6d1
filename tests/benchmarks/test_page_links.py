"""Links from and into the pages that are made: files exist, and anchors are headings."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MADE = ("RESULTS.md", "benchmarks/README.md", "benchmarks/findings.md", "benchmarks/NOTES.md")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PLACE = re.compile(r'<a id="([^"]+)">')


def links(file: Path) -> Iterator[tuple[Path, str]]:
    """Target and anchor of every link that is not a URL."""
    for target in _LINK.findall(file.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield ((file.parent / path).resolve() if path else file), anchor


def anchors(file: Path) -> set[str]:
    """Those of headings, as GitHub makes them, and those written out."""
    text = file.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(_PLACE.findall(text))


@pytest.mark.parametrize("name", MADE)
def test_links_of_a_page_lead_somewhere(name: str) -> None:
    found = list(links(ROOT / name))
    assert found
    for target, anchor in found:
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{target.name}#{anchor}"


def test_links_into_these_pages_lead_somewhere() -> None:
    made = {(ROOT / name).resolve() for name in MADE}
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [(page, target, anchor) for page in pages for target, anchor in links(page) if target in made and anchor]
    for page, target, anchor in found:
        assert anchor in anchors(target), f"{page.name}: {target.name}#{anchor}"

"""The site of docs/: it builds without a warning, its links lead somewhere, and it loads nothing from elsewhere."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import links
import pytest
from chromium import needs_chromium, shown

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "cluster/README.md")
]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "link": "href",
}  # what a browser fetches by itself
GENERATED = ("cli", "schemas", "ledger", "metrics", "errors")


class Page(HTMLParser):
    """A page of the site: what it loads, links to, and can be linked at."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag in LOADS and LOADS[tag] in given:
            self.loads.append(given[LOADS[tag]])
        if tag == "a" and "href" in given:
            self.targets.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """Every page of a fresh site, by its file."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["--config-file", str(ROOT / "docs/site/mkdocs.yml"), "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return {file: Page(file) for file in folder.rglob("*.html")}


def broken(file: Path, target: str, site: dict[Path, Page]) -> bool:
    """Whether a link within the site leads nowhere."""
    where = urlsplit(target)
    if where.scheme or target.startswith("//"):
        return False
    at = (file.parent / unquote(where.path)).resolve() if where.path else file
    if at.is_dir():
        at /= "index.html"
    return not at.is_file() or bool(where.fragment and at in site and unquote(where.fragment) not in site[at].anchors)


def test_every_page_is_there_and_nothing_comes_from_elsewhere(site: dict[Path, Page]) -> None:
    names = {file.stem for file in site}
    assert {*GENERATED, "python", "glossary", "faq", "RESULTS"} <= names
    outside = {load for page in site.values() for load in page.loads if re.match(r"(https?:)?//", load)}
    assert not outside
    styles = [sheet for file in site for sheet in file.parent.glob("assets/stylesheets/*.css")]
    assert styles
    assert not [
        sheet.name for sheet in styles if re.search(r"url\([\"']?(https?:)?//", sheet.read_text(encoding="utf-8"))
    ]
    assert {load for page in site.values() for load in page.loads if load.endswith((".js", ".css"))}


def home(site: dict[Path, Page]) -> Path:
    return min(site, key=lambda file: (file.name != "index.html", len(file.parts)))


def test_search_needs_no_server(site: dict[Path, Page]) -> None:
    """A page opened from a folder can load scripts, and can neither fetch JSON nor start a worker from a file."""
    folder = home(site).parent / "search"
    begin, script = "var __index = ", (folder / "search_index.js").read_text(encoding="utf-8")
    index = json.loads((folder / "search_index.json").read_text(encoding="utf-8"))
    assert script.startswith(begin)
    assert json.loads(script.removeprefix(begin)) == index
    assert {"glossary.html", "reference/cli.html"} <= {entry["location"] for entry in index["docs"]}
    for file, page in site.items():
        (load,) = [load for load in page.loads if load.endswith("iframe-worker.js")]
        assert file.name == "404.html" or (file.parent / load).is_file()


@needs_chromium
def test_a_page_opened_from_a_folder_finds_a_word(site: dict[Path, Page], tmp_path: Path) -> None:
    results = r'<a href="([^"]+)" class="md-search-result__link"'
    found = {
        word: {unquote(urlsplit(link).path) for link in re.findall(results, shown(home(site), f"q={word}", tmp_path))}
        for word in ("tombstone", "nonesuchword")
    }
    assert found["tombstone"]
    assert all("tombstone" in Path(page).read_text(encoding="utf-8").lower() for page in found["tombstone"])
    assert not found["nonesuchword"]


def test_links_within_the_site_lead_somewhere(site: dict[Path, Page]) -> None:
    # the page for addresses that are not there links from the root of a server
    pages = {file: page for file, page in site.items() if file.name != "404.html"}
    lost = [
        f"{file.name}: {target}"
        for file, page in pages.items()
        for target in page.targets
        if broken(file, target, site)
    ]
    assert sum(len(page.targets) for page in pages.values()) > 1000
    assert not lost


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    here, there = tmp_path / "here.html", tmp_path / "there.html"
    here.write_text(
        '<script src="https://cdn.example/a.js"></script><a href="there.html#b">b</a><a href="gone.html">c</a>'
    )
    there.write_text('<h1 id="a">a</h1>')
    site = {file: Page(file) for file in (here, there)}
    assert [broken(here, target, site) for target in site[here].targets] == [True, True]
    assert not broken(here, "there.html#a", site)
    assert site[here].loads == ["https://cdn.example/a.js"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere_in_the_repository_too(page: Path) -> None:
    for target in links.targets(page.read_text(encoding="utf-8")):
        at = page.parent / target
        made = at.parent.name == "reference" and at.suffix == ".md" and at.stem in GENERATED
        assert at.exists() or made, target


def test_every_page_is_in_its_sections_list() -> None:
    for section in (path.parent for path in (ROOT / "docs").glob("*/README.md")):
        listed = {
            (section / target).resolve()
            for target in links.targets((section / "README.md").read_text(encoding="utf-8"))
        }
        there = {page for page in section.rglob("*.md") if page.name not in ("README.md", "python.md")}
        assert not there - listed


def test_terms_in_italics_are_in_the_glossary() -> None:
    """*shard*: a page meets a term for the first time."""
    glossary = set(
        re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    pages = [
        *(ROOT / "docs/explanation").glob("*.md"),
        *(ROOT / "docs/tutorials").glob("*.md"),
        ROOT / "ARCHITECTURE.md",
    ]
    found = {
        term.lower().removesuffix("s")
        for page in pages
        for term in re.findall(r"(?<![*\w])\*(\w[\w -]*\w)\*(?![*\w])", page.read_text(encoding="utf-8"))
    }
    assert len(found) >= 8
    assert not found - {term.removesuffix("s") for term in glossary}


def test_terms_are_defined_in_the_glossary_alone() -> None:
    defining = [
        page.relative_to(ROOT).as_posix()
        for page in {*PAGES, *ROOT.glob("*.md")}
        if re.search(r"^\| *term *\|", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert defining == ["docs/glossary.md"]

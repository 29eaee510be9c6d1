"""Hooks of mkdocs: add generated pages and files of the repository, and mend links between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import links
import notebook
import reference
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OF_THE_PROJECT = ("README.md", "RESULTS.md", "CHANGELOG.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md")
WORKER = "assets/iframe-worker.js"  # stands in for a worker of the search, where no server gives the pages
_log = get_plugin_logger("taft_ray")
_paths: dict[str, str] = {}  # place in the site: path in the repository


def on_files(files: Files, config: Any) -> Files:
    """Add the reference, README.md as the first page, what pages link to outside of docs/, and the search's script."""
    for name, content in generated().items():
        files.append(File.generated(config, name, content=content))
    files.append(File.generated(config, WORKER, abs_src_path=str(Path(__file__).with_name(Path(WORKER).name))))
    pages = [
        *OF_THE_PROJECT,
        *(f"docs/{file.src_uri}" for file in files.documentation_pages() if file.generated_by is None),
    ]
    outside = {*OF_THE_PROJECT, *links.reached(pages), *(f"{reference.SCHEMAS}/{name}.json" for name in schema_names())}
    for path in sorted(outside):
        files.append(File.generated(config, links.place(path), abs_src_path=str(ROOT / path)))
    _paths.update({links.place(path): path for path in [*pages, *outside]})
    return files


def generated() -> dict[str, str]:
    """Pages by their place in the site."""
    pages = {
        "cli": reference.commands(),
        "schemas": reference.schemas(lambda path: (ROOT / path).read_text(encoding="utf-8"), schema_names()),
        "ledger": reference.ledger(),
        "metrics": reference.metrics(),
        "errors": reference.raised(),
    }
    return {f"reference/{name}.md": page for name, page in pages.items()} | {
        file.relative_to(ROOT / "docs").with_suffix(".md").as_posix(): notebook.page(file.read_text(encoding="utf-8"))
        for file in (ROOT / "docs").rglob("*.ipynb")
    }


def schema_names() -> list[str]:
    return sorted(file.stem for file in (ROOT / reference.SCHEMAS).glob("*.json"))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    path = _paths.get(page.file.src_uri)
    return markdown if path is None else links.rewritten(path, markdown, _log.warning)

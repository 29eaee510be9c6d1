"""Hooks of mkdocs: add generated pages and files of the repository, and mend links between them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # the checkout's own package, whatever is installed

import links
import reference

_log = get_plugin_logger("taft_ray")
_paths: dict[str, str] = {}  # place in the site: path in the repository


def on_files(files: Files, config: Any) -> Files:
    """Add the reference, README.md as the first page, and what pages link to outside of docs/."""
    for name, content in generated().items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    pages = ["README.md", *(f"docs/{file.src_uri}" for file in files.documentation_pages() if file.generated_by is None)]
    outside = {*links.reached(pages), *(f"{reference.SCHEMAS}/{name}.json" for name in schema_names())}
    for path in sorted(outside):
        files.append(File.generated(config, links.place(path), abs_src_path=str(ROOT / path)))
    _paths.update({links.place(path): path for path in [*pages, *outside]})
    return files


def generated() -> dict[str, str]:
    return {
        "cli": reference.commands(),
        "schemas": reference.schemas(lambda path: (ROOT / path).read_text(encoding="utf-8"), schema_names()),
        "ledger": reference.ledger(),
        "metrics": reference.metrics(),
        "errors": reference.raised(),
    }


def schema_names() -> list[str]:
    return sorted(file.stem for file in (ROOT / reference.SCHEMAS).glob("*.json"))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    path = _paths.get(page.file.src_uri)
    return markdown if path is None else links.rewritten(path, markdown, _log.warning)

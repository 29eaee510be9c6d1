"""Links of pages that leave docs/: what they name becomes part of the site, below repository/.

In the repository, pages link to files beside docs/, such as RESULTS.md or cluster/aws.yaml. The site has copies of these.
README.md is the site's first page.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST = {"README.md": "index.md"}
_LINK = re.compile(r"(?<=\]\()([^)#\s]*)(#[^)\s]*)?(?=\))")
_CODE = re.compile(r"^```.*?^```$|^ {4}.*?$|(?<!`)`[^`\n]+`(?!`)", re.DOTALL | re.MULTILINE)


def place(path: str) -> str:
    """Where a file of the repository is in the site: docs/faq.md at faq.md, RESULTS.md at repository/RESULTS.md."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/").replace(".ipynb", ".md")  # a notebook is a page
    return FIRST.get(path, f"repository/{path}")


def _targets(markdown: str) -> Iterator[re.Match[str]]:
    """Links to files; none inside code, and none to other sites."""
    spans = [found.span() for found in _CODE.finditer(markdown)]
    for found in _LINK.finditer(markdown):
        inside = any(begin <= found.start() < end for begin, end in spans)
        if found[1] and not inside and not re.match(r"[a-z]+:", found[1]):
            yield found


def targets(markdown: str) -> list[str]:
    """The files that a page links to, as it names them."""
    return [found[1] for found in _targets(markdown)]


def resolved(path: str, target: str) -> str | None:
    """The file of the repository that a page at ``path`` links to; a folder's is its README. None where there is none."""
    named = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if (ROOT / named).is_dir():
        named = f"{named}/README.md"
    if (ROOT / named).is_file():
        return named
    if named.startswith("docs/"):  # a page that went into a section
        name = posixpath.basename(named)
        found = [] if name == "README.md" else [*(ROOT / "docs").rglob(name)]
        if len(found) == 1:
            return found[0].relative_to(ROOT).as_posix()
    return None


def reached(pages: list[str]) -> list[str]:
    """Files outside of docs/ that the pages link to, and those that these link to in turn."""
    seen, queue = set(pages), list(pages)
    while queue:
        path = queue.pop()
        if not path.endswith(".md"):
            continue
        for found in _targets((ROOT / path).read_text(encoding="utf-8")):
            at = resolved(path, found[1])
            if at is not None and at not in seen:
                seen.add(at)
                queue.append(at)
    return sorted(path for path in seen if not path.startswith("docs/"))


def rewritten(path: str, markdown: str, missing: Callable[[str], None]) -> str:
    """A page's Markdown with links as the site needs them. missing: told each link that leads nowhere."""
    here = posixpath.dirname(place(path))
    parts, end = [], 0
    for found in _targets(markdown):
        at = resolved(path, found[1])
        if at is None:
            if not path.startswith("docs/"):  # mkdocs tells those of docs/, of which some go to generated pages
                missing(f"{path} links to {found[1]}, which is not there")
            continue
        parts += [markdown[end : found.start()], posixpath.relpath(place(at), here or "."), found[2] or ""]
        end = found.end()
    whole = "".join([*parts, markdown[end:]])
    # outside of docs/ nobody refers to the code by name: [a][b] is a product of matrices
    return whole if path.startswith("docs/") else whole.replace("][", "]\\[")

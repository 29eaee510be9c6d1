"""The prose rules of CONTRIBUTING.md that a program can check.

* python tests/prose/check_prose.py                 every page, docstring, error and comment of the project
* python tests/prose/check_prose.py FILE ...        those of these files
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ["*.md", "docs/**/*.md", "docs/**/*.ipynb", "benchmarks/*.md", "cluster/*.md", "taft_ray/**/*.md"]
FILES += [f"{folder}/**/*.py" for folder in ("taft_ray", "jobs", "benchmarks", "tests", "docs")]

MOST_WORDS, MOST_COLUMNS, MOST_SEMICOLONS, CODE_INDENT = 25, 100, 1, 4
LONG, OPENER, WRAP = f"over {MOST_WORDS} words", "bare opener", f"over {MOST_COLUMNS} columns"
CHAIN = "chain of semicolons"
_OPENER = re.compile(r"(Of|Who|Whom|What)\s")
_ITEM = re.compile(r"\s*([*+-]|\d+\.)\s+")
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[^\sa-z])")
_MARKUP = [
    (re.compile(r"!?\[([^\]]*)\]\([^)]*\)"), r"\1"),  # a link is its text
    (re.compile(r"`+[^`]+`+"), "`code`"),  # code is one word, and ends no sentence
    (re.compile(r"\*"), ""),
    (re.compile(r"\b(e\.g|i\.e|cf|vs|eqs?|resp|et al|Fig)\.", re.IGNORECASE), r"\1"),
]
_ASIDE = re.compile(r"\([^()]*\)|\"[^\"]*\"")  # a semicolon in brackets or in a quotation links no claims
_PRAGMA = re.compile(
    r"#(!|\s*((fmt|type|pyright|ruff|pragma):|noqa\b))[^#]*"
)  # ends where the next "#" gives its reason
_LICENCE = re.compile(r"\s*(SPDX-|Copyright\b|Licensed under\b)", re.IGNORECASE)
_PHRASE = re.compile(r"[A-Za-z]{2,}'?,?\s+[a-z]+")  # two words; formulas and legends of shapes have none
_RULER = re.compile(r"\s*---")

Offence = tuple[int, str, str]  # line, rule, text


def blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Paragraphs and list items, as first line number and lines; no code, table, heading or comment."""
    text = re.sub(r"<!--.*?-->", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    held: list[str] = []
    begun, fenced, session, after_blank, in_list = 0, False, False, True, False
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        fence, indent = line.lstrip().startswith("```"), len(line) - len(line.lstrip())
        in_list = in_list and not line.startswith("#")  # a heading ends a list
        session = line.lstrip().startswith(">>>") or (session and bool(line.strip()))  # Python's, up to a blank line
        code = fenced or fence or session or (after_blank and indent >= CODE_INDENT and not in_list)
        prose = bool(line.strip()) and not code and not line.lstrip().startswith(("|", "#", "<"))
        item = bool(_ITEM.match(line)) and prose
        if held and (item or not prose):
            yield begun, held
            held = []
        if prose:
            begun = begun if held else number
            held.append(line)
            in_list = item or (in_list and (indent > 0 or not after_blank))
        fenced ^= fence
        after_blank = not line.strip() or (code and after_blank) or line.startswith("#")


def offences_in_text(text: str, first_line: int = 1) -> Iterator[Offence]:
    for number, lines in blocks(text):
        block = " ".join([_ITEM.sub("", lines[0]).strip(), *map(str.strip, lines[1:])])
        for pattern, replacement in _MARKUP:
            block = pattern.sub(replacement, block)
        for sentence in _END.split(block):
            if sum(bool(re.search(r"\w", word)) for word in sentence.split()) > MOST_WORDS:
                yield first_line + number - 1, LONG, sentence
            if _ASIDE.sub("", sentence).count(";") > MOST_SEMICOLONS:
                yield first_line + number - 1, CHAIN, sentence
            if _OPENER.match(sentence) and not sentence.endswith("?"):
                yield first_line + number - 1, OPENER, sentence


def offences_in_markdown(text: str) -> Iterator[Offence]:
    yield from offences_in_text(text)
    for begun, lines in blocks(text):
        for number, line in enumerate(lines, start=begun):
            if len(line) > MOST_COLUMNS and " " in line.strip():
                yield number, WRAP, line


def _said(node: ast.expr) -> str | None:
    """A message's text; each value put into it counts as a word."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return None


def comments(text: str) -> Iterator[tuple[int, bool, str]]:
    """Comments as first line, whether they are behind code, and text; consecutive full lines are one."""
    held: list[str] = []
    begun = (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        (line, column), said = token.start, _PRAGMA.sub("", token.string).removeprefix("#").removeprefix(" ")
        trailing = bool(token.line[:column].strip())
        ruler = bool(_RULER.match(said))
        if held and (trailing or ruler or (line, column) != (begun[0] + len(held), begun[1])):
            yield begun[0], False, "\n".join(held)
            held = []
        if trailing:
            yield line, True, said
        elif not ruler:
            begun = begun if held else (line, column)
            held.append(said)
    if held:
        yield begun[0], False, "\n".join(held)


def offences_in_comments(text: str) -> Iterator[Offence]:
    """Those of the prose in comments; a phrase behind code has the limit of words alone.

    A full-line comment may begin with a small letter, and its opening is read as if it did not.
    """
    for line, trailing, said in comments(text):
        if not _PHRASE.search(said) or _LICENCE.match(said):
            continue
        for number, rule, sentence in offences_in_text(said if trailing else said[:1].upper() + said[1:], line):
            if rule == LONG or not trailing:
                yield number, rule, sentence


def offences_in_python(text: str) -> Iterator[Offence]:
    """Those of docstrings, of comments and of what is raised."""
    yield from offences_in_comments(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if docstring := ast.get_docstring(node, clean=False):
                margin = re.compile(rf"^ {{,{node.body[0].col_offset}}}", re.MULTILINE)  # code stays indented
                yield from offences_in_text(margin.sub("", docstring), node.body[0].lineno)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for message in filter(None, map(_said, node.exc.args)):
                yield from offences_in_text(" ".join(message.split()), node.lineno)


def unreleased(changelog: str) -> str:
    """The changelog without its released versions, which stay as they were published."""
    first, heading, rest = changelog.partition("\n## [Unreleased]")
    return first + heading + rest.partition("\n## ")[0]


def offences_in_notebook(text: str) -> Iterator[Offence]:
    """Those of its pages; a line is the number of a cell."""
    for number, cell in enumerate(json.loads(text)["cells"], 1):
        if cell["cell_type"] == "markdown":
            for _, rule, sentence in offences_in_text("".join(cell["source"])):
                yield number, rule, sentence


def offences_of(file: Path) -> list[Offence]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return list(offences_in_python(text))
    if file.suffix == ".ipynb":
        return list(offences_in_notebook(text))
    return list(offences_in_markdown(unreleased(text) if file.name == "CHANGELOG.md" else text))


def files_of(root: Path) -> list[Path]:
    return sorted({file for pattern in FILES for file in root.glob(pattern)})


def main(arguments: Sequence[str]) -> int:
    """Print the offences; 1 where there are any."""
    files = [Path(name).absolute() for name in arguments] or files_of(ROOT)
    found = [
        f"{os.path.relpath(file, ROOT)}:{line}: {rule}: {text}"
        for file in files
        for line, rule, text in offences_of(file)
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

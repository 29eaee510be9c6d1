"""HTML building blocks shared by the pages: the document, tables, values as a person reads them.

Guarantees: a document is one file with no script and no request (its content security policy forbids both); every text
that comes from outside passes ``esc``; the same arguments give the same bytes.
"""

import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
LONG = 20  # a table with more rows is folded away

STYLE = """
:root{color-scheme:light dark;--paper:#fefefe;--card:#f4f6f8;--ink:#1b1f24;--quiet:#59616b;--rule:#d9dde2;
--mean:#0072b2;--gram:#009e73;--monolith:#d55e00;--fit:#0072b2;--retrain:#00805d;--dropped:#a9cfe6;--cache:#8d959f}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1d2126;--ink:#e8eaed;--quiet:#a3abb5;--rule:#343a42;
--mean:#56b4e9;--gram:#3fcf9f;--monolith:#ff9a56;--fit:#56b4e9;--retrain:#3fcf9f;--dropped:#24506b;--cache:#727a84}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1.5rem 1rem 4rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .25rem}
h2{font-size:1.2rem;margin:2.5rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.5rem 0 .25rem} h4,h5,h6{font-size:.95rem;margin:1rem 0 .25rem;color:var(--quiet)}
p{margin:.4rem 0;max-width:46rem} .verdict{font-weight:600;font-size:1.1rem} .verdict.wrong{text-decoration:underline}
.quiet,caption,figcaption{color:var(--quiet);font-size:.875rem}
code{font:.85em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));gap:.75rem;margin:1.25rem 0;padding:0}
.cards div{background:var(--card);border-radius:.5rem;padding:.75rem .9rem;break-inside:avoid}
.cards dt{font-size:.875rem;color:var(--quiet);line-height:1.3}
.cards dd{margin:0;font-size:.8125rem;color:var(--quiet);line-height:1.4;overflow-wrap:anywhere}
.cards .big{font-size:1.75rem;font-weight:650;color:var(--ink);line-height:1.35}
.cards .none code{white-space:nowrap}.cards .none{font-size:1rem;font-weight:600;color:var(--ink);padding:.35rem 0}
.notes{background:var(--card);border-left:4px solid var(--monolith);border-radius:.25rem;padding:.5rem 1rem;
margin:1rem 0}
.notes ul{margin:.25rem 0;padding-left:1.1rem}
figure{margin:1rem 0;break-inside:avoid}
figure svg{display:block;width:100%;height:auto;overflow:visible}
figure svg *{stroke-linejoin:round}
figure svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif!important}
.wide svg{max-width:48rem} .narrow{display:none}
.scroll{overflow-x:auto;margin:.5rem 0} .scroll:focus-visible{outline:2px solid var(--mean)}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;min-width:min(100%,24rem)}
caption{text-align:left;padding:.25rem 0} th,td{text-align:left;vertical-align:top;padding:.3rem .9rem .3rem 0;
border-bottom:1px solid var(--rule)} thead th{color:var(--quiet);font-weight:600;vertical-align:bottom}
th[scope=row]{font-weight:500} .n{text-align:right;white-space:nowrap} .scroll code{white-space:nowrap}
.t{min-width:13rem}
.pairs{width:100%} .pairs th{width:38%;color:var(--quiet)}
details{margin:.5rem 0} summary{cursor:pointer;padding:.4rem 0;color:var(--mean);font-weight:550}
@media (max-width:40rem){.wide{display:none}.narrow{display:block}.cards{grid-template-columns:1fr 1fr}
.cards .big{font-size:1.45rem}h1{font-size:1.35rem}}
@media (max-width:22rem){.cards{grid-template-columns:1fr}}
@media print{:root{color-scheme:light;--paper:#fff;--card:#f4f6f8;--ink:#000;--quiet:#444;--rule:#bbb;--mean:#0072b2;
--gram:#009e73;--monolith:#d55e00;--fit:#0072b2;--retrain:#00805d;--dropped:#a9cfe6;--cache:#8d959f}
body{max-width:none;padding:0;font-size:10pt}.cards div,.notes,figure svg{-webkit-print-color-adjust:exact;
print-color-adjust:exact}.wide{display:block}.narrow{display:none}.scroll{overflow:visible}tr{break-inside:avoid}
.cards{grid-template-columns:repeat(3,1fr)}.cards .big{font-size:1.4rem}h2,h3{break-after:avoid}}
"""


class Raw(str):
    """Markup that is already safe."""

    __slots__ = ()


def esc(value: Any) -> Raw:
    """Any value as HTML text, safe in an element and in a quoted attribute."""
    return (
        value
        if isinstance(value, Raw)
        else Raw(html.escape(str(value).encode("utf-8", "replace").decode(), quote=True))
    )


def code(value: Any) -> Raw:
    return Raw(f"<code>{esc(value)}</code>")


def document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<link rel="icon" href="data:,">\n<title>{esc(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    numeric: Sequence[int] = (),
    prose: Sequence[int] = (),
) -> Raw:
    """A table that scrolls sideways by itself; folded away if long. ``numeric`` and ``prose`` are column numbers."""
    rows = list(rows)
    where = [' class="n"' if i in numeric else ' class="t"' if i in prose else "" for i in range(len(head))]
    top = "".join(f'<th scope="col"{where[i]}>{esc(text)}</th>' for i, text in enumerate(head))
    lines = []
    for row in rows:
        first, *others = row
        cells = f'<th scope="row"{where[0]}>{esc(first)}</th>'
        lines.append(
            f"<tr>{cells}{''.join(f'<td{where[i]}>{esc(cell)}</td>' for i, cell in enumerate(others, 1))}</tr>"
        )
    inner = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}">'
        f"<table><caption>{esc(caption)}</caption>"
        f"<thead><tr>{top}</tr></thead><tbody>\n{chr(10).join(lines)}\n</tbody></table></div>"
    )
    return folded(f"{caption}: {len(rows):,} rows", inner) if len(rows) > LONG else Raw(inner)


def folded(summary: str, inner: str) -> Raw:
    return Raw(f"<details><summary>{esc(summary)}</summary>{inner}</details>")


def pairs(rows: Iterable[tuple[str, Any]]) -> Raw:
    """A table of names and values."""
    lines = "\n".join(f'<tr><th scope="row">{esc(name)}</th><td>{esc(value)}</td></tr>' for name, value in rows)
    return Raw(f'<table class="pairs"><tbody>\n{lines}\n</tbody></table>')


def nested(value: Any, *, level: int = 3) -> Raw:
    """Any JSON value: flat mappings as pairs, records as a table, deeper parts under headings of their own."""
    if isinstance(value, dict):
        flat = [(title(key), plain(item)) for key, item in value.items() if not _deep(item)]
        deep = [
            f"<h{min(level, 6)}>{esc(title(key))}</h{min(level, 6)}>\n{nested(item, level=level + 1)}"
            for key, item in value.items()
            if _deep(item)
        ]
        return Raw("\n".join([*([pairs(flat)] if flat else []), *deep]) or '<p class="quiet">none</p>')
    if isinstance(value, list | tuple):
        if not value:
            return Raw('<p class="quiet">none</p>')
        if all(isinstance(item, dict) and not any(map(_deep, item.values())) for item in value):
            heads = list(dict.fromkeys(str(key) for item in value for key in item))
            rows = [[plain({str(k): v for k, v in item.items()}.get(head, "")) for head in heads] for item in value]
            return table("Each entry", [title(head) for head in heads], rows) if heads else plain("")
        items = "\n".join(f"<li>{nested(item, level=level) if _deep(item) else plain(item)}</li>" for item in value)
        inner = f"<ul>\n{items}\n</ul>"
        return folded(f"{len(value):,} entries", inner) if len(value) > LONG else Raw(inner)
    return plain(value)


def plain(value: Any) -> Raw:
    """A scalar, or a list of few scalars, as text; identifiers such as digests as code."""
    if value is None:
        return Raw('<span class="quiet">none</span>')
    if isinstance(value, bool):
        return Raw("yes" if value else "no")
    if isinstance(value, list | tuple):
        return Raw(", ".join(plain(item) for item in value)) if value else Raw('<span class="quiet">none</span>')
    if isinstance(value, dict):
        return Raw('<span class="quiet">none</span>')
    text = str(value)
    machine = isinstance(value, str) and " " not in text and (len(text) > 24 or "/" in text)
    return code(text) if machine else esc(text)


def title(key: Any) -> str:
    """``what_it_does_not_cover`` as a heading; a key that is a path or digest stays as it is."""
    words = str(key).replace("_", " ").strip()
    return words[:1].upper() + words[1:] if words and "/" not in words and len(words) <= 60 else str(key)


def moment(unix: Any) -> str:
    """A point in time in UTC, to the second."""
    try:
        return datetime.fromtimestamp(float(unix), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (TypeError, ValueError, OverflowError, OSError):
        return "not measured"


def _deep(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value)
    if not isinstance(value, list | tuple):
        return False
    sentences = any(isinstance(item, str) and item.count(" ") > 2 for item in value)
    return sentences or len(value) > 8 or any(isinstance(item, dict | list | tuple) for item in value)

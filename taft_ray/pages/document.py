"""Pages from templates: jinja2 with escaping on, and the style in the page.

Guarantees: a page is one file with no script and no request, as its content security policy demands. A name that a template
does not know is an error. The same context gives the same bytes.
"""

from __future__ import annotations

import shlex
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from taft_ray.pages import shown

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(template: str, **context: Any) -> str:
    """The page of ``templates/<template>``. Half surrogates, which no encoding has, become question marks."""
    html = _environment().get_template(template).render(context)
    return html.encode("utf-8", "replace").decode()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("taft_ray.pages"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals |= {
        "policy": POLICY,
        "code": shown.code,
        "counted": shown.counted,
        "digest": shown.digest,
        "long": shown.LONG,
        "marked": shown.marked,
        "none": shown.NONE,
        "plain": shown.plain,
        "records": shown.records,
        "time_of": shown.time_of,
        "title": shown.title,
    }
    made.filters["quoted"] = shlex.quote
    made.filters["part"] = lambda key: str(key).replace("~", "~0").replace("/", "~1")
    made.tests["deep"] = shown.deep
    made.tests["entries"] = lambda value: isinstance(value, list | tuple)
    return made

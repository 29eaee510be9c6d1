"""Drawings as inline SVG: how every figure of a page is made.

Guarantees: the same drawing gives the same bytes, whatever the machine's matplotlib settings are. Every colour is a CSS
variable of the page, so that a figure follows light, dark and print. There is no script, no URL and no font file.
"""

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Okabe and Ito's colours, safe for colour-blind readers; the page holds a dark value for each name.
COLOURS = {
    "ink": "#1b1f24",
    "quiet": "#6a727c",
    "rule": "#d9dde2",
    "paper": "#fefefe",
    "mean": "#0072b2",
    "gram": "#009e73",
    "additive": "#cc79a7",
    "monolith": "#d55e00",
    "fit": "#0173b3",
    "retrain": "#019f74",
    "dropped": "#a9cfe6",
    "cache": "#8d959f",
}
WIDE, NARROW = 720, 340  # px: the page shows the narrow drawing on a phone, so that no text is scaled down

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.image_inline": True,
    "text.parse_math": False,  # a lane may be called "$x"
    "font.size": 12.0,
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["quiet"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.8,
    "hatch.linewidth": 1.2,
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["quiet"],
    "ytick.color": COLOURS["quiet"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def as_svg(draw: Callable[[Figure], None], *, name: str, width: int, height: float) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the reader's matplotlibrc must not change the bytes
        # A salt a drawing: ids must differ between the drawings of one page.
        matplotlib.rcParams.update(SETTINGS)
        matplotlib.rcParams["svg.hashsalt"] = f"taft_ray/{name}/{width}"
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    """Matplotlib's document as an element of a page: no prologue, no namespaces, no fixed size, colours by name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    svg = f'<svg {box.group(0) if box else ""} aria-hidden="true" focusable="false">{rest}'
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every drawing, and nothing refers to them
    svg = svg.replace("xlink:href", "href")
    for colour, value in COLOURS.items():
        svg = re.sub(rf"(?<=[ :\"]){value}\b", f"var(--{colour}, {value})", svg)
    return svg.strip()


def short_label(name: str) -> str:
    """A row's name as far as the figure's font surely has it; the table beside it has it in full."""
    name = name.encode("ascii", "replace").decode()
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= 12 else f"{name[:11]}~"

"""The privacy that shards have spent, as a picture of its own: a bar per shard, and the budget as a line."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from taft_ray.pages.figures.svg import COLOURS, SETTINGS

_INCH = 72
_NAMED = 40  # bars under which the shard's number is written


def spent_picture(told: Mapping[str, Any]) -> bytes:
    """SVG of the answer of `verbs.privacy`; the same numbers give the same bytes."""
    shards = told["shards"]
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        matplotlib.rcParams.update({"figure.facecolor": COLOURS["paper"], "svg.hashsalt": "taft_ray/privacy"})
        figure = Figure(figsize=(720 / _INCH, 300 / _INCH), dpi=_INCH, layout="constrained")
        axes = figure.add_subplot()
        axes.bar(range(len(shards)), [one["epsilon"] for one in shards], color=COLOURS["fit"])
        if told["budget"] is not None:
            axes.axhline(told["budget"], color=COLOURS["monolith"], linestyle="--")
            axes.annotate(
                f"budget ε = {told['budget']:g}", (0, told["budget"]), xytext=(2, 3), textcoords="offset points",
                color=COLOURS["monolith"],
            )  # fmt: skip
        named = len(shards) <= _NAMED
        axes.set_xticks(range(len(shards)) if named else [], [str(one["shard"]) for one in shards] if named else [])
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.set_xlabel(f"shard; the run spent ε = {told['epsilon']:.3g} at δ = {told['delta']:g}")
        axes.set_ylabel("ε of all its fits")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()

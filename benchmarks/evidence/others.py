"""When is another system better? Points of accuracy above or below the additive model, of one model and over 50 and 500 shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from benchmarks.evidence.drawing import BLUE, GREEN, INK, ORANGE, PINK, rows_of, svg
from benchmarks.evidence.results import DATA, DataSet, Entry, Results
from benchmarks.evidence.systems import OverShards, markdown, system

NAME = "others"
MARKS = ((ORANGE, "o"), (PINK, "D"), (BLUE, "s"), (GREEN, "^"))  # by data set
RATES = ("NLFT-1, LR 1e-4", "NLFT-1, LR 1e-3")


@dataclass(frozen=True, kw_only=True)
class Rival:
    """at: its number on a data set, None where it was not measured."""

    title: str
    at: Callable[[OverShards], Entry | None]


def _one_model(row: str, end: str = "") -> Callable[[OverShards], Entry | None]:
    return lambda over: over.results.entry(f"table1-{over.data.label}{end}", row, "accuracy")


def _over_shards(title: str, shards: str) -> Callable[[OverShards], Entry | None]:
    return lambda over: over.at(system(title), shards)


def _fine_tuned(over: OverShards) -> Entry | None:
    """The better of two learning rates, by test data."""
    found = [entry for row in RATES if (entry := over.results.entry(f"table1-{over.data.label}", row, "accuracy"))]
    return max(found, key=lambda entry: entry["mean"], default=None)


RIVALS = (
    Rival(title="fine-tuned, 7 blocks, one model", at=_one_model("NLFT-7, LR 1e-4", "-seven-blocks")),
    Rival(title="linearised, 7 blocks, one model", at=_one_model("TAFT-7 (Adam, LR 1e-4)", "-seven-blocks")),
    Rival(title="fine-tuned, last block, one model", at=_fine_tuned),
    Rival(title="linearised, last block, one model", at=_one_model("TAFT-1 (ridge)")),
    Rival(title="Head2Toe-like", at=_over_shards("Head2Toe-like", "1")),
    Rival(title="head alone", at=_over_shards("head alone", "1")),
    Rival(title="kNN", at=_over_shards("kNN, k = 20", "1")),
    Rival(title="ridge, joint Gram, 50 shards", at=_over_shards("ridge, joint Gram", "50")),
    Rival(title="ridge, Gram, 50 shards", at=_over_shards("ridge, Gram", "50")),
    Rival(title="RegMean++, 50 shards", at=_over_shards("RegMean++", "50")),
    Rival(title="SISA, 50 shards", at=_over_shards("SISA", "50")),
    Rival(title="the paper's recipe, 50 shards", at=_over_shards("the paper's recipe", "50")),
)


def points(results: Results, rival: Rival, data: DataSet) -> float | None:
    """Above the additive model where positive; None where it was not measured."""
    over = OverShards(results, data)
    own, other = over.at(system("additive"), "1"), rival.at(over)
    return None if own is None or other is None else 100 * (other["mean"] - own["mean"])


def table(results: Results) -> str:
    additive = [OverShards(results, data).at(system("additive"), "1") for data in DATA]
    lines = [
        ["points above additive", *(data.title for data in DATA)],
        ["additive itself, percent", *("–" if one is None else f"{100 * one['mean']:.1f}" for one in additive)],
    ]
    for rival in RIVALS:
        found = [points(results, rival, data) for data in DATA]
        lines.append([rival.title, *("–" if one is None else f"{one:+.1f}".replace("-", "−") for one in found)])
    return markdown(lines)


def commands(results: Results) -> str:
    names = [f"table1-{data.label}" for data in DATA]
    return results.commands(*names[:1], "table1-Sign-Digits-seven-blocks", *names[1:])


def picture(results: Results) -> bytes:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (data, (colour, marker)) in enumerate(zip(DATA, MARKS, strict=True)):
            found = [(points(results, rival, data), at) for at, rival in enumerate(RIVALS)]
            there = [(value, at + 0.16 * (place - 1.5)) for value, at in found if value is not None]
            axes.plot(
                [value for value, _ in there], [at for _, at in there], color=colour, marker=marker, markersize=7,
                linestyle="none", label=data.title,
            )  # fmt: skip
        rows_of(axes, [rival.title for rival in RIVALS])
        axes.axvline(0, color=INK, linewidth=1.5)
        axes.set_xlabel("points of accuracy below (left) or above (right) the additive model")
        figure.legend(loc="outside upper center", ncols=2, fontsize=12)

    return svg(draw, name=NAME, height=560)

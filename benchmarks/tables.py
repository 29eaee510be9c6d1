"""The tables of benchmarks/README.md: which command makes each, and how its JSON becomes rows and bars. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import rows
from benchmarks.rows import SERVING_TARGETS, Row, seconds

ASSETS = "assets/"  # in a table's command; the folder of weights and data sets


@dataclass(frozen=True)
class Bar:
    """One bar of a table's picture. ``target``: what was aimed at, drawn as a line across it; None where nothing was."""

    label: str
    value: float
    target: float | None = None
    at_least: bool = True  # the target is to be reached; else not to be passed

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True, kw_only=True)
class Table:
    """name: of the marks in README.md.in and of the files in results/. module, arguments: the command, without ``--json``.

    rows: JSON that the command printed -> a row a line. columns: header -> cell. bars: a row -> bars of the picture.

    followed: label of the bar whose value the page shows version by version.
    """

    name: str
    module: str
    arguments: Sequence[str] = ()
    rows: Callable[[Any], Sequence[Row]]
    columns: dict[str, Callable[[Row], str]]
    bars: Callable[[Row], Sequence[Bar]]
    axis: str  # what a bar's length is
    followed: str
    log: bool = False
    needs_gpu: bool = False

    @property
    def needs_assets(self) -> bool:
        return ASSETS in self.arguments

    @property
    def command(self) -> str:
        return " ".join(["python -m", f"benchmarks.{self.module}", *self.arguments])

    def markdown(self, measured: Any) -> str:
        cells = [[cell(row) for cell in self.columns.values()] for row in self.rows(measured)]
        lines = [list(self.columns), ["---"] * len(self.columns), *cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def all_bars(self, measured: Any) -> list[Bar]:
        return [bar for row in self.rows(measured) for bar in self.bars(row)]

    def ratios(self, measured: Any) -> list[Bar]:
        """The bars that the page shows as a table: those with a target, or all where none has one."""
        bars = self.all_bars(measured)
        return [bar for bar in bars if bar.target is not None] or bars


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f} ms" if value < 100 else f"{value:,.0f} ms"


def _ratio(name: str) -> Callable[[Row], str]:
    return lambda row: "" if row.get(name) is None else f"{row[name]:.3g}"


def _step_columns(*extra: tuple[str, Callable[[Row], str]]) -> dict[str, Callable[[Row], str]]:
    return {
        "model": lambda row: row["model"],
        "ours": lambda row: _milliseconds(row["ours_ms"]),
        "torch.func.jvp": lambda row: _milliseconds(row["func_jvp_ms"]),
        "ratio (quartiles)": lambda row: "{:.1f} ({:.1f}-{:.1f})".format(row["ratio"], *row["ratio_range"]),
        "ratio of CPU time": _ratio("cpu_ratio"),
        **dict(extra),
        "load": lambda row: f"{row['load']:.1f}",
    }


def _microseconds(milliseconds: float) -> str:
    return f"{1e3 * milliseconds:,.0f} µs"


def _models(*names: str) -> list[str]:
    return [part for name in names for part in ("--model", name)]


VIT_T, VIT_S, VIT_B = "vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"
STEP_TARGETS = {VIT_S: 40.0, VIT_B: 70.0}
WHOLE_TARGET = 250.0
LOOKING_TARGETS = {"--help": 2.0, "a wrong option": 2.0, "status": 6.0, "estimate": 6.0, "a refused id": 6.0}
COMPOSER_MB = 300.0


def _times_r(row: Row | None) -> str:
    return "" if row is None else f"{seconds(row['wall_s'])}, {row['ratio']:.3g} R (CPU: {row['cpu_ratio']:.3g})"


TABLES: tuple[Table, ...] = (
    Table(
        name="step",
        module="step",
        arguments=(*_models(VIT_T, VIT_S, VIT_B), "--repetitions", "9", "--whole", "2"),
        rows=lambda measured: measured["step"],
        columns=_step_columns(
            ("whole model", lambda row: _milliseconds(row["whole_ms"])),
            ("ratio", lambda row: f"{row['whole_ratio']:.0f}"),
            ("floor", lambda row: _milliseconds(row["floor_ms"])),
            ("ours / floor", lambda row: f"{row['ours_ms'] / row['floor_ms']:.1f}"),
        ),
        bars=lambda row: [
            Bar(f"{row['model']}, torch.func.jvp", row["ratio"], STEP_TARGETS.get(row["model"])),
            Bar(
                f"{row['model']}, whole model",
                row["whole_ratio"],
                WHOLE_TARGET if row["model"] in STEP_TARGETS else None,
            ),
        ],
        axis="times our step, log scale",
        followed="vit_base_patch16_224, torch.func.jvp",
        log=True,
    ),
    Table(
        name="step-7",
        module="step",
        arguments=(*_models(VIT_B), "--last-blocks", "7", "--repetitions", "3", "--memory"),
        rows=lambda measured: measured["step"],
        columns=_step_columns(
            *(
                (f"{how}, ratio", lambda row, way=way: f"{row['func_jvp_ms'] / row[f'{way}_ms']:.2f}")
                for how, way in (("all kept", "kept"), ("recomputed", "recomputed"))
            ),
            (
                "memory: ours, all kept, recomputed, torch.func.jvp",
                lambda row: ", ".join(
                    f"{row['memory_mib'][way]:,.0f} MiB" for way in ("ours", "kept", "recomputed", "func_jvp")
                ),
            ),
        ),
        bars=lambda row: [
            bar
            for how, way in (("within the budget", "ours"), ("recomputed", "recomputed"), ("all kept", "kept"))
            if way in row["memory_mib"]
            for bar in (
                Bar(f"time, {how}", row["func_jvp_ms"] / row[f"{way}_ms"], 1.5),
                Bar(f"memory, {how}", row["memory_mib"]["func_jvp"] / row["memory_mib"][way], 1.0),
            )
        ],
        axis="torch.func.jvp's, over ours",
        followed="time, within the budget",
    ),
    Table(
        name="solver",
        module="solver",
        arguments=("--assets", ASSETS, "--max-iterations", "400"),
        rows=lambda measured: sorted(measured, key=lambda row: -row["shards"]),
        columns={
            "shards": lambda row: str(row["shards"]),
            "pictures a shard": lambda row: f"{row['samples_a_shard']:,.0f}",
            "steps, preconditioned": lambda row: f"{row['ours']['iterations']:.0f}",
            "steps, plain": lambda row: f"{row['plain']['iterations']:.0f}",
            "seconds, preconditioned": lambda row: seconds(row["ours"]["seconds"]),
            "seconds, plain": lambda row: seconds(row["plain"]["seconds"]),
            "residual, plain": lambda row: f"{row['plain']['residual']:.1e}",
            "ratio": _ratio("ratio"),
            "load": lambda row: f"{row['load']:.1f}",
        },
        bars=lambda row: [Bar(f"{row['shards']} shards", row["ratio"], 3.0 if row["shards"] > 1 else 1.0)],
        axis="times faster than plain conjugate gradient",
        followed="10 shards",
    ),
    Table(
        name="serving",
        module="serving",
        rows=rows.serving,
        columns={
            "model": lambda row: row["model"],
            "trained blocks": lambda row: row["trained"],
            "plain timm, a batch of 16": lambda row: seconds(row["plain_s"]),
            "ours / plain": _ratio("ratio"),
            "load": lambda row: f"{row['load']:.1f}",
        },
        bars=lambda row: [
            Bar(f"{row['model']}, {row['trained']}", row["ratio"], SERVING_TARGETS[row["trained"]], at_least=False)
        ],
        axis="seconds, as a multiple of the plain forward",
        followed="vit_base_patch16_224, last all",
    ),
    Table(
        name="serving-latency",
        module="serving_load",
        arguments=("--parts", "latency"),
        rows=rows.serving_latency,
        columns={
            "quantile": lambda row: row["what"],
            "the run": lambda row: _milliseconds(row["run_ms"]),
            "plain timm": lambda row: _milliseconds(row["plain_ms"]),
            "run / plain": _ratio("ratio"),
            "requests that failed": lambda row: str(row["failed"]),
            "load": lambda row: f"{row['load']:.1f}",
        },
        bars=lambda row: [Bar(row["what"], row["ratio"], row["target"], at_least=False)],
        axis="latency, as a multiple of the plain network's",
        followed="p50",
    ),
    Table(
        name="serving-swaps",
        module="serving_load",
        arguments=("--parts", "swaps", "--replicas", "2"),
        rows=rows.serving_swaps,
        columns={
            "measured": lambda row: row["what"],
            "is": lambda row: f"{row['value']:g}{row.get('of', '')}",
            "target": lambda row: "" if row["target"] is None else f"<= {row['target']:g}",
        },
        bars=lambda row: [Bar(row["what"], row["value"], row["target"], at_least=False)],
        axis="seconds, or a count",
        followed="the same, at most",
    ),
    Table(
        name="forget",
        module="forget",
        arguments=("--assets", ASSETS),
        rows=rows.forget,
        columns={
            "what": lambda row: row["what"],
            "ours": lambda row: seconds(row["ours"]),
            "against": lambda row: f"{row['against']}: {seconds(row['other'])}",
            "ratio": _ratio("ratio"),
        },
        bars=lambda row: [Bar(row["what"], row["ratio"])],
        axis="times faster, log scale",
        followed="retrain of 102 pictures, deit_tiny_patch16_224: to the certificate",
        log=True,
    ),
    Table(
        name="orchestration",
        module="orchestration",
        arguments=("--shards", "10", "100", "1000", "--rows", "0"),
        rows=rows.orchestration,
        columns={"measured": lambda row: row["what"], "is": lambda row: row["is"], "target": lambda row: row["target"]},
        bars=lambda row: [] if row["part"] is None else [Bar(row["what"], row["part"], 1.0, at_least=False)],
        axis="part of what the target allows",
        followed="overhead a shard, of 1,000",
    ),
    Table(
        name="looking",
        module="looking",
        arguments=("--before", "c59a506"),
        rows=lambda measured: measured,
        columns={
            "command": lambda row: row["what"],
            "now": _times_r,
            "target": lambda row: f"{LOOKING_TARGETS[row['what']]:g} R" if row["what"] in LOOKING_TARGETS else "",
            "before": lambda row: _times_r(row.get("before")),
        },
        bars=lambda row: [Bar(row["what"], row["ratio"], LOOKING_TARGETS.get(row["what"]), at_least=False)],
        axis="wall clock, as a multiple of R, log scale",
        followed="status",
        log=True,
    ),
    Table(
        name="composer",
        module="composer",
        arguments=("--before", "c59a506"),
        rows=lambda measured: measured,
        columns={
            "version": lambda row: row["version"],
            "after": lambda row: row["after"],
            "PSS": lambda row: f"{row['pss_mb']:.0f} MB",
            "private": lambda row: f"{row['private_mb']:.0f} MB",
            "holds torch": lambda row: "" if row.get("torch") is None else "yes" if row["torch"] else "no",
        },
        bars=lambda row: [
            Bar(
                f"{row['version']}, after {row['after']}",
                row["pss_mb"],
                COMPOSER_MB if row["version"] == "now" else None,
                at_least=False,
            )
        ],
        axis="MB of the composer's process (PSS)",
        followed="now, after train",
    ),
    Table(
        name="privacy",
        module="privacy",
        rows=lambda measured: measured,
        columns={
            "what": lambda row: row["what"],
            "seconds": lambda row: seconds(row["seconds"]),
            "a second": lambda row: f"{row['per_s'] / 1e6:.0f} million" if "per_s" in row else "",
            "times numpy's normals": _ratio("times_numpy"),
        },
        bars=lambda row: [] if "per_s" in row else [Bar(row["what"], row["seconds"], 1.0, at_least=False)],
        axis="seconds",
        followed="μ and ε of 10,000 shards of 5 generations each",
    ),
    Table(
        name="private-step",
        module="private_step",
        arguments=("--opacus-batch", "16", "--repetitions", "5", "--memory"),
        rows=rows.private_step,
        columns={
            "model": lambda row: row["model"],
            "private, a picture": lambda row: _microseconds(row["private_ms"]),
            "of it noise": lambda row: _microseconds(row["noise_ms"]),
            "without privacy": lambda row: _microseconds(row["without_privacy_ms"]),
            "ratio (quartiles)": lambda row: "{:.2f} ({:.2f}-{:.2f})".format(
                row["private_over_plain"], *row["private_over_plain_range"]
            ),
            "by passes": lambda row: _microseconds(row["passes_ms"]),
            "Opacus": lambda row: _milliseconds(row["opacus_ms"]),
            "Opacus / private": _ratio("opacus_over_private"),
            "Opacus / by passes": _ratio("opacus_over_passes"),
            "memory": lambda row: "" if row["growth_gb"] is None else f"{row['growth_gb']:.2f} GB",
            "load": lambda row: f"{row['load']:.1f}",
        },
        bars=lambda row: [
            Bar(f"{row['model']}, without privacy", row["private_over_plain"], 1.3, at_least=False),
            Bar(f"{row['model']}, Opacus", row["opacus_over_private"], 20.0),
        ],
        axis="private step as a multiple; Opacus as a multiple of it, log scale",
        followed="vit_base_patch16_224, Opacus",
        log=True,
    ),
    Table(
        name="cache",
        module="cache",
        arguments=("--assets", ASSETS),
        rows=rows.cache,
        columns={
            "measured": lambda row: row["what"],
            "ratio": lambda row: f"{row['ratio']:.2f}",
            "target": lambda row: "" if row["target"] is None else f">= {row['target']}",
        },
        bars=lambda row: [Bar(row["short"], row["ratio"], row["target"])],
        axis="ratio",
        followed="build, pictures a second",
    ),
    Table(
        name="precision",
        module="precision",
        arguments=("--assets", ASSETS),
        rows=lambda measured: measured,
        columns={
            "data": lambda row: row["data"],
            "prefix": lambda row: row["prefix"],
            "kept as": lambda row: row["kept"],
            "accuracy": lambda row: f"{row['accuracy']:.2f}",
            "points": lambda row: f"{row['points']:+.2f}",
            "answers changed: better, worse": lambda row: f"{row['changed']}: {row['better']}, {row['worse']}",
            "tokens differ by": lambda row: f"{row['tokens_differ']:.1e}",
        },
        bars=lambda row: [
            Bar(f"{row['data']}: {row['prefix']}, kept as {row['kept']}", abs(row["points"]), 0.3, at_least=False)
        ],
        axis="points of accuracy away from float32",
        followed="cifar: bfloat16, kept as float16",
    ),
    Table(
        name="gpu",
        module="gpu",
        needs_gpu=True,
        rows=rows.gpu,
        columns={
            "model": lambda row: row["model"],
            "what": lambda row: row["what"],
            "pictures a second": lambda row: f"{row['per_s']:,.0f}" if "per_s" in row else "",
            "times plain fine-tuning": lambda row: f"{row['times']:.1f}" if "times" in row else "",
            "of the floor": lambda row: f"{row['of_floor']:.2f}" if "of_floor" in row else "",
            "differs from float32 by": lambda row: f"{row['difference']:.0e}" if row.get("difference") else "",
        },
        bars=lambda row: (
            [Bar(f"{row['model']}: {row['what']}".replace("`", ""), row["times"], row.get("target"))]
            if row.get("times", 1.0) != 1.0
            else []
        ),
        axis="times the pictures a second of plain fine-tuning, log scale",
        followed="vit_large_patch16_224: step, bfloat16, batch 8192",
        log=True,
    ),
)  # fmt: skip

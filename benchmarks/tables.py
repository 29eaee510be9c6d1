"""The tables of benchmarks/README.md: which command makes each, and how its JSON becomes rows and bars. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ASSETS = "assets/"  # in a table's command; the folder of weights and data sets

Row = dict[str, Any]


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
    """name: of the marks in README.md and of the files in results/. module, arguments: the command, without ``--json``.

    rows: what the command printed -> a row a line. columns: header -> cell. bars: what the picture shows, of a row.
    """

    name: str
    module: str
    arguments: Sequence[str] = ()
    rows: Callable[[Any], Sequence[Row]]
    columns: dict[str, Callable[[Row], str]]
    bars: Callable[[Row], Sequence[Bar]]
    axis: str  # what a bar's length is
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


def seconds(value: float) -> str:
    return f"{1e3 * value:.0f} ms" if value < 1 else f"{value:.3g} s"


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


def _private_step(measured: Any) -> list[Row]:
    memory = measured["memory"]
    return [
        {**row, "growth_gb": memory["growth_gb"] if row["model"] == memory["model"] else None}
        for row in measured["private_step"]
    ]


def _models(*names: str) -> list[str]:
    return [part for name in names for part in ("--model", name)]


VIT_T, VIT_S, VIT_B = "vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"
STEP_TARGETS = {VIT_S: 40.0, VIT_B: 70.0}
WHOLE_TARGET = 250.0
GPU_STEP = {"per_s": "per_s", "times": "times_plain", "of_floor": "of_floor"}
GPU_TARGETS = {("vit_large_patch16_224", "bfloat16", 8192): 300.0}
SERVING_TARGETS = {"last 1": 1.0, "last all": 3.3}


def _serving(rows: Any) -> list[Row]:
    return [{**row, "trained": way, "ratio": row[f"ratio of {way}"]} for row in rows for way in SERVING_TARGETS]


def _forget(rows: Any) -> list[Row]:
    found: list[Row] = []

    def add(what: str, ours: float, other: float, against: str) -> None:
        found.append({"what": what, "ours": ours, "other": other, "against": against, "ratio": other / ours})

    for row in rows:
        if "compose" in row:
            anew = next(value for name, value in row.items() if name.startswith("anew_"))
            add(f"drop, {row['compose']}, {row['model']}", row["drop_s"], anew, "composing what is left anew")
        if "fit_s" in row:
            what, one = f"retrain of {row['samples_a_shard']:.0f} pictures, {row['model']}", row["monolith_fit_s"]
            add(f"{what}: the fit", row["fit_s"], one, "fitting the one model anew")
            add(f"{what}: to the certificate", row["forget_to_certificate_s"], one, "fitting the one model anew")
    return found


LOOKING_TARGETS = {"--help": 2.0, "a wrong option": 2.0, "status": 6.0, "estimate": 6.0, "a refused id": 6.0}
COMPOSER_MB = 300.0


def _times_r(row: Row | None) -> str:
    return "" if row is None else f"{seconds(row['wall_s'])}, {row['ratio']:.3g} R (CPU: {row['cpu_ratio']:.3g})"


def _orchestration(rows: Any) -> list[Row]:
    """What is measured, as text and as a part of what its target allows."""
    found: list[Row] = []

    def add(what: str, shown: str, target: str, part: float | None = None) -> None:
        found.append({"what": what, "is": shown, "target": target, "part": part})

    for row in rows:
        if "overhead_ms" in row:
            shards, overhead, beyond = row["shards"], row["overhead_ms"], row["beyond_lanes_start_s"]
            add(f"overhead a shard, of {shards:,}", f"{overhead:.1f} ms", "20 ms", overhead / 20)
            add(f"composer's memory at {shards:,} shards", f"{row['composer_peak_mb']:.0f} MB", "the same for all")
            if shards >= 1000:
                add(f"{shards:,} shards, beyond the lanes' start", seconds(beyond), "120 s", beyond / 120)
        if "ledger_entries" in row:
            replay = row["replay_cold_s"]
            add(f"a ledger of {row['ledger_entries']:,} entries, replayed", seconds(replay), "5 s", replay / 5)
    return found


def _cache(measured: Any) -> list[Row]:
    """Ratios, with what is aimed at."""
    found: list[Row] = []

    def add(what: str, ratio: float, target: float | None, short: str) -> None:
        found.append({"what": what, "ratio": ratio, "target": target, "short": short})

    build, memory, read = (measured.get(part) for part in ("build", "memory", "read"))
    if build:
        forward, passes = "the forward pass alone", build["passes"]
        for name, what, short in (
            ("cpu_ratio", f"CPU time a picture: {forward}, over the whole pass", "build, CPU time"),
            ("ratio", f"pictures a second: the whole pass, over {forward}", "build, pictures a second"),
            ("ratio_to_timm", f"the same, over {forward} with timm's fused attention", "build, over timm's attention"),
        ):
            least, most = (extreme(one[name] for one in passes) for extreme in (min, max))
            add(f"{what}: median of {len(passes)} ({least:.2f}-{most:.2f})", build[name], 0.9, short)
    for row in memory or []:
        whole, first = (sum(one["peak_mb"].values()) for one in (row, memory[0]))
        count = f"{row['pictures']:,} pictures"
        add(f"memory of a pass over {count} ({whole:,.0f} MB), over the first", whole / first, None, f"memory, {count}")
    for one in read or []:
        size = f"{one['bytes'] / one['parts'] / 1e6:.0f} MB"
        for name, how in (("copied", "copied, warm"), ("as float32", "to float32, warm"), ("from disk", "from disk")):
            ratio = one[name]["mapped_of_plain"]
            add(f"reading mapped parts of {size}, {how}, over a plain read", ratio, 0.8, f"reading {size}, {how}")
    return found


def _gpu(measured: Any) -> list[Row]:
    return [row for model in measured["models"] for row in _gpu_rows(model)]


def _gpu_rows(model: Any) -> list[Row]:
    failed = [
        {"model": model["model"], "what": f"{part}: {found['failed']}"}
        for part, found in model.items()
        if "failed" in found
    ]
    if failed:
        return failed  # a run with a part that failed exits with 1, and its table says which
    name, prefix, fits = model["model"], model["prefix"], model["fits"]
    found: list[Row] = [
        {"what": f"prefix, {way}", "per_s": rate, "of_floor": prefix["of_matmul_rate"][way]}
        for way, rate in prefix["per_s"].items()
    ]
    found.append(
        {"what": "`prefix_tokens`: pixels and tokens in the host's memory", "per_s": prefix["prefix_tokens_per_s"]}
    )
    plain = model["plain"]["per_s"]
    best = max(plain, key=plain.__getitem__)
    found.append({"what": f"plain fine-tuning, batch {best}", "per_s": plain[best], "times": 1.0})
    found += [
        {
            "what": f"step, {row['precision']}, batch {row['batch']}",
            **{
                name: row[kept][list(row[kept])[-1]] for name, kept in GPU_STEP.items()
            },  # of the graph, where there is one
            "difference": max(row["difference"]),
            "target": GPU_TARGETS.get((name, row["precision"], row["batch"])),
        }
        for row in model["step"]["rows"]
    ]
    for way, precision in (("adam", "float32"), ("adam_bfloat16", "bfloat16")):
        found.append(
            {
                "what": f"`fit` by Adam, {precision}, {fits['pictures']} pictures, batch {fits['batch']}",
                "per_s": fits[f"{way}_per_s"],
                "times": fits[f"{way}_times_plain"],
                "difference": fits["adam_bfloat16_difference"] if way == "adam_bfloat16" else 0.0,
            }
        )
    found.append(
        {
            "what": f"`fit` by ridge to {fits['ridge_residual']:.0e}, {fits['ridge_s']:.2f} s, {fits['ridge_iterations']} iterations: "
            f"against {fits['epochs']} epochs",
            "times": fits["ridge_times_plain"],
        }
    )
    for precision, row in model["serving"].items():
        if isinstance(row, dict):
            what = f"serving, {precision}, batch {model['serving']['batch']}: {row['ratio_of_times']} of the plain forward's time"
            found.append({"what": what, "per_s": row["composed_per_s"]})
    return [{"model": name, **row} for row in found]


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
            for bar in (
                Bar(f"time, {how}", row["func_jvp_ms"] / row[f"{way}_ms"], 1.5),
                Bar(f"memory, {how}", row["memory_mib"]["func_jvp"] / row["memory_mib"][way], 1.0),
            )
        ],
        axis="torch.func.jvp's, over ours",
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
    ),
    Table(
        name="serving",
        module="serving",
        rows=_serving,
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
    ),
    Table(
        name="forget",
        module="forget",
        arguments=("--assets", ASSETS),
        rows=_forget,
        columns={
            "what": lambda row: row["what"],
            "ours": lambda row: seconds(row["ours"]),
            "against": lambda row: f"{row['against']}: {seconds(row['other'])}",
            "ratio": _ratio("ratio"),
        },
        bars=lambda row: [Bar(row["what"], row["ratio"])],
        axis="times faster, log scale",
        log=True,
    ),
    Table(
        name="orchestration",
        module="orchestration",
        arguments=("--shards", "10", "100", "1000", "--rows", "0"),
        rows=_orchestration,
        columns={"measured": lambda row: row["what"], "is": lambda row: row["is"], "target": lambda row: row["target"]},
        bars=lambda row: [] if row["part"] is None else [Bar(row["what"], row["part"], 1.0, at_least=False)],
        axis="part of what the target allows",
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
        bars=lambda row: [Bar(f"{row['version']}, after {row['after']}", row["pss_mb"], COMPOSER_MB, at_least=False)],
        axis="MB of the composer's process (PSS)",
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
    ),
    Table(
        name="private-step",
        module="private_step",
        arguments=("--opacus-batch", "16", "--repetitions", "5", "--memory"),
        rows=_private_step,
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
        log=True,
    ),
    Table(
        name="cache",
        module="cache",
        arguments=("--assets", ASSETS),
        rows=_cache,
        columns={
            "measured": lambda row: row["what"],
            "ratio": lambda row: f"{row['ratio']:.2f}",
            "target": lambda row: "" if row["target"] is None else f">= {row['target']}",
        },
        bars=lambda row: [Bar(row["short"], row["ratio"], row["target"])],
        axis="ratio",
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
    ),
    Table(
        name="gpu",
        module="gpu",
        needs_gpu=True,
        rows=_gpu,
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
        log=True,
    ),
)  # fmt: skip

"""Rows of a benchmark's table, from the JSON that its command printed. Nothing is measured here."""

from __future__ import annotations

import statistics
from typing import Any

Row = dict[str, Any]


def seconds(value: float) -> str:
    return f"{1e3 * value:.0f} ms" if value < 1 else f"{value:.3g} s"


def private_step(measured: Any) -> list[Row]:
    memory = measured["memory"]
    return [
        {**row, "growth_gb": memory["growth_gb"] if row["model"] == memory["model"] else None}
        for row in measured["private_step"]
    ]


GPU_STEP = {"per_s": "per_s", "times": "times_plain", "of_floor": "of_floor"}
GPU_TARGETS = {("vit_large_patch16_224", "bfloat16", 8192): 300.0}
SERVING_TARGETS = {"last 1": 1.0, "last all": 3.3}


def serving(rows: Any) -> list[Row]:
    return [{**row, "trained": way, "ratio": row[f"ratio of {way}"]} for row in rows for way in SERVING_TARGETS]


def serving_latency(measured: Any) -> list[Row]:
    """A row per quantile: medians over rounds of the run's milliseconds, of the plain network's, and of their ratio."""
    found, rounds = measured["latency"], measured["latency"]["rounds"]
    return [
        {
            "what": which,
            "run_ms": statistics.median(one["run"][f"{which}_ms"] for one in rounds),
            "plain_ms": statistics.median(one["plain"][f"{which}_ms"] for one in rounds),
            "ratio": found[f"{which}_ratio"],
            "target": {"p50": 1.0, "p99": 1.1}[which],
            "failed": sum(one[name]["failed"] for one in rounds for name in one),
            "load": measured["load"],
        }
        for which in ("p50", "p99")
    ]


def serving_swaps(measured: Any) -> list[Row]:
    """Failures, which must not be, and how soon a forget is seen."""
    found = measured["swaps"]
    first, last, out = (found[f"drop_to_{name}_s"] for name in ("first_new_answer", "last_old_answer", "withdrawn"))
    waited = 1.05 * measured["lease"] + measured["drain"]
    return [
        {"what": "requests that failed", "value": found["failed"], "of": f" of {found['n']:,}", "target": 0.0},
        {"what": "answers with a model after it was withdrawn", "value": found["old_answers_after_withdrawal"], "target": 0.0},
        {"what": "from the drop's entry to the first answer that knows it, median", "value": first["median"], "target": 1.0},
        {"what": "the same, at most", "value": first["most"], "target": 1.0},
        {"what": "to the last answer of the model before, at most", "value": last["most"], "target": 1.0},
        {"what": "to `withdrawn`, at most", "value": out["most"], "of": f" (1.05 T + D: {waited:g})", "target": None},
    ]  # fmt: skip


def forget(rows: Any) -> list[Row]:
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


def orchestration(rows: Any) -> list[Row]:
    """Each measurement as text, and as a part of what its target allows."""
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


def cache(measured: Any) -> list[Row]:
    """Ratios, with what is aimed at."""
    found: list[Row] = []

    def add(what: str, ratio: float, target: float | None, short: str) -> None:
        found.append({"what": what, "ratio": ratio, "target": target, "short": short})

    build, memory, read = (measured.get(part) for part in ("build", "memory", "read"))
    if build:
        forward, passes = "the forward pass alone", build.get("passes", [build])
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
    for one in read if isinstance(read, list) else []:  # before 2fcc978 it had another form
        size = f"{one['bytes'] / one['parts'] / 1e6:.0f} MB"
        for name, how in (("copied", "copied, warm"), ("as float32", "to float32, warm"), ("from disk", "from disk")):
            ratio = one[name]["mapped_of_plain"]
            add(f"reading mapped parts of {size}, {how}, over a plain read", ratio, 0.8, f"reading {size}, {how}")
    return found


def gpu(measured: Any) -> list[Row]:
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

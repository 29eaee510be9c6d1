"""The page of a run, and that of all runs: the document beside it (`RUN.json`, `runs.json`), in tables and drawings.

Guarantees: every value carries its place in that document (`shown`). Long tables are cut into pages, so that a run of ten thousand
shards and a thousand requests is one short page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from taft_ray.evaluation.notation import value_of
from taft_ray.pages.document import page
from taft_ray.pages.live import grid
from taft_ray.pages.live.curve import accuracy_curve
from taft_ray.pages.live.left_the_house import recalls, request_link, served
from taft_ray.pages.shown import Shown, Table, digest, marked, table, time_of, title

REQUESTS, SHARDS, OWNERS = 20, 100, 100  # rows of one page of a table
_COSTS = (
    "training_seconds", "sum_of_fits", "critical_path", "work_seconds", "lane_use", "forgotten_samples", "forget_seconds_median",
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A page of a long list. name: of its parameter in the address. items: (place in the list, entry)."""

    name: str
    number: int
    pages: int
    total: int
    items: list[tuple[int, Any]]
    others: Mapping[str, int]

    def link(self, number: int) -> str:
        """The address of another page, which leaves the other lists where they are."""
        asked = {**self.others, self.name: number}
        return "?" + "&".join(f"{name}={value}" for name, value in sorted(asked.items()) if value > 1)


def count(entries: Sequence[Any], size: int) -> int:
    """The number of pages of a list."""
    return max(1, math.ceil(len(entries) / size))


def nearest(number: int, entries: Sequence[Any], size: int) -> int:
    """The page of that number, or the nearest that there is."""
    return min(max(number, 1), count(entries, size))


def piece(
    name: str, entries: Sequence[Any], number: int, size: int, others: Mapping[str, int], *, last_first: bool = False
) -> Piece:
    """One page of ``entries``; the nearest there is, where there is none of that number."""
    pages, number = count(entries, size), nearest(number, entries, size)
    places = range(len(entries) - 1, -1, -1) if last_first else range(len(entries))
    items = [(at, entries[at]) for at in places[(number - 1) * size : number * size]]
    rest = {key: value for key, value in others.items() if key != name}
    return Piece(name, number, pages, len(entries), items, rest)


def run_page(
    document: dict[str, Any], asked: Mapping[str, int] | None = None, *, seen: str = "", may_forget: bool = False
) -> str:
    """The page of a run's document. asked: which page of "requests" and "shards" is shown. seen: the state that it shows."""
    shown, run = Shown(document), str(document["run"])
    common = {"document": document, "s": shown, "name": last_part(run), "may_forget": may_forget, "seen": seen}
    if "status" not in document:
        return page("live_problem.html", **common)
    shards = document["status"].get("shards", [])
    every, wanted = document["requests"].get("all", []), asked or {}
    pages = {
        "requests": nearest(wanted.get("requests", 1), every, REQUESTS),
        "shards": nearest(wanted.get("shards", 1), shards, SHARDS),
    }
    requests = piece("requests", every, pages["requests"], REQUESTS, pages, last_first=True)
    some = piece("shards", shards, pages["shards"], SHARDS, pages)
    return page(
        "live_run.html",
        **common,
        requests=requests,
        requests_table=_requests(document, requests),
        shards=some,
        shards_table=_shards(some),
        grid=grid.shard_grid(shards) if shards else None,
        legend=[(grid.swatch(kind), grid.name_of(kind), count) for kind, count in grid.kinds(shards)],
        accuracy=_accuracy(document),
        recalls_table=recalls(document),
        served_table=served(document),
        spent_table=_spent(document),
        costs=_costs(document),
        audit_table=_audit(document),
        reconstruction_table=_reconstruction(document),
        trouble=[
            (part, document[part]["problem"])
            for part in ("status", "requests", "recalls", "release", "privacy", "report")
            if document[part] and "problem" in document[part]
        ],
    )


def runs_page(document: dict[str, Any], seen: str = "") -> str:
    """The page of all runs: the answer of `list`, each run with its name in addresses. seen: as of `run_page`."""
    rows = []
    for i, run in enumerate(document["runs"]):
        one = Shown(run, f"/runs/{i}")
        rows.append(
            [
                Markup('<a href="/runs/{}">{}</a>').format(run["name"], last_part(run["run"])),
                one.text("model", "–"),
                one.at("shards", "whole", "–"),
                one.at("samples", "whole", "–"),
                one.at("open_requests", "whole", "–"),
                digest(run["composed"], f"/runs/{i}/composed") if run["composed"] else "–",
                Markup('<strong class="bad">{}</strong>').format(one.text("problem")) if run["problem"] else "readable",
            ]
        )
    head = ("Run", "Model", "Shards", "Samples", "Open requests", "Composed model", "State")
    made = table("Runs", head, rows, numeric=(2, 3, 4), prose=(6,))
    return page("live_runs.html", document=document, s=Shown(document), runs=made, seen=seen)


def owners_page(document: dict[str, Any], owners: dict[str, Any], asked: Mapping[str, int]) -> str:
    """The page of a run's owners."""
    some = piece("owners", owners["owners"], asked.get("owners", 1), OWNERS, asked)
    rows = [
        [
            digest(one["owner"], f"/owners/{at}/owner") if one["owner"] else "not named: the key of the hashes is gone",
            marked(one["samples"], f"/owners/{at}/samples", f"{one['samples']:,}"),
            marked(one["shards"], f"/owners/{at}/shards", f"{one['shards']:,}"),
        ]
        for at, one in some.items
    ]
    gone = [
        [digest(owner, f"/forgotten/{i}"), request_link(document["name"], request)]
        for i, (owner, request) in enumerate(owners["forgotten"].items())
    ]
    return page(
        "live_owners.html",
        document=document,
        name=last_part(str(document["run"])),
        o=Shown(owners),
        owners=some,
        owners_table=table(
            "Owners, the most samples first", ("Owner (keyed hash)", "Samples", "Shards"), rows, numeric=(1, 2)
        ),
        gone=table("Owners that were forgotten", ("Owner (keyed hash)", "Request"), gone),
    )


def last_part(uri: str) -> str:
    """The last part of a run's address: what a person calls it."""
    return uri.rstrip("/").rpartition("/")[2] or uri


def _requests(document: dict[str, Any], some: Piece) -> Table:
    planned = {one["request"]: one for one in document["status"].get("requests", [])}
    rows = []
    for at, request in some.items:
        one = Shown(request, f"/requests/all/{at}")
        runs_at = planned.get(request["request"], {}).get("runs_at")
        rows.append(
            [
                request_link(document["name"], request["request"]),
                one.text("mode"),
                one.at("samples", "whole"),
                one.count("shards"),
                time_of(request["asked"], f"/requests/all/{at}/asked"),
                time_of(request["deadline"], f"/requests/all/{at}/deadline") if request["deadline"] else "at once",
                one.at("removed", "whole"),
                progress(request, runs_at),
            ]
        )
    head = ("Request", "Mode", "Samples", "Shards", "Asked", "Deadline", "Objects removed", "Progress")
    return table("Requests to forget, the newest first", head, rows, numeric=(2, 3, 6), prose=(7,))


def progress(request: Mapping[str, Any], runs_at: float | None = None) -> Markup:
    """How far a request is: a bar, and the last step that is done in words."""
    steps = request["steps"]
    done, most = sum(steps.values()), len(steps)
    last = [name for name, is_done in steps.items() if is_done][-1]
    words = Markup(last)
    if request["waiting"]:
        words = Markup("waits until {}").format(time_of(runs_at, "runs_at")) if runs_at else Markup("waits")
    elif request["certificate"] is None and request["to_fit"]:
        words += Markup("; {} of {} shards fitted again").format(request["fitted"], request["to_fit"])
        done, most = done + request["fitted"], most + request["to_fit"]
    elif request["certificate"] is not None:
        return words + (Markup(" and signed") if request["signed"] else Markup(""))
    return Markup('<progress max="{}" value="{}" aria-label="steps done"></progress> {}').format(most, done, words)


def _shards(some: Piece) -> Table:
    rows = []
    for at, shard in some.items:
        one = Shown(shard, f"/status/shards/{at}")
        rows.append(
            [
                one.at("shard", "plain"),
                one.text("state"),
                one.at("generation", "whole"),
                one.at("samples", "whole"),
                digest(shard["delta"], f"/status/shards/{at}/delta") if shard["delta"] else "–",
            ]
        )
    return table("Shards", ("Shard", "State", "Generation", "Samples", "Delta"), rows, numeric=(2, 3))


def _accuracy(document: dict[str, Any]) -> dict[str, Any]:
    """Accuracy after each forget that was measured, on the pictures of the latest evaluation."""
    forgets = document["report"].get("forgets", [])
    latest = next((one["evaluated_after"] for one in reversed(forgets) if one["evaluated_after"]), None)
    points: list[tuple[int, float]] = []
    rows, gone = [], 0
    for i, one in enumerate(forgets):
        if not points and one["accuracy_before"] is not None:
            points.append((gone, one["accuracy_before"]))
        gone += one["samples"]
        if one["accuracy_after"] is None or one["evaluated_after"] != latest:
            continue
        points.append((gone, one["accuracy_after"]))
        at = Shown(one, f"/report/forgets/{i}")
        rows.append(
            [
                request_link(document["name"], one["request"]),
                f"{gone:,}",
                at.at("accuracy_before", "percent", "–"),
                at.at("accuracy_after", "percent"),
            ]
        )
    head = ("After request", "Samples forgotten", "Before", "After")
    made = table("Accuracy of the latest requests that were measured", head, rows[-REQUESTS:][::-1], numeric=(1, 2, 3))
    return {"drawn": accuracy_curve(points), "table": made, "on": latest}


def _spent(document: dict[str, Any]) -> Table | None:
    """The shards that have spent the most."""
    told = document["privacy"]
    if not told or "problem" in told:
        return None
    order = sorted(range(len(told["shards"])), key=lambda at: -told["shards"][at]["epsilon"])[:REQUESTS]
    rows = []
    for at in order:
        one = Shown(told["shards"][at], f"/privacy/shards/{at}")
        rows.append(
            [one.at("shard", "plain"), one.text("state"), one.at("fits", "whole"), one.at("epsilon"), one.at("mu")]
        )
    head = ("Shard", "State", "Private fits", "ε", "μ")
    return table(
        f"Shards that have spent the most, {len(rows)} of {len(told['shards']):,}", head, rows, numeric=(2, 3, 4)
    )


def _costs(document: dict[str, Any]) -> list[tuple[str, Markup]]:
    derived = document["report"].get("derived", {})
    found = []
    for name in _COSTS:
        number = derived.get(name)
        if number is not None and number["value"] is not None:
            found.append(
                (title(number["label"]), marked(number["value"], f"/report/derived/{name}/value", value_of(number)))
            )
    return found


def _audit(document: dict[str, Any]) -> Table:
    rows = []
    answer = document["outcomes"]["audit"].get("answer") or {}
    for name, target in (answer.get("targets") or {}).items():
        one = Shown(target, f"/outcomes/audit/answer/targets/{name}")
        rows.append([name, one.at("auc"), one.at("p_value"), one.at("power.detects", "percent"), one.text("remembers")])
    head = ("Attack on", "AUC", "p-value", "Members found (power)", "Remembers")
    return table("The attack on what was forgotten", head, rows, numeric=(1, 2, 3))


def _reconstruction(document: dict[str, Any]) -> Table:
    rows = []
    answer = document["outcomes"]["audit-reconstruct"].get("answer") or {}
    for i, attack in enumerate(answer.get("attacks", [])):
        one = Shown(attack, f"/outcomes/audit-reconstruct/answer/attacks/{i}")
        rows.append(
            [one.text("way"), one.at("batch", "plain"), one.text("known"), one.at("cosine"), one.at("first", "percent")]
        )
    head = ("Way to forget", "At once", "Attacker knows", "Cosine", "Found")
    return table("Deleted samples, recovered from the models before and after", head, rows, numeric=(1, 3, 4))

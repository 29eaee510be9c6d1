"""Files that left the house with their recalls, and models that requests were answered with, for the page of a run."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from taft_ray.pages.shown import Shown, Table, code, digest, table, time_of

MODELS = 100  # rows of the table of served models


def request_link(run: str, request: Any) -> Markup:
    return Markup('<a href="/runs/{}/requests/{}"><code>{}</code></a>').format(run, request, request)


def recalls(document: dict[str, Any]) -> Table:
    rows = []
    for i, release in enumerate(document["recalls"].get("releases", [])):
        one, at = Shown(release, f"/recalls/releases/{i}"), f"/recalls/releases/{i}"
        bad = release["status"] in ("recalled", "expired")
        rows.append(
            [
                code(release["release"], f"{at}/release"),
                one.text("what"),
                Markup('<strong class="{}">{}</strong>').format("bad" if bad else "good", one.text("status")),
                time_of(release["released"], f"{at}/released"),
                one.text("to", "not said"),
                one.text("contact", "not said"),
                time_of(release["until"], f"{at}/until") if release["until"] else "no date",
                Markup(", ").join(request_link(document["name"], name) for name in release["recalled_by"]) or "–",
                one.count("notified") if release["notified"] else "told otherwise" if release.get("told") else "no",
                digest(release["digest"], f"{at}/digest"),
            ]
        )
    head = (
        "Release",
        "What",
        "Status",
        "Released",
        "To",
        "Contact",
        "Until",
        "Recalled by",
        "Notices taken",
        "SHA-256",
    )
    return table("Files that left the house", head, rows, prose=(4, 5))


def served(document: dict[str, Any]) -> Table:
    """A row per model that a serving may have answered with, the newest serving first."""
    rows = []
    servings = document["recalls"].get("servings", [])
    for i in range(len(servings) - 1, -1, -1):
        for j, model in enumerate(servings[i]["models"]):
            at = f"/recalls/servings/{i}/models/{j}"
            one, answers = Shown(model, at), model["status"] == "answering"
            rows.append(
                [
                    code(servings[i]["serving"], f"/recalls/servings/{i}/serving"),
                    one.text("mode", "not known"),
                    digest(model["digest"], f"{at}/digest"),
                    Markup('<strong class="good">{}</strong>').format(one.text("status"))
                    if answers
                    else one.text("status"),
                    time_of(model["since"], f"{at}/since") if model["since"] else "not known",
                    time_of(model["until"], f"{at}/until") if model["until"] else "–",
                    Markup(", ").join(request_link(document["name"], name) for name in model["withdrawn_by"]) or "–",
                ]
            )
    head = ("Serving", "Composition", "Model", "Status", "Since", "Until", "Withdrawn by")
    return table("Models that requests were answered with", head, rows[:MODELS])

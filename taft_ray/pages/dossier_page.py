"""A dossier as a page for a regulator or a customer: the facts of dossier.json, each with its place in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from taft_ray.pages.document import page
from taft_ray.pages.shown import NONE, Shown, code, digest, marked, plain, table, time_of


def dossier_page(told: Mapping[str, Any], pdf: str | None = None) -> str:
    """The page of a dossier's facts. pdf: a sentence on the printed copy."""
    return page(
        "dossier.html",
        told=told,
        d=Shown(dict(told)),
        pdf=pdf,
        requests=_requests(told),
        releases=_releases(told),
        servings=_servings(told),
        outcomes=_outcomes(told),
        sources=_sources(told),
        checks=_checks(told),
        reasons=_reasons(told),
    )


def _requests(told: Mapping[str, Any]) -> Any:
    rows = []
    for i, one in enumerate(told["requests"]):
        at, certificate = f"/requests/{i}", one["certificate"]
        signature = certificate and certificate["signature"]
        rows.append(
            [
                code(one["request"], f"{at}/request"),
                marked(one["mode"], f"{at}/mode"),
                marked(one["samples"], f"{at}/samples", f"{one['samples']:,}"),
                _when(one["requested"], f"{at}/requested"),
                _when(one["issued"], f"{at}/issued"),
                _when(one["deadline"], f"{at}/deadline"),
                NONE if one["deadline_met"] is None else plain(one["deadline_met"], f"{at}/deadline_met"),
                _file(certificate["file"], f"{at}/certificate/file") if certificate else NONE,
                digest(signature["fingerprint"], f"{at}/certificate/signature/fingerprint") if signature else NONE,
            ]
        )
    head = ("Request", "How", "Samples", "Asked", "Certified", "Deadline", "Met", "Certificate", "Signed by")
    return table("Requests to forget", head, rows, numeric=(2,))


def _file(name: str, where: str) -> Markup:
    """A link to the page of a certificate, by the name of its JSON file."""
    return Markup('<a href="{}">{}</a>').format(f"{name.removesuffix('.json')}.html", code(name, where))


def _when(value: Any, where: str) -> Markup:
    return NONE if value is None else time_of(value, where)


def _releases(told: Mapping[str, Any]) -> Any:
    rows = [
        [
            code(one["release"], f"/releases/{i}/release"),
            marked(one["what"], f"/releases/{i}/what"),
            marked(one["status"], f"/releases/{i}/status"),
            time_of(one["released"], f"/releases/{i}/released"),
            NONE if one["to"] is None else marked(one["to"], f"/releases/{i}/to"),
            _when(one["until"], f"/releases/{i}/until"),
            plain(one["recalled_by"], f"/releases/{i}/recalled_by") if one["recalled_by"] else NONE,
            plain(one["told"], f"/releases/{i}/told"),
        ]
        for i, one in enumerate(told["releases"])
    ]
    return table(
        "Files that left the house",
        ("Release", "What", "Status", "Released", "To", "Until", "Recalled by", "Told"),
        rows,
    )


def _outcomes(told: Mapping[str, Any]) -> Any:
    """A row per check whose outcome was recorded in the run, and how far the ledger has gone on since."""
    rows = [
        [
            marked(one["verb"], f"/outcomes/{i}/verb"),
            NONE if one["ok"] is None else plain(one["ok"], f"/outcomes/{i}/ok"),
            _when(one["made"], f"/outcomes/{i}/made"),
            marked(one["number"], f"/outcomes/{i}/number", f"{one['number']:,}"),
            "of another ledger"
            if one["since"] is None
            else marked(one["since"], f"/outcomes/{i}/since", f"{one['since']:,}"),
        ]
        for i, one in enumerate(told["outcomes"])
    ]
    head = ("Check", "Ok", "Recorded", "Of ledger entry", "Entries since")
    return table("Outcomes that were recorded in the run", head, rows, numeric=(3, 4))


def _servings(told: Mapping[str, Any]) -> Any:
    """A row per model that a serving may have answered with."""
    rows = [
        [
            code(serving["serving"], f"/servings/{i}/serving"),
            digest(model["digest"], f"/servings/{i}/models/{j}/digest"),
            marked(model["status"], f"/servings/{i}/models/{j}/status"),
            _when(model["since"], f"/servings/{i}/models/{j}/since"),
            _when(model["until"], f"/servings/{i}/models/{j}/until"),
            plain(model["withdrawn_by"], f"/servings/{i}/models/{j}/withdrawn_by") if model["withdrawn_by"] else NONE,
        ]
        for i, serving in enumerate(told["servings"])
        for j, model in enumerate(serving["models"])
    ]
    head = ("Serving", "Model", "Status", "Since", "Until", "Withdrawn by")
    return table("Models that requests were answered with", head, rows)


def _sources(told: Mapping[str, Any]) -> Any:
    rows = [[code(one["data"], f"/data/sources/{i}/data")] for i, one in enumerate(told["data"]["sources"])]
    return table("Sources", ("Address",), rows)


def _checks(told: Mapping[str, Any]) -> Any:
    checks = (told["verification"] or {"checks": {}})["checks"]
    rows = [
        [name, marked(count, f"/verification/checks/{str(name).replace('~', '~0').replace('/', '~1')}", f"{count:,}")]
        for name, count in checks.items()
    ]
    return table("Checked from storage", ("Check", "How many"), rows, numeric=(1,))


def _reasons(told: Mapping[str, Any]) -> Any:
    reasons = (told["data"]["rejected"] or {"reasons": {}})["reasons"]
    rows = [
        [
            reason,
            marked(count, f"/data/rejected/reasons/{str(reason).replace('~', '~0').replace('/', '~1')}", f"{count:,}"),
        ]
        for reason, count in reasons.items()
    ]
    return table("Rejected rows, by reason", ("Reason", "Rows"), rows, numeric=(1,), prose=(0,))

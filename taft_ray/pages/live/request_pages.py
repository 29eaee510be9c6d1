"""The pages of one request: its certificate with a check in the browser, and the form that forgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taft_ray.pages.document import page
from taft_ray.pages.live.run_page import last_part, progress
from taft_ray.pages.shown import Shown


@dataclass(frozen=True)
class Asked:
    """The fields of the form of a forget, as they were filled in."""

    ids: str = ""
    mode: str = ""
    deadline: str = ""


def request_page(document: dict[str, Any], at: int, certificate: dict[str, Any] | None, seen: str = "") -> str:
    """A request. certificate: as it is stored, None before the end or where it cannot be read. seen: as of `run_page`."""
    request = document["requests"]["all"][at]
    return page(
        "live_request.html",
        document=document,
        seen=seen,
        name=last_part(str(document["run"])),
        request=request,
        r=Shown(request, f"/requests/all/{at}"),
        certificate=certificate,
        progress=progress(request),
    )


def forget_page(
    run: Mapping[str, str],
    csrf: str,
    modes: Sequence[str],
    asked: Asked,
    *,
    estimate: Mapping[str, Any] | None = None,
    told: str | None = None,
    plan: str | None = None,
    problem: str | None = None,
) -> str:
    """The form; with an ``estimate`` what it would do, and with a ``plan`` the field that confirms it.

    run: its "name" and "run". told: the estimate for a person. problem: why the last try was refused.
    """
    return page(
        "live_forget.html",
        run=run,
        name=last_part(run["run"]),
        csrf=csrf,
        modes=modes,
        asked=asked,
        estimate=estimate,
        told=told,
        plan=plan,
        problem=problem,
    )


def job_page(run: Mapping[str, str], job: Mapping[str, Any], request: Mapping[str, Any] | None, seen: str = "") -> str:
    """A forget that was begun here. request: how far it is, by the ledger. seen: as of `run_page`."""
    return page(
        "live_job.html",
        run=run,
        name=last_part(run["run"]),
        job=job,
        seen=seen,
        request=request,
        progress=None if request is None else progress(request),
    )


def token_page(problem: str | None = None) -> str:
    """The form that asks for the token."""
    return page("live_token.html", problem=problem)


def error_page(heading: str, why: str) -> str:
    """An error as a page."""
    return page("live_error.html", heading=heading, why=why)

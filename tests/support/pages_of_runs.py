"""A place with toy runs, and a browser's requests to their pages without a socket."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

from proved import KEY
from released import toy_export, toy_forget, trained_toy
from toy_run import EVERYONE

from taft_ray.proof.signature import sign_certificate
from taft_ray.run.register import Recipient
from taft_ray.web.access import Access
from taft_ray.web.forgetting import Forgets
from taft_ray.web.reading import Readings, name_of
from taft_ray.web.routes import Request, Response, Site

TOKEN = "correct-horse-battery-staple"
HERE = {"host": "localhost:8550"}
HOSTILE = "pets & <img src=x onerror=alert(1)> \"'{{7*7}}"
RECIPIENT = Recipient(to="<script>alert(2)</script>", contact="a@b.example'><b>")


def place(folder: Path) -> dict[str, str]:
    """A run with a hostile name, an export that is recalled, a signed certificate and a drop; and a damaged run.

    Names of the page: "run", "damaged"; requests: "signed", "dropped".
    """
    run = trained_toy(folder / HOSTILE)
    toy_export(run, folder / "a.pt2", recipient=RECIPIENT)
    signed = toy_forget(run, [EVERYONE[0]], "retrain")["request"]
    sign_certificate(str(run), signed, KEY)
    dropped = toy_forget(run, [EVERYONE[5]], "drop")["request"]
    damaged = trained_toy(folder / "damaged")
    entry = damaged / "ledger" / f"{2:020d}.json"
    entry.write_bytes(entry.read_bytes().replace(b"1", b"2", 1))
    return {
        "run": name_of(str(run)),
        "damaged": name_of(str(damaged)),
        "signed": signed,
        "dropped": dropped,
        "folder": str(run),
    }


def site(folder: Path, *, token: str | None = None, allow_forget: bool = False) -> Site:
    return Site(Readings(str(folder)), Access("127.0.0.1", token), Forgets() if allow_forget else None)


def get(pages: Site, target: str, **headers: str) -> Response:
    return pages.answer(Request("GET", target, {**HERE, **{name.replace("_", "-"): v for name, v in headers.items()}}))


def post(pages: Site, target: str, form: dict[str, str], **headers: str) -> Response:
    given = {**HERE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return pages.answer(Request("POST", target, given, form))


def cookie_of(pages: Site) -> str:
    """The cookie of a session that the token began."""
    answer = post(pages, "/token", {"token": TOKEN})
    assert answer.status == 303
    return answer.headers["Set-Cookie"].partition(";")[0]


def body(form: dict[str, str]) -> bytes:
    return urlencode(form).encode()

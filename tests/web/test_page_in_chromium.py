"""The page in a real browser: no error in its console, a certificate checked there, and a forget from the form to the certificate."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import Browser, browser
from chromium import needs_chromium
from pages_of_runs import TOKEN, place
from plain import plain_train
from tiny import sample_id

from taft_ray.web.reading import name_of
from taft_ray.web.server import PageServer, page_server

pytestmark = needs_chromium
KEPT = os.environ.get("TAFT_RAY_SCREENSHOTS")


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[PageServer]:
    with page_server(str(folder), port=0, **options) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def keep(page: Browser, name: str) -> None:
    if KEPT:
        page.picture(Path(KEPT) / f"page-{name}.png")


def checked(page: Browser) -> str:
    page.until("document.getElementById('checker').dataset.done")
    return page.text("#checker")


def again(page: Browser) -> str:
    page.ask("delete document.getElementById('checker').dataset.done")
    page.ask("document.querySelector('#check-form button').click()")
    return checked(page)


def test_pages_fit_every_window_and_a_changed_certificate_is_found(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    known = place(runs)
    with served(runs) as server, browser(tmp_path) as page:
        paths = {
            "runs": "",
            "run": f"runs/{known['run']}",
            "damaged": f"runs/{known['damaged']}",
            "request": f"runs/{known['run']}/requests/{known['signed']}",
            "owners": f"runs/{known['run']}/owners",
        }
        for name, path in paths.items():
            for width, dark in ((400, False), (1400, True)):
                page.look(width, dark=dark)
                page.go(server.url + path)
                page.ask("document.querySelectorAll('details').forEach((one) => one.open = true)")
                assert page.ask("document.documentElement.scrollWidth") <= width, (name, width)
                assert page.ask("document.querySelectorAll('main img, main script').length") == 0
                keep(page, f"{name}-{width}")
        page.go(server.url + paths["request"])
        told = checked(page)
        assert "It holds" in told
        assert told.count("Signature: Ed25519") == 1
        assert "have every step and this certificate" in told
        page.key("Tab", 9)
        assert page.ask("document.activeElement.textContent") == "Skip to the content"
        page.type("#known", "sha256:" + "0" * 64)
        assert "not by the key that you know" in again(page)
        page.ask("document.getElementById('known').value = ''")
        assert "It holds" in again(page)

        folder = Path(known["folder"])
        certificate = next(one for one in (folder / "certificates").glob(f"{known['signed']}-*.json"))
        whole = certificate.read_bytes()
        certificate.write_bytes(whole.replace(b'"samples":1', b'"samples":2', 1))
        assert "It does not hold" in again(page)
        keep(page, "changed-certificate")
        certificate.write_bytes(whole)
        signature = folder / "certificates" / f"{known['signed']}.signature.json"
        signed = signature.read_text()
        at = signed.index('"signature":"') + 20
        signature.write_text(signed[:at] + ("0" if signed[at] != "0" else "1") + signed[at + 1 :])
        assert "was not made by this key" in again(page)
        signature.write_text(signed)
        entry = sorted((folder / "ledger").glob("*.json"))[-1]
        entry.write_bytes(entry.read_bytes().replace(b'"time":"20', b'"time":"21', 1))
        assert "of the ledger: its digest is" in again(page)
        assert page.errors == []


def test_a_forget_from_the_form_to_the_certificate(tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]) -> None:
    run = tmp_path / "runs" / "pets"
    plain_train(run, spec_of(parquet, solver="additive", compose="additive", features=48))
    with served(tmp_path / "runs", token=TOKEN, allow_forget=True) as server, browser(tmp_path) as page:
        page.look(1400)
        page.go(server.url)
        page.type("#token", TOKEN)
        page.press("button")
        page.go(f"{server.url}runs/{name_of(str(run))}")
        page.press("a.button")
        page.type("#ids", f"{sample_id(3)}\n{sample_id(4)}")
        keep(page, "form")
        page.press("main form button")
        assert "2 samples" in page.text("pre")
        page.type("#count", "3")
        keep(page, "estimate")
        page.press(".danger")
        assert "expected 2" in page.text("[role=alert]")
        page.type("#count", "2")
        page.press(".danger")
        keep(page, "under-way")
        page.until("!!document.getElementById('result')", 120)  # by events alone
        keep(page, "done")
        page.press("#result")
        assert "It holds" in checked(page)
        keep(page, "certificate")
        # the token's page and a refused count are answers with an error status, which the console tells
        assert [one for one in page.errors if "status of 40" not in one] == []

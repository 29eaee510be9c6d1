"""Access to the page: a token for whatever can be reached from elsewhere, forms of its own sessions alone, this machine's names alone."""

from pathlib import Path

import pytest
from pages_of_runs import HERE, TOKEN, cookie_of, get, place, post, site
from released import trained_toy
from toy_run import EVERYONE

from taft_ray.errors import UsageError
from taft_ray.web.access import Access, read_token
from taft_ray.web.reading import name_of
from taft_ray.web.server import page_server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return trained_toy(tmp_path / "runs" / "pets")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "pages.example"])
def test_a_host_that_others_reach_needs_a_token(run: Path, host: str) -> None:
    with pytest.raises(UsageError, match="--token-file"):
        page_server(str(run.parent), host=host, port=0)
    assert Access(host, TOKEN).needs_token


def test_the_form_needs_a_token(run: Path) -> None:
    with pytest.raises(UsageError, match="--allow-forget"):
        page_server(str(run.parent), port=0, allow_forget=True)


@pytest.mark.parametrize("content", ["", "short", "with spaces in between", "ünïcödé-which-no-header-has"])
def test_a_token_that_is_no_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="--token-file"):
        read_token(str(tmp_path / "token"))
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(str(tmp_path / "token")) == TOKEN


def test_nothing_is_shown_without_the_token(run: Path) -> None:
    pages = site(run.parent, token=TOKEN, allow_forget=True)
    name = name_of(str(run))
    for target in (
        "/",
        "/runs.json",
        f"/runs/{name}",
        f"/runs/{name}.json",
        f"/runs/{name}/ledger",
        f"/runs/{name}/forget",
    ):
        for headers in (
            {},
            {"authorization": f"Bearer {TOKEN}x"},
            {"authorization": TOKEN},
            {"cookie": "taft_ray_page=x"},
        ):
            answer = get(pages, target, **headers)
            assert answer.status == 401, (target, headers)
            assert b"pets" not in answer.body
        assert get(pages, target, authorization=f"Bearer {TOKEN}").status == 200
    assert get(pages, "/static/page.css").status == 200


def test_a_session_is_for_this_site_and_for_no_script(run: Path) -> None:
    pages = site(run.parent, token=TOKEN)
    assert post(pages, "/token", {"token": "wrong-wrong-wrong-wrong"}).status == 401
    answer = post(pages, "/token", {"token": TOKEN}, x_forwarded_proto="https")
    flags = answer.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Secure", "Path=/"} <= set(flags)
    assert TOKEN not in answer.headers["Set-Cookie"]
    assert get(pages, "/", cookie=flags[0]).status == 200


def test_another_name_of_this_machine_is_refused(run: Path) -> None:
    """A site whose name was pointed at this machine reads nothing."""
    pages = site(run.parent)
    for host in ("localhost:8550", "127.0.0.1:8550", "[::1]:8550", "localhost"):
        assert get(pages, "/", host=host).status == 200
    for host in ("evil.example:8550", "127.0.0.1.evil.example", "localhost.evil.example:1", ""):
        assert get(pages, "/", host=host).status == 421


def test_a_form_of_another_site_or_session_counts_for_nothing(run: Path) -> None:
    pages = site(run.parent, token=TOKEN, allow_forget=True)
    target, cookie, other = f"/runs/{name_of(str(run))}/forget", cookie_of(pages), cookie_of(pages)
    csrf = pages.access.csrf(cookie.partition("=")[2])
    form = {"ids": EVERYONE[0], "mode": "drop", "csrf": csrf}
    assert post(pages, target, form, cookie=cookie).status == 200
    assert post(pages, target, form, cookie=cookie, origin=f"http://{HERE['host']}").status == 200
    refused = (
        ({**form, "csrf": ""}, {"cookie": cookie}),
        (form, {"cookie": other}),
        (form, {"authorization": f"Bearer {TOKEN}"}),
        (form, {"cookie": cookie, "origin": "https://evil.example"}),
        (form, {"cookie": cookie, "origin": "null"}),
        (form, {"cookie": cookie, "sec-fetch-site": "cross-site"}),
    )
    for given, headers in refused:
        assert post(pages, target, given, **headers).status == 403, headers


def test_a_page_is_read_only_unless_it_is_asked(tmp_path: Path) -> None:
    known = place(tmp_path)
    pages = site(tmp_path)
    assert get(pages, f"/runs/{known['run']}/forget").status == 404
    assert post(pages, f"/runs/{known['run']}/forget", {"ids": EVERYONE[1], "csrf": ""}).status == 404
    assert b'/forget"' not in get(pages, f"/runs/{known['run']}").body

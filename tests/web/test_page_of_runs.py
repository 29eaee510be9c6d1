"""The page of runs: what is on it, where each value comes from, and that nothing is changed by looking."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages_of_runs import HOSTILE, RECIPIENT, TOKEN, cookie_of, get, place, post, site
from plain import plain_train
from released import toy_forget, trained_toy
from tiny import CLASSES
from toy_run import EVERYONE, OWNERS

import taft_ray as tr
from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.pages.live.run_page import run_page
from taft_ray.plans.privacy import Privacy
from taft_ray.web.document import document
from taft_ray.web.reading import Readings, name_of


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("place")
    return {**place(folder), "place": str(folder)}


def targets(known: dict[str, str]) -> list[str]:
    run = f"/runs/{known['run']}"
    certificates = [
        f"{run}/certificates/{known[one]}{form}" for one in ("signed", "dropped") for form in (".json", ".html")
    ]
    return [
        "/", "/runs.json", run, f"{run}.json", f"{run}/owners", f"{run}/ledger", f"{run}/requests/{known['signed']}",
        f"{run}/requests/{known['dropped']}", f"{run}/certificates/{known['signed']}.signature.json", *certificates,
        f"/runs/{known['damaged']}", f"/runs/{known['damaged']}.json",
    ]  # fmt: skip


def test_looking_changes_nothing(known: dict[str, str]) -> None:
    def files() -> dict[str, bytes]:
        return {str(one): one.read_bytes() for one in Path(known["place"]).rglob("*") if one.is_file()}

    before = files()
    for target in targets(known):
        assert get(site(Path(known["place"])), target).status == 200, target
    assert files() == before


def test_a_damaged_run_leaves_the_others_on_the_page(known: dict[str, str]) -> None:
    pages = site(Path(known["place"]))
    told = {one["name"]: one for one in json.loads(get(pages, "/runs.json").body)["runs"]}
    assert told[known["run"]]["problem"] is None
    assert "is damaged" in told[known["damaged"]]["problem"]
    assert b"is damaged" in get(pages, f"/runs/{known['damaged']}").body
    assert get(pages, f"/runs/{known['damaged']}/owners").status == 503
    assert get(pages, f"/runs/{'0' * 16}").status == 404


def test_hostile_names_are_text(known: dict[str, str]) -> None:
    pages = site(Path(known["place"]))
    for target in targets(known):
        answer = get(pages, target)
        if answer.kind.startswith("text/html"):
            page = answer.body.decode()
            assert "<img" not in page
            assert "<script>" not in page
            assert "49" not in re.findall(r"<h1>.*?</h1>", page)
            assert "<b>" not in page
    page = get(pages, f"/runs/{known['run']}").body.decode()
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in page
    assert "&lt;img src=x" in page
    assert " style=" not in page  # the policy refuses it
    assert HOSTILE in json.loads(get(pages, f"/runs/{known['run']}.json").body)["run"]


def test_every_value_of_a_runs_page_is_in_its_json(known: dict[str, str]) -> None:
    pages = site(Path(known["place"]))
    page = get(pages, f"/runs/{known['run']}").body.decode()
    told = json.loads(get(pages, f"/runs/{known['run']}.json").body)
    found = re.findall(r'<(data|bdi|code)[^>]*data-from="(/[^"]*)"[^>]*>', page)
    assert len(found) > 30
    for _, pointer in found:
        here: Any = told
        for part in pointer.split("/")[1:]:
            here = here[int(part)] if isinstance(here, list) else here[part]
    for value, pointer in re.findall(r'<data value="([^"]*)" data-from="([^"]*)"', page):
        here = told
        for part in pointer.split("/")[1:]:
            here = here[int(part)] if isinstance(here, list) else here[part]
        assert json.loads(value) == here, pointer


def test_the_document_has_the_answers_of_the_verbs(known: dict[str, str]) -> None:
    told = json.loads(get(site(Path(known["place"])), f"/runs/{known['run']}.json").body)
    run = tr.Run(known["folder"])
    status = run.status().to_json()
    assert told["status"]["shards"] == status["shards"]
    assert told["status"]["requests"] == status["requests"]
    assert told["recalls"]["releases"] == run.recalls().to_json()["releases"]
    assert told["recalls"]["releases"][0]["status"] == "recalled"
    assert told["recalls"]["releases"][0]["to"] == RECIPIENT.to
    assert told["head"]["digest"] == run.verify().head


def test_owners_are_counted_and_not_named(known: dict[str, str]) -> None:
    page = get(site(Path(known["place"])), f"/runs/{known['run']}/owners").body.decode()
    assert '<data value="2" data-from="/count">2</data>' in page
    assert not any(owner in page for owner in OWNERS)
    assert sorted(map(int, re.findall(r'data-from="/owners/\d+/samples">(\d+)<', page))) == [5, 5]


def test_a_request_is_told_by_how_far_it_is(tmp_path: Path) -> None:
    run = trained_toy(tmp_path / "run")
    reading = Readings(str(tmp_path)).all()[0]

    def told() -> dict[str, Any]:
        reading._kept.clear()
        return document(reading)["requests"]["all"][-1]

    composer = Composer(str(run))
    request = composer.request_forget(Selection(ids=(EVERYONE[0],)), "retrain")["request"]
    assert list(told()["steps"].values()) == [True, True, False, False]
    composer.resume_forget(request)
    assert list(told()["steps"].values()) == [True, True, True, False]
    assert (told()["fitted"], told()["to_fit"]) == (0, 1)
    toy_forget(run, [EVERYONE[0]], "retrain")
    done = told()
    assert list(done["steps"].values()) == [True, True, True, True]
    assert (done["fitted"], done["removed"]) == (1, 3)
    composer = Composer(str(run))
    composer.request_forget(Selection(ids=(EVERYONE[5],)), "retrain", 4e9)
    assert told()["waiting"]


def test_outcomes_that_were_kept_are_shown_with_what_came_since(tmp_path: Path) -> None:
    run = trained_toy(tmp_path / "run")
    pages, target = site(tmp_path), f"/runs/{name_of(str(run))}"
    assert "not recorded" in get(pages, target).body.decode()
    (run / "reports").mkdir(exist_ok=True)
    (run / "reports" / "verify.json").write_text(json.dumps(tr.Run(run).verify().to_json()))
    assert "nothing was written since" in get(site(tmp_path), target).body.decode()
    toy_forget(run, [EVERYONE[0]], "drop")
    assert re.search(r">\d</data> entries came since", get(site(tmp_path), target).body.decode())
    (run / "reports" / "verify.json").write_text('{"ok": "<b>"}')
    (run / "reports" / "audit.json").write_text("[" * 100_000)
    page = get(site(tmp_path), target)
    assert page.status == 200
    assert b"Verification lacks" in page.body


AUDIT = {
    "ok": True, "verdict": "at chance", "why": "it was seen", "auc": 0.51, "auc_ci": [0.4, 0.6], "p_value": 0.4, "level": 0.01,
    "power": {"detects": 0.93}, "control": {}, "forgotten": 3, "never_seen": 9, "shards": [0], "left_out": {},
    "targets": {"<i>composed": {"auc": 0.51, "p_value": 0.4, "power": {"detects": 0.93}, "remembers": False}},
}  # fmt: skip


def test_a_private_run_shows_its_budget_and_the_power_of_its_audit(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    run = tmp_path / "private"
    privacy = Privacy(epsilon=3.0, delta=1e-4, steps=2, budget=7.0)
    options = {"solver": "dp-gd", "compose": "mean", "loss": "ce", "trainable": "head", "classes": CLASSES}
    plain_train(run, spec_of(parquet, privacy=privacy, **options))
    (run / "reports").mkdir(exist_ok=True)
    (run / "reports" / "audit.json").write_text(json.dumps(AUDIT))
    target = f"/runs/{name_of(str(run))}"
    told = json.loads(get(site(tmp_path), f"{target}.json").body)
    spent = tr.Run(run).privacy().to_json()
    assert told["privacy"] == {**spent, "composed": told["status"]["composed"]}
    page = get(site(tmp_path), target).body.decode()
    assert '<meter min="0" max="7.0"' in page
    assert "4 is left" in re.sub("<[^>]*>", "", page)
    assert "93.00 %" in page
    assert "&lt;i&gt;composed" in page


def test_a_run_of_ten_thousand_shards_and_a_thousand_requests_is_a_short_page(known: dict[str, str]) -> None:
    told = json.loads(get(site(Path(known["place"])), f"/runs/{known['run']}.json").body)
    shard, request = told["status"]["shards"][0], told["requests"]["all"][0]
    told["status"]["shards"] = [{**shard, "shard": n, "generation": n % 6} for n in range(10_000)]
    told["requests"]["all"] = [{**request, "request": f"{n:016x}"} for n in range(1000)]
    page = run_page(told)
    assert len(page) < 400_000
    assert page.count("<tr") < 200
    assert page.count("<path") < 40
    assert f"{999:016x}" in page
    last = run_page(told, {"requests": 50, "shards": 99})
    assert f"{0:016x}" in last
    assert f"{999:016x}" not in last
    assert run_page(told, {"requests": 10**15}) == run_page(told, {"requests": 50})


def test_a_forget_is_confirmed_by_its_number_of_samples_and_once(tmp_path: Path) -> None:
    run = trained_toy(tmp_path / "run")
    pages = site(tmp_path, token=TOKEN, allow_forget=True)
    cookie, name = cookie_of(pages), name_of(str(run))
    csrf = pages.access.csrf(cookie.partition("=")[2])

    def send(where: str, **form: str) -> tuple[int, str, dict[str, str]]:
        answer = post(pages, f"/runs/{name}/forget{where}", {"csrf": csrf, **form}, cookie=cookie)
        return answer.status, answer.body.decode(), dict(answer.headers)

    status, page, _ = send("", ids="nobody-of-this-run", mode="drop")
    assert status == 400
    assert "not in this run" in page
    status, page, _ = send("", ids=f"{EVERYONE[0]}\r\n{EVERYONE[1]}\r\n", mode="drop")
    assert status == 200
    plan = re.findall(r'name="plan" value="(\w+)"', page)[0]
    for wrong in ("1", "", "two", "22"):
        status, page, _ = send("/confirm", plan=plan, count=wrong)
        assert status == 400
        assert "expected 2" in page
    status, _, headers = send("/confirm", plan=plan, count=" 2 ")
    assert status == 303
    assert send("/confirm", plan=plan, count="2")[0] == 400  # once
    assert pages.forgets is not None
    job = pages.forgets.job(str(run), headers["Location"].rpartition("/")[2])
    assert job is not None
    job.ended.wait(120)
    assert (job.state, job.problem) == ("done", None)
    assert get(pages, f"/runs/{name}/requests/{job.request}", cookie=cookie).status == 200
    assert len(tr.Run(run).status().requests) == 1
    assert "The certificate" in get(pages, headers["Location"], cookie=cookie).body.decode()

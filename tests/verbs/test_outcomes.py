"""Outcomes of checks that are recorded in the run: where they are shown, what they leave out, and how a crash leaves them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import here
from folder import files, flip_a_byte, state_of
from pages_of_runs import get, site
from released import copied, toy_forget, trained_toy
from store_faults import DIE_AFTER, DIE_BEFORE, Fault, Killed, fault, faults_possible
from toy_run import EVERYONE

import taft_ray as tr
from taft_ray.data import id_hash
from taft_ray.errors import IntegrityError, StorageError
from taft_ray.run.outcomes import AUDIT, AUDIT_RECONSTRUCT, is_own_name, read_outcome, record_outcome
from taft_ray.storage import Ledger, Store, id_key
from taft_ray.storage.digest import seal
from taft_ray.storage.rundir import outcome_of
from taft_ray.verbs import printed
from taft_ray.verbs.gc import gc
from taft_ray.web.reading import name_of

AUDITED: dict[str, Any] = {
    "ok": True, "verdict": "at chance", "why": "it was seen", "auc": 0.51, "auc_ci": [0.4, 0.6], "p_value": 0.4, "level": 0.01,
    "power": {"detects": 0.93}, "control": {}, "forgotten": 3, "never_seen": 9, "shards": [0], "left_out": {},
    "targets": {"composed": {"auc": 0.51, "p_value": 0.4, "power": {"detects": 0.93}, "remembers": False}},
}  # fmt: skip
RECONSTRUCTED: dict[str, Any] = {
    "run": "/secret/place", "left_out": [], "seconds": 1.0,
    "attacks": [{"way": "drop", "batch": 1, "known": "own sums", "samples": 2, "among": 9, "cosine": 0.5, "first": 0.25, "median_rank": 3.0}],
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_toy(tmp_path_factory.mktemp("outcomes") / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copied(trained, tmp_path / "place" / "run")


@pytest.fixture(autouse=True)
def without_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printed, "BROWSERS", ("no-browser-has-this-name",))


def recorded(run: Path) -> list[Path]:
    return files(run, "outcomes")


def record(run: Path, verb: str, answer: dict[str, Any]) -> str:
    store, entries = Store(str(run)), Ledger(Store(str(run))).entries()
    return record_outcome(store, verb, entries[-1], answer, state_of(run).tombstones)


# --- what is written


def test_verify_writes_nothing_without_record_and_one_object_with_it(run: Path) -> None:
    before = {path: path.read_bytes() for path in files(run)}
    assert "recorded" not in here("verify", run, "--json").json
    assert {path: path.read_bytes() for path in files(run)} == before
    answer = here("verify", run, "--record", "--json").json
    (file,) = recorded(run)
    assert file == run / answer["recorded"]
    assert {path: path.read_bytes() for path in files(run) if path != file} == before
    newest = Ledger(Store(str(run))).entries()[-1]
    made = read_outcome(Store(str(run)), answer["recorded"])
    assert (made.verb, made.number, made.head) == ("verify", newest.number, newest.digest)
    assert made.version == tr.__version__
    assert made.answer == {name: value for name, value in answer.items() if name != "recorded"}
    assert f"recorded   {answer['recorded']}" in str(tr.Run(run).verify(record=True))
    assert recorded(run) == [file], "the same verb at the same entry"


def test_run_with_outcomes_verifies_and_loses_none_to_gc(run: Path) -> None:
    tr.Run(run).verify(record=True)
    record(run, AUDIT, AUDITED)
    answer = tr.Run(run).verify()
    assert answer.problems == ()
    assert answer.checks["outcomes"] == 2
    assert gc(str(run))["removed"] == []
    assert len(recorded(run)) == 2
    tr.Run(run).destroy()
    assert not run.exists()


def test_certificate_has_no_outcome(run: Path) -> None:
    toy_forget(run, [EVERYONE[0]], "drop")
    certificate = next((run / "certificates").glob("*.json"))
    here("verify", certificate, "--record").complains(2, "--record are of a run")


@pytest.mark.parametrize(("kind", "left"), [(DIE_BEFORE, 0), (DIE_AFTER, 1)])
def test_death_leaves_a_whole_outcome_or_none(run: Path, kind: str, left: int) -> None:
    with faults_possible(), fault(Fault(kind, 1)), pytest.raises(Killed):
        tr.Run(run).verify(record=True)
    assert len(recorded(run)) == left
    assert tr.Run(run).verify(record=True).problems == ()
    assert len(recorded(run)) == 1


def test_outcome_of_a_ledger_that_cannot_be_read_is_refused(run: Path) -> None:
    flip_a_byte(next(iter(sorted((run / "ledger").iterdir()))))
    with pytest.raises(StorageError, match=r"no ledger that can be read.*not recorded"):
        tr.Run(run).verify(record=True)
    assert recorded(run) == []


# --- what it leaves out


def test_outcome_holds_no_name_and_no_hash_of_a_sample(run: Path) -> None:
    """Files of a person's name in the run, one with the hash of a forgotten sample, and one of a sample that is forgotten later."""
    store, secret = Store(str(run)), id_key(Store(str(run)), create=False)
    toy_forget(run, [EVERYONE[0]], "retrain")
    digest = id_hash(EVERYONE[0], secret)
    for name in (
        f"{EVERYONE[0]}.jpg",
        f"eval/{EVERYONE[1]}.json",
        f"eval/{EVERYONE[2]}/x.json",
        "a",
        f"notes-{digest}.txt",
        f"reports/{digest}.json",
    ):
        store.write(name, b"{}")
    answer = tr.Run(run).verify(record=True)
    assert any(EVERYONE[0] in problem for problem in answer.problems)
    assert any(digest in problem for problem in answer.problems)
    (file,) = recorded(run)
    text = file.read_text()
    assert not [name for name in EVERYONE if re.search(rf"{name}\b", text)]
    assert digest not in text
    assert "an object that is no part of a run" in text
    assert len(json.loads(text)["answer"]["problems"]) == len(answer.problems)
    again = tr.Run(run).verify()
    assert not any(file.name in problem for problem in again.problems)


def test_address_of_the_run_is_left_out_and_filled_in_where_it_is_shown(run: Path) -> None:
    key = record(run, AUDIT_RECONSTRUCT, RECONSTRUCTED)
    assert b"/secret/place" not in (run / key).read_bytes()
    told = json.loads(get(site(run.parent), f"/runs/{name_of(str(run))}.json").body)["outcomes"]["audit-reconstruct"]
    assert told["answer"]["run"] == str(run)


@pytest.mark.parametrize(
    ("key", "own"),
    [
        ("ledger/00000000000000000042.json", True), ("cache/shard=00001/generation=000002/part-000-0af3be1201de77aa.arrow", True),
        ("outcomes/verify-000042-1f0c9a77.json", True), ("deltas/shard=00000/000001-ab12cd34ef56ab78.safetensors", True),
        ("cats/17.jpg", False), ("deltas/ada.safetensors", False), ("manifest/rows-ada.parquet", False),
    ],
)  # fmt: skip
def test_names_of_a_run_are_words_and_digests(key: str, own: bool) -> None:
    assert is_own_name(key) is own


def test_every_object_of_a_run_has_an_own_name(run: Path) -> None:
    toy_forget(run, [EVERYONE[0]], "retrain")
    tr.Run(run).verify(record=True)
    assert [path for path in files(run) if not is_own_name(str(path.relative_to(run)))] == []


# --- where it is shown


def test_status_the_page_and_the_dossier_say_how_old_it_is(run: Path, tmp_path: Path) -> None:
    assert "outcomes" not in tr.Run(run).status().to_json()
    tr.Run(run).verify(record=True)
    record(run, AUDIT, AUDITED)
    verified, audited = tr.Run(run).status().outcomes
    assert [(one.verb, one.ok, one.since) for one in (verified, audited)] == [("verify", True, 0), ("audit", True, 0)]
    assert "verify ok at" in str(tr.Run(run).status())
    page = get(site(run.parent), f"/runs/{name_of(str(run))}").body.decode()
    assert page.count("nothing was written since") == 2
    toy_forget(run, [EVERYONE[0]], "drop")
    later = len(Ledger(Store(str(run))).entries()) - 1 - verified.number
    assert [one.since for one in tr.Run(run).status().outcomes] == [later, later]
    assert f"OLDER than the ledger by {later} entries" in str(tr.Run(run).status())
    page = get(site(run.parent), f"/runs/{name_of(str(run))}").body.decode()
    assert page.count(f">{later}</data> entries came since") == 2
    assert "93.00 %" in page
    told = tr.Run(run).dossier(tmp_path / "out")
    assert told.ok, (told.not_read, told.problems)
    facts = json.loads((tmp_path / "out/dossier.json").read_bytes())
    assert [(one["verb"], one["since"]) for one in facts["outcomes"]] == [("verify", later), ("audit", later)]
    assert [(one["kind"], one["answer"]["auc"], one["since"]) for one in facts["audits"]] == [("Audit", 0.51, later)]
    text = (tmp_path / "out/index.html").read_text()
    assert "newer entries" in text
    assert "Outcomes that were recorded in the run" in text


def test_latest_outcome_of_a_verb_is_shown(run: Path) -> None:
    tr.Run(run).verify(record=True)
    toy_forget(run, [EVERYONE[0]], "drop")
    tr.Run(run).verify(record=True)
    assert len(recorded(run)) == 2
    (one,) = tr.Run(run).status().outcomes
    assert one.since == 0


def test_recorded_outcome_goes_before_an_answer_among_the_reports(run: Path) -> None:
    (run / "reports").mkdir(exist_ok=True)
    (run / "reports" / "audit.json").write_text(json.dumps({**AUDITED, "why": "by hand"}))
    target = f"/runs/{name_of(str(run))}.json"
    assert json.loads(get(site(run.parent), target).body)["outcomes"]["audit"]["answer"]["why"] == "by hand"
    record(run, AUDIT, AUDITED)
    assert json.loads(get(site(run.parent), target).body)["outcomes"]["audit"]["answer"]["why"] == "it was seen"


# --- damage, and a ledger that was cut


def test_outcome_tells_that_the_newest_entries_were_cut_off(run: Path, tmp_path: Path) -> None:
    before = shutil.copytree(run / "ledger", tmp_path / "ledger")
    toy_forget(run, [EVERYONE[0]], "drop")
    tr.Run(run).verify(record=True)
    shutil.rmtree(run / "ledger")
    shutil.copytree(before, run / "ledger")
    problems = tr.Run(run).verify().problems
    assert any("the newest entries were removed" in problem for problem in problems)
    (outcome,) = json.loads(get(site(run.parent), f"/runs/{name_of(str(run))}.json").body)["status"]["outcomes"]
    assert outcome["since"] is None


def test_damaged_outcome_is_found_and_told_and_holds_nothing_up(run: Path, tmp_path: Path) -> None:
    key = record(run, AUDIT, AUDITED)
    tr.Run(run).verify(record=True)
    flip_a_byte(run / key)
    assert [one for one in tr.Run(run).verify().problems if key in one]
    first, second = tr.Run(run).status().outcomes
    assert (first.ok, first.problem) == (True, None)
    assert second.problem is not None
    assert key in str(tr.Run(run).status())
    told = tr.Run(run).dossier(tmp_path / "out")
    assert any(key in one for one in told.not_read)
    assert toy_forget(run, [EVERYONE[0]], "drop")["samples"] == 1
    (run / key).unlink()
    assert tr.Run(run).verify().problems == ()


@pytest.mark.parametrize(
    "change",
    [
        {"verb": "audit"}, {"head": {"number": 3, "digest": "0" * 64}}, {"head": {"number": "x", "digest": "0" * 64}},
        {"head": []}, {"answer": []}, {"schema": "other"},
    ],
)  # fmt: skip
def test_outcome_that_somebody_sealed_anew_is_no_outcome_of_that_name(run: Path, change: dict[str, Any]) -> None:
    key = str(tr.Run(run).verify(record=True).recorded)
    body = {name: value for name, value in json.loads((run / key).read_bytes()).items() if name != "digest"}
    (run / key).write_bytes(seal({**body, **change}, "digest"))
    with pytest.raises(IntegrityError, match="no outcome"):
        read_outcome(Store(str(run)), key)
    assert [one for one in tr.Run(run).verify().problems if key in one]


def test_what_is_not_named_like_an_outcome_is_a_stranger(run: Path) -> None:
    Store(str(run)).write("outcomes/notes.json", b"{}")
    assert outcome_of("outcomes/notes.json") is None
    assert any("outcomes/notes.json: no part of a run" in one for one in tr.Run(run).verify().problems)
    assert tr.Run(run).status().outcomes == ()

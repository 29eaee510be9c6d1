"""A dossier: everything about a run in one folder, nobody's name in clear, and checked by the commands that come with it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from chromium import needs_chromium
from command import ROOT, here
from folder import flip_a_byte, state_of
from html_page import Page
from plain import plain_train
from proved import KEY, OTHER_KEY
from read_only import read_only
from released import copied, finished, toy_export, toy_forget, trained_toy
from tiny import CLASSES, picture
from toy_run import EVERYONE, OWNERS

import taft_ray as tr
from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.errors import IntegrityError, Unregistered, UsageError
from taft_ray.pages.dossier_page import dossier_page
from taft_ray.pages.model_card import front_matter, inline, model_card, yaml_value
from taft_ray.plans.facts import Evaluated
from taft_ray.plans.privacy import Privacy
from taft_ray.proof.signature import sign_certificate
from taft_ray.run.record import Record
from taft_ray.verbs import printed
from taft_ray.verbs.dossier_facts import deadline_met

needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "openssl", "jq", "b2sum"))), reason="openssl, jq or coreutils are not installed"
)
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def without_pdf(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chromium takes seconds; one test prints with it."""
    if "printing" not in request.fixturenames:
        monkeypatch.setattr(printed, "BROWSERS", ("no-browser-has-this-name",))


@pytest.fixture
def printing() -> None:
    """With a PDF, where there is Chromium."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two signed certificates and one that is not, an export that is recalled, and a request that waits."""
    run = trained_toy(tmp_path_factory.mktemp("dossier") / "run")
    toy_export(run, run.parent / "1.pt2")
    for mode, name, key in (
        ("retrain", EVERYONE[0], KEY),
        ("drop", EVERYONE[5], None),
        ("retrain", EVERYONE[9], OTHER_KEY),
    ):
        certificate = toy_forget(run, [name], mode)
        if key is not None:
            sign_certificate(str(run), certificate["request"], key)
    composer = Composer(str(run))
    soon = composer.request_forget(Selection(ids=(EVERYONE[1],)), "retrain", 4e9)
    finished(run, soon["request"])
    Composer(str(run)).request_forget(Selection(ids=(EVERYONE[2],)), "retrain", 4e9)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copied(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def written(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dossier of it, which tests copy."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(printed, "BROWSERS", ())
        told = tr.Run(copied(trained, folder / "run")).dossier(folder / "out")
    assert told.ok, (told.not_read, told.problems)
    return folder / "out"


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dossier.json").read_bytes())


def checked(folder: Path) -> subprocess.CompletedProcess[str]:
    """The outcome of all commands in VERIFY.md, one after the other, as a reader runs them."""
    commands = "".join(BLOCK.findall((folder / "VERIFY.md").read_text()))
    line = ["bash", "-euo", "pipefail", "-c", commands]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def with_new_sums(folder: Path) -> None:
    """The digests as somebody would write them who changed a file and hides it."""
    told = facts(folder)
    for one in told["files"]:
        one["sha256"] = hashlib.sha256((folder / one["file"]).read_bytes()).hexdigest()
    (folder / "dossier.json").write_text(json.dumps(told))
    names = [*(one["file"] for one in told["files"]), "dossier.json"]
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


# --- what is in it


def test_folder_has_every_request_with_its_dates_and_files(written: Path) -> None:
    told = facts(written)
    assert [(one["mode"], one["samples"], one["done"]) for one in told["requests"]] == [
        ("retrain", 1, True), ("drop", 1, True), ("retrain", 1, True), ("retrain", 1, True), ("retrain", 1, False),
    ]  # fmt: skip
    assert [one["deadline_met"] for one in told["requests"]] == [None, None, None, True, None]
    assert [bool(one["certificate"] and one["certificate"]["signature"]) for one in told["requests"]] == [
        True, False, True, False, False,
    ]  # fmt: skip
    for one in told["requests"][:4]:
        certificate = json.loads((written / one["certificate"]["file"]).read_bytes())
        assert (certificate["request"], certificate["requested"]) == (one["request"], one["requested"])
        assert certificate["issued"] == one["issued"]
        assert set(certificate["does_not_cover"]) <= set(told["not_covered"])
        assert (written / one["certificate"]["file"]).with_suffix(".html").is_file()
    assert told["data"]["owners"] == 2
    assert told["data"]["samples"] == len(EVERYONE) - 4
    assert [one["status"] for one in told["releases"]] == ["recalled"]
    assert not {"contact", "notified"} & told["releases"][0].keys()
    assert told["pdf"] == {"left_out": "Chromium is not installed here"}
    assert "dossier.pdf was left out: Chromium is not installed here." in (written / "index.html").read_text()
    assert told["verification"]["problems"] == []


def test_certificates_are_the_very_bytes_of_the_run(written: Path) -> None:
    run = written.parent / "run"
    state = state_of(run)
    for one in facts(written)["requests"][:4]:
        finished_one = state.requests[one["request"]].forgotten
        assert finished_one is not None
        assert (written / one["certificate"]["file"]).read_bytes() == (run / finished_one.certificate.key).read_bytes()
        if one["certificate"]["signature"]:
            signed = state.requests[one["request"]].signed
            assert signed is not None
            assert (written / one["certificate"]["signature"]["file"]).read_bytes() == (run / signed.key).read_bytes()


def test_a_dossier_is_a_statement_in_the_register(run: Path, tmp_path: Path) -> None:
    answer = here("dossier", run, tmp_path / "out", "--to", "authority.example", "--contact", "Ada", "--json")
    assert answer.code == 0, answer.err
    release = tr.Run(run).recalls().releases[-1]
    assert (release.release, release.what, release.to) == (answer.json["release"], "statement", "authority.example")
    assert (
        release.digest
        == answer.json["digest"]
        == hashlib.sha256((tmp_path / "out/dossier.json").read_bytes()).hexdigest()
    )
    assert tr.Run(run).check(tmp_path / "out/dossier.json").status == "current"
    assert tr.Run(run).verify().problems == ()
    toy_forget(run, [EVERYONE[8]], "retrain")
    assert tr.Run(run).check(tmp_path / "out/dossier.json").status == "superseded"
    second = tr.Run(run).dossier(tmp_path / "second")
    assert [one["what"] for one in facts(tmp_path / "second")["releases"]] == ["export", "statement"]
    assert b"Ada" not in (tmp_path / "second/dossier.json").read_bytes()
    assert second.release != release.release
    flip_a_byte(tmp_path / "out/SHA256SUMS")
    assert tr.Run(run).check(tmp_path / "out/dossier.json").status == "changed"


def test_nothing_of_the_run_but_its_register_is_changed(run: Path, tmp_path: Path) -> None:
    tr.Run(run).status()  # whatever an older command left to do is done
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    tr.Run(run).dossier(tmp_path / "out")
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert [path.parent.name for path in after.keys() - before.keys()] == ["ledger"]


# --- checking it without taft_ray


@needs_tools
def test_its_own_commands_find_it_whole(written: Path) -> None:
    done = checked(written)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "the files are whole", "the certificates have their digests", "the signatures are good",
    ]  # fmt: skip
    text = (written / "VERIFY.md").read_text()
    assert text.count(KEY.public.fingerprint.removeprefix("sha256:")) >= 2
    line = next(one.strip() for one in text.splitlines() if one.startswith("    sed "))
    piped = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], cwd=written, capture_output=True, text=True, check=False
    )
    assert (piped.returncode, piped.stdout) == (0, done.stdout)


@needs_tools
def test_its_own_commands_find_each_changed_missing_and_added_file(written: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert len(names) > 15
    for name in names:
        if str(name) == "VERIFY.md":
            continue  # it has the commands
        folder = Path(shutil.copytree(written, tmp_path / "changed"))
        flip_a_byte(folder / name)
        assert checked(folder).returncode != 0, name
        (folder / name).unlink()
        assert checked(folder).returncode != 0, name
        shutil.rmtree(folder)
    folder = Path(shutil.copytree(written, tmp_path / "added"))
    (folder / "certificates" / "another.json").write_text("{}")
    assert checked(folder).returncode != 0


@needs_tools
def test_new_sums_do_not_hide_a_changed_certificate_or_signature(written: Path, tmp_path: Path) -> None:
    one = facts(written)["requests"][0]["certificate"]
    other = facts(written)["requests"][2]["certificate"]
    changes: list[Callable[[Path], object]] = [
        lambda folder: flip_a_byte(folder / one["file"]),
        lambda folder: (folder / one["file"]).write_bytes((folder / other["file"]).read_bytes()),
        lambda folder: flip_a_byte(folder / one["signature"]["raw"]),
        lambda folder: flip_a_byte(folder / one["signature"]["file"]),
        lambda folder: shutil.copy(folder / other["signature"]["key"], folder / one["signature"]["key"]),
    ]
    untouched = Path(shutil.copytree(written, tmp_path / "untouched"))
    with_new_sums(untouched)
    assert checked(untouched).returncode == 0
    for number, change in enumerate(changes):
        folder = Path(shutil.copytree(written, tmp_path / str(number)))
        change(folder)
        with_new_sums(folder)
        assert checked(folder).returncode != 0, number


# --- nobody's name, and no markup


def test_no_name_of_a_sample_or_an_owner_is_in_it(written: Path) -> None:
    files = [path for path in written.rglob("*") if path.is_file()]
    for path in files:
        text = path.read_bytes().decode(errors="replace")
        assert not [name for name in EVERYONE if re.search(rf"{name}\b", text)], path.name
        assert not [name for name in OWNERS if re.search(rf"\b{name}\b", text)], path.name


HOSTILE = (
    "<script>alert(1)</script>",
    "a`|*_[x](y)$z$ &lt;",
    "line\n# heading\n---\nlicense: mit",
    'quote" \\ \x85\u2028 \U0001f600',
)


def hostile_run(folder: Path, spec_of: Callable[..., Any]) -> Path:
    """Labels that are markup, and a row that is no picture, whose id is a person's name."""
    data = folder / "data <b> it's"
    data.mkdir()
    rows = [(picture(n), HOSTILE[n % 4], f"person-{n:03d}", f"owner-{n % 3}") for n in range(16)]
    rows.append((b"no picture", HOSTILE[0], "ada-lovelace", "owner-0"))
    columns = zip(*rows, strict=True)
    pq.write_table(
        pa.table(dict(zip(("image", "label", "id", "owner"), map(list, columns), strict=True))), data / "a.parquet"
    )
    spec = spec_of(data, solver="additive", features=16, shards=2, max_rejected=0.5)
    plain_train(folder / "run", spec)
    return folder / "run"


def test_hostile_names_are_text_and_rejected_rows_are_counted(tmp_path: Path, spec_of: Callable[..., Any]) -> None:
    run = hostile_run(tmp_path, spec_of)
    told = tr.Run(run).dossier(tmp_path / "out")
    assert told.ok, (told.not_read, told.problems)
    page = Page((tmp_path / "out/index.html").read_text())
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert HOSTILE[0] in page.text
    found = facts(tmp_path / "out")
    assert found["data"]["owners"] == 3
    assert sum(found["data"]["rejected"]["reasons"].values()) == found["data"]["rejected"]["rows"] == 1
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert not re.search(rb"person-0\d\d|ada-lovelace|owner-\d", path.read_bytes()), path.name
    card = (tmp_path / "out/README.md").read_text()
    assert len(re.findall(r"^---$", card, re.MULTILINE)) == 2
    assert not re.search(r"^# heading|^license", card, re.MULTILINE)
    assert "<script>" not in card.replace("\\<script\\>", "")
    assert found["requests"] == []
    assert "There is no certificate" in (tmp_path / "out/VERIFY.md").read_text()


@needs_tools
def test_commands_of_a_run_without_certificates_hold(tmp_path: Path) -> None:
    tr.Run(trained_toy(tmp_path / "run")).dossier(tmp_path / "out")
    assert checked(tmp_path / "out").stdout == "the files are whole\n"


# --- the model card


def evaluated(run: Path, composed: str) -> None:
    fact = Evaluated(HOSTILE[2], 0.75, 40, composed, {}, None, (), top5=0.9)
    Record(str(run)).commit(Evaluated, f"evaluated/{composed[:8]}", lambda: fact)


def card_of(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("\n---\n")[0].removeprefix("---\n"))


def test_card_has_what_the_run_knows_and_nothing_else(run: Path, tmp_path: Path) -> None:
    tr.Run(run).dossier(tmp_path / "bare")
    assert card_of(tmp_path / "bare") == {
        "library_name": "taft_ray", "pipeline_tag": "image-classification", "tags": ["taft_ray", "machine-unlearning"],
        "base_model": "toy", "datasets": ["toy"],
    }  # fmt: skip
    composed = tr.Run(run).status().composed
    assert composed is not None
    evaluated(run, composed)
    tr.Run(run).dossier(tmp_path / "measured")
    card = card_of(tmp_path / "measured")
    assert card["metrics"] == ["accuracy"]
    result = card["model-index"][0]["results"][0]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.75}]
    assert result["dataset"]["name"] == HOSTILE[2]
    assert facts(tmp_path / "measured")["model"]["evaluation"]["top5"] == 0.9
    toy_forget(run, [EVERYONE[8]], "retrain")
    tr.Run(run).dossier(tmp_path / "later")
    assert "metrics" not in card_of(tmp_path / "later"), "that accuracy is another model's"


@pytest.mark.parametrize("text", [*HOSTILE, "", " ", "no", "1e3", "\x00\x1b\x7f", "'", "- a: b", "\ufeff"])
def test_front_matter_is_read_back_by_yaml(text: str) -> None:
    value = {"a": [text, {"b": text}], text: 1.5}
    assert yaml.safe_load(f"x: {yaml_value(value)}\n") == {"x": value}
    assert "\n" not in inline(text)


def test_half_a_surrogate_does_not_break_the_card() -> None:
    assert yaml.safe_load(yaml_value("a\ud800b")) == "a?b"
    assert inline("a\ud800b") == "a?b"


def test_an_address_is_no_name_of_a_hub(written: Path) -> None:
    told = facts(written)
    told["model"]["model"], told["data"]["sources"] = "/home/ada/net", [{"data": "s3://bucket/ada"}, {"data": "./x"}]
    assert not {"base_model", "datasets"} & front_matter(told).keys()
    assert "differential-privacy" not in model_card(told)


# --- other parts


def test_kept_audits_are_in_it_and_their_file_names_are_not(run: Path, tmp_path: Path) -> None:
    audit = {
        "ok": True, "verdict": "at chance", "why": "w", "auc": 0.5, "auc_ci": [0.4, 0.6], "p_value": 0.5, "power": {}, "level": 0.01,
        "control": {}, "targets": {}, "forgotten": 1, "never_seen": 9, "shards": [0], "left_out": {}, "ids": ["zora"],
    }  # fmt: skip
    (run / "reports").mkdir(exist_ok=True)
    (run / "reports/audit-of-zora.json").write_text(json.dumps(audit))
    told = tr.Run(run).dossier(tmp_path / "out")
    assert told.ok, told.not_read
    found = facts(tmp_path / "out")["audits"]
    assert [(one["kind"], one["answer"]["auc"]) for one in found] == [("Audit", 0.5)]
    assert b"zora" not in (tmp_path / "out/dossier.json").read_bytes()
    (run / "reports/audit-2.json").write_text("{}")
    told = tr.Run(run).dossier(tmp_path / "out2")
    assert not told.ok
    assert "not the answer of an audit" in told.not_read[0]


def test_private_run_has_its_statement(tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    privacy = Privacy(epsilon=3.0, delta=1e-4, steps=2)
    plain_train(
        run,
        spec_of(parquet, solver="dp-gd", compose="mean", loss="ce", trainable="head", classes=CLASSES, privacy=privacy),
    )
    tr.Run(run).dossier(tmp_path / "out")
    assert facts(tmp_path / "out")["privacy"] == tr.Run(run).privacy_statement().to_json()
    assert "differential-privacy" in card_of(tmp_path / "out")["tags"]
    assert "ε = 3" in (tmp_path / "out/README.md").read_text()


def test_retention_is_in_it(run: Path, tmp_path: Path) -> None:
    tr.Run(run).dossier(tmp_path / "none")
    assert "No date is set" in (tmp_path / "none/index.html").read_text()
    tr.Run(run).retention("2999-06-30")
    tr.Run(run).dossier(tmp_path / "out")
    assert "is to be destroyed after" in (tmp_path / "out/index.html").read_text()
    assert facts(tmp_path / "out")["retention"]["tombstones"] == 5
    page = next((tmp_path / "out/certificates").glob("*.html"))
    assert "30 June 2999" in page.read_text()


@pytest.mark.parametrize(
    ("deadline", "issued", "met"),
    [
        (None, "2026-01-01T00:00:00+00:00", None), (100.0, "1970-01-01T00:01:40+00:00", True),
        (99.0, "1970-01-01T00:01:40+00:00", False), (50.0, None, None), (9.0, None, False),
    ],
)  # fmt: skip
def test_deadline_is_met_by_the_certificate(deadline: float | None, issued: str | None, met: bool | None) -> None:
    assert deadline_met(deadline, issued, now=10.0) is met


# --- what goes wrong


def test_what_exists_is_refused_and_left_as_it_is(run: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = len(state_of(run).releases)
    for name in ("folder", "file", "link"):
        here("dossier", run, tmp_path / name).complains(2, "there already")
    assert (tmp_path / "file").read_text() == "mine"
    assert len(state_of(run).releases) == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("place", ["certificates", "manifest", "deltas"])
def test_damage_is_named_and_the_rest_is_there(place: str, run: Path, tmp_path: Path) -> None:
    manifest = run / str(state_of(run).manifest_key)
    files = (path for path in sorted((run / place).rglob("*")) if path.is_file() and "signature" not in path.name)
    broken = manifest if place == "manifest" else next(files)
    flip_a_byte(broken)
    answer = here("dossier", run, tmp_path / "out")
    assert answer.code == 1
    assert broken.name in answer.out
    told = facts(tmp_path / "out")
    assert not told["ok"]
    assert len(told["requests"]) == 5
    assert broken.name in json.dumps(told)
    assert "verdict wrong" in (tmp_path / "out/index.html").read_text()
    assert (tmp_path / "out/SHA256SUMS").is_file()


def test_a_run_without_a_readable_ledger_gets_no_dossier(run: Path, tmp_path: Path) -> None:
    flip_a_byte(sorted((run / "ledger").iterdir())[3])
    with pytest.raises(IntegrityError, match="ledger"):
        tr.Run(run).dossier(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
    here("dossier", tmp_path / "nothing", tmp_path / "out").complains(1, "no run at")


def test_a_run_that_cannot_be_written_says_that_it_is_not_registered(run: Path, tmp_path: Path) -> None:
    tr.Run(run).status()
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o777)
    for path in run.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    with read_only(run, run / "run.json"):
        with pytest.raises(Unregistered, match="--no-register"):
            tr.Run(run).dossier(target / "out")
        assert list(target.iterdir()) == []
        told = tr.Run(run).dossier(target / "out", register=False)
    assert (told.registered, told.release) == (False, None)
    assert "release" not in facts(target / "out")
    assert checked(target / "out").returncode == 0
    assert "never registered" in str(tr.Run(run).check(target / "out/dossier.json"))


def test_a_wrong_recipient_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--to"):
        tr.Run(run).dossier(tmp_path / "out", to="a\nb")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_nothing_of_ray_is_imported(run: Path, tmp_path: Path) -> None:
    code = "import sys\nfrom taft_ray.cli import main\ntry:\n main(prog_name='taft-ray')\nfinally:\n print('ray' in sys.modules)"
    line = [sys.executable, "-c", code, "dossier", str(run), str(tmp_path / "out")]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


@needs_chromium
@pytest.mark.usefixtures("printing")
def test_it_is_printed_where_chromium_is(run: Path, tmp_path: Path) -> None:
    told = tr.Run(run).dossier(tmp_path / "out")
    assert told.pdf == {"file": "dossier.pdf"}
    assert (tmp_path / "out/dossier.pdf").read_bytes().startswith(b"%PDF-")
    assert "dossier.pdf" in (tmp_path / "out/SHA256SUMS").read_text()
    assert "dossier.pdf is this page, printed." in (tmp_path / "out/index.html").read_text()


def test_a_browser_that_fails_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printed, "BROWSERS", ("false",))
    assert tr.Run(run).dossier(tmp_path / "out").pdf == {"left_out": "false ended with status 1 and printed nothing"}
    assert not (tmp_path / "out/dossier.pdf").exists()


def test_page_says_what_a_broken_run_lacks(written: Path) -> None:
    told = {
        **facts(written),
        "verification": None,
        "retention": None,
        "privacy": None,
        "ok": False,
        "not_read": ["<b>x</b>"],
    }
    told["data"] = {**told["data"], "counts": None, "rejected": None, "owners": None, "samples": None}
    page = Page(dossier_page(told))
    assert "b" not in page.tags
    for words in ("<b>x</b>", "The storage could not be checked", "The date could not be read"):
        assert words in page.text

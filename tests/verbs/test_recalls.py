"""The register of a run from the first export to the notice of its recall: what is told, sent once, signed and certified."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import here
from folder import flip_a_byte, state_of
from html_page import Page
from notice_server import OK, NoticeServer, notice_server
from proved import KEY, OTHER_KEY, private_pem
from released import copied, finished, pt2, toy_export, toy_forget, trained_toy
from store_faults import DIE_BEFORE, Fault, Killed, fault, faults_possible
from toy_run import EVERYONE

import taft_ray as tr
from taft_ray.answers import Certificate, WrittenNotice
from taft_ray.composer.composer import Composer
from taft_ray.errors import IntegrityError, UsageError
from taft_ray.pages import certificate_page
from taft_ray.proof.notice import check_notice
from taft_ray.proof.verify_certificate import verify_certificate
from taft_ray.proof.verify_run import verify
from taft_ray.run.register import Recipient
from taft_ray.storage import Ledger, Store, canonical_json
from taft_ray.verbs.exported import entry_of
from taft_ray.verbs.recalls import notify

HOSPITAL = Recipient(to="https://hospital.example/models", contact="model officer")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_toy(tmp_path_factory.mktemp("recalls") / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copied(trained, tmp_path / "run")


@pytest.fixture
def recalled(run: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A run with two recalled exports, 1.pt2 and 2.pt2, and one that is current, 3.pt2; the certificate."""
    toy_export(run, tmp_path / "1.pt2", recipient=HOSPITAL)
    toy_export(run, tmp_path / "2.pt2")
    certificate = toy_forget(run, [EVERYONE[0]], "retrain")
    toy_export(run, tmp_path / "3.pt2")
    return run, certificate


def nowait(seconds: float) -> None:
    assert seconds > 0


# --- notices


def test_each_recalled_release_is_told_once_with_a_signature(recalled: tuple[Path, dict[str, Any]]) -> None:
    run, certificate = recalled
    with notice_server(lambda number, _: (503, {}, b"") if number < 2 else OK) as server:
        told = notify(str(run), f"{server.url}/hook/secret-token", KEY, pause=nowait)
        assert told["ok"]
        assert [(one["ok"], one["tries"], one["answer"]) for one in told["notices"]] == [
            (True, 3, "taken"),
            (True, 1, "taken"),
        ]
        assert [one["status"] for one in told["releases"]] == ["recalled", "recalled", "current"]
        again = notify(str(run), f"{server.url}/hook/secret-token", KEY, pause=nowait)
        assert (again["ok"], again["notices"]) == (True, [])
        assert len(server.received) == 4
        notify(str(run), f"{server.url}/another", KEY, pause=nowait)
        assert len(server.received) == 6, "another place has not been told yet"
    first, *_, last = server.received[:4]
    assert first.body == server.received[2].body
    assert first.headers["Idempotency-Key"] == server.received[2].headers["Idempotency-Key"]
    assert first.headers["Idempotency-Key"] != last.headers["Idempotency-Key"]
    notice, signer = check_notice(first.body)
    assert signer == KEY.public
    release = state_of(run).releases[notice["release"]].fact
    assert notice["digest"] == {"sha256": release.digest}
    assert [one["request"] for one in notice["recalled_by"]] == [certificate["request"]]
    assert (notice["to"], notice["contact"]) == (HOSPITAL.to, HOSPITAL.contact)
    ledger = b"".join(path.read_bytes() for path in (run / "ledger").iterdir())
    assert b"secret-token" not in ledger
    assert server.url.encode() in ledger
    assert verify(str(run))["problems"] == []


def test_changed_notice_is_found(recalled: tuple[Path, dict[str, Any]]) -> None:
    with notice_server() as server:
        notify(str(recalled[0]), server.url, KEY, pause=nowait)
    body = server.received[0].body
    for changed in (
        body.replace(b'"what":"export"', b'"what":"exporT"'),
        body.replace(KEY.public.hex.encode(), OTHER_KEY.public.hex.encode()),
        b"{}", b"[]", b"", body[:-1],
    ):  # fmt: skip
        assert changed != body
        with pytest.raises(IntegrityError, match="the notice"):
            check_notice(changed)


def test_one_that_is_not_taken_does_not_hold_up_the_others(
    recalled: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run, _ = recalled
    key = tmp_path / "key.pem"
    key.write_bytes(private_pem())
    with notice_server(lambda number, _: (404, {}, b"no such hook") if number == 0 else OK) as server:
        answer = here("recalls", run, "--notify", server.url, "--sign", key, "--json")
        assert answer.code == 1
        refused, taken = answer.json["notices"]
        assert (refused["ok"], refused["status"], refused["answer"]) == (False, 404, "no such hook")
        assert taken["ok"]
        told = here("recalls", run)
        assert told.code == 0
        assert "1 recall is not told" in told.out
        answer = here("recalls", run, "--notify", server.url, "--sign", key)
        assert answer.code == 0, answer.out
        assert len(server.received) == 3
        assert "not told" not in here("recalls", run).out


def test_silent_and_redirecting_servers_are_told(recalled: tuple[Path, dict[str, Any]]) -> None:
    run, _ = recalled
    server: NoticeServer
    with notice_server() as other:

        def says(number: int, _: object) -> Any:
            return server.hang() if number > 0 else (307, {"Location": other.url}, b"")

        with notice_server(says) as server:
            told = notify(str(run), server.url, KEY, timeout=1, pause=nowait)
        assert other.received == []
    assert not told["ok"]
    assert ["is not followed" in one["problem"] for one in told["notices"]] == [True, False]
    assert told["notices"][1]["problem"] == "no answer in 1 s"
    assert all(not one.notices for one in state_of(run).releases.values())


def test_notices_need_a_key_and_a_place(run: Path) -> None:
    assert here("recalls", run, "--notify", "https://example.org/x").code == 2
    assert here("recalls", run, "--sign", "key.pem").code == 2
    with pytest.raises(UsageError, match=r"--notify http://example\.org"):
        notify(str(run), "http://example.org/x", KEY)
    with pytest.raises(UsageError, match="--timeout"):
        notify(str(run), "https://example.org/x", KEY, timeout=0)
    assert "nothing of" in here("recalls", run).out


def test_crash_before_the_fact_sends_the_same_notice_again(recalled: tuple[Path, dict[str, Any]]) -> None:
    """The notice was taken, and the process died before the ledger had it."""
    run, _ = recalled
    with notice_server() as server:
        with faults_possible(), fault(Fault(DIE_BEFORE, 1)), pytest.raises(Killed):
            notify(str(run), server.url, KEY, pause=nowait)
        assert len(server.received) == 1
        assert len(notify(str(run), server.url, KEY, pause=nowait)["notices"]) == 2
    first, again, _ = server.received
    assert first.body == again.body
    assert first.headers["Idempotency-Key"] == again.headers["Idempotency-Key"]


# --- those who have no endpoint


def written(run: Path, folder: Path, key: Path, *releases: str) -> list[WrittenNotice]:
    told = tr.Run(run).recalls(write=folder, sign=key, releases=releases)
    assert told.written is not None
    return [*told.written]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key.pem"
    file.write_bytes(private_pem())
    return file


def test_written_notices_are_those_that_would_be_sent(
    recalled: tuple[Path, dict[str, Any]], key: Path, tmp_path: Path
) -> None:
    run, _ = recalled
    before = sorted(path.name for path in (run / "ledger").iterdir())
    answer = here("recalls", run, "--write", tmp_path / "to" / "send", "--sign", key, "--json")
    assert answer.code == 0, answer.err
    files = {one["release"]: Path(one["file"]) for one in answer.json["written"]}
    assert sorted((tmp_path / "to" / "send").iterdir()) == sorted(files.values())
    assert [one["contact"] for one in answer.json["written"]] == [HOSPITAL.contact, None]
    assert sorted(path.name for path in (run / "ledger").iterdir()) == before
    with notice_server() as server:
        notify(str(run), server.url, KEY, pause=nowait)
    assert {check_notice(one.body)[0]["release"]: one.body for one in server.received} == {
        release: file.read_bytes() for release, file in files.items()
    }
    told = here("recalls", run, "--write", tmp_path / "more", "--sign", key)
    assert "No notice was written" in told.out
    assert not [*(tmp_path / "more").iterdir()]


def test_written_again_they_are_the_same_and_replace_no_other_file(
    recalled: tuple[Path, dict[str, Any]], key: Path, tmp_path: Path
) -> None:
    run, folder = recalled[0], tmp_path / "send"
    first, second = written(run, folder, key)
    assert written(run, folder, key) == [first, second]
    Path(first.file).write_bytes(b"a letter")
    Path(second.file).unlink()
    here("recalls", run, "--write", folder, "--sign", key).complains(2, "is another notice, or none")
    assert Path(first.file).read_bytes() == b"a letter"
    assert not Path(second.file).exists()
    (alone,) = written(run, tmp_path / "one", key, second.release)
    assert [path.name for path in (tmp_path / "one").iterdir()] == [Path(alone.file).name]


def test_whoever_was_told_by_other_means_is_due_no_more(
    recalled: tuple[Path, dict[str, Any]], key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = recalled
    first, second, current = state_of(run).releases
    assert "2 recalls are not told" in here("recalls", run).out
    monkeypatch.setenv("COLUMNS", "200")  # a narrow table breaks its words
    assert "model officer" in here("recalls", run).out
    letter = "a letter of the privacy office"
    answer = here("recalls", run, "--told", first, "--by", letter, "--json")
    assert answer.code == 0, answer.err
    assert [[one["by"] for one in each.get("told", ())] for each in answer.json["releases"]] == [[letter], [], []]
    entries = len(state_of(run).requests), state_of(run).entries
    here("recalls", run, "--told", first, "--by", letter)
    assert (len(state_of(run).requests), state_of(run).entries) == entries, "the same note again changes nothing"
    shown = here("recalls", run).out
    assert "1 recall is not told" in shown
    assert f"release {first}: told by {letter}, noted 20" in shown
    assert [one.release for one in written(run, run.parent / "send", key)] == [second]
    later = toy_forget(run, [EVERYONE[1]], "retrain")
    assert [one["notified"] for one in later["outside"]] == [True, False, False]
    assert verify(str(run))["problems"] == []
    for name in (first, second, current):
        here("recalls", run, "--told", name, "--by", "the telephone")
    assert "not told" not in here("recalls", run).out


def test_telling_needs_a_recall_and_says_by_whom(recalled: tuple[Path, dict[str, Any]], key: Path) -> None:
    run, _ = recalled
    first, _, current = state_of(run).releases
    entries = state_of(run).entries
    for options, words in (
        (("--told", first), "--told RELEASE needs --by TEXT"),
        (("--by", "mail"), "--told RELEASE needs --by TEXT"),
        (("--told", first, "--by", " "), "expected a line of text"),
        (("--told", first, "--told", "ffff", "--by", "mail"), "the run has no release 'ffff'"),
        (("--told", current, "--by", "mail"), "is current: there is no recall to tell"),
        (("--told", first, "--by", "mail", "--write", "folder", "--sign", key), "give one of them"),
        (("--write", "folder"), "--write writes signed notices"),
        (("--release", first), "--release is of --notify and --write"),
    ):
        here("recalls", run, *options).complains(2, words)
    assert state_of(run).entries == entries


def test_notice_of_one_release_goes_to_its_own_place_alone(recalled: tuple[Path, dict[str, Any]]) -> None:
    run, _ = recalled
    first, second, _ = state_of(run).releases
    with notice_server() as server:
        told = notify(str(run), server.url, KEY, releases=[second], pause=nowait)
    assert [one["release"] for one in told["notices"]] == [second]
    assert [bool(one["notified"]) for one in told["releases"]] == [False, True, False]
    assert [check_notice(one.body)[0]["release"] for one in server.received] == [second]
    assert first != second


# --- check


def test_check_tells_every_status_by_its_exit_code(recalled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, _ = recalled

    def code(file: str) -> tuple[int, str]:
        answer = here("check", tmp_path / file, "--run", run, "--json")
        return answer.code, answer.json["status"]

    assert [code(f"{n}.pt2") for n in (1, 3)] == [(1, "recalled"), (0, "current")]
    toy_forget(run, [EVERYONE[4]], "drop")
    toy_export(run, tmp_path / "4.pt2")
    toy_forget(run, [EVERYONE[4]], "retrain")
    assert code("4.pt2") == (3, "superseded")
    changed = bytearray((tmp_path / "4.pt2").read_bytes())
    changed[changed.index(b"\0" * 32)] ^= 1
    (tmp_path / "changed.pt2").write_bytes(changed)
    assert code("changed.pt2") == (1, "changed")
    (tmp_path / "other.pt2").write_bytes(pt2({"composed": "c", "release": "0" * 16}))
    (tmp_path / "old.pt2").write_bytes(pt2({"composed": "c"}))
    (tmp_path / "unregistered.pt2").write_bytes(pt2({"composed": "c", "registered": False}))
    (tmp_path / "nothing").write_bytes(b"\0")
    told = [tr.Run(run).check(tmp_path / file) for file in ("other.pt2", "old.pt2", "unregistered.pt2", "nothing")]
    assert {one.status for one in told} == {"unknown"}
    assert [
        word in str(one)
        for word, one in zip(("another run", "no register", "never registered", "no entry"), told, strict=True)
    ]
    assert here("check", tmp_path / "none.pt2", "--run", run).code == 2
    assert "RECALLED" in here("check", tmp_path / "1.pt2", "--run", run).out


def test_file_that_belongs_to_an_export_is_checked_too(run: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from taft_ray.run.record import Record
    from taft_ray.run.register import commit, file_digest, made_of

    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    record, digests = Record(str(run)), {"model.onnx.data": file_digest(tmp_path / "model.onnx.data")}
    fact = made_of(record, "export", "c", "mean")
    commit(
        record, replace(fact, release="5" * 16, digest=file_digest(tmp_path / "model.onnx"), bytes=1, beside=digests)
    )
    assert tr.Run(run).check(tmp_path / "model.onnx").status == "current"
    (tmp_path / "model.onnx.data").write_bytes(b"others")
    assert tr.Run(run).check(tmp_path / "model.onnx").status == "changed"


def test_broken_file_has_no_entry_and_is_no_error(tmp_path: Path) -> None:
    """Cut at any length, and with any byte changed: an archive, a protobuf message and a statement."""
    entry = b'{"release":"r"}'
    pair = b"\x0a\x08taft_ray\x12" + bytes([len(entry)]) + entry
    onnx = b"\x08\x0a\x3a\x03abc\x11" + b"\0" * 8 + b"\x72" + bytes([len(pair)]) + pair
    for whole in (pt2({"release": "r"}), onnx, entry):
        file = tmp_path / "file"
        file.write_bytes(whole)
        assert entry_of(file) == {"release": "r"}
        for at in range(len(whole)):
            for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
                file.write_bytes(data)
                found = entry_of(file)
                assert found is None or isinstance(found, dict)


# --- an older copy of the folder


def test_older_copy_knows_later_releases_again_and_recalls_them_exactly(run: Path, tmp_path: Path) -> None:
    """Both are of a ledger that is gone: the one holds both samples that are forgotten there, the other holds one."""
    old = Path(shutil.copytree(run, tmp_path / "old"))
    first = toy_export(run, tmp_path / "1.pt2", recipient=HOSPITAL)
    one = toy_forget(run, [EVERYONE[0]], "retrain")
    second = toy_export(run, tmp_path / "2.pt2")
    other = toy_forget(run, [EVERYONE[1]], "retrain")
    wanted = {first.release: [one["request"], other["request"]], second.release: [other["request"]]}
    shutil.rmtree(run)
    shutil.copytree(old, run)
    problems = verify(str(run))["problems"]
    assert any("2 releases are kept beside" in problem for problem in problems)
    with pytest.raises(IntegrityError, match="older copy"):
        tr.Run(run).recalls()
    Composer(str(run)).recover()
    for request in (one["request"], other["request"]):
        certificate = finished(run, request)
        assert {each["release"] for each in certificate["outside"]} == {n for n, r in wanted.items() if request in r}
    told = tr.Run(run).recalls()
    assert {each.release: list(each.recalled_by) for each in told.releases} == wanted
    assert tr.Run(run).check(tmp_path / "2.pt2").status == "recalled"
    assert toy_export(run, tmp_path / "3.pt2").release in state_of(run).releases
    assert verify(str(run))["problems"] == []


def test_damage_of_what_is_kept_of_a_release_holds_no_forget_up(run: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(run, tmp_path / "old"))
    made = toy_export(run, tmp_path / "1.pt2")
    request = toy_forget(run, [EVERYONE[0]], "retrain")["request"]
    shutil.rmtree(run)
    shutil.copytree(old, run)
    (kept,) = run.with_name(f"{run.name}.tombstones").glob(f"released/*/{made.release}.json")
    flip_a_byte(kept)
    with pytest.raises(IntegrityError, match=kept.name):
        Composer(str(run)).recover()
    assert finished(run, request)["request"] == request
    assert any("kept beside" in problem for problem in verify(str(run))["problems"])


# --- the certificate


def test_certificate_names_what_is_still_outside(recalled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, certificate = recalled
    first, second, _ = state_of(run).releases.values()
    assert [(one["release"], one["to"], one["notified"]) for one in certificate["outside"]] == [
        (first.fact.release, HOSPITAL.to, False),
        (second.fact.release, None, False),
    ]
    text = str(Certificate.from_json(certificate))
    assert f"export {first.fact.release} to {HOSPITAL.to}" in text
    page = Page(certificate_page(certificate)).text
    assert "2 files that were handed out before the request hold the samples" in page
    assert first.fact.digest in page
    assert "publication" not in certificate
    with notice_server() as server:
        notify(str(run), server.url, KEY, pause=nowait)
    later = toy_forget(run, [EVERYONE[1]], "retrain")
    assert [one["notified"] for one in later["outside"]] == [True, True, False]
    nobody = toy_forget(copied(run, tmp_path / "other"), [EVERYONE[0]], "drop")
    assert nobody == certificate, "asked before"
    for one in (run / "certificates").glob("*.json"):
        assert verify_certificate(str(one), run=str(run))["problems"] == []


def test_certificate_of_a_run_without_releases_says_nothing_of_them(run: Path) -> None:
    certificate = toy_forget(run, [EVERYONE[0]], "retrain")
    assert not {"outside", "publication"} & certificate.keys()


def test_page_says_that_nothing_is_outside_and_that_publication_is_held(run: Path, tmp_path: Path) -> None:
    tr.Run(run).release("2")
    toy_forget(run, [EVERYONE[0]], "drop")
    toy_export(run, tmp_path / "1.pt2")  # without shard 0
    certificate = toy_forget(run, [EVERYONE[1]], "retrain")
    assert certificate["outside"] == []
    page = Page(certificate_page(certificate)).text
    assert "no file that was handed out and has not expired holds the samples" in page
    assert "The model after this request may be published" in page
    certificate = toy_forget(run, [EVERYONE[4]], "retrain")
    page = Page(certificate_page(certificate)).text
    assert "Publication of the model after this request is held until 1 more forget" in page
    assert "is held until 1 more forget" in str(Certificate.from_json(certificate))
    assert "It is held until 1 more forget" in str(tr.Run(run).release())


def forged(certificate: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**certificate, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: forged(c, outside=None), "leaves out what is still outside"),
        (lambda c: forged(c, outside=[]), "leaves out what is still outside"),
        (lambda c: forged(c, outside=c["outside"][:1]), "leaves out what is still outside"),
        (lambda c: forged(c, outside=[*c["outside"], {**c["outside"][0], "release": "ff"}]), "hold none of its samples"),
        (lambda c: forged(c, outside=[{**one, "notified": True} for one in c["outside"]]), "not as the ledger has them"),
        (lambda c: forged(c, outside=[{**one, "digest": "0" * 64} for one in c["outside"]]), "not as the ledger has them"),
        (lambda c: forged(c, publication={"gate": "1 forget", "held": False}), "publication of the model"),
        (lambda c: forged(c, issued="2999-01-01T00:00:00+00:00"), "hold none of its samples"),
    ],
)  # fmt: skip
def test_certificate_that_hides_a_release_is_convicted(
    run: Path, tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], words: str
) -> None:
    from taft_ray.proof.contradictions import contradictions

    toy_export(run, tmp_path / "1.pt2", recipient=Recipient(to="a", until=4e9))
    toy_export(run, tmp_path / "2.pt2", recipient=Recipient(to="b", until=4e9))
    certificate = toy_forget(run, [EVERYONE[0]], "retrain")
    entries = Ledger(Store(str(run))).entries()
    assert list(contradictions(certificate, entries)) == []
    found = list(contradictions(change(certificate), entries))
    assert any(words in one for one in found), found
    assert list(contradictions(change(certificate), entries, state_of(run))) == found


def test_json_of_a_certificate_is_canonical_and_comes_back(recalled: tuple[Path, dict[str, Any]]) -> None:
    certificate = recalled[1]
    assert canonical_json(Certificate.from_json(certificate).to_json()) == canonical_json(certificate)
    assert json.loads(json.dumps(certificate)) == certificate

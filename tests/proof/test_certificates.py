"""Certificates: sealed, signed, and checked by themselves and against their run; what `verify` finds beyond damaged bytes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import files, finish, plain_forget
from proved import KEY, MODES, OTHER_KEY, one_of_each_shard, plain_evaluation_cache, private_pem
from tiny import SAMPLES, sample_id

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.data import id_hash
from taft_ray.errors import UsageError
from taft_ray.pages import certificate_page
from taft_ray.plans.facts import Evaluated
from taft_ray.proof.certificate import certificate_bytes
from taft_ray.proof.contradictions import inconsistencies
from taft_ray.proof.signature import sign_certificate
from taft_ray.proof.verify_certificate import is_certificate, verify_certificate
from taft_ray.proof.verify_run import verify
from taft_ray.storage import (
    DeltaRef,
    Ledger,
    PartRef,
    Store,
    canonical_json,
    digest_bytes,
    id_key,
    point_manifest,
    read_delta,
    read_manifest,
    read_part,
    write_delta,
    write_part,
)
from taft_ray.storage.digest import seal
from taft_ray.workers.shard_worker import ShardWorker

Proved = tuple[Path, dict[str, dict[str, Any]]]
Copy = Callable[..., Path]


def resealed(certificate: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The certificate with other fields, as somebody would write it who knows the format."""
    body = {k: v for k, v in certificate.items() if k not in ("digest", "signature")} | changes
    sealed = json.loads(seal(body, "digest"))
    return sealed | ({"signature": certificate["signature"]} if "signature" in certificate else {})


def written(folder: Path, certificate: dict[str, Any], name: str = "certificate.json") -> str:
    (folder / name).write_text(json.dumps(certificate, indent=2))
    return str(folder / name)


# --- what a certificate says


@pytest.mark.parametrize("mode", MODES)
def test_certificate_says_what_the_ledger_and_the_folder_say(proved: Proved, mode: str) -> None:
    run, certificate = proved[0], proved[1][mode]
    entries = Ledger(Store(str(run))).entries()
    assert certificate["mode"] == mode
    assert certificate["samples"] == 1
    assert certificate["id_hashes"] == [
        id_hash(one_of_each_shard()[MODES.index(mode)], id_key(Store(str(run)), create=False))
    ]
    kinds = {"retrain": ["trained"], "drop": [], "resolve": ["trained", "start-purged"]}[mode]
    stood = [entries[step["number"]] for step in certificate["steps"]]
    assert [entry.kind for entry in stood] == ["forget-requested", "dropped", "rewritten", "purged", *kinds]
    assert [entry.digest for entry in stood] == [step["digest"] for step in certificate["steps"]]
    forgotten = next(e for e in entries if e.kind == "forgotten" and e.body["request"] == certificate["request"])
    assert certificate["rests_on"]["digest"] == entries[certificate["rests_on"]["number"]].digest
    assert certificate["rests_on"]["number"] == forgotten.number - 1
    assert digest_bytes(certificate_bytes(certificate)) == forgotten.body["certificate"]["digest"]
    assert certificate["manifest_before"] != certificate["manifest_after"]
    for entry in certificate["objects_removed"]:
        assert not (run / entry["key"]).exists()
    assert {delta["key"] for delta in certificate["deltas_removed"]} <= {
        entry["key"] for entry in certificate["objects_removed"]
    }
    assert [shard["shard"] for shard in certificate["retrained"]] == ([] if mode == "drop" else certificate["shards"])
    for shard in certificate["retrained"]:
        assert (run / shard["delta"]["key"]).exists()
        assert bool(shard["facts"].get("resolved")) == (mode == "resolve")
    assert list(inconsistencies(certificate)) == []


def test_money_is_the_price_of_the_worker_seconds(proved: Proved, copy_of: Copy) -> None:
    run = copy_of(proved[0])
    composer = Composer(str(run))
    asked = composer.resume_forget(
        composer.request_forget(Selection(ids=(one_of_each_shard()[3],)), "retrain")["request"]
    )
    worker = ShardWorker(str(run), composer.class_count())
    for shard in asked["retrain"]:
        task = composer.task_for(shard)
        assert task is not None
        composer.finished(worker.fit(task))
    certificate = composer.conclude_forget(asked["request"], {"retrain_seconds": 1.0, "gpu_hour_price": 7.2})
    seconds = sum(shard["facts"]["seconds"] for shard in certificate["retrained"])
    assert seconds > 0
    assert certificate["cost"] == {
        "worker_seconds": pytest.approx(seconds),
        "price_per_hour": 7.2,
        "money": pytest.approx(seconds * 7.2 / 3600),
    }
    assert finish(composer, composer.forgetting.answer(asked["request"])) == certificate


# --- one certificate


@pytest.mark.parametrize("mode", MODES)
def test_certificate_is_verified_where_it_lies_and_as_answered(proved: Proved, tmp_path: Path, mode: str) -> None:
    run, certificate = proved[0], proved[1][mode]
    lies = next((run / "certificates").glob(f"{certificate['request']}-*.json"))
    for target in (str(lies), written(tmp_path, {**certificate, "repeated": True})):
        assert is_certificate(target)
        answer = verify_certificate(target)
        assert answer["problems"] == []
        assert answer["run"] == str(run)
        assert answer["request"] == certificate["request"]
        assert answer["signed_by"] == (None if mode == "resolve" else KEY.public.fingerprint)
        assert any("not signed" in note or "known from elsewhere" in note for note in answer["notes"])
        answer = verify_certificate(target, public_key=KEY.public, run=str(run))
        assert answer["ok"] is (mode != "resolve")
    assert not is_certificate(str(run))


def test_bytes_of_a_certificate_file_count(proved: Proved, tmp_path: Path) -> None:
    certificate = proved[1]["retrain"]
    data = canonical_json(certificate)
    file = tmp_path / "certificate.json"
    signature = data.index(
        b'"signature":{'
    )  # every byte of it; of the rest every third, for `verify` of a run takes them all
    for at in sorted({*range(0, len(data), 3), *range(signature, signature + 280)}):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        file.write_bytes(changed)
        answer = verify_certificate(str(file), public_key=KEY.public)
        if answer["ok"]:  # the same content in another spelling, such as 1E-05
            assert json.loads(changed) == certificate, at
        else:
            assert any(str(file) in problem for problem in answer["problems"]), at
    for length in range(0, len(data), 31):
        file.write_bytes(data[:length])
        assert not verify_certificate(str(file))["ok"]


def test_field_written_twice_is_refused(proved: Proved, tmp_path: Path) -> None:
    """One reader would see the first, another the last."""
    text = json.dumps(proved[1]["drop"])
    (tmp_path / "c.json").write_text('{"mode": "retrain", ' + text[1:])
    assert "twice" in verify_certificate(str(tmp_path / "c.json"))["problems"][0]


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"schema": 1}', "NaN", "\xff", "[" * 5000])
def test_what_is_no_certificate_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text, encoding="latin1")
    assert "is not a certificate" in verify_certificate(str(tmp_path / "c.json"))["problems"][0]


def test_certificate_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no certificate"):
        verify_certificate(str(tmp_path / "none.json"))


def test_changed_certificate_is_found_by_signature_and_by_run(proved: Proved, tmp_path: Path) -> None:
    target = written(tmp_path, resealed(proved[1]["retrain"], requested="2020-01-01T00:00:00+00:00"))
    problems = verify_certificate(target)["problems"]
    assert any(problem.startswith("signature") for problem in problems)
    assert any("another certificate of this request" in problem for problem in problems)


def test_stripped_signature_is_found(proved: Proved, tmp_path: Path) -> None:
    stripped = {name: value for name, value in proved[1]["retrain"].items() if name != "signature"}
    target = written(tmp_path, stripped)
    answer = verify_certificate(target)
    assert answer["ok"]
    assert answer["signed_by"] is None
    assert any(KEY.public.fingerprint in note for note in answer["notes"])
    assert "is not signed" in verify_certificate(target, public_key=KEY.public)["problems"][0]


def test_another_signer_is_found(proved: Proved, tmp_path: Path) -> None:
    certificate = proved[1]["retrain"]
    other = OTHER_KEY.sign(certificate_bytes(certificate)).to_json()
    target = written(tmp_path, {**certificate, "signature": other})
    problems = verify_certificate(target, public_key=KEY.public)["problems"]
    assert any(OTHER_KEY.public.fingerprint in problem for problem in problems)
    problems = verify_certificate(target)["problems"]  # the run's ledger knows whose it was
    assert any(KEY.public.fingerprint in problem for problem in problems)


def test_signature_of_another_certificate_is_found(proved: Proved, tmp_path: Path) -> None:
    target = written(tmp_path, {**proved[1]["retrain"], "signature": proved[1]["drop"]["signature"]})
    assert any("signature" in problem for problem in verify_certificate(target)["problems"])


def test_certificate_without_its_run_is_still_checked_by_itself(proved: Proved, tmp_path: Path) -> None:
    certificate = resealed(proved[1]["resolve"], run={**proved[1]["resolve"]["run"], "address": str(tmp_path / "gone")})
    answer = verify_certificate(written(tmp_path, certificate))
    assert answer["ok"]
    assert answer["run"] is None
    assert any("not compared with its run" in note for note in answer["notes"])
    with_run = verify_certificate(written(tmp_path, certificate), run=str(proved[0]))
    assert "another certificate of this request" in with_run["problems"][0]
    assert not verify_certificate(written(tmp_path, certificate), run=str(tmp_path / "gone"))["ok"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": 2}, "2 samples, and names 1"),
        ({"still_listed_after_purge": ["cache/x"]}, "still listed"),
        ({"retrained": []}, "were not trained again"),
        ({"mode": "drop"}, "a drop was asked"),
        ({"shards": [0, 1]}, "tells what became"),
        ({"objects_removed": []}, "not among the objects removed"),
        ({"steps": []}, "expected requested, dropped, rewritten and purged"),
        ({"rests_on": {"number": 0, "digest": "0" * 64}}, "after the one it rests on"),
        ({"id_hashes": 5}, "has not the fields"),
        ({"retrained": [5]}, "has not the fields"),
    ],
)
def test_certificate_that_contradicts_itself_is_found(
    proved: Proved, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """Seal and signature are right: whoever wrote it could make both."""
    certificate = resealed({k: v for k, v in proved[1]["retrain"].items() if k != "signature"}, **changes)
    signed = {**certificate, "signature": KEY.sign(certificate_bytes(certificate)).to_json()}
    problems = verify_certificate(written(tmp_path, signed), public_key=KEY.public)["problems"]
    assert any(problem.startswith("consistency") and words in problem for problem in problems), problems


def test_retrain_to_the_very_bytes_that_were_removed_is_found(proved: Proved) -> None:
    certificate = json.loads(json.dumps(proved[1]["retrain"]))
    certificate["retrained"][0]["delta"]["digest"] = certificate["deltas_removed"][0]["digest"]
    assert any("the very bytes" in text for text in inconsistencies(certificate))


def test_what_was_removed_and_came_back_is_named(proved: Proved, copy_of: Copy) -> None:
    run, certificate = copy_of(proved[0]), proved[1]["retrain"]
    target = str(next((run / "certificates").glob(f"{certificate['request']}-*.json")))
    assert verify_certificate(target, run=str(run))["problems"] == []
    for entry in certificate["objects_removed"]:
        if entry["key"].startswith(("cache/", "deltas/")):
            path = run / entry["key"]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"back")
            problems = verify_certificate(target, run=str(run))["problems"]
            assert problems == [f"run: {entry['key']} was removed and is there again"]
            path.unlink()


def test_older_copy_of_the_run_does_not_have_its_certificate(
    proved: Proved, copy_of: Copy, spec_of: Callable[..., Any], parquet: Path, tmp_path: Path
) -> None:
    run = copy_of(proved[0])
    target = written(tmp_path, proved[1]["resolve"])
    number = proved[1]["resolve"]["steps"][0]["number"]
    for path in sorted((run / "ledger").iterdir())[number:]:
        path.unlink()
    assert any("knows no finished request" in text for text in verify_certificate(target, run=str(run))["problems"])


def test_page_tells_a_person_what_was_done_and_how_to_check_it(proved: Proved) -> None:
    for mode, certificate in proved[1].items():
        key = f"certificates/{certificate['request']}-x.json"
        page = certificate_page(certificate, key)
        for heading in ("What was asked", "What was done", "What was removed", "does not cover", "can be checked"):
            assert heading in page, mode
        assert f"taft-ray verify {proved[0]}/{key} --public-key key.pub" in page
        fingerprint = KEY.public.fingerprint.removeprefix("sha256:")
        assert (fingerprint in page) is ("signature" in certificate)
        assert ("Not signed" in page) is ("signature" not in certificate)
        for entry in certificate["objects_removed"]:
            assert entry["key"] in page


# --- signing


def test_signing_again_changes_nothing_and_another_key_is_refused(proved: Proved, copy_of: Copy) -> None:
    run, request = copy_of(proved[0]), proved[1]["drop"]["request"]
    before = {path: path.read_bytes() for path in files(run)}
    assert sign_certificate(str(run), request, KEY)["signature"] == proved[1]["drop"]["signature"]
    with pytest.raises(UsageError, match=KEY.public.fingerprint):
        sign_certificate(str(run), request, OTHER_KEY)
    assert {path: path.read_bytes() for path in files(run)} == before


def test_lost_signature_is_written_again_from_the_ledger(proved: Proved, copy_of: Copy) -> None:
    run, request = copy_of(proved[0]), proved[1]["drop"]["request"]
    file = run / "certificates" / f"{request}.signature.json"
    content = file.read_bytes()
    file.unlink()
    sign_certificate(str(run), request, KEY)
    assert file.read_bytes() == content
    assert verify(str(run))["ok"]


def test_certificate_made_before_a_key_was_at_hand_is_signed_later(proved: Proved, copy_of: Copy) -> None:
    run, request = copy_of(proved[0]), proved[1]["resolve"]["request"]
    signed = sign_certificate(str(run), request, OTHER_KEY)
    assert {**proved[1]["resolve"], "signature": signed["signature"]} == signed
    assert verify(str(run))["problems"] == []
    assert verify(str(run))["checks"]["signatures"] == 3


@pytest.mark.parametrize("request_name", ["nothing", "../run", ""])
def test_unknown_request_is_not_signed(proved: Proved, request_name: str) -> None:
    with pytest.raises(UsageError, match="not one of this run's"):
        sign_certificate(str(proved[0]), request_name, KEY)


def test_private_key_is_in_no_file_of_the_run(proved: Proved) -> None:
    secret = bytes(range(32))
    inner = [line for line in private_pem().splitlines() if b"-" not in line]
    for path in files(proved[0]):
        data = path.read_bytes()
        assert not any(spelled in data for spelled in (secret, secret.hex().encode(), *inner)), path


# --- what verify finds beyond damaged bytes


def test_hash_of_a_forgotten_sample_is_found_in_names_and_texts(proved: Proved, copy_of: Copy) -> None:
    run = copy_of(proved[0])
    digest = proved[1]["drop"]["id_hashes"][0]
    (run / "reports").mkdir(exist_ok=True)
    for name, text in ((f"{digest}.txt", ""), ("notes.json", f'{{"x": "aa{digest}bb"}}'), ("page.html", digest)):
        (run / "reports" / name).write_text(text)
        assert any(name in problem and "hash of a forgotten" in problem for problem in verify(str(run))["problems"])
        (run / "reports" / name).unlink()
    (run / "reports" / f"certificate-{proved[1]['drop']['request']}.html").write_text(digest)  # a certificate's copy
    assert verify(str(run))["ok"]


def test_evaluation_cache_with_a_forgotten_sample_is_found(proved: Proved, copy_of: Copy, parquet: Path) -> None:
    run = copy_of(proved[0])
    plain_evaluation_cache(run, parquet)  # of the training data, without those that are forgotten
    assert verify(str(run))["problems"] == []
    kept = {path: path.read_bytes() for path in files(run, "eval")}
    told = plain_forget(run, [one_of_each_shard()[3]], "drop")
    certificate = str(next((run / "certificates").glob(f"{told['request']}-*.json")))
    assert any(entry["key"].startswith("eval/") for entry in told["objects_removed"])
    assert verify(str(run))["problems"] == []
    plain_evaluation_cache(run, parquet)  # the same data again, without the sample
    assert verify(str(run))["problems"] == []
    assert verify_certificate(certificate, run=str(run))["problems"] == []
    for path, content in kept.items():  # somebody puts it back
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert any("eval/" in problem and "forgotten" in problem for problem in verify(str(run))["problems"])
    assert any("eval/" in problem for problem in verify_certificate(certificate, run=str(run))["problems"])


def test_cache_that_the_deltas_were_not_fitted_on_is_found(proved: Proved, copy_of: Copy) -> None:
    """Whoever changes a cache part and its record in the manifest has not changed the ledger."""
    run = copy_of(proved[0])
    store = Store(str(run))
    found = read_manifest(store)
    assert found is not None
    shard = str(proved[1]["retrain"]["shards"][0])
    ref = found.parts[shard][0]
    part = read_part(store, PartRef.from_json(ref), fingerprint=found.fingerprint)
    tokens = part.tokens.copy()
    tokens[0] = 0
    new = write_part(
        store, f"cache/shard={int(shard):05d}", ref["part"], keys=part.keys, labels=part.labels, tokens=tokens,
        dtype=part.dtype, fingerprint=found.fingerprint,
    )  # fmt: skip
    (run / ref["key"]).unlink()
    found.parts[shard][0] = {**new.to_json(), "part": ref["part"]}
    point_manifest(store, found)
    assert any("says other things than" in problem for problem in verify(str(run))["problems"])


def test_another_key_or_spec_with_a_right_digest_is_found(proved: Proved, copy_of: Copy) -> None:
    run = copy_of(proved[0])
    content = (run / "keys/id.key").read_bytes()
    (run / "keys/id.key").write_bytes(bytes(32) + bytes.fromhex(digest_bytes(bytes(32))))
    assert any("keys/id.key is not the key" in problem for problem in verify(str(run))["problems"])
    (run / "keys/id.key").write_bytes(content)
    document = json.loads((run / "run.json").read_bytes())
    spec = {**document["spec"], "penalty": 0.5}
    (run / "run.json").write_bytes(canonical_json({"spec": spec, "digest": digest_bytes(canonical_json(spec))}))
    assert any("run.json is not the spec" in problem for problem in verify(str(run))["problems"])


def test_cut_off_entries_are_found_by_an_earlier_head(proved: Proved, copy_of: Copy) -> None:
    run = copy_of(proved[0])
    composer = Composer(str(run))
    composer.commit(Evaluated("x", 1.0, 1, "", {}, None, ()), "evaluated/x")
    head = verify(str(run))["head"]
    sorted((run / "ledger").iterdir())[-1].unlink()
    assert verify(str(run))["ok"], "a measurement at the end of the chain has nothing behind it that would miss it"
    assert any(head[:16] in problem for problem in verify(str(run), head=head)["problems"])


def test_verify_writes_nothing(proved: Proved, copy_of: Copy) -> None:
    run = copy_of(proved[0])
    before = {path: path.read_bytes() for path in files(run)}
    assert verify(str(run), retrain=True)["ok"]
    verify_certificate(str(next((run / "certificates").glob("*-*.json"))), run=str(run))
    assert {path: path.read_bytes() for path in files(run)} == before


def test_verify_reports_how_far_it_is(proved: Proved) -> None:
    said: list[tuple[str, int, int]] = []
    verify(str(proved[0]), retrain=True, report=lambda what, done, total: said.append((what, done, total)))
    for what, total in (("verify cache", 4), ("verify deltas", 3), ("verify retrain", 2)):
        assert [done for name, done, of in said if name == what and of == total] == list(range(total + 1))


def test_verify_needs_no_ray(proved: Proved) -> None:
    target = next((proved[0] / "certificates").glob("*-*.json"))
    code = (
        "import sys\nfrom taft_ray.proof.verify_run import verify\n"
        "from taft_ray.proof.verify_certificate import verify_certificate\n"
        "assert verify(sys.argv[1], retrain=True)['ok'] and verify_certificate(sys.argv[2])['ok']\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(proved[0]), str(target)], check=True, timeout=300)


# --- training again


def test_retrained_shards_are_reproduced(proved: Proved) -> None:
    answer = verify(str(proved[0]), retrain=True)
    assert answer["problems"] == []
    assert answer["checks"]["shards trained again"] == 2  # one retrained to the bit, one resolved to its distance


def faked(run: Path, mode: str, factor: float) -> None:
    """A forget by a composer that commits another delta than its worker fitted, and certifies it."""
    composer = Composer(str(run))
    asked = composer.request_forget(Selection(ids=(one_of_each_shard()[3],)), mode)
    asked = composer.resume_forget(asked["request"])
    worker = ShardWorker(str(run), composer.class_count())
    for shard in asked["retrain"]:
        task = composer.task_for(shard, mode == "resolve")
        assert task is not None
        composer.finished(_changed(worker, worker.fit(task), factor))
    composer.conclude_forget(asked["request"], {"retrain_seconds": 0.0})
    assert verify(str(run))["problems"] == [], "everything agrees with everything else"


def _changed(worker: ShardWorker, result: dict[str, Any], factor: float) -> dict[str, Any]:
    """The result with its delta scaled: its values are not what the cache gives."""
    ref = DeltaRef.from_json(result["delta"])
    terms, meta = read_delta(worker.store, ref)
    worker.store.delete(ref.key)
    scaled = {
        name: (value * factor).astype(value.dtype) if name.startswith("delta/") else value
        for name, value in terms.items()
    }
    new = write_delta(worker.store, ref.key.rpartition("/")[0], result["generation"], scaled, meta)
    return {**result, "delta": new.to_json()}


def test_faked_retrain_is_found_by_training_again(proved: Proved, copy_of: Copy) -> None:
    run = copy_of(proved[0])
    faked(run, "retrain", 1.0001)
    problems = verify(str(run), retrain=True)["problems"]
    assert len(problems) == 1
    assert "deltas/shard=00003/" in problems[0]
    assert "is not what its cache gives" in problems[0]


def test_faked_resolve_is_found_by_its_distance(proved: Proved, copy_of: Copy) -> None:
    run = copy_of(proved[0])
    faked(run, "resolve", 0.9)
    problems = verify(str(run), retrain=True)["problems"]
    assert len(problems) == 1
    assert "certified to be within" in problems[0]


def test_every_sample_can_be_asked_about(proved: Proved) -> None:
    """The hashes of a certificate are those of the ids, for whoever has the key."""
    secret = id_key(Store(str(proved[0])), create=False)
    named = {digest for certificate in proved[1].values() for digest in certificate["id_hashes"]}
    meant = [n for n in range(SAMPLES) if id_hash(sample_id(n), secret) in named]
    assert [sample_id(n) for n in meant] == sorted(one_of_each_shard()[:3])

"""`taft_ray.Run`: the verbs as a library, with typed answers; what it starts, what it leaves alone, and what it refuses."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import here
from folder import files, shard_of
from plain import plain_train
from proved import private_pem
from tiny import SAMPLES, SHARDS, picture, sample_id

import taft_ray as tr
from taft_ray import answers
from taft_ray.errors import DataError, IntegrityError, SpecMismatch, StorageError, UnknownSample, UsageError
from taft_ray.storage import Store
from taft_ray.verbs.deadline import unix_deadline


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("library") / "run"
    plain_train(run, spec_of(parquet, compose="additive", features=48, trainable="head"))
    return run


@pytest.fixture
def folder(whole: Path, copy_of: Callable[..., Path]) -> Path:
    return copy_of(whole)


def test_a_run_is_an_address_until_a_verb_is_called(tmp_path: Path) -> None:
    run = tr.Run(tmp_path / "not there")
    assert run.uri == str(tmp_path / "not there")
    assert run == tr.Run(str(tmp_path / "not there"))
    assert list(tmp_path.iterdir()) == []


def test_train_evaluate_forget_verify(
    tmp_path: Path, ray_session: None, parquet: Path, test_parquet: Path, weights: Path
) -> None:
    import ray

    run = tr.Run(tmp_path / "run")
    said: list[str] = []
    trained = tr.Run(run.uri, progress=lambda what, done, total: said.append(what)).train(
        data=parquet,
        model="test_vit",
        weights=str(weights),
        image_size=32,
        shards=2,
        trainable="head",
        device="cpu",
        lanes=1,
    )
    assert trained.compose is not None
    assert trained.composed == trained.compose.digest
    assert {shard.state for shard in trained.shards} == {"trained"}
    assert "shards" in said
    assert run.train().composed == trained.composed, "it goes on with its own spec, and nothing is left to do"
    with pytest.raises(SpecMismatch, match="shards"):
        run.train(data=parquet, model="test_vit", weights=str(weights), image_size=32, shards=3, trainable="head")
    measured = run.evaluate(test_parquet)
    assert measured.composed == trained.composed
    assert set(measured.by_composition) == {"additive", "mean", "gram"}
    assert measured.by_composition["additive"].accuracy == measured.accuracy
    certificate = run.forget([sample_id(0)])
    assert isinstance(certificate, answers.Certificate)
    assert certificate.mode == "subtract"
    assert certificate.retrained
    assert certificate.composed_after == run.status().composed
    assert run.verify().problems == ()
    assert ray.is_initialized(), "the Ray of this process stays"


def test_requests_that_are_carried_out_together_name_each_other_and_are_signed_together(
    folder: Path, ray_session: None, tmp_path: Path
) -> None:
    run, signing_key = tr.Run(folder), tmp_path / "key.pem"
    signing_key.write_bytes(private_pem())
    here_too = [sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == 1]
    promise = run.forget([here_too[0]], mode="retrain", deadline="30d")
    certificate = run.forget([here_too[1]], mode="retrain", sign=signing_key)
    assert isinstance(certificate, answers.Certificate)
    assert certificate.carried_out_with == certificate.signed_too == (promise.request,)
    assert f"Carried out with request {promise.request};" in str(certificate)
    other = json.loads(next((folder / "certificates").glob(f"{promise.request}-*.json")).read_text())
    assert other["carried_out_with"] == [certificate.request]
    assert other["seconds"]["total"] < 60, "it waited before, and that is no work"
    checked = tr.verify_certificate(Path(certificate.address))
    assert checked.ok
    assert checked.signed_by is not None
    assert run.verify().problems == ()


@pytest.mark.slow
def test_data_that_cannot_be_understood_leaves_no_run_behind(tmp_path: Path, ray_session: None, weights: Path) -> None:
    data = tmp_path / "data.parquet"
    pictures = [picture(n) for n in range(6)]
    pq.write_table(pa.table({"image": pictures, "label": ["1", "01", "2"] * 2}), data)
    options: dict[str, Any] = {
        "model": "test_vit",
        "weights": str(weights),
        "image_size": 32,
        "trainable": "head",
        "device": "cpu",
    }
    run = tr.Run(tmp_path / "run")
    with pytest.raises(DataError, match="one number"):
        run.train(data=data, shards=2, **options)
    assert not (tmp_path / "run").exists()
    pq.write_table(pa.table({"image": pictures, "label": ["1", "3", "2"] * 2}), data)
    assert run.train(data=data, shards=1, **options).samples == 6


def test_request_on_a_run_that_cannot_be_written_is_kept_and_says_so(
    folder: Path, outside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tr.Run(folder)
    create = Store.create

    def read_only(store: Store, key: str, data: bytes) -> None:
        if store.uri == run.uri:
            raise StorageError(f"{key} in {store.uri}: the file system is read-only")
        create(store, key, data)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "create", read_only)
        with pytest.raises(StorageError, match=r"read-only.*The request is kept in .*tombstones"):
            run.forget([sample_id(0)], mode="drop")
        with pytest.raises(IntegrityError, match="could not be written when they were made"):
            run.report()
    assert run.status().samples == SAMPLES - 1, "the next command drops it"
    assert len(run.forget_due().certificates) == 1
    assert run.verify().problems == ()


def test_a_run_goes_on_with_another_version_of_the_package(
    folder: Path, parquet: Path, spec_of: Callable[..., Any], ray_session: None
) -> None:
    from taft_ray.verbs.train import train

    before = tr.Run(folder).status().composed
    spec = spec_of(parquet, compose="additive", features=48, trainable="head")
    later = replace(spec, versions={**spec.versions, "taft_ray": "9.9"})
    assert train(str(folder), later, lanes=1)["composed"] == before
    assert json.loads((folder / "run.json").read_text())["spec"]["versions"] == spec.versions
    with pytest.raises(SpecMismatch, match="versions"):
        train(str(folder), replace(spec, versions={**spec.versions, "torch": "9.9"}), lanes=1)


def test_answers_are_what_the_commands_print(folder: Path, outside: None) -> None:
    run = tr.Run(folder)
    assert run.status().to_json() == here("status", folder, "--json").json
    assert run.verify().to_json() == here("verify", folder, "--json").json
    asked = run.estimate([sample_id(1)])
    assert asked.to_json() == here("estimate", folder, "--ids", sample_id(1), "--json").json
    dropped = run.forget([sample_id(1)], mode="drop")
    again = here("forget", folder, "--ids", sample_id(1), "--mode", "drop", "--json").json
    assert again == {**dropped.to_json(), "repeated": True}


def test_looking_and_dropping_start_no_ray(folder: Path, tmp_path: Path, outside: None) -> None:
    run = tr.Run(folder)
    before = run.status().composed
    promise = run.forget([sample_id(0)], mode="retrain", deadline=timedelta(days=30))
    assert isinstance(promise, answers.Promise)
    assert promise.waiting
    assert run.status().composed == before
    assert [request.done for request in run.status().requests] == [False]
    certificate = run.forget([sample_id(1)], mode="drop")
    assert isinstance(certificate, answers.Certificate)
    assert run.status().composed == certificate.composed_after != before
    assert run.report().ok
    assert run.export(tmp_path / "model.pt2").composed == certificate.composed_after
    assert run.gc().removed == ()
    assert run.rejected().rejected == 0
    assert run.verify().ok


def test_one_run_used_from_two_threads(folder: Path, outside: None) -> None:
    run = tr.Run(folder)
    found: dict[str, Any] = {}

    def drop(name: str) -> None:
        found[name] = run.forget([name], mode="drop")

    names = [sample_id(n) for n in range(2)]
    threads = [threading.Thread(target=drop, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert len(run.status().shards) == SHARDS
    for thread in threads:
        thread.join()
    assert {certificate.samples for certificate in found.values()} == {1}
    assert run.verify().problems == ()
    assert run.verify().forgotten_samples == 2


def test_requests_that_are_refused_change_nothing(folder: Path, outside: None) -> None:
    run = tr.Run(folder)
    before = {str(path): path.read_bytes() for path in files(folder)}
    for ids in ("person-000", b"person-000", 5, None, Path("person-000")):
        with pytest.raises(UsageError, match=r"ids=.*: expected a list of texts, such as \['1'\]"):
            run.forget(ids, mode="drop")  # type: ignore[arg-type]
    for ids in ([5], [Path("person-000")], [b"person-000"]):
        with pytest.raises(UsageError, match=r"ids has .*: expected texts alone"):
            run.forget(ids, mode="drop")  # type: ignore[arg-type]
    for shards in (1, [True], [1.0]):
        with pytest.raises(UsageError, match=r"shards.*expected .*whole numbers"):
            run.forget(shards=shards, mode="drop")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"no-such\.pem"):
        run.forget([sample_id(0)], mode="drop", sign=folder / "no-such.pem")
    for price in ("2.5", -4, float("nan")):
        with pytest.raises(UsageError, match=r"gpu_hour_price=.*expected a number >= 0"):
            run.forget([sample_id(0)], mode="drop", gpu_hour_price=price)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"--deadline datetime.date.*or a datetime"):
        run.forget([sample_id(0)], mode="retrain", deadline=date(2030, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no data at"):
        run.evaluate(folder / "nowhere")
    with pytest.raises(UsageError, match="do not make a spec"):
        tr.Run(folder.parent / "new").train(data="x", shards="5")
    with pytest.raises(UnknownSample, match="nobody"):
        run.forget(["nobody"], mode="drop")
    with pytest.raises(UsageError, match="nothing to forget was given"):
        run.estimate()
    with pytest.raises(UsageError, match="--deadline 'soon'"):
        run.forget([sample_id(0)], mode="retrain", deadline="soon")
    wrong: list[dict[str, Any]] = [{"data": "x", "colour": "red"}, {"colour": "red"}]
    for options in wrong:
        with pytest.raises(UsageError, match="train has no option colour"):
            run.train(**options)
    with pytest.raises(UsageError, match="do not make a spec"):
        run.train(shards="5")
    with pytest.raises(SpecMismatch, match="shards"):
        run.train(shards=SHARDS + 1)
    with pytest.raises(UsageError, match="give data, too"):
        run.train(split="test")
    assert {str(path): path.read_bytes() for path in files(folder)} == before


@pytest.mark.parametrize("verb", ["status", "verify", "report", "gc", "rejected", "destroy", "repair", "train"])
def test_something_that_is_no_run(verb: str, tmp_path: Path, outside: None) -> None:
    (tmp_path / "notes.txt").write_text("not a run")
    with pytest.raises(StorageError, match=r"no run at .*run\.json is missing"):
        getattr(tr.Run(tmp_path), verb)()
    for method in (tr.Run(tmp_path).evaluate, tr.Run(tmp_path).predict):
        with pytest.raises(StorageError, match="no run at"):
            method(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_of_a_newer_version_is_named_and_not_touched(folder: Path, outside: None) -> None:
    from taft_ray.storage.digest import canonical_json, digest_json

    document = json.loads((folder / "run.json").read_text())
    spec = {**document["spec"], "sites": 3}
    (folder / "run.json").write_bytes(canonical_json({**document, "spec": spec, "digest": digest_json(spec)}))
    for verb in ("status", "report", "gc"):
        with pytest.raises(SpecMismatch, match=r"made by another version of taft_ray: unknown fields \['sites'\]"):
            getattr(tr.Run(folder), verb)()
    (found,) = tr.runs(folder)
    assert "another version" in (found.problem or "")


def test_runs_are_found_beside_one_another(whole: Path, tmp_path: Path, copy_of: Callable[..., Path]) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    copy_of(whole, "a")
    found = tr.runs(tmp_path)
    assert [(one.run, one.samples, one.shards, one.open_requests) for one in found] == [
        (str(tmp_path / "a"), SAMPLES, SHARDS, 0)
    ]
    assert found[0].composed == tr.Run(tmp_path / "a").status().composed
    assert [one.run for one in tr.runs(tmp_path / "a")] == [str(tmp_path / "a")]
    (tmp_path / "empty").mkdir()
    assert list(tr.runs(tmp_path / "empty")) == []


def test_runs_of_a_folder_that_is_not_there_are_an_error(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path / "file"):
        (tmp_path / "file").write_text("no folder")
        with pytest.raises(StorageError, match=rf"there is no folder {place}; give the folder that holds runs"):
            tr.runs(place)
        here("list", place).complains(1, f"there is no folder {place}")
    assert not (tmp_path / "nowhere").exists()


def test_a_destroyed_run_is_gone_and_what_is_not_its_own_stays(folder: Path, outside: None) -> None:
    run = tr.Run(folder)
    run.forget([sample_id(0)], mode="drop")
    (folder / "thesis.txt").write_text("not the run's")
    answer = run.destroy()
    assert answer.left == ("thesis.txt",)
    assert [path.name for path in folder.rglob("*")] == ["thesis.txt"]
    assert answer.tombstones == f"{folder}.tombstones"
    with pytest.raises(StorageError, match="no run at"):
        run.destroy()


@pytest.mark.parametrize("before", ["another run was here", "the ledger is damaged", "a destroy was interrupted"])
def test_destroy_names_tombstones_whoever_left_them(
    before: str, folder: Path, outside: None, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    tr.Run(folder).forget([sample_id(0)], mode="drop")
    if before == "another run was here":
        tr.Run(folder).destroy()
        plain_train(folder, spec_of(parquet, trainable="head", shards=1, max_iterations=1))
    elif before == "the ledger is damaged":
        sorted((folder / "ledger").iterdir())[1].write_text("{}")
    else:
        for path in files(folder, "ledger"):
            path.unlink()
    answer = tr.Run(folder).destroy()
    assert answer.tombstones == f"{folder}.tombstones"
    assert f"stay beside it in {folder}.tombstones" in str(answer)
    assert Path(f"{folder}.tombstones").is_dir()
    assert not folder.exists()


def test_destroy_of_a_run_that_forgot_nothing_speaks_of_no_tombstones(folder: Path, outside: None) -> None:
    assert "tombstones" not in str(tr.Run(folder).destroy())


def test_an_interrupted_destroy_goes_on(folder: Path, outside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from taft_ray.storage import Store

    erase, calls = Store.erase, []

    def cut_off(store: Store, keys: Any) -> Any:
        calls.append(keys)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return erase(store, keys)

    monkeypatch.setattr(Store, "erase", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tr.Run(folder).destroy()
    assert (folder / "run.json").exists()
    tr.Run(folder).destroy()
    assert not folder.exists()


def test_destroying_a_run_that_is_written_to_is_refused_and_goes_on_later(
    folder: Path, outside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taft_ray.storage import Store

    erase = Store.erase

    def beside_a_writer(store: Store, keys: Any) -> Any:
        erased = erase(store, keys)
        if any(key.startswith("ledger/") for key in keys):
            store.write("deltas/shard=00000/late.safetensors", b"of a lane that was at work")
        return erased

    with monkeypatch.context() as patched:
        patched.setattr(Store, "erase", beside_a_writer)
        with pytest.raises(StorageError, match=r"1 object of .* is there again, such as deltas/.*End it, then run"):
            tr.Run(folder).destroy()
    assert (folder / "run.json").exists(), "the same command goes on"
    tr.Run(folder).destroy()
    assert not folder.exists()


def test_destroying_without_yes_names_requests_that_wait(folder: Path, outside: None) -> None:
    before = {str(path): path.read_bytes() for path in files(folder)}
    here("destroy", folder).complains(2, f"{SAMPLES} samples in {SHARDS} shards", "Nothing was removed; add --yes")
    assert {str(path): path.read_bytes() for path in files(folder)} == before
    promise = tr.Run(folder).forget([sample_id(0)], deadline=timedelta(days=30))
    assert isinstance(promise, answers.Promise)
    day = datetime.fromisoformat(promise.deadline).strftime("%Y-%m-%d")
    here("destroy", folder).complains(
        2, f"request {promise.request} of 1 sample waits until", f"for the deadline {day}", "has no certificate then"
    )
    assert here("destroy", folder, "--yes").code == 0
    assert not folder.exists()


def test_report_of_a_run_without_anything_measured(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any], outside: None
) -> None:
    from taft_ray.storage import write_spec

    write_spec(Store(str(tmp_path / "run")), spec_of(parquet, trainable="head").to_json())
    answer = tr.Run(tmp_path / "run").report()
    assert answer.ok
    assert "not measured; taft-ray evaluate measures it" in str(answer)
    assert Path(answer.page).read_text().startswith("<!doctype html>")
    json.loads(Path(answer.json).read_text())


def test_estimate_and_forget_have_the_same_default(folder: Path, outside: None) -> None:
    run = tr.Run(folder)
    assert run.estimate([sample_id(0)]).mode == "subtract"
    promise = run.forget([sample_id(0)], deadline="30d")
    assert promise.mode == "subtract"
    assert here("estimate", folder, "--ids", sample_id(1), "--json").json["mode"] == "subtract"
    assert here("forget", folder, "--ids", sample_id(1), "--dry-run", "--json").json["mode"] == "subtract"
    assert here("forget", folder, "--ids", sample_id(1), "--deadline", "30d", "--json").json["mode"] == "subtract"
    for verb in ("estimate", "forget"):
        assert "[default: subtract; retrain in a run of deltas alone]" in " ".join(here(verb, "--help").out.split())


def test_estimate_of_what_waits_has_the_request_and_its_dates(folder: Path, outside: None) -> None:
    run = tr.Run(folder)
    promise = run.forget([sample_id(0), sample_id(1)], deadline="30d")
    assert isinstance(promise, answers.Promise)
    for ids, count in (([sample_id(0)], 1), ([sample_id(0), sample_id(1)], 2)):
        (waiting,) = list(run.estimate(ids).waiting or ())
        assert (waiting.request, waiting.samples) == (promise.request, count)
        assert (waiting.runs_at, waiting.deadline) == (promise.runs_at, promise.deadline)
    assert run.estimate([sample_id(2)]).waiting is None


def test_a_destroyed_run_leaves_no_version_in_a_bucket(s3_uri: str, whole: Path, outside: None) -> None:
    from taft_ray.storage import Store

    store = Store(f"{s3_uri}/run")
    for path in files(whole):
        store.upload(path, str(path.relative_to(whole)))
    assert tr.Run(store.uri).status().samples == SAMPLES
    assert [one.run for one in tr.runs(s3_uri)] == [store.uri]
    tr.Run(store.uri).destroy()
    assert store.traces() == []
    assert list(tr.runs(s3_uri)) == []


def test_deadlines_as_people_say_them() -> None:
    now = datetime.now(UTC)
    for said in ("30d", timedelta(days=30), now + timedelta(days=30), (now + timedelta(days=30)).timestamp()):
        when = unix_deadline(said)
        assert when is not None
        assert abs(when - (now + timedelta(days=30)).timestamp()) < 60
    assert unix_deadline(None) is None
    for wrong in ("", "30x", "nan", float("inf"), "2027-13-01"):
        with pytest.raises(UsageError, match="expected 30d"):
            unix_deadline(wrong)


def test_help_shows_what_there_is() -> None:
    assert "Run" in dir(tr)
    for name in tr.__all__:
        assert getattr(tr, name) is not None
    for verb in (
        "train", "evaluate", "status", "estimate", "forget", "verify", "audit", "sweep", "report", "export", "gc", "destroy",
    ):  # fmt: skip
        assert getattr(tr.Run, verb).__doc__

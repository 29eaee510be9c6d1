"""The log names run, operation, shard and generation of verbs, commits and fits, and never a sample."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import here
from folder import kinds
from plain import plain_train
from tiny import CLASSES, SHARDS, sample_id
from without_ray import without_ray

import taft_ray as tr
from taft_ray import answers, log
from taft_ray.composer.composer import Composer
from taft_ray.data import id_hash
from taft_ray.errors import UnknownSample
from taft_ray.plans.facts import Evaluated
from taft_ray.progress import ProgressReport
from taft_ray.storage import Store, id_key
from taft_ray.workers.shard_worker import ShardWorker


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("log") / "run"
    plain_train(run, spec_of(parquet, trainable="head"))
    return run


@pytest.fixture(scope="module")
def worker(whole: Path) -> ShardWorker:
    return ShardWorker(str(whole), len(CLASSES))


@pytest.fixture
def run(
    whole: Path, worker: ShardWorker, copy_of: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> Iterator[Path]:
    folder = copy_of(whole)
    caplog.set_level(logging.INFO, "taft_ray")
    with without_ray(folder, worker):
        yield folder


def fields(record: logging.LogRecord) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in log.CONTEXT_FIELDS)


def test_every_record_of_a_forget_has_its_run_and_operation(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = len(kinds(run))
    tr.Run(run).forget([sample_id(0)], mode="drop")
    said = [record.getMessage() for record in caplog.records]
    assert {fields(record)[:2] for record in caplog.records} == {(str(run), "forget")}
    assert said[0] == "forget begins"
    assert said[-1].startswith("forget ended after")
    committed = [message.split()[1] for message in said if message.startswith("committed")]
    assert committed == kinds(run)[before:]
    assert {"forget-requested", "dropped", "rewritten", "purged", "forgotten"} <= set(committed)


def test_fits_and_their_commits_have_shard_and_generation(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    answer = tr.Run(run).forget([sample_id(0)], mode="retrain")
    assert isinstance(answer, answers.Certificate)
    (shard,) = answer.shards
    fits = [record for record in caplog.records if record.name == "taft_ray.workers.shard_worker"]
    assert [record.getMessage().split()[0] for record in fits] == ["fit", "fitted"]
    (trained,) = [record for record in caplog.records if record.getMessage().startswith("committed trained")]
    assert {fields(record) for record in [*fits, trained]} == {(str(run), "forget", shard, 2)}


def test_outside_a_verb_the_operation_is_the_ledgers_own(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in a composer's actor."""
    Composer(str(run)).commit(Evaluated("x", 1.0, 1, "", {}, None, ()), "evaluated/x")
    assert fields(caplog.records[-1]) == (str(run), "evaluated/x", None, None)


def test_no_record_names_a_sample(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither by its id nor by the hash that the ledger has of it."""
    secret = id_key(Store(str(run)), create=False)
    assert secret is not None
    tr.Run(run).estimate([sample_id(0)])
    tr.Run(run).forget([sample_id(0)], mode="drop")
    tr.Run(run).forget([sample_id(1)], mode="retrain")
    with pytest.raises(UnknownSample, match="no such sample"):
        tr.Run(run).forget(["no such sample"], mode="drop")
    assert caplog.records[-1].getMessage().endswith(": UnknownSample")
    everything = "\n".join(str(vars(record)) for record in caplog.records)
    for name in (sample_id(0), sample_id(1)):
        assert name not in everything
        assert id_hash(name, secret) not in everything
    assert "no such sample" not in everything


def test_the_command_line_shows_the_log_for_debug_alone(run: Path) -> None:
    quiet, told = here("status", run), here("status", run, "--debug", "--json")
    assert quiet.code == told.code == 0
    assert "begins" not in quiet.err
    assert f"taft-ray: status begins [run={run} operation=status]" in told.err
    assert len(told.json["shards"]) == SHARDS
    assert "begins" not in here("status", run).err


def test_warnings_are_shown_as_before(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from taft_ray.verbs import status

    def warned(uri: str) -> dict[str, Any]:
        log.logger_of("taft_ray.test").warning("a shard is slow")
        return before(uri)

    before = status.status
    monkeypatch.setattr(status, "status", warned)
    assert here("status", run).err == "taft-ray: a shard is slow\n"


def test_contexts_nest_and_belong_to_their_thread(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taft_ray")
    say = log.logger_of("taft_ray.test").info

    def other() -> None:
        with log.context(run="b"):
            say("other")

    with log.context(run="a", shard=1):
        with log.context(shard=2, generation=None):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            say("inner")
        say("outer")
    say("outside")
    assert {record.getMessage(): fields(record) for record in caplog.records} == {
        "other": ("b", None, None, None),
        "inner": ("a", None, 2, None),
        "outer": ("a", None, 1, None),
        "outside": (None, None, None, None),
    }
    with pytest.raises(TypeError, match="sample"), log.context(sample="cats/17.jpg"):
        pass


def test_a_verb_inside_another_belongs_to_the_outer_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taft_ray")

    @log.operation("inner")
    def inner(run: str) -> None:
        log.logger_of("taft_ray.test").info("at work")

    @log.operation("outer")
    def outer(run: str) -> None:
        inner(run)

    outer(run="r")
    assert [record.getMessage().split(" after")[0] for record in caplog.records] == [
        "outer begins",
        "at work",
        "outer ended",
    ]
    assert {fields(record)[:2] for record in caplog.records} == {("r", "outer")}


def test_lines_are_json_where_that_is_wanted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records, and lines of progress; whatever is in the message."""
    monkeypatch.setenv(log.FORMAT, "json")
    answer = here("forget", run, "--ids", sample_id(1), "--mode", "drop", "--debug")
    assert answer.code == 0, answer.err
    lines = [json.loads(line) for line in answer.err.splitlines()]
    assert all(line["level"] and line["message"] and line["time"].endswith("+00:00") for line in lines)
    assert {line["run"] for line in lines if "run" in line} == {str(run)}
    assert "forget begins" in [line["message"] for line in lines]


def test_a_json_line_keeps_quotes_line_ends_and_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(log.FORMAT, "JSON")
    record = logging.LogRecord("taft_ray.x", logging.WARNING, "f", 1, 'a "quote"\n%s', ("日本",), None)
    assert json.loads(log.JsonLines().format(record))["message"] == 'a "quote"\n日本'
    with ProgressReport() as report:
        report("prefix", 5, 10)
    line = json.loads(capsys.readouterr().err)
    assert (line["progress"], line["done"], line["total"]) == ("prefix", 5, 10)

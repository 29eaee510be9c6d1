"""On Ray Serve itself: a forget under load is a swap without a gap, also where a replica is killed in the middle of it."""

import json
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from command import started
from plain import plain_train
from tiny import picture, sample_id

import taft_ray as tr
from benchmarks.open_loop import kill, load_on, replicas_of
from taft_ray.answers import Certificate, Serving
from taft_ray.errors import StorageError, UsageError
from taft_ray.serving.started import Serving as Started

pytestmark = pytest.mark.slow
TOKEN = "a-token-of-more-than-sixteen-characters"
PICTURES = [picture(number) for number in range(1000, 1008)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("on-serve")
    plain_train(folder / "deltas", spec_of(parquet, trainable="head"))
    plain_train(folder / "rows", spec_of(parquet, solver="additive", features=48))
    return folder / "deltas", folder / "rows"


@pytest.fixture(scope="module")
def served(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Started]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(TOKEN)
    with tr.Run(runs[0]).serve(
        runs[1], port=free_port(), token_file=tokens, replicas=2, cpus=0.5, lease=6.0, drain=8.0, max_bytes=100_000
    ) as serving:
        yield serving


def asked(url: str, body: bytes | None = None, token: str | None = TOKEN) -> tuple[int, dict[str, Any]]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_two_runs_in_one_pool_answer_as_predict_does(served: Started, runs: tuple[Path, Path], tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(len(PICTURES))]
    for path, data in zip(paths, PICTURES, strict=True):
        path.write_bytes(data)
    for run in runs:
        expected = tr.Run(run).predict(paths)
        found = [asked(f"{served.url}/predict/{run.name}", data)[1] for data in PICTURES]
        assert {one["composed"] for one in found} == {expected.composed}
        probabilities = [tuple(one["predictions"][0]["probabilities"]) for one in found]
        assert probabilities == [one.probabilities for one in expected.predictions]
        by_handle = served.predict(PICTURES, run.name)
        assert [tuple(one["probabilities"]) for one in by_handle["predictions"]] == probabilities


def test_what_is_not_let_in_or_too_much_is_refused(served: Started) -> None:
    where = f"{served.url}/predict/deltas"
    assert asked(where, PICTURES[0], token=None)[0] == 401
    assert asked(where, PICTURES[0], token=TOKEN + "x")[0] == 401
    assert asked(where, bytes(100_001))[0] == 413
    for hostile in (PICTURES[0][:100], b"no picture", bytes(50_000)):
        assert asked(where, hostile)[0] == 422
    assert asked(f"{served.url}/healthz", token=None) == (200, {"ok": True})
    assert asked(where, PICTURES[0])[0] == 200


def test_a_second_serving_is_refused_with_the_reason_and_the_first_goes_on(
    served: Started, runs: tuple[Path, Path]
) -> None:
    def start(run: Path, port: int | None) -> None:
        with tr.Run(run).serve(port=port or 0):
            pass

    port = urllib.parse.urlsplit(served.url).port
    with pytest.raises(UsageError, match=rf"listens at 127\.0\.0\.1:{port} .*--port {port}, or end it"):
        start(runs[1], free_port())
    with pytest.raises(StorageError, match="Prefix / is being used by application"):
        start(runs[1], port)
    assert asked(f"{served.url}/predict/deltas", PICTURES[0])[0] == 200


def committed(run: Path, kind: str) -> list[dict[str, Any]]:
    entries = [json.loads(path.read_bytes()) for path in sorted((run / "ledger").iterdir())]
    return [entry for entry in entries if entry["kind"] == kind]


def seconds(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["time"]).timestamp()


def test_forgets_under_load_leave_no_gap_and_no_old_answer_after_the_withdrawal(
    served: Started, runs: tuple[Path, Path]
) -> None:
    run = tr.Run(runs[0])
    headers = {"Authorization": f"Bearer {TOKEN}"}
    before = run.status().composed
    with load_on(served.url, PICTURES, 10.0, headers, "deltas") as load:
        time.sleep(2)
        first = _forgotten(run, 0)
        victim = replicas_of(served.name)[0]
        killing = _kill_when_dropped(runs[0], victim)
        second = _forgotten(run, 1)
        killing.join()
        time.sleep(2)
    assert load.failed() == []
    assert len(load.answers) > 50
    for certificate, old in ((first, before), (second, first.composed_after)):
        entry = next(one for one in committed(runs[0], "withdrawn") if one["body"]["request"] == certificate.request)
        assert entry["body"]["digest"] == old
        assert load.after(seconds(entry), [str(old)]) == []
    seen = [one.composed for one in sorted(load.answers, key=lambda one: one.come)]
    assert list(dict.fromkeys(seen)) == [before, first.composed_after, second.composed_after]
    assert run.verify().problems == ()


def _forgotten(run: tr.Run, number: int) -> Certificate:
    certificate = run.forget([sample_id(number)], mode="drop")
    assert isinstance(certificate, Certificate)
    return certificate


def _kill_when_dropped(run: Path, victim: str) -> threading.Thread:
    """A thread that kills a replica as soon as the next drop is in the ledger."""
    known = len(committed(run, "dropped"))

    def wait() -> None:
        while len(committed(run, "dropped")) == known:
            time.sleep(0.02)
        kill(victim)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_command_serves_until_it_is_asked_to_end(
    runs: tuple[Path, Path], copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    run, port, log = copy_of(runs[0]), free_port(), tmp_path / "log"
    tr.Run(run).release("2")
    with started(log, "serve", run, "--port", port, "--lease", 2, "--drain", 2, "--json") as process:
        deadline = time.time() + 200
        while not log.read_text().count('"serving"') and process.poll() is None and time.time() < deadline:
            time.sleep(0.2)
        told = next(json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
        answer = Serving.from_json(told)
        assert answer.models[0].composed == tr.Run(run).status().composed
        status, found = asked(f"{answer.url}/predict", PICTURES[0], token=None)
        assert (status, found["composed"]) == (200, answer.models[0].composed)
        assert "probabilities" in found["predictions"][0]
        certificate = _forgotten(tr.Run(run), 0)
        # until a replica has read that the shard is fitted again, it answers with the model without the shard
        until = time.time() + 60
        while (found := asked(f"{answer.url}/predict", PICTURES[0], token=None)[1])[
            "composed"
        ] != certificate.composed_after:
            assert time.time() < until, found
        assert found["held"] == "publication of a newer model is held until 1 more forget"
        assert [one.keys() for one in found["predictions"]] == [{"label"}]
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    mine = [entry["body"] for entry in committed(run, "served") if entry["body"]["serving"] == answer.serving]
    assert [body.get("ended", False) for body in mine] == [False, True]
    assert tr.Run(run).verify().problems == ()

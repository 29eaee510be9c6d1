"""The server of the page by its socket: headers, limits, events; and the command, which starts neither ray nor torch."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import ROOT
from pages_of_runs import TOKEN, body
from released import toy_forget, trained_toy
from toy_run import EVERYONE

from taft_ray.web.reading import name_of
from taft_ray.web.server import PageServer, page_server

TELL = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background processes ignore it
from taft_ray.cli import main
try:
    main(prog_name="taft-ray")
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return trained_toy(tmp_path / "runs" / "pets")


@pytest.fixture
def server(run: Path) -> Iterator[PageServer]:
    with page_server(str(run.parent), port=0) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def connected(server: PageServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)


def test_every_answer_has_a_strict_policy(server: PageServer, run: Path) -> None:
    line = connected(server)
    for target in ("/", f"/runs/{name_of(str(run))}", "/static/page.js", "/nothing", "/static/../style.css"):
        line.request("GET", target)
        answer = line.getresponse()
        answer.read()
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Python" not in answer.headers["Server"]
    line.close()


def test_no_page_asks_for_anything_from_elsewhere(server: PageServer, run: Path) -> None:
    line = connected(server)
    for target in ("/", f"/runs/{name_of(str(run))}", "/static/page.js", "/static/check.js", "/static/page.css"):
        line.request("GET", target)
        text = line.getresponse().read().decode()
        assert "http://" not in text
        assert "https://" not in text
        assert not re.search(r"\son\w+=", text)
    line.close()


def test_what_is_too_long_or_has_no_length_is_refused(server: PageServer) -> None:
    for headers in ({"Content-Length": str(1 << 30)}, {"Content-Length": "-1"}, {"Transfer-Encoding": "chunked"}):
        line = connected(server)
        line.putrequest("POST", "/token")
        for name, value in headers.items():
            line.putheader(name, value)
        line.endheaders()
        assert line.getresponse().status == 413
        line.close()
    line = connected(server)
    line.request("PUT", "/", b"")
    assert line.getresponse().status in (405, 501)
    line.close()


def test_a_commit_of_another_process_is_an_event(server: PageServer, run: Path) -> None:
    line = connected(server)
    line.request("GET", f"/runs/{name_of(str(run))}/events")
    events = line.getresponse()
    assert events.headers["Content-Type"] == "text/event-stream"

    def event() -> str:
        while not (said := events.readline()).startswith(b"data:"):
            assert said, "the stream has ended"
        return said.decode()

    first = event()
    toy_forget(run, [EVERYONE[0]], "drop")
    assert event() != first
    line.close()


def test_events_need_the_token_too(run: Path) -> None:
    with page_server(str(run.parent), port=0, token=TOKEN) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        line = connected(made)
        line.request("GET", "/events")
        assert line.getresponse().status == 401
        line.close()
        line = connected(made)
        line.request("POST", "/token", body({"token": TOKEN}), {"Content-Type": "application/x-www-form-urlencoded"})
        assert line.getresponse().status == 303
        line.close()
        made.shutdown()


def test_the_command_shows_runs_without_ray_and_torch_until_it_is_interrupted(run: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}
    line = [sys.executable, "-c", TELL, "page", str(run.parent), "--port", "0", "--json"]
    process = subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stderr is not None
        said = process.stderr.readline()
        port = int(re.findall(r"http://127\.0\.0\.1:(\d+)/", said)[0])
        page = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for target in ("/", f"/runs/{name_of(str(run))}", f"/runs/{name_of(str(run))}/owners"):
            page.request("GET", target)
            answer = page.getresponse()
            assert answer.status == 200
            answer.read()
        page.close()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    told, modules = out.splitlines()
    assert json.loads(told)["place"] == str(run.parent)
    assert not {"ray", "torch", "timm", "opacus"} & set(json.loads(modules))

"""Faults of the storage: one error, the cause and the fix in it, no credential in it, and in bounded time."""

import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError, ReadTimeoutError

from taft_ray.errors import CommitConflict, CommitUnknown, ObjectMissing, StorageError
from taft_ray.storage import Store, remote
from taft_ray.storage.faults import is_transient, is_without_effect, redact, storage_error

KEY_ID = "AKIAVERYSECRETID"
SECRET = "very/secret+access=key"


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


def check_message(error: BaseException, *parts: str) -> None:
    message = str(error)
    for part in parts:
        assert part in message
    assert KEY_ID not in message
    assert SECRET not in message


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a tmpfs: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(tiny: Path, tmp_path: Path) -> None:
    store = Store(str(tiny / "run"))
    store.write("x", b"old")
    big = tmp_path / "big"
    big.write_bytes(b"0" * 1_000_000)
    for call in (store.write, store.create):
        with pytest.raises(StorageError, match="disk is full") as caught:
            call("x" if call == store.write else "y", big.read_bytes())
        check_message(caught.value, str(tiny), "free space", "run the same command again")
        assert not isinstance(caught.value, (CommitConflict, CommitUnknown))
    with pytest.raises(StorageError, match="disk is full"):
        store.upload(big, "x")
    assert store.read("x") == b"old"
    assert [path.name for path in (tiny / "run").iterdir()] == ["x"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="stands where a folder is needed"):
        Store(str(tmp_path / "file" / "run")).write("x", b"")


@pytest.mark.parametrize(
    ("number", "cause"), [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota"), (errno.EACCES, "permission denied")]
)
def test_refusals_of_the_operating_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, cause: str
) -> None:
    store = Store(str(tmp_path / "run"))

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    for call in (store.write, store.create):
        with pytest.raises(StorageError, match=cause) as caught:
            call("x", b"")
        check_message(caught.value, str(tmp_path / "run"))
    assert not store.exists("x")
    assert list((tmp_path / "run").iterdir()) == []


def every_call(store: Store) -> list:
    return [
        lambda: store.read("x"),
        lambda: store.write("x", b"1"),
        lambda: store.create("x", b"1"),
        lambda: store.exists("x"),
        lambda: store.list("x/"),
        lambda: store.delete("x"),
        lambda: store.fetch("x"),
    ]


def test_refused_connection(credentials: None) -> None:
    store = Store("s3://bucket/run", endpoint_url=f"http://127.0.0.1:{closed_port()}")
    started = time.monotonic()
    for call in every_call(store)[:3]:
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            call()
        check_message(caught.value, "s3://bucket/run", "AWS_ENDPOINT_URL")
        assert not isinstance(caught.value, (CommitConflict, CommitUnknown))  # nothing was ever sent
    assert time.monotonic() - started < 20


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_connections_that_nobody_accepts_end_in_20_s(credentials: None) -> None:
    with socket.socket() as full:  # a listener whose queue is full drops what comes: as a firewall does
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        started = time.monotonic()
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            Store("s3://bucket/run", endpoint_url=f"http://127.0.0.1:{full.getsockname()[1]}").create("x", b"1")
        assert time.monotonic() - started < 21
        check_message(caught.value, "s3://bucket/run")
        assert not isinstance(caught.value, CommitUnknown)
        for filler in fillers:
            filler.close()


@contextmanager
def scripted(statuses: list[int]) -> Iterator[tuple[str, list[str]]]:
    """A server that answers with these statuses in turn (0: hangs up), the last one for ever; and its requests."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status = statuses[min(len(requests), len(statuses) - 1)]
            requests.append(self.command)
            if status == 0:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            code = {503: "SlowDown", 500: "InternalError", 412: "PreconditionFailed", 403: "SignatureDoesNotMatch"}
            content = b"content" if self.command == "GET" else b""
            body = f"<Error><Code>{code[status]}</Code></Error>".encode() if status in code else content
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"0"')
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("fault", [0, 500, 503])
def test_calls_without_risk_are_repeated(credentials: None, fault: int) -> None:
    with scripted([fault, fault, 200]) as (endpoint, requests):
        assert Store("s3://bucket/run", endpoint_url=endpoint).read("x") == b"content"
        assert requests == ["GET"] * 3
    with scripted([fault, 200]) as (endpoint, requests):
        Store("s3://bucket/run", endpoint_url=endpoint).write("x", b"1")
        assert requests == ["PUT"] * 2


def test_repeating_ends(credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    with scripted([503]) as (endpoint, requests):
        with pytest.raises(StorageError, match="overloaded") as caught:
            Store("s3://bucket/run", endpoint_url=endpoint).read("x")
        check_message(caught.value, "s3://bucket/run")
        assert len(requests) == remote.ATTEMPTS


@pytest.mark.parametrize(("fault", "sent"), [(0, 2), (500, 1)])
def test_create_in_doubt_is_not_repeated(credentials: None, fault: int, sent: int) -> None:
    # aiohttp itself sends a request once more when the server hangs up: `Ledger` copes with the conflict that follows
    with scripted([fault] * sent + [412]) as (endpoint, requests):
        with pytest.raises(CommitUnknown):
            Store("s3://bucket/run", endpoint_url=endpoint).create("x", b"1")
        assert requests == ["PUT"] * sent


def test_create_refused_for_overload_is_repeated(credentials: None) -> None:
    with scripted([503, 200]) as (endpoint, requests):
        Store("s3://bucket/run", endpoint_url=endpoint).create("x", b"1")
        assert requests == ["PUT", "PUT"]
    with scripted([503, 412]) as (endpoint, _), pytest.raises(CommitConflict):
        Store("s3://bucket/run", endpoint_url=endpoint).create("x", b"1")


def test_refused_credentials(s3_uri: str) -> None:
    store = Store(s3_uri, key=KEY_ID, secret=SECRET)
    for call in (lambda: store.write("x", b"1"), lambda: store.list()):
        with pytest.raises(StorageError, match="credentials were refused") as caught:
            call()
        check_message(caught.value, s3_uri)
    with pytest.raises(StorageError) as caught:
        store.read("x")
    assert not isinstance(caught.value, ObjectMissing)


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="no credentials were found") as caught:
        Store("s3://bucket/run", endpoint_url=f"http://127.0.0.1:{closed_port()}").read("x")
    check_message(caught.value, "AWS_ACCESS_KEY_ID", "s3://bucket/run")


def test_missing_bucket_is_not_a_missing_object(s3_uri: str) -> None:
    store = Store("s3://no-such-bucket-here/run")
    for call in (lambda: store.read("x"), lambda: store.list()):
        with pytest.raises(StorageError, match="bucket does not exist") as caught:
            call()
        assert not isinstance(caught.value, ObjectMissing)


def test_no_credential_in_any_message(credentials: None) -> None:
    options = {"client_kwargs": {"aws_secret_access_key": "inner-secret"}, "secret": "outer-secret", "anon": "False"}
    text = f"{KEY_ID} {SECRET} inner-secret outer-secret https://user:pass@host/x"
    assert redact(text, options) == "*** *** *** *** https://***@host/x"
    check_message(storage_error(OSError(f"bad {SECRET}"), "read x", "s3://b", options))
    assert "pass" not in repr(Store("ftp://user:pass@host/run"))


def test_what_may_be_repeated() -> None:
    def answered(code: str) -> ClientError:
        return ClientError({"Error": {"Code": code, "Message": ""}}, "PutObject")

    timeout, connect = ReadTimeoutError(endpoint_url="x"), ConnectTimeoutError(endpoint_url="x")
    outcomes = {
        (True, False): [timeout, ConnectionResetError(), TimeoutError(), answered("InternalError"), answered("503")],
        (True, True): [connect, answered("SlowDown"), answered("ConditionalRequestConflict")],
        (False, True): [
            NoCredentialsError(),
            answered("AccessDenied"),
            PermissionError(),
            answered("PreconditionFailed"),
        ],
    }
    for expected, errors in outcomes.items():
        for error in errors:
            assert (is_transient(error), is_without_effect(error)) == expected, error

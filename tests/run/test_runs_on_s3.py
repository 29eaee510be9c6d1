"""Whole runs on a real S3 server, each command a process with a Ray of its own, as a user types them.

The data lies on S3 too. The digests are those of the same run on local files; no credential is left anywhere.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from command import Answer, spawned
from faulty_s3 import FAULTS, faulty_s3
from folder import delta_digests, kinds, plain_forget
from plain import plain_train
from s3_server import SECRET_KEY, S3Server
from tiny import SHARDS, sample_id

from taft_ray.data import id_hash, sample_key
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Store, id_key

# a Ray is started for every command: minutes on two cores, and many where others use them too
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DROPPED, SUBTRACTED = [sample_id(0)], [sample_id(1), sample_id(2)]


@dataclass
class User:
    """Types commands, and keeps what they print."""

    environment: Mapping[str, str]
    printed: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def does(self, *arguments: object, tries: int = 1) -> dict[str, Any]:
        """The command's JSON answer; run again, as a user would, when storage gave up."""
        for left in reversed(range(tries)):
            answer: Answer = spawned(*arguments, "--json", env=self.environment)
            self.printed += [answer.out, answer.err]
            assert "Traceback" not in answer.err, answer.err
            if answer.code == 0 or not left:
                break
            self.repeated.append(answer.err)
        assert answer.code == 0, answer.err
        return answer.json


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where Ray keeps its sessions: a socket's path must be short."""
    folder = Path(tempfile.mkdtemp(prefix="taft-s3-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def data_uri(s3_uri: str, parquet: Path) -> str:
    store = Store(f"{s3_uri}/data")
    for path in sorted(parquet.iterdir()):
        store.upload(path, path.name)
    return f"{s3_uri}/data"


@pytest.fixture(scope="module")
def local(
    tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]
) -> tuple[dict[int, str], str | None, dict[int, str], str | None]:
    """Deltas and composed digest of the same run on local files: trained, and after both forgets."""
    run = tmp_path_factory.mktemp("local") / "run"
    composed = plain_train(run, spec_of(parquet, compose="additive")).composed_digest()
    trained = delta_digests(run)
    plain_forget(run, DROPPED, "drop")
    after = plain_forget(run, SUBTRACTED, "subtract")["composed_after"]
    return trained, composed, delta_digests(run), after


def training(run: str, data: str, model_options: list[str]) -> list[object]:
    options: list[object] = ["train", run, "--data", data, *model_options, "--shards", SHARDS, "--epochs", 3]
    return [*options, "--device", "cpu", "--precision", "float32", "--lanes", 2]


def holders(needles: list[bytes], contents: Mapping[str, bytes]) -> list[str]:
    return [name for name, content in contents.items() if any(needle in content for needle in needles)]


def test_run_on_s3_is_the_run_on_local_files_and_leaks_no_credential(
    s3_uri: str, data_uri: str, scratch: Path, local: Any, test_parquet: Path, model_options: list[str]
) -> None:
    user = User({"RAY_TMPDIR": str(scratch)})  # the AWS variables are in this process's environment
    run = f"{s3_uri}/run"
    trained = user.does(*training(run, data_uri, model_options))
    assert trained["composed"] == local[1]
    assert {shard["shard"]: shard["delta"] for shard in trained["shards"]} == delta_digests(run) == local[0]
    assert user.does("evaluate", run, "--data", test_parquet)["composed"] == local[1]
    estimated = user.does("estimate", run, *(f"--ids={name}" for name in SUBTRACTED), "--gpu-hour-price", 3)
    assert estimated["samples_to_forget"] == len(SUBTRACTED)
    dropped = user.does("forget", run, *(f"--ids={name}" for name in DROPPED), "--mode", "drop")
    assert dropped["samples"] == 1
    certificate = user.does("forget", run, *(f"--ids={name}" for name in SUBTRACTED))
    assert certificate["composed_after"] == local[3]
    assert delta_digests(run) == local[2]
    status = user.does("status", run)
    assert status["composed"] == local[3]
    assert all(request["done"] for request in status["requests"])
    assert user.does("verify", run)["problems"] == []
    assert user.does("report", run)["page"].startswith(run)
    assert user.does("gc", run)["removed"] == []
    again = user.does("forget", run, *(f"--ids={name}" for name in SUBTRACTED))
    assert again == {**certificate, "repeated": True}

    store = Store(s3_uri)
    objects = {info.key: store.read(info.key) for info in store.list()}
    logs = {str(path): path.read_bytes() for path in scratch.rglob("*") if path.is_file() and not path.is_symlink()}
    assert any(".tombstones/" in key for key in objects)
    assert any("session_" in name and name.endswith((".log", ".err", ".out")) for name in logs)
    secret = [SECRET_KEY.encode()]
    assert holders(secret, objects) == []
    assert holders(secret, logs) == []
    assert not any(SECRET_KEY in text for text in user.printed)
    gone = [*DROPPED, *SUBTRACTED]
    inside = {key: content for key, content in objects.items() if key.startswith("run")}
    keys = [sample_key(name, 0) for name in gone]
    assert holders([*keys, *(key.hex().encode() for key in keys), *(n.encode() for n in gone)], inside) == []
    for name in gone:
        digest = id_hash(name, id_key(Store(run), create=False))
        where = {key.split("/")[1] for key in holders([digest.encode()], inside) if key.startswith("run/")}
        assert where <= {"ledger", "certificates", "reports"}, where


def test_commands_over_a_faulty_road_end_with_the_same_digests(
    s3: S3Server,
    s3_uri: str,
    data_uri: str,
    scratch: Path,
    local: Any,
    model_options: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5% of the calls of every process fail: the driver's, the readers', the lanes', the composer's."""
    run = f"{s3_uri}/{uuid.uuid4().hex}"
    with faulty_s3(s3.endpoint, fraction=0.05, seed=5) as proxy:
        environment = {**proxy.environment(s3, scratch / "site", read_timeout_s=1.0), "RAY_TMPDIR": str(scratch)}
        user = User({**environment, "PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], os.getcwd()])})
        trained = user.does(*training(run, data_uri, model_options), tries=3)
        user.does("forget", run, *(f"--ids={name}" for name in DROPPED), "--mode", "drop", tries=3)
        certificate = user.does("forget", run, *(f"--ids={name}" for name in SUBTRACTED), "--mode", "retrain", tries=3)
        print(f"{proxy.counts}; run again {len(user.repeated)} times: {user.repeated}")
        assert proxy.count(*FAULTS) >= 10, proxy.counts
    assert trained["composed"] == local[1]
    assert certificate["composed_after"] == local[3]
    assert delta_digests(run) == local[2]
    assert kinds(run).count("trained") == SHARDS + len(certificate["retrained"])
    assert verify(run)["problems"] == []
    assert user.repeated == [], "at this rate no command has to be run again"

"""Looking starts nothing: what only reads a run, records a promise or refuses never imports ray, and most of it no torch.

Each command runs in a process of its own, which says at its end what it has imported. RAY_ADDRESS names a place where nobody
answers, except where a command in a cluster would rightly ask it.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command import ROOT
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from plain import plain_train
from tiny import CLASSES, sample_id

from taft_ray.plans.privacy import Privacy

HEAVY = frozenset({"torch", "torchvision", "timm", "pandas", "matplotlib", "scipy", "sklearn"})
TELL = """
import json, sys
from taft_ray.cli import main
try:
    main(prog_name="taft-ray")
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@dataclass
class Looked:
    code: int
    out: str
    err: str
    modules: set[str]

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def did(self, code: int, words: str = "") -> "Looked":
        """Ended like this, and without ray."""
        assert self.code == code, self.err
        assert words in self.err
        assert "taft_ray" in self.modules
        assert "ray" not in self.modules
        return self

    def lightly(self) -> None:
        """Without anything that takes seconds to import."""
        assert not self.modules & HEAVY


def look(*arguments: object, address: str | None) -> Looked:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    if address is not None:
        environment["RAY_ADDRESS"] = address
    line = [sys.executable, "-c", TELL, *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    *out, modules = done.stdout.splitlines()
    return Looked(done.returncode, "\n".join(out), done.stderr, set(json.loads(modules)))


@pytest.fixture(scope="module")
def nobody() -> str:
    """An address where no Ray answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def run(trained: Path, copy_of: Callable[..., Path]) -> Path:
    return copy_of(trained)


@pytest.mark.parametrize("arguments", [["--help"], ["stats"], ["status", "--wrong"], ["train", "run"], ["forget"]])
def test_help_and_usage_errors_are_light(arguments: list[str], nobody: str) -> None:
    code, words = (0, "") if arguments == ["--help"] else (2, "Usage: taft-ray")
    look(*arguments, address=nobody).did(code, words).lightly()


def test_status_is_light(run: Path, nobody: str) -> None:
    answer = look("status", run, "--json", address=nobody).did(0)
    assert answer.json["ok"]
    assert answer.json["composed"]
    answer.lightly()


def test_status_of_a_run_on_sampled_batches_is_light(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any], nobody: str
) -> None:
    """Shards that were fitted once have the ε that was reserved: nothing is computed."""
    run = tmp_path / "run"
    privacy = Privacy(epsilon=3.0, delta=1e-4, steps=2, sampling_rate=0.3)
    options = {"solver": "dp-gd", "compose": "mean", "loss": "ce", "trainable": "head", "classes": CLASSES}
    plain_train(run, spec_of(parquet, privacy=privacy, **options))
    answer = look("status", run, "--json", address=nobody).did(0)
    assert answer.json["privacy"]["epsilon"] == 3.0
    answer.lightly()
    assert "opacus" not in answer.modules


def test_estimate_is_light(run: Path, nobody: str) -> None:
    answer = look("estimate", run, "--ids", sample_id(0), "--json", address=nobody).did(0)
    assert answer.json["samples_to_forget"] == 1
    answer.lightly()


@pytest.mark.parametrize("verb", [["estimate"], ["forget", "--mode", "retrain"]], ids=lambda words: words[0])
def test_an_unknown_id_is_refused_lightly(verb: list[str], run: Path, nobody: str) -> None:
    # `forget` of a run in a cluster asks there, once it knows that the request will not be refused
    look(*verb, run, "--ids", "nobody", address=nobody).did(2, "not in this run").lightly()


def test_what_is_no_run_is_refused_lightly(tmp_path: Path, nobody: str) -> None:
    look("status", tmp_path, address=nobody).did(1, "no run at").lightly()


def test_a_promise_is_recorded_without_ray(run: Path, nobody: str) -> None:
    asked = ("forget", run, "--ids", sample_id(0), "--mode", "retrain", "--deadline", "30d", "--json")
    answer = look(*asked, address=nobody).did(0)
    assert answer.json["waiting"]
    answer.lightly()
    told = look("status", run, "--json", address=nobody).did(0).json
    assert [request["request"] for request in told["requests"]] == [answer.json["request"]]


@pytest.mark.parametrize("verb", ["verify", "report", "gc"])
def test_reading_needs_no_ray(verb: str, run: Path, nobody: str) -> None:
    look(verb, run, "--json", address=nobody).did(0)


def test_export_needs_no_ray_and_its_recall_no_torch(run: Path, tmp_path: Path, nobody: str) -> None:
    look("export", run, "--output", tmp_path / "model.pt2", address=nobody).did(0)
    assert (tmp_path / "model.pt2").is_file()
    for line, words in (
        (("release", run, "--after", "10"), "10 forgets"),
        (("recalls", run), "1 current"),
        (("check", tmp_path / "model.pt2", "--run", run), "current"),
    ):
        answer = look(*line, address=nobody).did(0)
        answer.lightly()
        assert words in answer.out


def test_destroying_the_key_needs_no_ray(run: Path, nobody: str) -> None:
    look("destroy-key", run, "--yes", address=nobody).did(0).lightly()
    assert not (run / "keys" / "id.key").exists()


def test_a_drop_and_its_signature_need_no_ray(run: Path, tmp_path: Path, nobody: str) -> None:
    key = tmp_path / "key.pem"
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(serialization.Encoding.PEM, form, plain))
    dropped = look("forget", run, "--ids", sample_id(0), "--mode", "drop", "--json", address=None).did(0).json
    signed = look("sign", run, "--request", dropped["request"], "--key", key, "--json", address=nobody).did(0)
    signed.lightly()
    assert signed.json["signature"]["algorithm"] == "ed25519"
    assert look("verify", run, "--json", address=nobody).did(0).json["checks"]["signatures"] == 1

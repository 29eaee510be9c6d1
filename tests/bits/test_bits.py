"""Bits are a promise: new runs have the recorded digests, and runs that earlier versions made go on, forget and verify.

Everything goes through the command line, so that the code may move and this file need not.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import observe
import pytest
from click.testing import CliRunner
from tiny import write_parquet

from taft_ray.cli import main

NEW: dict[str, Any] = json.loads(observe.NEW.read_text())
KEPT = [(version, name) for version, names in observe.KEPT.items() for name in names]
ON_RAY = ("ridge", "adam", "tiers")  # a request of theirs fits a shard again


@pytest.fixture(scope="session")
def ray_there(ray_session: None) -> Mapping[str, str]:
    """The tests' own Ray, for commands."""
    import ray

    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    for version in observe.KEPT:
        observe.unpack(version, folder)
    return folder


def on_the_machine_of(recorded: Mapping[str, Any]) -> None:
    """Skips elsewhere: last bits of sums depend on the machine's vector units and on torch's version."""
    if observe.made_on() != recorded["made_on"]:
        pytest.skip(f"the digests were made on {recorded['made_on']}, this is {observe.made_on()}")


def answered(*arguments: object) -> dict[str, Any]:
    """The answer of a command that starts no Ray, in this process."""
    done = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "joint" else ()) for name in observe.FITS]
)
def test_a_new_run_has_the_recorded_digests(name: str, tmp_path: Path, ray_there: Mapping[str, str]) -> None:
    on_the_machine_of(NEW)
    data = write_parquet(tmp_path / "pets", range(24))
    assert observe.train(tmp_path / "run", data, name, ray_there) == NEW["train"][name]


@pytest.mark.parametrize(("version", "name"), KEPT)
def test_a_kept_run_is_whole_and_composes_to_its_digest(version: str, name: str, kept: Path) -> None:
    assert answered("verify", kept / name)["problems"] == []
    assert observe.model(answered("status", kept / name)) == observe.digests(version)["kept"][name]


@pytest.mark.parametrize(
    ("version", "name"),
    [
        pytest.param(version, name, marks=pytest.mark.slow if name == "tiers" else ())
        for version, name in KEPT
        if name not in observe.NOISY
    ],
)
def test_a_kept_run_forgets_to_the_recorded_digests(
    version: str, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    recorded = observe.digests(version)
    on_the_machine_of(recorded)
    ask = partial(observe.command, env=request.getfixturevalue("ray_there")) if name in ON_RAY else answered
    observe.unpack(version, tmp_path)
    before = answered("verify", tmp_path / name)["forgotten_samples"]
    assert observe.forget(tmp_path / name, name, ask) == recorded["forget"][name]
    checked = answered("verify", tmp_path / name)
    assert checked["problems"] == []
    assert checked["forgotten_samples"] == before + len(observe.REQUESTS[name])


def test_the_noise_of_a_kept_private_run_is_there_and_paid_for(kept: Path) -> None:
    checks = answered("verify", kept / "private")["checks"]
    assert (checks["privacy reservations"], checks["noise keys"]) == (2, 2)
    assert answered("privacy", kept / "private")["epsilon"] == pytest.approx(8, abs=1e-6)


def test_a_changed_noise_key_of_a_kept_private_run_is_found(tmp_path: Path) -> None:
    observe.unpack("0.2.0", tmp_path)
    key = next((tmp_path / "private/keys/noise").rglob("*.key"))
    key.write_bytes(key.read_bytes()[::-1])
    assert any("noise" in problem for problem in answered("verify", tmp_path / "private")["problems"])


@pytest.mark.slow
def test_a_kept_private_run_forgets_by_new_noise(tmp_path: Path, ray_there: Mapping[str, str]) -> None:
    """The shard's fit is new, and the other's is not; each fit is paid for."""
    observe.unpack("0.2.0", tmp_path)
    run = tmp_path / "private"
    before = observe.digests("0.2.0")["kept"]["private"]["deltas"]
    (forgotten,) = observe.forget(run, "private", partial(observe.command, env=ray_there))
    assert forgotten["mode"] == "retrain"
    assert sum(old == new for old, new in zip(before, forgotten["deltas"], strict=True)) == 1
    checked = answered("verify", run)
    assert (checked["problems"], checked["checks"]["privacy reservations"]) == ([], 3)


def test_a_certificate_of_a_kept_run_verifies_by_itself_and_against_its_run(kept: Path) -> None:
    (certificate,) = (kept / "released/certificates").glob("*.json")
    checked = answered("verify", certificate, "--run", kept / "released")
    assert (checked["ok"], checked["checks"]) == (True, {"seal": 1, "consistency": 1, "run": 1})


def test_a_release_of_a_kept_run_is_recalled_and_its_gate_holds(kept: Path) -> None:
    (one,) = answered("recalls", kept / "released")["releases"]
    assert (one["what"], one["to"], one["status"]) == ("export", "a clinic", "recalled")
    gate = answered("release", kept / "released")
    assert (gate["held"], gate["forgets"], gate["until"]) == (True, 1, "9 more forgets")

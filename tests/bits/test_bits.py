"""Bits are a promise: new runs have the recorded digests, and runs that version 0.1.0 made go on, forget and verify.

Everything goes through the command line, so that the code may move and this file need not.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import observe
import pytest
from tiny import write_parquet

RECORDED: dict[str, Any] = json.loads(observe.DIGESTS.read_text())


@pytest.fixture(scope="session")
def ray_there(ray_session: None) -> Mapping[str, str]:
    """The tests' own Ray, for commands."""
    import ray

    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture
def same_machine() -> None:
    """Last bits of sums depend on the machine's vector units and on torch's version."""
    if observe.made_on() != RECORDED["made_on"]:
        pytest.skip(f"the digests were made on {RECORDED['made_on']}, this is {observe.made_on()}")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    observe.unpack(folder)
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "joint" else ()) for name in observe.FITS]
)
def test_a_new_run_has_the_recorded_digests(
    name: str, tmp_path: Path, ray_there: Mapping[str, str], same_machine: None
) -> None:
    data = write_parquet(tmp_path / "pets", range(24))
    assert observe.train(tmp_path / "run", data, name, ray_there) == RECORDED["train"][name]


@pytest.mark.parametrize("name", observe.KEPT)
def test_a_kept_run_is_whole_and_composes_to_its_digest(name: str, kept: Path, ray_there: Mapping[str, str]) -> None:
    assert observe.command("verify", kept / name)["problems"] == []
    assert observe.command("status", kept / name, env=ray_there)["composed"] == RECORDED["train"][name]["composed"]


@pytest.mark.parametrize("name", observe.KEPT)
def test_a_kept_run_forgets_to_the_recorded_digests(
    name: str, tmp_path: Path, ray_there: Mapping[str, str], same_machine: None
) -> None:
    observe.unpack(tmp_path)
    assert observe.forget(tmp_path / name, name, ray_there) == RECORDED["forget"][name]
    checked = observe.command("verify", tmp_path / name)
    assert checked["problems"] == []
    assert checked["forgotten_samples"] == len(observe.REQUESTS[name])

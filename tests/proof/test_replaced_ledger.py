"""A certificate of a ledger that an older copy of the folder has replaced: what became of its request is told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from folder import state_of
from released import copied, finished, toy_forget, trained_toy
from toy_run import EVERYONE

from taft_ray.composer.composer import Composer
from taft_ray.proof.verify_certificate import verify_certificate
from taft_ray.storage import canonical_json, digest_json


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_toy(tmp_path_factory.mktemp("replaced") / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copied(trained, tmp_path / "run")


def put_back(trained: Path, run: Path) -> None:
    shutil.rmtree(run)
    shutil.copytree(trained, run)


def problem_of(certificate: dict[str, Any], run: Path) -> str:
    file = run.parent / "given.json"
    file.write_bytes(canonical_json(certificate))
    (problem,) = verify_certificate(str(file), run=str(run))["problems"]
    return problem


def test_each_step_after_a_restore_is_told(trained: Path, run: Path) -> None:
    old = toy_forget(run, [EVERYONE[0]], "retrain")
    put_back(trained, run)
    told = problem_of(old, run)
    assert "is of the ledger that was replaced" in told
    assert f"taft-ray forget {run} --due" in told
    Composer(str(run)).recover()
    told = problem_of(old, run)
    assert "was registered again" in told
    assert "is not carried out yet" in told
    new = finished(run, old["request"])
    told = problem_of(old, run)
    assert "This one is of a ledger that was replaced" in told
    asked = state_of(run).requests[old["request"]]
    assert asked.forgotten is not None
    assert f"Its request {old['request']} was registered again at {asked.time}" in told
    assert f"its certificate is {asked.forgotten.certificate.key} now" in told
    assert verify_certificate(str(run / asked.forgotten.certificate.key), run=str(run))["problems"] == []
    assert new["requested"][:16] == old["requested"][:16]


def test_samples_that_another_request_forgot_again_are_told(trained: Path, run: Path) -> None:
    """The tombstones were lost with the folder, and somebody asked again."""
    old = toy_forget(run, [EVERYONE[0]], "retrain")
    put_back(trained, run)
    shutil.rmtree(run.with_name(f"{run.name}.tombstones"))
    told = problem_of(old, run)
    assert told.endswith(f"knows no finished request {old['request']!r}")
    again = toy_forget(run, [EVERYONE[0], EVERYONE[1]], "drop")
    assert again["request"] != old["request"]
    assert f"All of its samples are in request {again['request']} of this ledger" in problem_of(old, run)


def test_certificate_that_was_made_up_is_not_excused(run: Path) -> None:
    """Nothing was put back; and a certificate that rests on this ledger is of no other."""
    made = toy_forget(run, [EVERYONE[0]], "retrain")
    other = {name: value for name, value in made.items() if name != "digest"} | {"composed_after": "0" * 64}
    told = problem_of({**other, "digest": digest_json(other)}, run)
    assert "another certificate of this request" in told
    assert "replaced" not in told
    assert json.loads((run.parent / "given.json").read_text())["composed_after"] == "0" * 64

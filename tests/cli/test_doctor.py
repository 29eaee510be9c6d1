"""`doctor` finds what would go wrong, and leaves nothing behind."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import fsspec
import pytest
from command import here, spawned
from fsspec.implementations.memory import MemoryFileSystem
from own_cluster import own_cluster
from s3_server import READER_KEY, READER_SECRET

import taft_ray as tr
from taft_ray.errors import StorageError
from taft_ray.storage import Store, remote
from taft_ray.storage.probe import check_creates_once, check_use, creates_once
from taft_ray.verbs import doctor as verb


class Careless(MemoryFileSystem):
    """A storage that overwrites what it was only to create."""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        super().pipe_file(path, value, mode="overwrite", **kwargs)


@pytest.fixture
def careless() -> Iterator[str]:
    fsspec.register_implementation("memory", Careless, clobber=True)
    with mock.patch.dict(remote._FILE_SYSTEMS, clear=True):  # pyright: ignore[reportPrivateUsage]
        yield "memory://careless/run"
    fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(verb, "in_cluster", lambda: bool(os.environ.get("RAY_ADDRESS")))


def checks(answer: tr.answers.Diagnosis) -> dict[str, bool]:
    return {one.check: one.ok for one in answer.findings}


def test_nothing_is_in_the_way_of_a_run_on_this_machine(tmp_path: Path) -> None:
    answer = here("doctor", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    told = {one["check"]: one["told"] for one in answer.json["findings"]}
    assert answer.json["ok"] is True
    assert {"software", "disk", "ray", "run", "storage", "commits", "older versions"} <= told.keys()
    assert "has no run yet" in told["run"]
    assert os.listdir(tmp_path) == []


def test_run_that_is_there_stays_as_it_is(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    answer = here("doctor", trained)
    assert answer.code == 0, answer.err
    assert "is a run" in answer.out
    assert answer.out.rstrip().endswith("Nothing is in the way.")
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()} == before


def test_bucket_of_a_real_server_is_well_and_stays_empty(s3_uri: str) -> None:
    answer = tr.doctor(s3_uri)
    assert checks(answer)["storage"]
    assert checks(answer)["commits"]
    assert list(Store(s3_uri).traces()) == []


def test_bucket_that_nobody_may_write_to(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    answer = tr.doctor(s3_uri)
    assert checks(answer)["storage"] is False
    assert answer.ok is False


def test_folder_under_none_is_named(tmp_path: Path) -> None:
    answer = here("doctor", tmp_path / "mistyped" / "run")
    assert answer.code == 1
    assert "the folder above it does not exist" in answer.out
    assert os.listdir(tmp_path) == []


def test_storage_that_ignores_conditional_puts_is_found(careless: str) -> None:
    assert creates_once(Store(careless)) is False
    answer = tr.doctor(careless)
    assert checks(answer)["commits"] is False
    assert "conditional put" in str(answer)


def test_storage_that_ignores_conditional_puts_is_refused_for_runs(careless: str) -> None:
    check_use(Store(careless))  # it can be written to
    with pytest.raises(StorageError, match="conditional put"):
        check_creates_once(Store(careless))


def test_full_disk_and_a_missing_package_are_findings(tmp_path: Path) -> None:
    with mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=10)):
        assert checks(tr.doctor())["disk"] is False
    with mock.patch.object(verb, "PACKAGES", (*verb.PACKAGES, "no_such_package")):
        answer = tr.doctor()
    assert checks(answer)["software"] is False
    assert "missing: no_such_package" in str(answer)


def test_other_versions_and_clocks_of_a_node_are_findings() -> None:
    node = verb.here()
    found = {one.check: one for one in verb._nodes([node], node["time"], node["time"])}  # pyright: ignore[reportPrivateUsage]
    assert all(one.ok for one in found.values())
    other = {
        **node,
        "versions": {**node["versions"], "torch": "1.0"},
        "time": node["time"] - 100,
        "storage": "no rights",
    }
    found = {one.check: one for one in verb._nodes([other], node["time"], node["time"])}  # pyright: ignore[reportPrivateUsage]
    assert {name for name, one in found.items() if not one.ok} == {"versions", "clock", "storage of a node"}
    assert "torch 1.0, here" in found["versions"].told


def test_cluster_that_does_not_answer_is_a_finding() -> None:
    answer = spawned("doctor", env={"RAY_ADDRESS": "127.0.0.1:1"})
    assert answer.code == 1
    assert "no Ray cluster answers at 127.0.0.1:1" in answer.out


def test_every_node_of_a_cluster_is_looked_at(tmp_path: Path) -> None:
    with own_cluster(1, 2) as address:
        answer = spawned("doctor", tmp_path / "run", "--json", env=address)
    assert answer.code == 0, answer.out + answer.err
    told = {one["check"]: one["told"] for one in answer.json["findings"]}
    assert told["ray"].startswith("1 CPU and 2 GPUs")
    assert "new runs are on GPUs" in told["device"]
    assert told["versions"].endswith("as here")

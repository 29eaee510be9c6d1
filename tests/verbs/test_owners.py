"""The model of some owners' pictures alone is, to the bit, that of a run that has no others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from folder import files, plain_forget, state_of
from plain import plain_train
from tiny import CLASSES, SAMPLES, owner_of, sample_id, write_parquet

from taft_ray.composer.composer import Composer
from taft_ray.data import id_hash, owner_hash
from taft_ray.errors import UnknownSample, UsageError
from taft_ray.proof.verify_run import verify
from taft_ray.run.choice import choice_of_owners
from taft_ray.run.owned import sums_of_owners
from taft_ray.run.record import Record
from taft_ray.run.snapshots import snapshot_digest
from taft_ray.storage import id_key
from taft_ray.verbs.export import export
from taft_ray.verbs.tune import tune


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("owners") / "run"
    plain_train(run, spec_of(parquet, solver="additive", features=48))
    return run


def some_owners() -> list[str]:
    return sorted({owner_of(n) for n in range(SAMPLES)})[:2]


def pictures_of(owners: list[str]) -> list[int]:
    return [n for n in range(SAMPLES) if owner_of(n) in owners]


def alone(folder: Path, numbers: list[int], spec_of: Callable[..., Any]) -> str:
    data = write_parquet(folder / "data", numbers)
    plain_train(folder / "run", spec_of(data, solver="additive", features=48, classes=CLASSES))
    return str(Composer(str(folder / "run")).composed_digest())


def test_sums_are_those_of_a_run_that_has_no_others(trained: Path, tmp_path: Path, spec_of: Callable[..., Any]) -> None:
    owners = some_owners()
    found = snapshot_digest(sums_of_owners(Record(str(trained)), owners))
    assert found == alone(tmp_path, pictures_of(owners), spec_of)
    assert found != Composer(str(trained)).composed_digest()


def test_everybody_is_the_whole_model(trained: Path) -> None:
    everybody = sorted({owner_of(n) for n in range(SAMPLES)})
    assert snapshot_digest(sums_of_owners(Record(str(trained)), everybody)) == Composer(str(trained)).composed_digest()


def test_what_was_forgotten_is_in_nobodys_model(
    trained: Path, copy_of: Callable[..., Path], tmp_path: Path, spec_of: Callable[..., Any]
) -> None:
    run, owners = copy_of(trained), some_owners()
    gone, *left = pictures_of(owners)
    plain_forget(run, [sample_id(gone)], "subtract")
    found = snapshot_digest(sums_of_owners(Record(str(run)), owners))
    assert found == alone(tmp_path, left, spec_of)
    plain_forget(run, [], "subtract", owners=tuple(owners[:1]))
    with pytest.raises(UnknownSample, match="is not in this run, or is forgotten"):
        sums_of_owners(Record(str(run)), owners)


def test_exported_file_names_the_owners_and_has_settings_of_their_pictures(
    trained: Path, copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    owners, run = some_owners(), copy_of(trained)
    everybody = tune(str(run), weights=())["settings"]
    told = export(str(run), str(tmp_path / "model.pt2"), owners=owners)
    record = Record(str(run))
    sums = sums_of_owners(record, owners)
    assert told["composed"] == snapshot_digest(sums)
    chosen = choice_of_owners(record, owners, sums)
    assert chosen is not None
    assert chosen.settings is not None
    assert told["settings"] == chosen.settings.to_json() != everybody
    extra = {"taft_ray": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["taft_ray"])["owners"] == owners
    (release,) = state_of(run).releases.values()
    secret = id_key(record.store, create=False)
    assert set(release.fact.owners) == {owner_hash(name, secret) for name in owners}
    assert set(release.fact.samples) == {id_hash(sample_id(n), secret) for n in pictures_of(owners)}
    ledger = b"".join(path.read_bytes() for path in files(run, "ledger"))
    assert not [name for name in owners if name.encode() in ledger]
    assert verify(str(run))["problems"] == []
    other = next(n for n in range(SAMPLES) if owner_of(n) not in owners)
    assert plain_forget(run, [sample_id(other)], "subtract")["outside"] == []
    certificate = plain_forget(run, [], "subtract", owners=tuple(owners[:1]))
    assert [one["release"] for one in certificate["outside"]] == [told["release"]]


def test_bad_input_is_told(trained: Path, tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]) -> None:
    with pytest.raises(UnknownSample, match="owner nobody is not in this run"):
        sums_of_owners(Record(str(trained)), ["nobody"])
    plain_train(tmp_path / "ridge", spec_of(parquet, trainable="head"))
    with pytest.raises(UsageError, match="needs --solver additive"):
        export(str(tmp_path / "ridge"), str(tmp_path / "model.pt2"), owners=some_owners())

"""The exported file alone answers as the run's composed model does, and holds no shard that has left."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import here
from folder import copy_run, files, plain_forget, shard_of, state_of
from plain import plain_train
from read_only import read_only
from store_faults import DIE_AFTER, Fault, Killed, fault, faults_possible
from tiny import SHARDS, SIZE, sample_id

import taft_ray as tr
from taft_ray.composer.composer import Composer
from taft_ray.errors import IntegrityError, StorageError, Unregistered, UsageError
from taft_ray.proof.verify_run import verify
from taft_ray.run.model import build_tangent
from taft_ray.run.rows import build_rows, model_of
from taft_ray.run.snapshots import load_arrays, load_snapshot
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store
from taft_ray.verbs.export import export
from taft_ray.verbs.exported import entry_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("export") / "run"
    plain_train(run, spec_of(parquet))
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    copy_run(trained, tmp_path / "copy")
    return tmp_path / "copy"


def pictures() -> torch.Tensor:
    return torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def expected_of(run: Path, compose: str | None = None) -> torch.Tensor:
    """The composed model's logits, by the snapshot and the tangent model."""
    store, composer = Store(str(run)), Composer(str(run))
    key = composer.compose(compose)["key"]
    tm, _ = build_tangent(run_spec(store), composer.class_count())
    return tm(pictures(), load_snapshot(store, key))


def by_onnx(path: Path) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    assert [given.name for given in session.get_inputs()] == ["pictures"]
    return torch.from_numpy(np.asarray(session.run(["logits"], {"pictures": pictures().numpy()})[0]))


def test_onnx_gives_the_composed_models_logits(run: Path, tmp_path: Path) -> None:
    told = export(str(run), str(tmp_path / "model.onnx"))
    torch.testing.assert_close(by_onnx(tmp_path / "model.onnx"), expected_of(run), rtol=1e-4, atol=1e-4)
    assert told["composed"] == Composer(str(run)).composed_digest()
    assert told["bytes"] == (tmp_path / "model.onnx").stat().st_size
    entry = entry_of(tmp_path / "model.onnx")
    assert entry is not None
    assert entry["release"] == told["release"]


@pytest.mark.parametrize("compose", [None, "gram", "mean"])
def test_pt2_gives_the_composed_models_logits_and_says_what_it_is(
    run: Path, tmp_path: Path, compose: str | None
) -> None:
    told = export(str(run), str(tmp_path / "new" / "model.pt2"), compose)
    extra = {"taft_ray": ""}
    program = torch.export.load(tmp_path / "new" / "model.pt2", extra_files=extra)
    torch.testing.assert_close(program.module()(pictures()), expected_of(run, compose), rtol=1e-4, atol=1e-4)
    facts = json.loads(extra["taft_ray"])
    assert facts == {name: value for name, value in told.items() if name not in ("output", "bytes", "digest")}
    assert facts["size"] == SIZE
    assert len(facts["classes"]) == 3
    assert facts["shards"] == list(range(SHARDS))


def test_export_is_registered_with_its_digest_and_found_again_in_the_file(run: Path, tmp_path: Path) -> None:
    until = time.time() + 3600
    told = tr.Run(run).export(tmp_path / "model.pt2", to="clinic", contact="officer", until=until)
    (fact,) = (one.fact for one in state_of(run).releases.values())
    assert fact.digest == hashlib.sha256(Path(told.output).read_bytes()).hexdigest() == told.digest
    assert (fact.to, fact.contact, fact.until, fact.what) == ("clinic", "officer", until, "export")
    assert (fact.composed, fact.bytes, fact.shards) == (told.composed, told.bytes, tuple(range(SHARDS)))
    entry = entry_of(Path(told.output))
    assert entry is not None
    assert entry["release"] == told.release == fact.release
    assert tr.Run(run).check(told.output).status == "current"
    assert verify(str(run))["problems"] == []
    certificate = plain_forget(run, [sample_id(3)], "drop")
    assert [one["release"] for one in certificate["outside"]] == [told.release]
    assert tr.Run(run).check(told.output).exit_code == 1
    assert [one.status for one in tr.Run(run).recalls().releases] == ["recalled"]
    # a gate holds the next one back, and --now overrides it
    tr.Run(run).release("2")
    before = Path(told.output).read_bytes()
    here("export", run, "--output", told.output).complains(1, "held until 1 more forget", str(told.release), "--now")
    assert Path(told.output).read_bytes() == before
    assert here("export", run, "--output", told.output, "--now").code == 0
    assert [one.fact.overrode for one in state_of(run).releases.values()] == [None, "2 forgets"]
    assert verify(str(run))["problems"] == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_killed_export_leaves_no_file_without_its_release(run: Path, tmp_path: Path) -> None:
    with faults_possible(), fault(Fault(DIE_AFTER, 1)), pytest.raises(Killed):
        export(str(run), str(tmp_path / "model.pt2"))
    assert not (tmp_path / "model.pt2").exists()
    assert len(state_of(run).releases) == 1
    assert verify(str(run))["problems"] == []


def test_run_that_cannot_be_written_exports_only_what_says_so(trained: Path, weights: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are for one user alone
        Path(folder).chmod(0o777)
        copy_run(trained, Path(folder) / "run")
        run, out = tr.Run(Path(folder) / "run"), Path(folder) / "out"
        out.mkdir()
        out.chmod(0o777)
        for file in files(Path(run.uri)):
            file.chmod(0o444)
        with read_only(Path(run.uri), weights):
            with pytest.raises(Unregistered, match=r"permission denied.*--no-register"):
                run.export(out / "model.pt2")
            assert list(out.iterdir()) == []
            told = run.export(out / "model.pt2", register=False)
        assert (told.registered, told.release) == (False, None)
        entry = entry_of(out / "model.pt2")
        assert entry is not None
        assert entry["registered"] is False
        assert "never registered" in str(run.check(out / "model.pt2"))
        assert run.recalls().releases == ()
        writable = run.export(out / "model.pt2", register=False)
        assert writable.release == run.recalls().releases[0].release, "there is no way around the register"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": ""}, "--to"), ({"to": "a\nb"}, "--to"), ({"contact": "x" * 201}, "--contact"),
        ({"until": "yesterday"}, "--until"), ({"until": 1.0}, "--until has passed"),
    ],
)  # fmt: skip
def test_recipient_that_is_none_is_refused(run: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tr.Run(run).export(tmp_path / "model.pt2", **options)
    assert state_of(run).releases == {}


def test_what_was_dropped_is_not_in_the_file(run: Path, tmp_path: Path) -> None:
    before = expected_of(run)
    plain_forget(run, [sample_id(3)], "drop")
    told = export(str(run), str(tmp_path / "model.onnx"))
    assert shard_of(sample_id(3), SHARDS) not in told["shards"]
    after = by_onnx(tmp_path / "model.onnx")
    torch.testing.assert_close(after, expected_of(run), rtol=1e-4, atol=1e-4)
    assert float((after - before).abs().max()) > 1e-2


def test_older_copy_is_not_exported(run: Path, tmp_path: Path) -> None:
    backup = Path(shutil.copytree(run, tmp_path / "backup"))
    plain_forget(run, [sample_id(3)], "drop")
    shutil.rmtree(run)
    shutil.copytree(backup, run)
    with pytest.raises(IntegrityError, match="older copy"):
        export(str(run), str(tmp_path / "model.pt2"))
    assert not (tmp_path / "model.pt2").exists()


def test_bad_input_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.pt2 or \.onnx"):
        export(str(run), str(tmp_path / "model.pth"))
    with pytest.raises(StorageError, match="no run at"):
        export(str(tmp_path / "nothing"), str(tmp_path / "model.pt2"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        export(str(run), str(tmp_path / "file" / "model.pt2"))
    plain_forget(run, [], "drop", shards=tuple(range(SHARDS)))
    with pytest.raises(UsageError, match="no shard is in the model"):
        export(str(run), str(tmp_path / "model.pt2"))


def test_changed_delta_is_not_exported(run: Path, tmp_path: Path) -> None:
    delta = next((run / "deltas").rglob("*.safetensors"))
    data = bytearray(delta.read_bytes())
    data[-9] ^= 1
    delta.write_bytes(data)
    with pytest.raises(IntegrityError, match="deltas/shard="):
        export(str(run), str(tmp_path / "model.pt2"))


@pytest.mark.parametrize(("kind", "views"), [("pt2", 3), ("onnx", 1), pytest.param("onnx", 3, marks=pytest.mark.slow)])
def test_additive_model_is_exported_without_what_was_forgotten(
    kind: str, views: int, parquet: Path, spec_of: Callable[..., Any], tmp_path: Path
) -> None:
    run, file = tmp_path / "run", tmp_path / f"model.{kind}"
    plain_train(run, spec_of(parquet, solver="additive", features=48, views=views))
    before = additive_logits(run)
    plain_forget(run, [sample_id(3)], "subtract")
    told = export(str(run), str(file))
    assert told["composed"] == Composer(str(run)).composed_digest()
    logits = by_onnx(file) if kind == "onnx" else torch.export.load(file).module()(pictures())
    wanted = additive_logits(run)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=5e-3)  # a number of a row may fall on the next step
    assert float((wanted - before).abs().max()) > 1e-2
    for compose in ("mean", "gram", "joint"):
        with pytest.raises(
            UsageError, match=rf"--compose {compose}: an additive run has one model, .*Leave --compose out"
        ):
            export(str(run), str(file), compose)


def test_both_models_of_a_run_of_two_tiers_are_exported(
    parquet: Path, spec_of: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    plain_train(run, spec_of(parquet, compose="additive", features=48, trainable="head", cache_dtype="bfloat16"))
    composer = Composer(str(run))
    for mode in (None, "gram", "mean"):
        told = export(str(run), str(tmp_path / "model.pt2"), mode)
        assert told["composed"] == composer.composition.digest(mode)
    one = export(str(run), str(tmp_path / "model.pt2"), owners=["owner-1"])
    assert one["composed"] != composer.composition.digest()
    with pytest.raises(UsageError, match="leave it out"):
        export(str(run), str(tmp_path / "model.pt2"), "joint", ["owner-1"])
    export(str(run), str(tmp_path / "model.pt2"))
    logits = torch.export.load(tmp_path / "model.pt2").module()(pictures())
    torch.testing.assert_close(logits, additive_logits(run), rtol=0, atol=5e-3)


def additive_logits(run: Path) -> torch.Tensor:
    """By rows and the model of the sums."""
    store, spec = Store(str(run)), run_spec(Store(str(run)))
    key = Composer(str(run)).compose()["key"]
    rows = build_rows(spec)[0].prefix(pictures())[:, 0].numpy()
    return torch.from_numpy(model_of(spec, load_arrays(store, key)).logits(rows)).float()

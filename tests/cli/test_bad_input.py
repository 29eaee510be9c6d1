"""Every bad input: one clear line, the right exit code, no traceback, and nothing left that is in the way afterwards."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import here, spawned
from safetensors.numpy import load_file, save_file

VERBS_OF_A_RUN: dict[str, list[str]] = {
    "evaluate": ["--data", "{data}"],
    "estimate": ["--ids", "a"],
    "forget": ["--ids", "a", "--mode", "drop"],
    "status": [],
    "verify": [],
    "audit": ["--data", "{data}", "--never-seen", "{data}"],
    "report": [],
    "gc": [],
    "sweep": [],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _no_ray_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """These mistakes are found before Ray is started: a wrong path must not take a cluster's start to be told."""
    from taft_ray.orchestration import session

    def connect() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(session, "connect", connect)


@pytest.mark.parametrize("verb", VERBS_OF_A_RUN)
def test_run_that_does_not_exist(verb: str, run: Path, parquet: Path) -> None:
    options = [option.format(data=parquet) for option in VERBS_OF_A_RUN[verb]]
    here(verb, run, *options).complains(1, f"no run at {run}", "run.json is missing")
    assert not run.exists()


def test_published_data_that_is_not_whole(run: Path, parquet: Path) -> None:
    here("train", run, "--data", f"cub-200:{parquet}").complains(1, "not CUB-200", "classes.txt", "is missing")
    here("train", run, "--data", f"cub-200:{parquet}?split=val").complains(2, "no split 'val'", "train or test")
    here("train", run, "--data", "cub-200:/no/such/folder").complains(1, "no data at /no/such/folder")
    assert not run.exists()


def test_unknown_model_names_some_that_exist(run: Path, parquet: Path) -> None:
    here("train", run, "--data", parquet, "--model", "vit_colossal").complains(2, "'vit_colossal'", "vit_")
    assert not run.exists()


def test_weights_that_do_not_fit_name_the_keys(run: Path, parquet: Path, weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    del state["blocks.0.norm1.weight"]
    state["blocks.9.extra"] = np.zeros(3, np.float32)
    state["cls_token"] = np.zeros((1, 1, 7), np.float32)
    save_file(state, tmp_path / "other.safetensors")
    answer = here(
        "train", run, "--data", parquet, "--model", "test_vit", "--image-size", 32,
        "--weights", tmp_path / "other.safetensors",
    )  # fmt: skip
    answer.complains(1, "missing blocks.0.norm1.weight", "unexpected blocks.9.extra", "cls_token (1, 1, 7) instead of")
    assert not run.exists()


@pytest.mark.parametrize("content", ["truncated", "empty", "text"])
def test_file_that_is_not_whole_safetensors(
    content: str, run: Path, parquet: Path, weights: Path, tmp_path: Path
) -> None:
    data = {"truncated": weights.read_bytes()[:-1000], "empty": b"", "text": b"not weights at all, but some words"}
    path = tmp_path / "broken.safetensors"
    path.write_bytes(data[content])
    answer = here("train", run, "--data", parquet, "--model", "test_vit", "--image-size", 32, "--weights", path)
    answer.complains(1, "not a whole safetensors file")
    assert not run.exists()


def test_missing_weights(run: Path, parquet: Path, tmp_path: Path) -> None:
    answer = here("train", run, "--data", parquet, "--model", "test_vit", "--weights", tmp_path / "none.safetensors")
    answer.complains(1, "no weights at")


def test_weights_of_the_hub_without_a_network(run: Path, parquet: Path) -> None:
    here("train", run, "--data", parquet, "--model", "test_vit").complains(1, "--weights FILE.safetensors")


def test_missing_data(run: Path, tmp_path: Path, model_options: list[str]) -> None:
    here("train", run, "--data", tmp_path / "nowhere", *model_options).complains(1, "no data at", "check --data")
    assert not run.exists()


def test_empty_folder_of_data(run: Path, tmp_path: Path, model_options: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    here("train", run, "--data", tmp_path / "empty", *model_options).complains(1, "no files")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shards", "0"], ["expected shards >= 1, got 0", "--shards"]),
        (["--shards", "-3"], ["expected shards >= 1, got -3"]),
        (["--assignment", "random"], ["assignment='random'", "hash"]),
        (["--max-rejected", "2"], ["--max-rejected"]),
        (["--loss", "ce"], ["least squares"]),
        (["--penalty", "0"], ["penalty"]),
        (["--epsilon", "0"], ["epsilon"]),
        (["--last-blocks", "few"], ["last_blocks='few'"]),
        (["--last-blocks", "-1"], ["last_blocks=-1"]),
        (["--last-blocks", "99"], ["last_blocks=99"]),
        (["--classes", "ant,ant"], ["different names"]),
        (["--threads", "0"], ["--threads"]),
        (["--seed", "-1"], ["--seed"]),
        (["--lanes", "0"], ["--lanes"]),
        (["--solver", "additive", "--epochs", "3"], ["--epochs means nothing to --solver additive", "Leave it out"]),
        (["--solver", "additive", "--compose", "mean"], ["--compose means nothing to --solver additive"]),
        (["--compose", "gram", "--features", "16"], ["--features means nothing to --compose gram"]),
        (["--features", "1000000"], ["1000000", "--features"]),
    ],
)
def test_impossible_option(
    options: list[str], words: list[str], run: Path, parquet: Path, model_options: list[str]
) -> None:
    here("train", run, "--data", parquet, *model_options, *options).complains(2, *words)
    assert not run.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["train", "run"],
        ["train", "run", "--data", "x", "--solver", "sgd"],
        ["train", "run", "--data", "x", "--shards", "many"],
        ["forget", "run", "--ids", "a", "--mode", "erase"],
        ["forget", "run", "--shard", "first", "--mode", "drop"],
        ["estimate", "run", "--ids", "a", "--gpu-hour-price", "-1"],
        ["estimate", "run", "--ids", "a", "--gpu-hour-price", "cheap"],
        ["status"],
        ["status", "run", "--unknown"],
        ["frobnicate"],
    ],
)
def test_wrong_usage_exits_2_and_shows_how(arguments: list[str]) -> None:
    answer = here(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert "Usage" in answer.err


@pytest.mark.parametrize("ids", ["", "@{empty}"])
def test_no_ids(ids: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\r\n")
    here("forget", run, "--ids", ids.format(empty=tmp_path / "empty"), "--mode", "drop").complains(2, "no ids")


def test_ids_file_that_is_not_text(run: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(b"\xff\xfe\x00\x80picture")
    here("forget", run, "--ids", f"@{tmp_path / 'ids'}", "--mode", "drop").complains(2, "UTF-8", "one id a line")


def test_more_ids_than_a_request_may_name(run: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("\n".join(map(str, range(100_001))))
    for verb in ("forget", "estimate"):
        answer = here(verb, run, "--ids", f"@{tmp_path / 'ids'}", "--mode", "drop")
        answer.complains(2, "at most 100,000 ids a request, got 100,001")


@pytest.mark.parametrize("verb", ["forget", "estimate"])
def test_nothing_to_forget(verb: str, run: Path) -> None:
    here(verb, run, "--mode", "drop").complains(2, "--ids, --owner or --shard")


@pytest.mark.parametrize(
    "deadline",
    ["soon", "", "d", "10x", "ten d", "nand", "infd", "-infs", "1e300d", "9e99s", "2027-13-01", "0001-01-01", "10:30"],
)
def test_deadline_that_is_no_time(deadline: str, run: Path) -> None:
    answer = here("forget", run, "--ids", "a", "--mode", "retrain", "--deadline", deadline)
    answer.complains(2, f"--deadline {deadline!r}", "30d")


@pytest.mark.parametrize(
    "more",
    [["--ids", "a"], ["--owner", "a"], ["--shard", "0"], ["--mode", "drop"], ["--deadline", "1d"], ["--dry-run"]],
)
def test_due_with_something_else(more: list[str], run: Path) -> None:
    here("forget", run, "--due", *more).complains(2, "--due carries out what was asked before")


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_ids_file_that_cannot_be_read(what: str, run: Path, tmp_path: Path) -> None:
    path = tmp_path if what == "folder" else tmp_path / "none"
    here("forget", run, "--ids", f"@{path}", "--mode", "drop").complains(2, "cannot be read")


def test_storage_that_does_not_answer() -> None:
    env = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    answer = spawned("verify", "s3://nowhere/run", env=env)
    answer.complains(1, "s3://nowhere/run")


def test_address_of_an_unknown_kind(parquet: Path, model_options: list[str]) -> None:
    answer = here("train", "carrier-pigeon://run", "--data", parquet, *model_options)
    assert answer.code in (1, 2)
    answer.complains(answer.code, "carrier-pigeon")


def test_cluster_that_does_not_answer(run: Path, parquet: Path, model_options: list[str]) -> None:
    answer = spawned("train", run, "--data", parquet, *model_options, env={"RAY_ADDRESS": "127.0.0.1:9"})
    answer.complains(1, "no Ray cluster answers at 127.0.0.1:9")
    assert not (run / "run.json").exists()


class TestWithRay:
    """Mistakes that only the data, the cluster or the disk show: the command runs on a Ray of the tests."""

    @pytest.fixture(autouse=True)
    def _ray(self, ray_session: None, monkeypatch: pytest.MonkeyPatch, _no_ray_is_needed: None) -> None:
        from taft_ray.orchestration import session

        monkeypatch.setattr(session, "connect", lambda: None)

    def test_label_outside_the_classes(self, run: Path, parquet: Path, model_options: list[str]) -> None:
        options = ["--data", parquet, *model_options, "--classes", "ant,bee"]
        here("train", run, *options).complains(1, "outside the 2 classes", "'cat'")
        assert not run.exists(), "nothing was made, and no worker started"

    @pytest.mark.slow
    def test_too_many_rejected_rows_are_counted_by_reason(
        self, run: Path, tmp_path: Path, model_options: list[str]
    ) -> None:
        rows: dict[str, Any] = {"image": [b"not a picture"] * 6, "label": ["ant", "bee"] * 3}
        (tmp_path / "bad").mkdir()
        pq.write_table(pa.table(rows), tmp_path / "bad" / "rows.parquet")
        answer = here("train", run, "--data", tmp_path / "bad", *model_options, "--shards", 2)
        answer.complains(1, "6 of 6 rows were rejected", "--max-rejected")

    def test_gpu_that_is_not_there(self, run: Path, parquet: Path, model_options: list[str]) -> None:
        answer = here("train", run, "--data", parquet, *model_options, "--device", "cuda")
        answer.complains(1, "no GPU", "--device cpu")
        assert not run.exists()

    def test_run_folder_that_may_not_be_written(self, tmp_path: Path, parquet: Path, model_options: list[str]) -> None:
        (tmp_path / "file").write_text("here lies a file")
        here("train", tmp_path / "file" / "run", "--data", parquet, *model_options).complains(1, "file")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--ids", "nobody", "--mode", "drop"], ["1 id is not in this run: 'nobody'", "nothing was forgotten"]),
            (["--ids", "person-000", "--ids", "nobody", "--mode", "retrain"], ["1 id ", "'nobody'"]),
            (["--ids", "person-000,nobody", "--mode", "drop"], ["'person-000,nobody'", "--ids once per id"]),
            (["--ids", " person-000", "--mode", "drop"], ["' person-000'"]),
            (["--owner", "nobody", "--mode", "drop"], ["'nobody'", "nothing was forgotten"]),
            (["--shard", "-1", "--mode", "drop"], ["shard -1 is not", "it has 0 to 3"]),
            (["--shard", "4", "--mode", "drop"], ["shard 4 is not", "it has 0 to 3"]),
            (["--ids", "person-000", "--mode", "retrain", "--deadline", "-1d"], ["the deadline has passed"]),
            (["--ids", "person-000", "--mode", "retrain", "--deadline", "2020-01-01"], ["the deadline has passed"]),
            (["--ids", "person-000", "--mode", "drop", "--deadline", "1d"], ["at once", "leave --deadline out"]),
        ],
    )
    def test_forget_that_cannot_be_changes_not_a_byte(
        self, trained: Path, options: list[str], words: list[str]
    ) -> None:
        def contents() -> dict[Path, bytes]:
            return {path: path.read_bytes() for path in trained.parent.rglob("*") if path.is_file()}

        before = contents()
        here("forget", trained, *options).complains(2, *words)
        assert contents() == before

    def test_grouped_without_owners(self, run: Path, class_folder: Path, model_options: list[str]) -> None:
        answer = here("train", run, "--data", class_folder, *model_options, "--assignment", "grouped")
        answer.complains(2, "add a column 'owner' or use --assignment hash")
        assert not run.exists()

    @pytest.mark.slow
    def test_disk_that_is_full(self, tmp_path: Path, parquet: Path, model_options: list[str]) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
        if mounted.returncode or shutil.disk_usage(disk).total > 1 << 20:
            pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
        try:
            here("train", disk / "run", "--data", parquet, *model_options).complains(1, "full")
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


def test_debug_shows_the_traceback(run: Path) -> None:
    answer = here("verify", run, "--debug")
    assert answer.code == 1
    assert "Traceback" in answer.err
    assert os.fspath(run) in answer.err


def test_command_whose_folder_was_removed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray unpacks a job's checkout again where two nodes share a machine, under the job that runs in it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    answer = here("verify", "run")
    assert answer.code == 1
    assert "the folder that this command was begun in was removed" in answer.err
    assert "--temp-dir" in answer.err

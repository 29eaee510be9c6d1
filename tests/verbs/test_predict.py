"""`predict`: what evaluate's model says of pictures, whatever they lie in; pictures that cannot be read are named."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import here
from folder import files, plain_forget
from PIL import Image
from plain import plain_train
from proved import plain_evaluation_cache
from tiny import CLASSES, SAMPLES, picture, sample_id, write_class_folder

import taft_ray as tr
from taft_ray.errors import DataError, StorageError, UsageError
from taft_ray.storage import Store, read_manifest
from taft_ray.storage import rundir as names
from taft_ray.workers.shard_worker import ShardWorker

NUMBERS = range(1000, 1048)  # those of test_parquet


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("predict") / "run"
    plain_train(run, spec_of(parquet, trainable="head"))
    return run


@pytest.fixture
def run(whole: Path, copy_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> tr.Run:
    """In a process that has joined no Ray, and where starting one is an error."""
    from taft_ray.orchestration import session
    from taft_ray.verbs import composer, forget

    monkeypatch.setattr(session, "connect", lambda: pytest.fail("Ray was started"))
    for module in (composer, forget):
        monkeypatch.setattr(module, "in_cluster", lambda: False)
    return tr.Run(copy_of(whole))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("pictures") / "new", NUMBERS)


def test_predictions_are_right_as_often_as_evaluate_says(run: tr.Run, test_parquet: Path) -> None:
    answer = run.predict(test_parquet)
    plain_evaluation_cache(Path(run.uri), test_parquet)
    found = read_manifest(Store(run.uri).inside(names.eval_prefix(str(test_parquet))))
    assert found is not None
    worker = ShardWorker(run.uri, len(CLASSES))
    expected = worker.evaluate(names.composed_key(answer.composed), found.refs)
    truth = {sample_id(n): CLASSES[n % 3] for n in NUMBERS}
    right = sum(one.label == truth[one.picture] for one in answer.predictions)
    assert answer.n == expected["n"] == len(NUMBERS)
    assert right / answer.n == expected["accuracy"] > 0.4
    assert answer.composed == run.status().composed
    assert answer.unreadable == ()


def test_probabilities_are_on_the_simplex_and_the_label_is_the_largest(run: tr.Run, pictures: Path) -> None:
    answer = run.predict(pictures)
    for one in answer.predictions:
        assert sum(one.probabilities) == pytest.approx(1)
        assert min(one.probabilities) >= 0
        assert one.probability == max(one.probabilities) == one.probabilities[CLASSES.index(one.label)]


def test_files_folders_and_tables_say_the_same(run: tr.Run, pictures: Path, test_parquet: Path, tmp_path: Path) -> None:
    of_folder = {one.picture: one.probabilities for one in run.predict(pictures).predictions}
    paths = [pictures / CLASSES[n % 3] / f"{n:03d}.png" for n in NUMBERS]
    assert list(of_folder) == sorted(map(str, paths))
    of_files = run.predict(paths[::-1])
    assert [one.picture for one in of_files.predictions] == [str(path) for path in paths[::-1]], "in the order given"
    assert {one.picture: one.probabilities for one in of_files.predictions} == of_folder
    of_table = {one.picture: one.probabilities for one in run.predict(test_parquet).predictions}
    assert of_table == {sample_id(n): of_folder[str(path)] for n, path in zip(NUMBERS, paths, strict=True)}
    unlabelled = tmp_path / "new.parquet"
    pq.write_table(pa.table({"image": [picture(n) for n in NUMBERS]}), unlabelled, row_group_size=10)
    of_rows = run.predict(unlabelled).predictions
    assert [one.picture for one in of_rows] == [f"{unlabelled}#{row}" for row in range(len(NUMBERS))]
    assert [one.probabilities for one in of_rows] == [of_folder[str(path)] for path in paths]


def test_pictures_that_cannot_be_read_are_named_and_the_others_predicted(run: tr.Run, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "whole.png").write_bytes(picture(1))
    (folder / "cut.png").write_bytes(picture(2)[:100])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(32))
    (folder / "notes.txt").write_text("no picture by its name")
    answer = run.predict([folder, folder / "notes.txt"])
    assert [Path(one.picture).name for one in answer.predictions] == ["whole.png"]
    reasons = {Path(one.picture).name: one.reason for one in answer.unreadable}
    assert reasons == {
        "cut.png": "truncated picture",
        "empty.jpg": "empty file",
        "phone.heic": "HEIC is not read here",
        "notes.txt": "not a picture",
    }
    assert "4 could not be read" in str(answer)
    table = pa.table({"image": pa.array([picture(1), None], pa.binary()), "id": ["there", "missing"]})
    pq.write_table(table, folder / "rows.parquet")
    of_rows = run.predict(folder / "rows.parquet")
    assert [one.picture for one in of_rows.predictions] == ["there"]
    assert [(one.picture, one.reason) for one in of_rows.unreadable] == [("missing", "no image")]


def test_a_forget_is_in_the_next_prediction(run: tr.Run, pictures: Path) -> None:
    before = run.predict(pictures)
    certificate = run.forget([sample_id(0)], mode="drop")
    after = run.predict(pictures)
    assert after.composed == certificate.to_json()["composed_after"] != before.composed
    assert [one.probabilities for one in after.predictions] != [one.probabilities for one in before.predictions]


def test_a_class_whose_samples_are_forgotten_keeps_its_column(run: tr.Run, pictures: Path) -> None:
    cats = [sample_id(n) for n in range(SAMPLES) if CLASSES[n % 3] == "cat"]
    plain_forget(run.uri, cats, "retrain")
    answer = run.predict(pictures)
    assert answer.classes == tuple(CLASSES)
    assert "p(cat)" in answer.to_pandas().columns
    assert all(len(one.probabilities) == len(CLASSES) for one in answer.predictions)


def test_another_run_in_the_same_folder_predicts_its_own_classes(
    run: tr.Run, pictures: Path, spec_of: Callable[..., Any], tmp_path: Path
) -> None:
    assert run.predict(pictures).classes == tuple(CLASSES)
    run.destroy()
    table = pa.table({"image": [picture(n) for n in range(60)], "label": [f"kind {n % 2}" for n in range(60)]})
    pq.write_table(table, tmp_path / "kinds.parquet")
    plain_train(run.uri, spec_of(tmp_path / "kinds.parquet", trainable="head", shards=2))
    answer = run.predict(pictures)
    assert answer.classes == ("kind 0", "kind 1")
    assert {one.label for one in answer.predictions} <= set(answer.classes)
    assert all(len(one.probabilities) == 2 for one in answer.predictions)


def test_what_cannot_be_predicted_is_refused_and_changes_nothing(run: tr.Run, tmp_path: Path) -> None:
    before = files(Path(run.uri))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="no pictures were given"):
        run.predict([])
    with pytest.raises(DataError, match=r"there are no pictures at .*empty"):
        run.predict(empty)
    with pytest.raises(DataError, match=r"there is no data at .*nowhere; check the argument PICTURES"):
        run.predict(tmp_path / "nowhere")
    pq.write_table(pa.table({"picture": [picture(1)]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="needs one column 'image'"):
        run.predict(tmp_path / "other.parquet")
    with pytest.raises(StorageError, match="no run at"):
        tr.Run(tmp_path / "no-run").predict(tmp_path)
    assert files(Path(run.uri)) == before
    run.forget(shards=range(4), mode="drop")
    (tmp_path / "one.png").write_bytes(picture(1))
    with pytest.raises(UsageError, match="no shard with samples is in the model"):
        run.predict(tmp_path / "one.png")


def test_grey_and_large_pictures_are_brought_to_size(run: tr.Run, tmp_path: Path) -> None:
    Image.fromarray(np.full((300, 200), 128, np.uint8)).save(tmp_path / "grey.png")
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 900, 3), 30, np.uint8)).save(buffer, "JPEG")
    (tmp_path / "wide").write_bytes(buffer.getvalue())
    assert run.predict([tmp_path / "grey.png", tmp_path / "wide"]).n == 2


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_command_prints_and_writes_a_table(run: tr.Run, pictures: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / "out" / f"predictions{suffix}"
    answer = here("predict", run.uri, pictures / "ant", pictures / "bee", "--output", output, "--json")
    assert answer.code == 0, answer.err
    expected = run.predict([pictures / "ant", pictures / "bee"])
    assert answer.json == expected.to_json()
    table = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    columns = ["picture", "predicted", "probability", "p(ant)", "p(bee)", "p(cat)", "composed", "problem"]
    assert list(table.columns) == columns == list(expected.to_pandas().columns)
    assert table["predicted"].tolist() == [one.label for one in expected.predictions]
    assert table["p(bee)"].to_numpy() == pytest.approx([one.probabilities[1] for one in expected.predictions])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_has_a_line_per_picture_that_could_not_be_read(run: tr.Run, tmp_path: Path, suffix: str) -> None:
    folder, output = tmp_path / "pictures", tmp_path / f"predictions{suffix}"
    folder.mkdir()
    (folder / "cut.png").write_bytes(picture(2)[:100])
    (folder / "whole.png").write_bytes(picture(1))
    assert here("predict", run.uri, folder, "--output", output).code == 0
    table = pd.read_csv(output, keep_default_na=False) if suffix == ".csv" else pd.read_parquet(output)
    assert [Path(one).name for one in table["picture"]] == ["whole.png", "cut.png"]
    assert table["problem"].tolist() == ["", "truncated picture"]
    assert table["predicted"][0] in CLASSES
    assert table["predicted"].fillna("").tolist()[1] == ""


def test_command_refuses_a_table_of_another_kind_before_it_works(run: tr.Run, pictures: Path) -> None:
    here("predict", run.uri, pictures, "--output", "predictions.xlsx").complains(2, ".parquet or .csv")
    assert here("predict", run.uri).code == 2

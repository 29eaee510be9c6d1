"""A sweep through Ray Tune: its trials are what they say, nobody forgotten is in them, and it goes on where it was."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folder import plain_forget, state_of
from tiny import SAMPLES, sample_id

from taft_ray import answers
from taft_ray.data import held_out, sample_key
from taft_ray.errors import UsageError
from taft_ray.fitting import fit
from taft_ray.orchestration.object_store import key_rows
from taft_ray.plans.space import parse_space
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.spec_file import parse_spec_file
from taft_ray.plans.sweep import Sweep
from taft_ray.proof.verify_run import verify
from taft_ray.run.model import build_tangent
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store, read_manifest, read_rows
from taft_ray.studies.bench import lay_bench
from taft_ray.studies.trial import EFFORT, Bench, Linearisation, lay_out, run_trial
from taft_ray.sums import compose
from taft_ray.tangent.accuracy import count_correct
from taft_ray.verbs.sweep import FOLDER, sweep
from taft_ray.workers.shard_worker import ShardWorker

SPACE = parse_space(["solver=ridge,adam", "last_blocks=0,1", "kappa=15"])


@pytest.fixture(scope="module")
def run(train_plainly: Callable[..., tuple[Path, dict[str, Any]]], parquet: Path) -> Path:
    """A trained run of four shards, with rows beside deltas; its tokens are at the entrance of the last block."""
    return train_plainly(parquet, last_blocks=1, compose="additive", features=48)[0]


def bench_of(run: Path, **asked: Any) -> Bench:
    """The bench that the trials share, read without Ray; its tokens are arrays and not references."""
    store, spec = Store(str(run)), run_spec(Store(str(run)))
    found = read_manifest(store)
    assert found is not None
    worker = ShardWorker(str(run), 3)
    keys, labels, shards, tokens = [], [], [], []
    for shard, refs in sorted(found.parts.items()):
        some, of, arrays = worker.read(refs)
        keys += some
        labels.append(of.numpy())
        shards.append(np.full(len(some), int(shard)))
        tokens += arrays
    return Bench(
        name="bench", spec=spec, classes=3, objective=asked.get("objective", "composed"),
        tokens={1: np.concatenate(tokens)}, keys=key_rows(keys), labels=np.concatenate(labels),
        shards=np.concatenate(shards), held=held_out(keys, fraction=0.2, seed=spec.seed),
    )  # fmt: skip


def heard_of(bench: Bench, spec: RunSpec, objective: str) -> list[tuple[float, int]]:
    """(effort, correct) of every report of a trial, in this process."""
    laid, out = lay_out(replace(bench, objective=objective), Linearisation.of(spec), bench.tokens[1]), []
    run_trial(
        spec,
        laid,
        objective,
        lambda effort, delta: out.append((effort, count_correct(laid.tm, laid.pictures, laid.labels, delta))),
    )
    return out


@pytest.mark.parametrize("solver", ["ridge", "adam"])
def test_a_composed_trial_is_its_shards_fitted_and_composed(run: Path, solver: str) -> None:
    """Against the mathematics alone: fit each shard's training part, compose, count."""
    bench = bench_of(run)
    spec = replace(bench.spec, solver=solver)
    heard = heard_of(bench, spec, "composed")
    assert [effort for effort, _ in heard] == [25, 50, 75, 100]
    tm, _ = build_tangent(spec, 3)
    tokens, labels = torch.from_numpy(np.array(bench.tokens[1])), torch.from_numpy(bench.labels)
    deltas, grams = [], []
    for shard in range(4):
        rows = torch.from_numpy(np.flatnonzero((bench.shards == shard) & ~bench.held))
        prepared = tm.prepare(tokens[rows])

        def order(count: int, seed: int, epoch: int, rows: torch.Tensor = rows) -> torch.Tensor:
            from taft_ray.data import epoch_order

            return torch.from_numpy(epoch_order([bench.keys[r].tobytes() for r in rows], seed=seed, epoch=epoch))

        deltas.append(fit(tm, prepared, labels[rows], spec.fit_config(), order=order))
        grams.append(tm.gram(prepared))
    composed = compose(deltas, statistics=grams, epsilon=spec.epsilon)
    prepared = tm.prepare(tokens[torch.from_numpy(bench.held)])
    with torch.no_grad():
        guessed = (prepared.primal + tm.tangent(prepared, composed)).argmax(1)
    assert heard[-1][1] == int((guessed == labels[torch.from_numpy(bench.held)]).sum())


def test_one_model_over_the_whole_is_heard_after_each_epoch(run: Path) -> None:
    bench = bench_of(run)
    heard = heard_of(bench, replace(bench.spec, solver="adam", epochs=5), "whole")
    assert [effort for effort, _ in heard] == pytest.approx([20, 40, 60, 80, EFFORT])
    assert [effort for effort, _ in heard_of(bench, bench.spec, "whole")] == [EFFORT]


@pytest.fixture(scope="module")
def swept(run: Path, ray_session: None) -> dict[str, Any]:
    return sweep(str(run), Sweep(space=SPACE))


def test_trials_share_the_tokens_and_measure_what_a_trial_alone_does(swept: dict[str, Any], run: Path) -> None:
    results = json.loads((run / FOLDER / swept["sweep"] / "sweep.json").read_text())["trials"]
    assert len(results) == 4
    assert all(result["tokens_mapped"] for result in results)
    assert {result["status"] for result in results} <= {"finished", "stopped"}
    bench = bench_of(run)
    assert swept["held_out"] == int(bench.held.sum())
    assert swept["held_out"] + swept["fitted_on"] == SAMPLES
    for result in results:
        if result["settings"]["last_blocks"] == 1:
            heard = heard_of(bench, replace(bench.spec, **result["settings"]), "composed")
            assert [
                [effort, correct / swept["held_out"]] for effort, correct in heard[: len(result["curve"])]
            ] == result["curve"]


def test_table_picture_and_the_best_spec(swept: dict[str, Any], run: Path) -> None:
    rows = list(csv.DictReader(Path(swept["table"]).read_text().splitlines()))
    assert len(rows) == 4
    assert max(float(row["accuracy"]) for row in rows if row["status"] == "finished") == swept["best"]["accuracy"]
    page = Path(swept["page"]).read_text()
    assert page.count("<svg") == 4
    assert "kappa" in page
    best = parse_spec_file(Path(swept["spec"]).read_bytes(), "best.json")
    expected = replace(run_spec(Store(str(run))), **swept["best"]["settings"]).to_json()
    assert RunSpec(**best).to_json() == {**expected, "weights_digest": ""}


def test_answer_is_told_to_a_person(swept: dict[str, Any]) -> None:
    answer = answers.Swept.from_json(json.loads(json.dumps(swept)))
    assert answer.to_json() == swept
    assert f"trial {swept['best']['number']}, {swept['best']['accuracy']:.1%}" in str(answer)


def test_nothing_of_a_sample_is_written_and_verify_knows_the_folder(swept: dict[str, Any], run: Path) -> None:
    written = b"".join(path.read_bytes() for path in (run / FOLDER).rglob("*") if path.is_file())
    for number in range(SAMPLES):
        assert sample_id(number).encode() not in written
        assert sample_key(sample_id(number), 0).hex().encode() not in written
    assert verify(str(run))["problems"] == []


def test_asked_again_it_repeats_nothing(swept: dict[str, Any], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taft_ray.studies.bench.lay_bench", None)
    again = sweep(str(run), Sweep(space=SPACE))
    assert again["resumed"] == 4
    assert (again["best"], again["trials"], again["forgotten_since"]) == (swept["best"], swept["trials"], 0)


@pytest.mark.slow
def test_a_sweep_that_was_cut_off_goes_on_where_it_was(
    swept: dict[str, Any], run: Path, copy_of: Callable[..., Path]
) -> None:
    """Results are written one by one as trials end: a sweep that was killed has some of them, and nothing else."""
    copy = copy_of(run)
    folder = copy / FOLDER / swept["sweep"]
    for file in folder.iterdir():
        if not file.name.startswith("trial-"):
            file.unlink()
    gone, *kept = sorted(folder.iterdir())
    before = {file.name: file.read_bytes() for file in kept}
    lost = json.loads(gone.read_text())
    gone.unlink()
    again = sweep(str(copy), Sweep(space=SPACE))
    assert (again["resumed"], len(again["trials"])) == (3, 4)
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    # alone on its rungs it is never stopped
    found = json.loads(gone.read_text())
    assert found["status"] == "finished"
    assert found["curve"][: len(lost["curve"])] == lost["curve"]


@pytest.mark.slow
def test_after_a_forget_a_sweep_is_stale_and_is_made_anew_without_the_sample(
    swept: dict[str, Any], run: Path, copy_of: Callable[..., Path]
) -> None:
    copy = copy_of(run)
    plain_forget(copy, [sample_id(0)], "drop")
    other = sweep(str(copy), Sweep(space=parse_space(["kappa=1e12,15"])))
    assert other["stale_sweeps"] == [swept["sweep"]]
    assert other["held_out"] + other["fitted_on"] == SAMPLES - 1
    # and a trial that fails is one of the trials: the others go on
    by_kappa = {trial["settings"]["kappa"]: trial for trial in other["trials"]}
    assert by_kappa[1e12]["status"] == "failed"
    assert "does not fit" in by_kappa[1e12]["error"]
    assert other["best"]["settings"] == {"kappa": 15.0}
    assert (other["resumed"], other["measured_again"], other["forgotten_since"]) == (0, 0, 0)
    again = sweep(str(copy), Sweep(space=SPACE))
    assert (again["resumed"], again["measured_again"], again["stale_sweeps"]) == (0, 4, [])
    assert verify(str(copy))["problems"] == []


def test_samples_that_wait_to_be_forgotten_are_not_read(
    run: Path, copy_of: Callable[..., Path], ray_session: None
) -> None:
    from taft_ray.data import id_hash
    from taft_ray.storage import id_key

    store, spec, state = Store(str(run)), run_spec(Store(str(run))), state_of(run)
    state.tombstones[id_hash(sample_id(5), id_key(store, create=False))] = "a request"
    bench = lay_bench(
        store, spec, state, read_rows(store, str(state.manifest_key), str(state.manifest)), Sweep(), "b", [1]
    )
    kept = {key.tobytes() for key in bench.keys}
    assert kept == {sample_key(sample_id(n), 0) for n in range(SAMPLES) if n != 5}
    assert len(bench.labels) == len(bench.shards) == SAMPLES - 1


def test_more_blocks_than_the_tokens_allow(run: Path) -> None:
    with pytest.raises(UsageError, match=r"no valid trial.*last_blocks=2 needs tokens from before the last 1 blocks"):
        sweep(str(run), Sweep(space=parse_space(["last_blocks=2"])))

"""The audit on real runs: an honest forget is at chance, a faked one is found, also where `verify` sees nothing wrong."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import folder
import numpy as np
import pytest
from folder import files, plain_forget, shard_of, state_of
from plain import InlinePasses, plain_add, plain_train
from tiny import CLASSES, SAMPLES, SHARDS, sample_id, write_class_folder, write_parquet

from taft_ray.data import sample_keys
from taft_ray.errors import DataError, ObjectMissing, UnknownSample, UsageError
from taft_ray.proof.audit import examine
from taft_ray.proof.verify_run import verify
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store, read_delta, read_manifest, write_delta
from taft_ray.storage import rundir as names
from taft_ray.verbs.tune import tune
from taft_ray.workers.kinds import new_worker
from taft_ray.workers.shard_worker import ShardWorker

Copy = Callable[..., Path]
OF_SHARD = {shard: [n for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard] for shard in range(SHARDS)}
# samples of two shards, each of which keeps more than it loses
GONE = [sample_id(n) for shard in (0, 1) for n in OF_SHARD[shard][:12]]
WHOLE_SHARD = [sample_id(n) for n in OF_SHARD[2]]
# Adam's few epochs in `spec_of` hardly fit anything: an audit of such a run says that it has no power
SPECS: dict[str, dict[str, Any]] = {
    "ridge": {},
    "adam": {"solver": "adam", "compose": "mean", "epochs": 40, "milestones": (30,)},
    "rows": {"solver": "additive", "features": 96},
    "both": {"compose": "additive", "features": 96, "trainable": "head"},
}
OF_ROWS, OF_DELTAS = ("rows", "both"), ("ridge", "adam")


@pytest.fixture(scope="session")
def plain_runs(
    tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]
) -> Callable[[str], Path]:
    """Runs by solver, each trained once; copy before changing."""
    made: dict[str, Path] = {}

    def get(solver: str) -> Path:
        if solver not in made:
            made[solver] = tmp_path_factory.mktemp(solver) / "run"
            plain_train(made[solver], spec_of(parquet, **SPECS[solver]))
        return made[solver]

    return get


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the same kind that no run has seen."""
    return write_parquet(tmp_path_factory.mktemp("data") / "others", range(2000, 2150))


@pytest.fixture(scope="session")
def retrained(plain_runs: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ridge run that forgot honestly; read only."""
    run = Path(shutil.copytree(plain_runs("ridge"), tmp_path_factory.mktemp("retrained") / "run"))
    plain_forget(run, GONE, "retrain")
    return run


def audited(run: Path, data: Path, never_seen: Path, ids: Sequence[str] | None = None) -> dict[str, Any]:
    """`audit` without Ray."""
    store = Store(str(run))
    spec = run_spec(store)
    values = new_worker(str(run), spec, len(CLASSES)).sample_values
    return examine(
        InlinePasses(),
        store,
        spec,
        state_of(run),
        values,
        data=str(data),
        never_seen=str(never_seen),
        ids=ids,
        level=0.01,
    )


class Hoarder(ShardWorker):
    """Answers a retrain with the delta that it should have forgotten, under the next generation."""

    old: dict[int, dict[str, np.ndarray]]

    def fit(self, task: dict[str, Any], progress: Any = None, lane: str = "") -> dict[str, Any]:
        answer = super().fit(task, progress, lane)
        self.store.delete(answer["delta"]["key"])
        meta = {"shard": str(task["shard"]), "samples": str(answer["samples"]), "fingerprint": self.fingerprint}
        kept = self.old[task["shard"]]
        ref = write_delta(self.store, names.delta_folder(task["shard"]), task["generation"], kept, meta)
        return {**answer, "delta": ref.to_json()}


def forget_falsely(run: Path, ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Request, drop, purge and certificate are in order; the retrained deltas are the old ones."""
    store = Store(str(run))
    old = {s.shard: read_delta(store, s.in_sums)[0] for s in state_of(run).in_model}
    monkeypatch.setattr(Hoarder, "old", old, raising=False)
    monkeypatch.setattr(folder, "new_worker", lambda address, _, classes: Hoarder(address, classes))
    plain_forget(run, ids, "retrain")


@pytest.mark.parametrize("solver", SPECS)
def test_honest_retrain_is_at_chance(
    plain_runs: Callable[[str], Path], solver: str, copy_of: Copy, parquet: Path, others: Path
) -> None:
    run = copy_of(plain_runs(solver))
    plain_forget(run, GONE, "retrain")
    answer = audited(run, parquet, others)
    assert (answer["ok"], answer["verdict"]) == (True, "at chance"), answer
    assert answer["shards"] == [0, 1]
    assert (answer["forgotten"], answer["never_seen"]) == (len(GONE), 150)
    assert not any(answer["left_out"].values())
    assert answer["power"]["auc"] > 0.75
    assert answer["targets"]["composed"]["p_value"] > 0.005


@pytest.mark.parametrize("solver", OF_DELTAS)
def test_faked_retrain_is_found_though_verify_sees_nothing(
    plain_runs: Callable[[str], Path],
    solver: str,
    copy_of: Copy,
    parquet: Path,
    others: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = copy_of(plain_runs(solver))
    forget_falsely(run, GONE, monkeypatch)
    assert verify(str(run))["ok"] is True
    answer = audited(run, parquet, others)
    assert (answer["ok"], answer["verdict"]) == (False, "remembers"), answer
    assert answer["p_value"] < 0.005


def test_drop_is_at_chance_until_the_old_composed_model_is_served_again(
    plain_runs: Callable[[str], Path], copy_of: Copy, parquet: Path, others: Path
) -> None:
    run = copy_of(plain_runs("ridge"))
    (served,) = files(run, names.COMPOSED_FOLDER)
    old = served.read_bytes()
    plain_forget(run, WHOLE_SHARD, "drop")
    answer = audited(run, parquet, others)
    assert answer["verdict"] == "at chance", answer
    assert list(answer["targets"]) == ["composed"]
    for path in files(run, names.COMPOSED_FOLDER):
        path.unlink()
    served.write_bytes(old)
    answer = audited(run, parquet, others)
    assert (answer["ok"], answer["verdict"]) == (False, "remembers"), answer


@pytest.mark.parametrize("kind", OF_ROWS)
def test_subtraction_is_at_chance_until_the_old_model_is_served_again(
    plain_runs: Callable[[str], Path], kind: str, copy_of: Copy, parquet: Path, others: Path
) -> None:
    """An additive run: its model, and the models of its shards' rows alone."""
    run = copy_of(plain_runs(kind))
    old = {path: path.read_bytes() for path in files(run, names.COMPOSED_FOLDER)}
    plain_forget(run, GONE, "subtract")
    answer = audited(run, parquet, others)
    assert (answer["ok"], answer["verdict"]) == (True, "at chance"), answer
    assert (answer["shards"], answer["forgotten"]) == ([0, 1], len(GONE))
    assert answer["power"]["auc"] > 0.75
    for path in files(run, names.COMPOSED_FOLDER):
        path.unlink()
    for path, kept in old.items():
        path.write_bytes(kept)
    answer = audited(run, parquet, others)
    assert (answer["ok"], answer["verdict"]) == (False, "remembers"), answer


def test_samples_that_were_added_are_audited_in_their_own_shard(
    plain_runs: Callable[[str], Path], copy_of: Copy, others: Path, tmp_path: Path
) -> None:
    run = copy_of(plain_runs("rows"))
    added = write_parquet(tmp_path / "added", range(3000, 3040))
    plain_add(run, added, 2)
    of_one = [sample_id(n) for n in range(3000, 3040) if shard_of(sample_id(n), 2) == 1][:12]
    plain_forget(run, of_one, "subtract")
    answer = audited(run, added, others)
    assert (answer["verdict"], answer["shards"], answer["forgotten"]) == ("at chance", [SHARDS + 1], 12), answer


def test_audit_is_of_the_settings_that_were_chosen(
    plain_runs: Callable[[str], Path], copy_of: Copy, parquet: Path, others: Path
) -> None:
    """A choice that is stale after the forget is made again from what is left."""
    run = copy_of(plain_runs("rows"))
    plain_forget(run, GONE[:12], "subtract")
    plain = audited(run, parquet, others)["targets"]["composed"]["auc"]
    tune(str(run), sizes=[48], kappas=[1.0, 4.0])
    chosen = audited(run, parquet, others)["targets"]["composed"]["auc"]
    assert chosen != plain
    plain_forget(run, GONE[12:], "subtract")
    assert audited(run, parquet, others)["verdict"] == "at chance"


def test_audit_writes_nothing(retrained: Path, parquet: Path, others: Path) -> None:
    before = {path: path.read_bytes() for path in files(retrained)}
    audited(retrained, parquet, others)
    assert {path: path.read_bytes() for path in files(retrained)} == before


def test_audit_answers_the_same_twice(retrained: Path, parquet: Path, others: Path) -> None:
    assert audited(retrained, parquet, others) == audited(retrained, parquet, others)


def test_ids_choose_among_the_forgotten(retrained: Path, parquet: Path, others: Path) -> None:
    of_shard_0 = GONE[:10]
    answer = audited(retrained, parquet, others, of_shard_0)
    assert (answer["forgotten"], answer["shards"]) == (10, [0])


def test_never_seen_data_that_the_run_has_seen_is_left_out(retrained: Path, parquet: Path, tmp_path: Path) -> None:
    """By training ids, which the manifest has, and by forgotten ones, which only tombstones know."""
    mixed = write_parquet(tmp_path / "mixed", [*range(SAMPLES), *range(2000, 2100)])
    answer = audited(retrained, parquet, mixed)
    assert (answer["never_seen"], answer["left_out"]["never-seen samples that this run has seen"]) == (100, SAMPLES)
    with pytest.raises(UsageError, match=f"all {SAMPLES} samples of .* this run has seen"):
        audited(retrained, parquet, parquet)


def test_pictures_that_cannot_be_decoded_are_counted(retrained: Path, parquet: Path, tmp_path: Path) -> None:
    broken = write_class_folder(tmp_path / "broken", range(2000, 2100))
    for path in sorted(broken.rglob("*.png"))[:3]:
        path.write_bytes(path.read_bytes()[:50])
    answer = audited(retrained, parquet, broken)
    assert (answer["never_seen"], answer["left_out"]["pictures that cannot be decoded"]) == (97, 3)


def test_bad_input_is_told(
    retrained: Path,
    plain_runs: Callable[[str], Path],
    copy_of: Copy,
    parquet: Path,
    others: Path,
    test_parquet: Path,
    tmp_path: Path,
) -> None:
    kept = sample_id(OF_SHARD[0][-1])
    with pytest.raises(UsageError, match="has forgotten nothing"):
        audited(plain_runs("ridge"), parquet, others)
    with pytest.raises(UsageError, match=f"1 id .'{kept}'. is not forgotten: the run was trained on them"):
        audited(retrained, parquet, others, [GONE[0], kept])
    with pytest.raises(UnknownSample, match=r"'nobody'.* not of this run"):
        audited(retrained, parquet, others, [GONE[0], "nobody"])
    with pytest.raises(UsageError, match=r"none of the 48 samples of .* was forgotten"):
        audited(retrained, test_parquet, others)
    with pytest.raises(UsageError, match=r"not in .*; give the data that has them"):
        audited(retrained, test_parquet, others, GONE[:2])
    with pytest.raises(UsageError, match=r"1 of 1 forgotten .* Give 199 never-seen samples per class"):
        audited(retrained, parquet, others, GONE[:1])
    with pytest.raises(DataError, match="outside the 3 classes"):
        audited(retrained, parquet, write_strangers(tmp_path))
    half = copy_of(retrained)
    for entry in sorted((half / "ledger").iterdir())[-1:]:
        entry.unlink()  # the ledger's last entry is the certificate
    with pytest.raises(UsageError, match=r"has forgotten nothing .request .* not finished"):
        audited(half, parquet, others)
    lost = copy_of(retrained, "lost")
    (lost / names.ID_KEY).unlink()
    with pytest.raises(ObjectMissing):
        audited(lost, parquet, others)


def write_strangers(folder: Path) -> Path:
    data = write_class_folder(folder / "strangers", range(3000, 3010))
    (data / "ant").rename(data / "dog")
    return data


def test_assignment_that_depends_on_other_samples_needs_requests_of_one_shard(
    tmp_path: Path, parquet: Path, others: Path, spec_of: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    plain_train(run, spec_of(parquet, assignment="equal"))
    found = read_manifest(Store(str(run)))
    assert found is not None
    names_of = dict(zip(sample_keys(map(sample_id, range(SAMPLES)), 0), map(sample_id, range(SAMPLES)), strict=True))
    shard = dict(
        zip((names_of[k] for k in found.table["key"].to_pylist()), found.table["shard"].to_pylist(), strict=True)
    )
    of = [[name for name, where in shard.items() if where == number] for number in (0, 1, 2)]
    plain_forget(run, of[0][:8], "retrain")
    plain_forget(run, of[1][:4] + of[2][:4], "retrain")
    assert audited(run, parquet, others, of[0][:8])["shards"] == [0]
    with pytest.raises(UsageError, match="--assignment equal does not keep"):
        audited(run, parquet, others)
